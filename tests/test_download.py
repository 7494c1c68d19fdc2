"""Downloads against a real server on this machine that cuts off, lies and changes its mind."""

import base64
import hashlib
import http.server
import multiprocessing
import os
import threading
from pathlib import Path

import pytest

from bitlib import UserError
from bitlib import download as download_module
from bitlib.download import download

BODY = os.urandom(3 << 20)


class Server(http.server.ThreadingHTTPServer):
    """Serves `body`; the attributes are the faults that a test switches on."""

    daemon_threads = True
    body, etag, cut_after, ranges, md5, status = BODY, '"v1"', None, True, None, None
    early, stated_total = 0, None  # a partial answer begins so many bytes too early, or claims another total

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests, self.sent = [], 0
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/w.npz"


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        s, wanted = self.server, self.headers.get("Range")
        s.requests.append(wanted)
        if s.status:
            return self.send_error(s.status)
        start = 0
        if wanted and s.ranges and self.headers.get("If-Range") == s.etag:
            start = int(wanted.removeprefix("bytes=").rstrip("-"))
            if start >= len(s.body):
                return self.send_error(416)
            start -= s.early
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(s.body) - 1}/{s.stated_total or len(s.body)}")
        self.send_header("Content-Length", str(len(s.body) - start))
        self.send_header("ETag", s.etag)
        self.send_header("x-goog-hash", "crc32c=AAAAAA==")
        self.send_header("x-goog-hash", "md5=" + base64.b64encode(s.md5 or hashlib.md5(s.body).digest()).decode())
        self.end_headers()
        payload = s.body[start:]
        if s.cut_after is not None:
            payload, s.cut_after = payload[: s.cut_after], None
        s.sent += len(payload)
        self.wfile.write(payload)


@pytest.fixture
def server():
    s = Server()
    yield s
    s.shutdown()
    s.server_close()


@pytest.fixture
def dest(tmp_path) -> Path:
    return tmp_path / "cache" / "w.npz"


def leftovers(dest: Path) -> set[str]:
    return {p.name for p in dest.parent.iterdir()} - {dest.name, dest.name + ".lock"}


def test_plain(server, dest):
    assert download(server.url, dest, progress=False) == dest
    assert dest.read_bytes() == BODY and not leftovers(dest)
    download(server.url, dest, progress=False)
    assert len(server.requests) == 1  # what is there is not fetched again


def test_cut_off_is_continued_where_it_stopped(server, dest):
    server.cut_after = 1_500_000
    download(server.url, dest, progress=False)
    assert dest.read_bytes() == BODY
    assert server.requests == [None, "bytes=1500000-"] and server.sent == len(BODY)


def test_interrupted_by_hand_and_resumed_by_the_next_call(server, dest, monkeypatch):
    real = download_module._verify

    def ctrl_c(*args):
        raise KeyboardInterrupt

    server.cut_after = 1_000_000
    monkeypatch.setattr(download_module, "TRIES", 1)
    with pytest.raises(UserError, match="run the same command again"):
        download(server.url, dest, progress=False)
    assert not dest.exists() and (dest.parent / "w.npz.part").stat().st_size == 1_000_000
    monkeypatch.setattr(download_module, "_verify", ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        download(server.url, dest, progress=False)
    monkeypatch.setattr(download_module, "_verify", real)
    monkeypatch.setattr(download_module, "TRIES", 4)
    download(server.url, dest, progress=False)  # complete already: the server answers 416, and it starts over
    assert dest.read_bytes() == BODY


def test_a_file_that_changed_meanwhile_starts_over(server, dest, monkeypatch):
    monkeypatch.setattr(download_module, "TRIES", 1)
    server.cut_after = 1_000_000
    with pytest.raises(UserError):
        download(server.url, dest, progress=False)
    server.body, server.etag = os.urandom(2 << 20), '"v2"'
    download(server.url, dest, progress=False)
    assert dest.read_bytes() == server.body


def test_a_server_without_ranges(server, dest):
    server.ranges, server.cut_after = False, 1_000_000
    download(server.url, dest, progress=False)
    assert dest.read_bytes() == BODY


@pytest.mark.parametrize("fault", [{"early": 4096}, {"stated_total": len(BODY) + 1}])
def test_a_partial_answer_that_is_not_what_was_asked_for_starts_over(server, dest, fault):
    """Some caches answer from the beginning of their block, which appended would be a wrong file."""
    vars(server).update(fault)
    server.cut_after = 1_500_000
    download(server.url, dest, progress=False)
    assert dest.read_bytes() == BODY and server.requests == [None, "bytes=1500000-", None]


def test_wrong_checksum_leaves_nothing(server, dest):
    server.md5 = b"0" * 16
    with pytest.raises(UserError, match="its MD5 is .* the server states"):
        download(server.url, dest, progress=False)
    assert not dest.exists() and not leftovers(dest)


@pytest.mark.parametrize("status, tries", [(404, 1), (503, 4)])
def test_refusals_name_the_place_for_the_file(server, dest, status, tries, monkeypatch):
    monkeypatch.setattr(download_module.time, "sleep", lambda s: None)
    server.status = status
    with pytest.raises(UserError, match=f"answered {status} .* put it at {dest}"):
        download(server.url, dest, progress=False)
    assert len(server.requests) == tries and not dest.exists()


def test_no_network(dest, server):
    url = server.url
    server.shutdown()
    server.server_close()
    with pytest.raises(UserError) as caught:
        download(url, dest, progress=False)
    assert url in str(caught.value) and f"put it at {dest}" in str(caught.value) and "\n" not in str(caught.value)


def _fetch(url: str, dest: Path) -> None:
    download(url, dest, progress=False)


def test_two_processes_at_once(server, dest):
    spawn = multiprocessing.get_context("spawn")
    workers = [spawn.Process(target=_fetch, args=(server.url, dest)) for _ in range(2)]
    for w in workers:
        w.start()
    for w in workers:
        w.join(120)
        assert w.exitcode == 0
    assert dest.read_bytes() == BODY and len(server.requests) == 1


def test_cache_that_cannot_be_written(server, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="set BITLIB_HOME"):
        download(server.url, tmp_path / "file" / "w.npz", progress=False)
