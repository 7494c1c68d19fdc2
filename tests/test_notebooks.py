"""The notebook contract: what every chapter must have, in which order, and what is folded."""

import importlib.util
import re
from pathlib import Path

import nbformat
import pytest
import yaml

ROOT = Path(__file__).resolve().parent.parent
PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))
spec = importlib.util.spec_from_file_location("refresh_notebooks", ROOT / "data_scripts" / "refresh_notebooks.py")
refresh = importlib.util.module_from_spec(spec)
spec.loader.exec_module(refresh)


@pytest.fixture(params=PATHS, ids=lambda p: p.stem)
def notebook(request):
    return nbformat.read(request.param, 4)


def text(notebook) -> str:
    return "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")


def test_there_are_chapters():
    assert [p.stem for p in PATHS][:1] == ["01_quickstart"]


def test_parts_and_their_order(notebook):
    whole = text(notebook)
    parts = [
        "# ",
        "The question of this chapter",
        "You will be able to",
        "You need",
        "**Time**",
        "Download",
        "[![Open in Colab](",
        "## The problem",
        "## The paper, and here",
        "## Often misread",
        "## A bug to diagnose",
        "## Exercises",
        "## Quiz",
        "## Summary",
        "**Further reading",
    ]
    positions = [whole.find(part) for part in parts]
    assert -1 not in positions, parts[positions.index(-1)]
    assert positions == sorted(positions)
    code = "\n".join(c.source for c in notebook.cells if c.cell_type == "code")
    assert re.search(r'^notebook\.quiz\("\d\d"\)$', code, re.M)
    assert code.count("].solution()") == len([c for c in notebook.cells if "exercise" in c.metadata]) >= 2
    assert len(re.findall(r"^(?:evidence|claim|check)\(", code, re.M)) >= 4
    assert len(re.findall(r"\bPredict\.\w+\(", code)) >= 2


def test_chapters_are_numbered_as_their_files(notebook, request):
    number = int(request.node.callspec.id[:2])
    assert notebook.cells[0].source.startswith(f"# {number} · ")


def test_a_chapter_opens_with_its_question_and_folds_its_set_up(notebook):
    first = next(c for c in notebook.cells if c.cell_type == "code")
    assert first.source.startswith("# @title Set up (run this first)") and "hide-cell" in first.metadata["tags"]
    assert "notebook.setup()" in first.source and "%pip install" in first.source


def test_cells_are_short(notebook):
    for cell in notebook.cells:
        if cell.cell_type == "code" and not cell.source.startswith("# @title"):
            assert len(cell.source.splitlines()) <= 15, cell.source


def test_folded_cells_are_folded_in_all_three_places(notebook):
    for cell in notebook.cells:
        if cell.source.startswith("# @title"):
            assert cell.metadata["jupyter"]["source_hidden"] and cell.metadata["cellView"] == "form"
            assert {"hide-input", "hide-cell", "remove-cell"} & set(cell.metadata["tags"])
        assert not cell.source.startswith("plots."), f"fold the plot with a # @title: {cell.source[:80]}"


def test_plots_have_alt_text_and_caption(notebook):
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            shown = "".join(output.get("data", {}).get("text/html", ""))
            if '<picture class="bl-plot">' in shown and "bl-explorable" not in shown:
                (alt,) = re.findall(r'<img alt="([^"]*)"', shown)
                (caption,) = re.findall(r"<figcaption>(.*?)</figcaption>", shown)
                assert len(alt) > 40 and len(caption) > 20, cell.source
            assert "image/png" not in output.get("data", {}), cell.source  # grey slabs in the dark


def test_controls_that_need_a_kernel_are_not_on_the_website(notebook):
    for cell in notebook.cells:
        if re.search(r"\bnotebook\.live_", cell.source):
            assert "remove-cell" in cell.metadata.get("tags", ()), cell.source


def test_outputs_are_stored_and_fit_for_strangers(notebook):
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        for output in cell.outputs:
            assert output.output_type != "error", cell.source
            shown = output.get("text", "") + str(output.get("data", {}).get("text/plain", ""))
            assert not re.search(r"/(home|root|tmp|work|Users)/|0x[0-9a-f]{6}", shown), shown
            assert output.get("name") != "stderr", shown
    assert any(c.outputs for c in notebook.cells if c.cell_type == "code")


def test_cells_are_as_the_script_writes_them(notebook, request):
    """Stubs from solutions, times from the measurement, addresses from the configuration, foldings from titles."""
    before = nbformat.writes(notebook)
    refresh.renew(notebook, request.node.callspec.id)
    assert nbformat.writes(notebook) == before, "run data_scripts/refresh_notebooks.py"


def test_the_address_is_that_of_the_configuration(notebook):
    url = yaml.safe_load((ROOT / "_config.yml").read_text("utf8"))["repository"]["url"]
    found = {
        m.rstrip("/")
        for c in notebook.cells
        for m in re.findall(r"(?:git\+https://github\.com/|google\.com/github/)([\w-]+/[\w.-]+?)(?=[/\"\s)]|$)", c.source)
    }
    assert found <= {url.removeprefix("https://github.com/")}
    assert found


def test_the_address_stands_nowhere_else():
    url = yaml.safe_load((ROOT / "_config.yml").read_text("utf8"))["repository"]["url"]
    slug = url.removeprefix("https://github.com/")
    for folder in ("bitlib", "book", "data_scripts", ".github", "."):
        for path in (ROOT / folder).glob("*" if folder == "." else "**/*"):
            if path.suffix in (".py", ".md", ".yml", ".toml", ".cff", ".txt", ".json") and path.name != "_config.yml":
                assert slug not in path.read_text("utf8"), path
