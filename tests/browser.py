"""Fixtures of the browser tests: the built website on a local server, and pages that see no other host."""

import functools
import http.server
import os
import shutil
import threading
from pathlib import Path

import pytest

HTML = Path(__file__).resolve().parent.parent / "_build" / "html"
PATIENCE = 240_000  # milliseconds after which a browser hangs; no test depends on how fast anything is


def browser_path() -> str | None:
    return os.environ.get("BITLIB_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="session")
def site():
    """The address of a server of the built pages, under a sub-path as on GitHub Pages."""
    missing = [
        what
        for what, there in (
            ("the built book (make book)", (HTML / "index.html").exists()),
            ("a Chromium browser", browser_path()),
        )
        if not there
    ]
    if missing:
        if os.environ.get("BITLIB_REQUIRE_BROWSER"):
            pytest.fail(f"missing: {', '.join(missing)}")
        pytest.skip(f"missing: {', '.join(missing)}")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

        def translate_path(self, path):
            return super().translate_path(path.removeprefix("/course"))

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(HTML)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/course"
    server.shutdown()


@pytest.fixture(scope="session")
def browser(site):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=browser_path(),
            timeout=PATIENCE,
            args=[
                "--no-sandbox",
                "--disable-gpu",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
                "--no-first-run",
            ],
        )
        yield chromium
        chromium.close()


@pytest.fixture
def visit(site, browser):
    """visit(page, width=1280, scheme="light", ...) -> an open page whose `problems` list what a reader would not see."""
    contexts = []

    def open_page(name: str, width: int = 1280, scheme: str = "light", base: str | None = None, **options):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, **options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.problems = []
        base = base or site

        def guard(route):
            if route.request.url.startswith((base, "data:", "blob:")):
                return route.continue_()
            page.problems.append(f"outside request: {route.request.url}")
            route.abort()

        context.route("**/*", guard)
        page.on("console", lambda m: m.type in ("error", "warning") and page.problems.append(f"console: {m.text}"))
        page.on("pageerror", lambda e: page.problems.append(f"script error: {e}"))
        page.on("response", lambda r: r.status >= 400 and page.problems.append(f"{r.status}: {r.url}"))
        path, mark, query = name.partition("?")
        page.goto(f"{base}/{path}.html{mark}{query}")
        page.wait_for_load_state("networkidle")
        return page

    yield open_page
    for context in contexts:
        context.close()
