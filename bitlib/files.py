"""Files and folders: the user's mistakes, atomic writing, the cache. Knows nothing of what is written."""
from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class UserError(Exception):
    """A mistake that the user can mend. The command line shows it as one line and exits with status 2."""


def cache_dir() -> Path:
    """Where downloads are kept: BITLIB_HOME, else bitlib under XDG_CACHE_HOME, else ~/.cache/bitlib. Not created."""
    if home := os.environ.get("BITLIB_HOME"):
        return Path(home).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "bitlib"


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary file beside `path`; renamed to it when the block ends well, removed when it does not.

    So `path` holds either what it held before or all of the new content, even after a crash. The folder is created.
    Raises UserError where it cannot be written to.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    except OSError as error:
        raise UserError(f"cannot write to {path.parent} ({error.strerror}); choose another folder") from None
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with open(temporary, "rb+") as f:
            os.fsync(f.fileno())
        # mkstemp makes files private; give this one the permissions that an ordinary new file has.
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
