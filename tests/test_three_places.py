"""One source, three places: a chapter without the website's tools reads whole and gives nothing away."""

import re
from pathlib import Path

import nbformat
import pytest
import yaml
from bs4 import BeautifulSoup

from bitlib.course.exercises import EXERCISES
from bitlib.course.show import questions

ROOT = Path(__file__).resolve().parent.parent
PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))
BIBLIOGRAPHY = (ROOT / "book" / "references.bib").read_text("utf8")


@pytest.fixture(params=PATHS, ids=lambda p: p.stem)
def chapter(request):
    """(its name, its cells, the page that nbconvert makes of it)"""
    from nbconvert import HTMLExporter

    notebook = nbformat.read(request.param, 4)
    body, _ = HTMLExporter(template_name="lab").from_notebook_node(notebook)
    return request.param.stem, notebook.cells, BeautifulSoup(body, "html.parser").find("main")


def visible(page) -> str:
    """The text that a reader sees before opening anything: without folded parts and the source of cells."""
    for folded in page.select("details"):
        for child in folded.find_all(recursive=False):
            if child.name != "summary":
                child.decompose()
    for hidden in page.select("script, style, .jp-Cell-inputWrapper:has(.jp-CodeMirrorEditor), svg"):
        hidden.decompose()
    return page.get_text(" ")


def test_no_markup_is_left_over(chapter):
    _, cells, page = chapter
    prose = "\n".join(c.source for c in cells if c.cell_type == "markdown")
    for raw in (r"\{[a-z][\w:-]*\}`", r"```\{", r":::", r"\]\((?!https?://|#)"):
        assert not re.search(raw, prose), re.findall(f".*{raw}.*", prose)
    assert not re.search(r"\{(cite|result|quiz|numref|doc|ref)\}", page.get_text())


def test_nothing_is_given_away(chapter):
    name, cells, page = chapter
    # The source of a cell that is not folded is in sight; solutions must not be in any.
    code = "\n".join(c.source for c in cells if c.cell_type == "code" and not c.source.startswith("# @title"))
    seen = visible(page) + code
    for exercise in (EXERCISES[c.metadata["exercise"]] for c in cells if "exercise" in c.metadata):
        lines = [line.strip() for line in exercise._source() if line.strip() not in exercise.stub()]
        telling = [line for line in lines if len(line) > 20 and not line.startswith("#")]
        shown = [line for line in telling if line in seen]  # a line or two may stand in the lesson's own code
        assert not telling or len(shown) < len(telling) / 2, shown
    quiz = (ROOT / "bitlib" / "course" / "quizzes" / f"{name[:2]}.md").read_text("utf8")
    for asked, options in questions(quiz):
        assert asked.split("`")[0].split("*")[0][:40].strip() in seen
        assert not [reason for _, _, reason in options if reason[:30] in seen]
    assert "[x]" not in seen
    # A converted page shows the source of folded cells, too.
    sources = "\n".join(c.source for c in cells if c.cell_type == "code")
    given = re.findall(r"""\bwhy=|\banswer=(?:[\d.]+|"[^"]*"|'[^']*')\s*[,)]""", sources)
    assert not given, f"{given}: the words and the answer of a question belong in predictions/{name[:2]}.md"
    predictions = (ROOT / "bitlib" / "course" / "predictions" / f"{name[:2]}.md").read_text("utf8")
    reasons = re.findall(r"^> (.{30})", predictions, flags=re.MULTILINE)
    assert reasons and not [reason for reason in reasons if reason in seen + sources]
    assert sources.count("explore.asked(") == predictions.count("## ")


def test_links_lead_to_pages_that_exist(chapter):
    _, _, page = chapter
    url = yaml.safe_load((ROOT / "_config.yml").read_text("utf8"))["repository"]["url"]
    owner, repository = url.split("/")[-2:]
    site = f"https://{owner}.github.io/{repository}/"
    arxiv = re.findall(r"arXiv:([\d.]+)", BIBLIOGRAPHY)
    links = {a["href"] for a in page.select("a[href]") if not a["href"].startswith("#")}
    assert links
    for link in links:
        assert link.startswith("https://"), link
        if link.startswith(site):
            page_name = link.removeprefix(site).split("#")[0].removesuffix(".html")
            assert any((ROOT / f"{page_name}{kind}").exists() for kind in (".md", ".ipynb")), link
        elif "arxiv.org" in link:
            assert link.removeprefix("https://arxiv.org/abs/") in arxiv, f"{link} is not in the bibliography"


def test_outputs_need_no_other_host(chapter):
    _, cells, _ = chapter
    for cell in cells:
        for output in cell.get("outputs", ()):
            shown = BeautifulSoup("".join(output.get("data", {}).get("text/html", "")), "html.parser")
            for element in shown.select("[src], link[href], [srcset]"):
                address = element.get("src") or element.get("srcset") or element.get("href")
                assert address.startswith("data:"), address
