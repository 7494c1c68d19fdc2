"""Bring the notebooks up to date: exercise stubs, addresses, folded cells, and all outputs.

python data_scripts/refresh_notebooks.py                 all of them
python data_scripts/refresh_notebooks.py 01_quickstart   one
python data_scripts/refresh_notebooks.py --check         only list notebooks whose stubs or addresses are out of date
"""

import json
import re
import sys
import time
from pathlib import Path

import nbformat
import yaml

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"


def repository() -> str:
    """The repository's address, from _config.yml."""
    return yaml.safe_load((ROOT / "_config.yml").read_text("utf8"))["repository"]["url"]


def addressed(text: str) -> str:
    """The text with the current addresses of the repository, its website and its notebooks in Colab."""
    owner, name = repository().removeprefix("https://github.com/").split("/")
    # Only what Colab opens and pip installs: links to other people's repositories stay as they are.
    ours = r"(git\+https://github\.com/|colab\.research\.google\.com/github/)[\w-]+/[\w.-]+?(?=[/\"\s)])"
    text = re.sub(ours, rf"\g<1>{owner}/{name}", text)
    return re.sub(r"https://[\w-]+\.github\.io/[\w.-]+/", f"https://{owner}.github.io/{name}/", text)


def fold(cell) -> None:
    """Fold a cell whose code starts with "# @title" everywhere: in JupyterLab, in Colab and on the website."""
    titled = cell.source.startswith("# @title")
    tags = [tag for tag in cell.metadata.get("tags", ()) if tag != "hide-input"]
    if titled and not {"hide-cell", "remove-cell"} & set(tags):
        tags.append("hide-input")
    cell.metadata.pop("jupyter", None), cell.metadata.pop("cellView", None), cell.metadata.pop("tags", None)
    if tags:
        cell.metadata["tags"] = tags
    if titled:
        cell.metadata |= {"jupyter": {"source_hidden": True}, "cellView": "form"}


def time_row(name: str) -> str:
    """The row of a chapter's card that says how long it takes, from results/notebook_times.json."""
    times = json.loads((ROOT / "results" / "notebook_times.json").read_text("utf8"))

    def spoken(seconds: int) -> str:
        return f"{seconds} s" if seconds < 100 else f"{seconds / 60:.0f} minutes"

    if name not in times["fast"]:
        return "| **Time** | not yet measured |"
    fast, slow, cores = spoken(times["fast"][name]), spoken(times["slow"][name]), times["cores"]["fast"]
    work = f"about {times['minutes'][name]} minutes to work through"
    return f"| **Time** | {work}; runs in {fast} on {cores} fast cores, {slow} on a slow one |"


def renew(notebook, name: str) -> None:
    """Update stubs, addresses, folding and the times in the card, in place."""
    from bitlib.course.exercises import EXERCISES

    notebook.cells[0].source = re.sub(r"\| \*\*Time\*\* \|.*\|", time_row(name), notebook.cells[0].source)

    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number:02d}"
        cell.source = addressed(cell.source)
        if name := cell.metadata.get("exercise"):
            exercise = EXERCISES[name]
            cell.source = f'{exercise.stub()}\n\n\nEXERCISES["{name}"].check({exercise.answer.__name__})'
        if cell.cell_type == "code":
            fold(cell)


def joined(outputs: list) -> list:
    """Join printed text that arrived in pieces into one output, so that it does not depend on how it was cut."""
    result = []
    for output in outputs:
        if result and output.output_type == "stream" == result[-1].output_type:
            result[-1].text += output.text
        else:
            result.append(output)
    return result


def execute(notebook, folder: Path) -> None:
    """Run all cells and store only stable outputs, without times or progress bars."""
    from nbclient import NotebookClient

    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        store_widget_state=False,
        record_timing=False,
    ).execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = joined([o for o in cell.outputs if o.get("name") != "stderr"])
    notebook.metadata = {
        "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
        "language_info": {"name": "python"},
    }


def main() -> None:
    names = [a for a in sys.argv[1:] if not a.startswith("-")]
    stale = []
    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        if names and path.stem not in names:
            continue
        notebook = nbformat.read(path, 4)
        before = nbformat.writes(notebook)
        renew(notebook, path.stem)
        if "--check" in sys.argv:
            if nbformat.writes(notebook) != before:
                stale.append(path.name)
            continue
        start = time.perf_counter()
        execute(notebook, NOTEBOOKS)
        nbformat.validate(notebook)
        path.write_text(nbformat.writes(notebook) + "\n", "utf8")
        print(f"{path.name}: {time.perf_counter() - start:.0f} s")
    if stale:
        sys.exit(f"out of date: {', '.join(stale)}; run data_scripts/refresh_notebooks.py")


if __name__ == "__main__":
    main()
