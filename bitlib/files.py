"""Files and folders: the user's mistakes, atomic writing, the cache. Knows nothing of what is written."""

from __future__ import annotations

import errno
import os
import re
import shutil
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
    """A temporary file near `path`; renamed to it when the block ends well, removed when it does not.

    It lies in a folder of its own beside `path`, where writers may leave temporary files of theirs as well; see
    `remove_unfinished` for what a killed process leaves behind.

    So `path` holds either what it held before or all of the new content, even after a crash. The folder is created.
    Raises UserError where it cannot be written to, or the disk is full.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent))
    except OSError as error:
        raise UserError(f"cannot write to {path.parent} ({error.strerror}); choose another folder") from None
    temporary = folder / path.name
    try:
        temporary.touch()
        yield temporary
        with open(temporary, "rb+") as f:
            os.fsync(f.fileno())
        # Some writers make private files; give this one the permissions that an ordinary new file has.
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        os.replace(temporary, path)
    except Exception as error:
        if reason := no_room(error):
            raise UserError(f"cannot write {path} ({reason}); free some space, or choose another folder") from None
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_unfinished(path: Path) -> None:
    """Remove what processes left that were killed while they wrote `path`. Only for a file that nobody else writes now."""
    for folder in path.parent.glob(f".{path.name}.*.tmp"):
        shutil.rmtree(folder, ignore_errors=True)


def no_room(error: Exception) -> str:
    """Says so where `error` means that a disk, a quota or a size limit is exhausted; else the empty string."""
    rust = re.search(r"os error (\d+)\)", str(error))  # safetensors has its own exception, without an errno
    code = error.errno if isinstance(error, OSError) else int(rust[1]) if rust else None
    return os.strerror(code) if code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else ""
