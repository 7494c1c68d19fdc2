"""Bring the notebooks up to date: exercise stubs from their solutions, the repository's address, and all outputs.

python data_scripts/refresh_notebooks.py                 all of them
python data_scripts/refresh_notebooks.py 01_quickstart   one
python data_scripts/refresh_notebooks.py --check         only say which stubs or addresses are out of date
"""

import re
import sys
import time
from pathlib import Path

import nbformat
import yaml

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = ROOT / "notebooks"
BEGIN, END = "# begin solution", "# end solution"


def stub_of(solution: str) -> str:
    """The exercise that a solution answers: the marked lines become `raise NotImplementedError`."""
    lines, inside = [], False
    for line in solution.splitlines():
        if line.strip() == BEGIN:
            inside = True
            indent = line[: len(line) - len(line.lstrip())]
            lines += [f"{indent}# your turn", f"{indent}raise NotImplementedError"]
        elif line.strip() == END:
            inside = False
        elif not inside:
            lines.append(line)
    return "\n".join(lines)


def address() -> str:
    """owner/repository, from _config.yml."""
    url = yaml.safe_load((ROOT / "_config.yml").read_text("utf8"))["repository"]["url"]
    return url.removeprefix("https://github.com/")


def renew(notebook) -> None:
    """Write stubs and the address into the cells, in place."""
    solutions = {c.metadata["exercise"]: c.source for c in notebook.cells if "solution" in c.metadata.get("tags", ())}
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number:02d}"
        cell.source = re.sub(
            r"(github\.com/|colab\.research\.google\.com/github/)[\w-]+/[\w.-]+?(?=[/\"\s)])",
            lambda m: m[1] + address(),
            cell.source,
        )
        if "exercise" in cell.metadata.get("tags", ()):
            cell.source = stub_of(solutions[cell.metadata["exercise"]])


def joined(outputs: list) -> list:
    """Printed text that arrived in pieces becomes one output, wherever the pieces happened to be cut."""
    result = []
    for output in outputs:
        if result and output.output_type == "stream" == result[-1].output_type:
            result[-1].text += output.text
        else:
            result.append(output)
    return result


def execute(notebook, folder: Path) -> None:
    """Run all cells and keep what is stable: no times, no progress bars."""
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
        renew(notebook)
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
