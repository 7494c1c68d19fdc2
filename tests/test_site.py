"""The built website in a real headless Chromium, every host but the local one out of reach."""

import gzip
import importlib.util
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin, urlparse

import pytest
import yaml
from browser import HTML, violations
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


def test_the_first_chapter_opens_with_little(site, new_page):
    """Everything that comes before somebody scrolls, as a server would send it, gzipped."""
    page, bodies = new_page(width=375), {}
    page.on("requestfinished", lambda r: bodies.setdefault(r.url, len(gzip.compress(r.response().body()))))
    page.goto(f"{site}/notebooks/01_quickstart.html")
    page.wait_for_selector("mjx-container")
    page.wait_for_load_state("networkidle")
    before = sum(bodies.values())
    assert 100_000 < before <= 1_000_000, sorted(((n, url) for url, n in bodies.items()), reverse=True)[:8]
    assert page.problems == []  # nor from elsewhere


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
    assert page.problems == [] and page.locator(".bl-plot svg.bl-wide").is_visible()


def test_figures_of_results_show_the_numbers_of_the_file(visit):
    import json
    from statistics import fmean

    data = json.loads((ROOT / "results" / "digits.json").read_text())
    spoken = visit("index").locator("div.bl-plot").get_attribute("aria-label")
    for key, label in data["methods"].items():
        cells = ", ".join(f"{100 * fmean(data[key][str(s)]):.0f} at {s}" for s in data["shots"])
        assert f"{label}: {cells}" in spoken
    table = visit("book/results").locator("table").first.inner_text()
    assert f"{100 * fmean(data['finetune']['5']):.1f}" in table


def test_quiz_by_keyboard_and_pointer(visit):
    page = visit("notebooks/01_quickstart")
    quiz = page.locator(".bl-quiz").first
    quiz.scroll_into_view_if_needed()
    reasons = quiz.locator(".bl-option > p")
    shown = quiz.locator(".bl-option[open]")
    assert shown.count() == 0 and reasons.first.is_hidden()
    quiz.locator("summary").first.focus()
    page.keyboard.press("Enter")
    assert shown.count() == 1 and reasons.first.is_visible()
    quiz.locator("summary").nth(1).click()  # one option at a time, and other questions stay as they are
    assert shown.count() == 1 and reasons.nth(1).is_visible() and reasons.first.is_hidden()
    names = page.evaluate("[...document.querySelectorAll('.bl-quiz details')].map(e => e.name)")
    assert len(set(names)) == page.locator(".bl-quiz").count()
    page.emulate_media(media="print")
    assert reasons.nth(1).is_hidden()
    marks = quiz.locator("summary").evaluate_all("all => all.map(e => getComputedStyle(e, '::before').content)")
    assert len(set(marks)) == 1  # paper marks no answer


def test_every_quiz_has_a_right_answer_and_reasons(site):
    quizzes = [quiz for name in PAGES for quiz in written(name).select(".bl-quiz")]
    assert len(quizzes) >= 12
    for quiz in quizzes:
        assert quiz.select('[data-verdict="right"]')
        assert all(len(reason.get_text()) > 10 for reason in quiz.select(".bl-option > p"))


def test_solutions_are_folded(visit):
    page = visit("notebooks/01_quickstart")
    assert page.locator("details.bl-solution").count() == 3
    assert page.locator("details.bl-solution[open]").count() == 0


CHAPTERS = [name for name in PAGES if name.startswith("notebooks/")]


@pytest.mark.parametrize("name", CHAPTERS)
@pytest.mark.parametrize("width", [1440, 375])
def test_no_code_on_the_first_screen_of_a_chapter(visit, name, width):
    page = visit(name, width=width)
    tops = page.locator("div.cell_input:visible pre").evaluate_all("all => all.map(e => e.getBoundingClientRect().top)")
    assert tops and min(tops) > 900


@pytest.mark.parametrize("name", CHAPTERS)
def test_chapters_are_accessible(visit, name):
    """No violation that axe knows, light and dark, at three sizes."""
    for scheme in ("light", "dark"):
        for width in (375, 820, 1440):
            page = visit(name, width=width, scheme=scheme)
            assert violations(page) == [], (scheme, width)


@pytest.mark.parametrize("name", PAGES)
def test_figures_are_named_and_readable_on_a_phone(visit, name):
    """Every plot has both axes named, in text of 11 pixels or more as it is displayed."""
    page = visit(name, width=375)
    plots = page.locator(".bl-plot:not(.bl-explorable *)")
    for i in range(plots.count()):
        svg = plots.nth(i).locator("svg:visible")
        assert svg.count() == 1
        found = svg.evaluate(
            """svg => ({
              scale: svg.getBoundingClientRect().width / svg.viewBox.baseVal.width,
              sizes: [...svg.querySelectorAll("text")].map(t => parseFloat(getComputedStyle(t).fontSize)),
              names: [...svg.querySelectorAll(".bl-x-label, .bl-y-label")].map(e => e.textContent.trim()) })"""
        )
        assert len(found["names"]) >= 2 and all(found["names"])
        assert min(found["sizes"]) * found["scale"] >= 11


@pytest.mark.parametrize("name", CHAPTERS)
def test_figures_follow_the_page_without_scripts_and_on_paper(visit, name):
    """Without JavaScript and in print every plot shows, in the colours of the palette."""
    page = visit(name, java_script_enabled=False)
    for media in ("screen", "print"):
        page.emulate_media(media=media)
        shown = page.locator(".bl-plot svg.bl-wide")
        for i in range(shown.count()):
            assert shown.nth(i).is_visible()
        words = page.locator(".bl-plot svg.bl-wide text")  # black where a variable means nothing
        for i in range(min(5, words.count())):
            assert words.nth(i).evaluate("e => getComputedStyle(e).fill") != "rgb(0, 0, 0)"


def test_the_address_of_the_configuration_is_behind_the_buttons(visit):
    url = yaml.safe_load((ROOT / "_config.yml").read_text("utf8"))["repository"]["url"]
    page = visit("notebooks/01_quickstart")
    links = page.evaluate("[...document.querySelectorAll('a[href]')].map(e => e.href)")
    slug = url.removeprefix("https://github.com/")
    assert any(link.startswith(f"https://colab.research.google.com/github/{slug}/") for link in links)
    assert url in links
    assert f"pip install git+{url}" in visit("book/how_to_use").locator("pre").all_inner_texts()[2]
