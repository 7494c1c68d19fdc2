"""The built website in a real headless Chromium, every host but the local one out of reach."""

import gzip
import importlib.util
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin, urlparse

import pytest
import yaml
from browser import HTML, PATIENCE
from bs4 import BeautifulSoup

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.site

spec = importlib.util.spec_from_file_location("check_book", ROOT / "data_scripts" / "check_book.py")
check_book = importlib.util.module_from_spec(spec)
spec.loader.exec_module(check_book)
PAGES = check_book.pages(yaml.safe_load((ROOT / "_toc.yml").read_text("utf8")))


@pytest.mark.parametrize("name", PAGES)
def test_every_page_is_whole(visit, name):
    page = visit(name)
    assert page.problems == []
    assert page.locator("h1:visible").count() == 1  # the theme keeps a hidden one for print
    policy = page.locator('meta[http-equiv="Content-Security-Policy"]').get_attribute("content")
    assert "default-src 'self'" in policy and "http" not in policy
    assert page.locator("img:not([alt])").count() == 0
    icons = page.locator("svg[data-icon]")  # the script draws something animated where it does not know an icon
    icons.nth(4).wait_for(state="attached")
    assert icons.locator("animate").count() == 0
    if maths := page.locator(".math").count():
        page.locator("mjx-container").nth(maths - 1).wait_for(state="attached")
        assert page.locator("mjx-merror").count() == 0


@pytest.mark.parametrize("name", PAGES)
def test_nothing_sticks_out_on_a_phone(visit, name):
    page = visit(name, width=375, scheme="dark")
    assert page.evaluate("document.documentElement.scrollWidth") <= 375
    assert page.problems == []


def test_the_first_chapter_opens_with_little(site, browser):
    """Everything that comes before somebody scrolls, as a server would send it, gzipped."""
    context = browser.new_context(viewport={"width": 375, "height": 812})
    context.set_default_timeout(PATIENCE)
    page, bodies = context.new_page(), {}
    page.on("requestfinished", lambda r: bodies.setdefault(r.url, len(gzip.compress(r.response().body()))))
    page.goto(f"{site}/notebooks/01_quickstart.html")
    page.wait_for_selector("mjx-container")
    page.wait_for_load_state("networkidle")
    before = sum(bodies.values())
    assert 100_000 < before <= 1_000_000, sorted(((n, url) for url, n in bodies.items()), reverse=True)[:8]
    figure = page.locator('.bd-article img[src$=".png"]').last
    address = figure.evaluate("e => e.src")
    assert address not in bodies
    with page.expect_request_finished(lambda request: request.url == address):  # figures come when they are needed
        figure.scroll_into_view_if_needed()
    context.close()


def written(name: str) -> BeautifulSoup:
    """A page as it was built, without a browser."""
    return BeautifulSoup((HTML / f"{name}.html").read_text("utf8"), "html.parser")


def test_links_lead_somewhere(site):
    """Every link within the site points to a page, and to an anchor on it, that exist."""
    anchors, links = {}, set()
    for name in PAGES:
        page = written(name)
        anchors[name] = {e["id"] for e in page.select("[id]")}
        for link in page.select("a[href]"):
            target = urljoin(f"{site}/{name}.html", link["href"])
            if target.startswith(site):
                links.add((name, target))
    for name, target in sorted(links):
        url, anchor = urldefrag(target)
        path = unquote(urlparse(url).path).removeprefix("/course/")
        assert (HTML / path).exists(), f"{name} links to {path}"
        if anchor and path.endswith(".html") and path[:-5] in anchors:
            assert unquote(anchor) in anchors[path[:-5]], f"{name} links to {path}#{anchor}"


def test_opens_from_a_folder_without_a_server(visit):
    page = visit("index", base=HTML.as_uri())
    assert page.problems == [] and page.locator("svg.bl-plot").is_visible()


def test_figures_of_results_show_the_numbers_of_the_file(visit):
    import json
    from statistics import fmean

    data = json.loads((ROOT / "results" / "digits.json").read_text())
    spoken = visit("index").locator("svg.bl-plot").get_attribute("aria-label")
    for key, label in data["methods"].items():
        cells = ", ".join(f"{100 * fmean(data[key][str(s)]):.0f} at {s}" for s in data["shots"])
        assert f"{label}: {cells}" in spoken
    table = visit("book/results").locator("table").first.inner_text()
    assert f"{100 * fmean(data['finetune']['5']):.1f}" in table


def test_quiz_by_keyboard_and_pointer(visit):
    page = visit("notebooks/01_quickstart")
    quiz = page.locator(".bl-quiz").first
    quiz.scroll_into_view_if_needed()
    assert quiz.locator(".bl-quiz-reason:visible").count() == 0
    quiz.locator("input").first.focus()
    page.keyboard.press("Space")
    shown = quiz.locator(".bl-quiz-reason:visible")
    assert shown.count() == 1 and shown.inner_text().startswith("No.")
    assert quiz.locator(".bl-quiz-live").inner_text() == shown.inner_text()  # read out by screen readers
    page.keyboard.press("ArrowDown")
    assert quiz.locator(".bl-quiz-reason:visible").inner_text().startswith("Right.")
    quiz.locator("label").nth(2).click()
    assert quiz.locator(".bl-quiz-reason:visible").count() == 1
    names = page.evaluate("[...document.querySelectorAll('.bl-quiz input')].map(e => e.name)")
    assert len(set(names)) == page.locator(".bl-quiz").count()  # a choice in one quiz leaves the others alone
    page.emulate_media(media="print")
    assert quiz.locator(".bl-quiz-reason:visible").count() == quiz.locator(".bl-quiz-option").count()


def test_every_quiz_has_a_right_answer_and_reasons(site):
    quizzes = [quiz for name in PAGES for quiz in written(name).select(".bl-quiz")]
    assert len(quizzes) >= 12
    for quiz in quizzes:
        assert quiz.select('[data-verdict="right"]')
        assert all(len(reason.get_text()) > 10 for reason in quiz.select(".bl-quiz-reason"))


def test_solutions_are_folded(visit):
    page = visit("notebooks/01_quickstart")
    assert page.locator("div.cell.tag_solution details").count() == 3
    assert page.locator("div.cell.tag_solution details[open]").count() == 0


def test_the_address_of_the_configuration_is_behind_the_buttons(visit):
    url = yaml.safe_load((ROOT / "_config.yml").read_text("utf8"))["repository"]["url"]
    page = visit("notebooks/01_quickstart")
    links = page.evaluate("[...document.querySelectorAll('a[href]')].map(e => e.href)")
    slug = url.removeprefix("https://github.com/")
    assert any(link.startswith(f"https://colab.research.google.com/github/{slug}/") for link in links)
    assert url in links
    assert f"pip install git+{url}" in visit("book/how_to_use").locator("pre").all_inner_texts()[2]
