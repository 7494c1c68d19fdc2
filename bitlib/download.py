"""Downloading a file: resumable, verified, atomic and safe with several processes; and a lock for other downloaders."""

from __future__ import annotations

import base64
import hashlib
import http.client
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock
from tqdm import tqdm

from .files import UserError, cache_dir, no_room

CHUNK = 1 << 20
TIMEOUT = 30  # seconds without a response
TRIES = 4


@contextmanager
def one_at_a_time(name: str) -> Iterator[None]:
    """Make other processes wait until this one has left the block, so that only the first fills the cache.

    Has no effect if the cache is read-only, since such a cache was filled earlier.
    """
    lock = cache_dir() / "locks" / f"{name}.lock"
    with ExitStack() as stack:
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(FileLock(lock))
        except OSError:
            pass
        yield


def download(url: str, path: Path, progress: bool = True, sha256: str = "") -> Path:
    """Download `url` to `path` unless it is already there; returns `path`.

    A partial download stays in PATH.part, and the next call resumes it if the server still has the same file. The result
    must match the size that the server states, the MD5 if it states one (Google storage does), and `sha256`, the hexadecimal
    digits with which that hash begins. Raises UserError if the content is wrong or the disk is full; and if there is no
    network, with the place to put the file by hand.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot write to {path.parent} ({error.strerror}); set BITLIB_HOME to another folder") from None
    with FileLock(path.with_name(path.name + ".lock")):
        if path.exists():  # another process was faster
            return path
        part = path.with_name(path.name + ".part")
        for left in reversed(range(TRIES)):
            try:
                _verify(part, _transfer(url, part, progress), url, sha256)
                os.replace(part, path)
                _mark(part).unlink(missing_ok=True)
                return path
            except urllib.error.HTTPError as error:
                if not left or error.code < 500 and error.code != 416:
                    answer = f"{error.code} {error.reason}"
                    raise UserError(f"{url} answered {answer}; if you have the file, put it at {path}") from None
            except OSError as error:
                if no_room(error):
                    raise UserError(f"no space left for {path}; free some, or set BITLIB_HOME to another folder") from None
                if not left or isinstance(getattr(error, "reason", None), OSError) and not part.exists():
                    wrong = f"cannot reach {url} ({getattr(error, 'reason', error)})"
                    raise UserError(f"{wrong}; download it on a machine with a network and put it at {path}") from None
            except http.client.HTTPException:
                if not left:
                    wrong = f"the download of {url} broke off {TRIES} times"
                    raise UserError(f"{wrong}; run the same command again to resume it, or put the file at {path}") from None
            time.sleep(0.2 * (TRIES - left))
    raise AssertionError("the last try returns or raises")


def _mark(part: Path) -> Path:
    """The file beside PATH.part that says which version of the download it belongs to."""
    return part.with_name(part.name + ".etag")


def _transfer(url: str, part: Path, progress: bool) -> http.client.HTTPMessage:
    """Start or resume PATH.part until the server has sent everything; returns the headers of its response."""
    have = part.stat().st_size if part.exists() else 0
    etag = _mark(part).read_text() if _mark(part).exists() else ""
    request = urllib.request.Request(url, headers={"User-Agent": "bitlib"})
    if have and etag:
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", etag)  # if the file has changed, the server sends all of it
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # nothing beyond what we have: PATH.part is complete, or of another file
            part.unlink()
        raise
    with answer:
        resumed = answer.status == 206
        if not resumed:
            have = 0
            part.unlink(missing_ok=True)  # before the ETag changes, or a kill in between would mix two versions
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length else None
        if resumed:
            # Some caches answer with a different range, and appending that would corrupt the file.
            stated = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", answer.headers.get("Content-Range", ""))
            first, last, whole = map(int, stated.groups()) if stated else (0, 0, 0)
            if first != have or last + 1 != whole or total not in (None, whole):
                part.unlink()
                raise http.client.HTTPException("not the range that was asked for")
            total = whole
        _mark(part).write_text(answer.headers.get("ETag", ""))
        unit = {"unit": "B", "unit_scale": True, "desc": part.stem}
        bar = tqdm(total=total, initial=have, disable=not progress, leave=False, **unit)
        with open(part, "ab" if resumed else "wb") as f, bar:
            while data := answer.read(CHUNK):
                f.write(data)
                bar.update(len(data))
            f.flush()
            os.fsync(f.fileno())
        if total is not None and part.stat().st_size < total:
            raise http.client.IncompleteRead(b"", total - part.stat().st_size)
        answer.headers["X-Expected-Size"] = str(total if total is not None else part.stat().st_size)
        return answer.headers


def _verify(part: Path, headers: http.client.HTTPMessage, url: str, sha256: str) -> None:
    """Compare size and MD5 with what the server stated, the SHA-256 with `sha256`; remove the file and raise if one differs."""
    size, wanted = part.stat().st_size, int(headers["X-Expected-Size"])
    problem = f"{size} bytes arrived, {wanted} were expected" if size != wanted else ""
    stated = [item.strip() for line in headers.get_all("x-goog-hash") or () for item in line.split(",")]
    for item in stated:
        if not problem and item.startswith("md5="):
            with open(part, "rb") as f:
                found = hashlib.file_digest(f, "md5").digest()
            if found != (there := base64.b64decode(item[4:])):
                problem = f"its MD5 is {found.hex()}, the server states {there.hex()}"
    if sha256 and not problem:
        with open(part, "rb") as f:
            found = hashlib.file_digest(f, "sha256").hexdigest()
        if not found.startswith(sha256):
            problem = f"its SHA-256 begins with {found[: len(sha256)]}, not with {sha256}"
    if problem:
        part.unlink()
        _mark(part).unlink(missing_ok=True)
        raise UserError(f"the download of {url} was damaged ({problem}) and has been removed; run the same command again")
