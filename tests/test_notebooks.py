"""The notebook contract: what every chapter must have, and exercises whose stubs fail and whose solutions pass."""

import importlib.util
import re
from pathlib import Path

import nbformat
import pytest
import yaml

from bitlib.course.exercises import EXERCISES

ROOT = Path(__file__).resolve().parent.parent
PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))
spec = importlib.util.spec_from_file_location("refresh_notebooks", ROOT / "data_scripts" / "refresh_notebooks.py")
refresh = importlib.util.module_from_spec(spec)
spec.loader.exec_module(refresh)


@pytest.fixture(params=PATHS, ids=lambda p: p.stem)
def notebook(request):
    return nbformat.read(request.param, 4)


def tagged(notebook, tag: str) -> list:
    return [c for c in notebook.cells if tag in c.metadata.get("tags", ())]


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
        "Time",
        "Download",
        "Open in Colab",
        "**Predict",
        "## The paper, and here",
        "Where notes go wrong",
        "## A bug to diagnose",
        "## Exercises",
        "## Quiz",
        "## Summary",
        "Further reading",
    ]
    positions = [whole.find(part) for part in parts]
    assert -1 not in positions, parts[positions.index(-1)]
    assert positions == sorted(positions)
    assert whole.count("```{quiz}") >= 2 and len(tagged(notebook, "solution")) >= 2
    claims = [
        line for c in notebook.cells if c.cell_type == "code" for line in c.source.splitlines() if line.startswith("claim(")
    ]
    assert len(claims) >= 4


def test_cells_are_short(notebook):
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert len(cell.source.splitlines()) <= 15, cell.source


def test_pictures_have_alt_text_and_caption(notebook):
    for cell in notebook.cells:
        if cell.cell_type == "code" and any("image/png" in o.get("data", {}) for o in cell.outputs):
            shown = cell.metadata.get("mystnb", {})
            assert len(shown.get("image", {}).get("alt", "")) > 40, cell.source
            assert len(shown.get("figure", {}).get("caption", "")) > 20, cell.source


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


def test_stubs_are_generated_from_solutions(notebook):
    solutions = {c.metadata["exercise"]: c.source for c in tagged(notebook, "solution")}
    stubs = {c.metadata["exercise"]: c.source for c in tagged(notebook, "exercise")}
    assert solutions.keys() == stubs.keys() <= EXERCISES.keys()
    for name, solution in solutions.items():
        assert refresh.BEGIN in solution and refresh.END in solution
        assert stubs[name] == refresh.stub_of(solution) != solution


def answer_of(source: str):
    """The function that a cell defines, without running the check below it."""
    import statistics

    import torch

    import bitlib

    space = {"torch": torch, "bitlib": bitlib, "statistics": statistics}
    code = source.split("\nEXERCISES[")[0]
    exec(compile(code, "cell", "exec"), space)  # our own notebook
    return space[re.search(r"^def (\w+)", code, re.M)[1]]


def test_every_stub_fails_and_every_solution_passes(notebook, capsys):
    for cell in tagged(notebook, "exercise"):
        assert not EXERCISES[cell.metadata["exercise"]].passes(answer_of(cell.source))
        assert "still empty" in capsys.readouterr().out
    for cell in tagged(notebook, "solution"):
        assert EXERCISES[cell.metadata["exercise"]].passes(answer_of(cell.source)), capsys.readouterr().out


def test_the_address_is_that_of_the_configuration(notebook):
    url = yaml.safe_load((ROOT / "_config.yml").read_text("utf8"))["repository"]["url"]
    found = {
        m.rstrip("/")
        for c in notebook.cells
        for m in re.findall(r"github\.com/(?:github/)?([\w-]+/[\w.-]+?)(?=[/\"\s)]|$)", c.source)
    }
    assert {f for f in found if "/" in f} <= {url.removeprefix("https://github.com/")}
    assert found


def test_the_address_stands_nowhere_else():
    url = yaml.safe_load((ROOT / "_config.yml").read_text("utf8"))["repository"]["url"]
    slug = url.removeprefix("https://github.com/")
    for folder in ("bitlib", "book", "data_scripts", ".github", "."):
        for path in (ROOT / folder).glob("*" if folder == "." else "**/*"):
            if path.suffix in (".py", ".md", ".yml", ".toml", ".cff", ".txt", ".json") and path.name != "_config.yml":
                assert slug not in path.read_text("utf8"), path


def test_stub_generation():
    solution = "def f(x):\n    # begin solution\n    y = 2 * x\n    return y\n    # end solution\n\ncheck(f)"
    assert refresh.stub_of(solution) == "def f(x):\n    # your turn\n    raise NotImplementedError\n\ncheck(f)"
