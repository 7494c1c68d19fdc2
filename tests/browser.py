"""What the browser tests share: the built website on a local server, pages that see no other host, hands and eyes."""

import functools
import http.server
import os
import shutil
import threading
from pathlib import Path

import pytest
import torch

HTML = Path(__file__).resolve().parent.parent / "_build" / "html"
FIGURES = "book/figures"  # the page with all figures but Predict
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
def new_page(site, browser):
    """new_page(width=1280, scheme="light", ...) -> an empty page whose `problems` list what a reader would not see."""
    contexts = []

    def make(width: int = 1280, scheme: str = "light", base: str = site, context=None, **options):
        if context is None:
            context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, **options)
            contexts.append(context)
            context.problems = []
            context.set_default_timeout(PATIENCE)

            def guard(route):
                if route.request.url.startswith((base, "data:", "blob:")):
                    return route.continue_()
                context.problems.append(f"outside request: {route.request.url}")
                route.abort()

            context.route("**/*", guard)
        page, problems = context.new_page(), context.problems
        page.problems = problems
        page.on("console", lambda m: m.type in ("error", "warning") and problems.append(f"console: {m.text}"))
        page.on("pageerror", lambda e: problems.append(f"script error: {e}"))
        page.on("response", lambda r: r.status >= 400 and problems.append(f"{r.status}: {r.url}"))
        return page

    yield make
    for context in contexts:
        context.close()


@pytest.fixture
def visit(site, new_page):
    """visit(name, ...) -> a page of the website, loaded; the rest is for new_page."""

    def open_page(name: str, base: str = site, **options):
        page = new_page(base=base, **options)
        path, mark, query = name.partition("?")
        page.goto(f"{base}/{path}.html{mark}{query}")
        page.wait_for_load_state("networkidle")
        return page

    return open_page


def figure(page, name: str):
    """The figure, once it is alive."""
    found = page.locator(f"#figure-{name}")
    found.scroll_into_view_if_needed()
    page.wait_for_selector(f"#figure-{name}[data-state=ready]")
    return found


def open_figure(visit, name: str, width: int = 1280, **settings):
    """(page, figure) on the page of figures, opened by a link that has these settings if any, which the figure then has."""
    query = "&".join(f"{name}.{trait}={value}" for trait, value in settings.items())
    page = visit(f"{FIGURES}?{query}#figure-{name}" if settings else FIGURES, width=width)
    shown = figure(page, name)
    assert {trait: state(shown)[trait] for trait in settings} == settings
    return page, shown


def state(shown) -> dict:
    """The traits of a figure."""
    return shown.evaluate("figure => figure.model.state")


def module(shown, function: str, given=None):
    """What a JavaScript function of a figure's module, and of something given, returns; it can use the name `figure`."""
    source = 'new Blob([BL_KIT, BL_MODULES[figure.id.slice(7)]], {type: "text/javascript"})'
    return shown.evaluate(f"async (figure, given) => ({function})(await import(URL.createObjectURL({source})), given)", given)


def dataset(thing) -> dict[str, str]:
    """All data-NAME of an element."""
    return thing.evaluate("e => ({...e.dataset})")


def numbers(shown, selector: str, name: str) -> torch.Tensor:
    """The attribute data-NAME of all elements of a figure that the selector finds, float64."""
    return torch.tensor(shown.locator(selector).evaluate_all(f"all => all.map(e => +e.dataset.{name})"), dtype=torch.float64)


def pixels(canvas, *area: int) -> torch.Tensor:
    """What a canvas shows in an area (x, y, width, height) or everywhere: (height, width, RGBA) from 0 to 255, float64."""
    # From a copy: Chromium warns of canvases that are read often.
    shape, data = canvas.evaluate(
        """(c, area) => {
        const copy = new OffscreenCanvas(c.width, c.height).getContext("2d", {willReadFrequently: true});
        copy.drawImage(c, 0, 0);
        const [x, y, width, height] = area.length ? area : [0, 0, c.width, c.height];
        return [[height, width, 4], [...copy.getImageData(x, y, width, height).data]];
    }""",
        area,
    )
    return torch.tensor(data, dtype=torch.float64).view(shape)


def close(seen, wanted) -> None:
    """Both are equal to 1e-6."""
    seen, wanted = (torch.as_tensor(values, dtype=torch.float64) for values in (seen, wanted))
    torch.testing.assert_close(seen, wanted, rtol=1e-6, atol=1e-6)


def spot(thing, x: float = 0.5, y: float = 0.5) -> tuple[float, float]:
    """Where on the screen the point at these shares of an element's width and height is, once it is in view."""
    thing.scroll_into_view_if_needed()
    box = thing.bounding_box()
    return box["x"] + x * box["width"], box["y"] + y * box["height"]


def drag(page, *way: tuple[float, float], steps: int = 5) -> None:
    """Press the mouse at the first of these places on the screen, go through the others, and let go at the last."""
    page.mouse.move(*way[0])
    page.mouse.down()
    for place in way[1:]:
        page.mouse.move(*place, steps=steps)
    page.mouse.up()


def pull_by(page, thing, dx: float, dy: float = 0) -> None:
    """Drag the middle of something in a picture by so many pixels."""
    x, y = spot(thing)
    drag(page, (x, y), (x + dx, y + dy))


def pull_to(page, thing, x: float) -> None:
    """Drag the middle of something in a picture sideways, to an x in its SVG's own units."""
    middle = spot(thing)
    to = thing.evaluate("(e, x) => new DOMPoint(x, 0).matrixTransform(e.ownerSVGElement.getScreenCTM()).x", x)
    drag(page, middle, (to, middle[1]))


def pull_handle(page, handle, share: float) -> None:
    """Drag a handle in a picture sideways, to that share of the ground that it moves on."""
    x, _ = spot(handle.locator(".bl-x-zone"), share)
    knob = spot(handle.locator(".bl-x-knob"))
    drag(page, knob, (x, knob[1]))


def keys(shown, trait: str, key: str) -> None:
    """Press a key on the first control of a trait."""
    shown.locator(f'[data-trait="{trait}"]').first.press(key)


def labels(shown) -> list[str]:
    """The names of axes and other small words in the pictures of a figure."""
    return shown.locator(".bl-x-label").all_text_contents()


def violations(page, context: str | None = None) -> list[tuple[str, list[str]]]:
    """The rules of accessibility that axe finds broken on a page or a part of it, and where."""
    from axe_playwright_python.sync_playwright import Axe  # not at the top: conftest.py imports this file everywhere

    found = Axe().run(page, context=context).response["violations"]
    return [(v["id"], [node["html"][:200] for node in v["nodes"]]) for v in found]
