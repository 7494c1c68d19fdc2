"""Files and folders: user errors, atomic writing, the cache. Knows nothing about the contents."""

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
    """A mistake that the user can correct. The command line prints it as one line and exits with status 2."""


def cache_dir() -> Path:
    """The folder for downloads: BITLIB_HOME, else bitlib in XDG_CACHE_HOME, else ~/.cache/bitlib. Does not create it."""
    if home := os.environ.get("BITLIB_HOME"):
        return Path(home).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "bitlib"


def results_dir() -> Path:
    """The folder of the stored measurements: inside the package where it was installed, beside it in a checkout."""
    package = Path(__file__).parent
    return package / "results" if (package / "results").is_dir() else package.parent / "results"


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary file that is renamed to `path` if the block succeeds, and removed if it fails.

    Even after a crash, `path` therefore holds either its old content or all of the new. The temporary file has its own folder
    beside `path`, where writers may put their temporary files too; `remove_unfinished` clears the folders of killed processes.
    Creates the parent folder. Raises UserError if it cannot be written to, or if the disk is full.
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
        # Some writers make private files; give this one the permissions of an ordinary new file.
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
    """Remove what processes killed while writing `path` left behind. Only for a file that no other process is writing."""
    for folder in path.parent.glob(f".{path.name}.*.tmp"):
        shutil.rmtree(folder, ignore_errors=True)


def no_room(error: Exception) -> str:
    """The system's message if `error` means that a disk, quota or size limit is exhausted; otherwise the empty string."""
    rust = re.search(r"os error (\d+)\)", str(error))  # safetensors has its own exception, without an errno
    code = error.errno if isinstance(error, OSError) else int(rust[1]) if rust else None
    return os.strerror(code) if code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else ""
