"""Check the built book: every page of _toc.yml must exist, and no notebook may be stored with an error or without outputs.

jupyter-book does not report either. Also checks the vendored scripts. Prints one line per problem; exit status 1 if there are
any.
"""

import json
import sys
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).resolve().parent))
import vendor_web  # noqa: E402

ROOT = Path(__file__).resolve().parent.parent


def pages(toc) -> list[str]:
    """Every `root` and `file` of a table of contents, at any depth."""
    if isinstance(toc, list):
        return [page for entry in toc for page in pages(entry)]
    if isinstance(toc, dict):
        own = [toc[key] for key in ("root", "file") if key in toc]
        return own + [page for value in toc.values() if isinstance(value, (list, dict)) for page in pages(value)]
    return []


def problems_of(root: Path = ROOT) -> list[str]:
    """Problems with the book built in root/_build/html, one line each."""
    listed = pages(yaml.safe_load((root / "_toc.yml").read_text("utf8")))
    problems = []
    for page in listed:
        built = root / "_build" / "html" / f"{page}.html"
        if not built.is_file():
            problems.append(f"{page} is in _toc.yml, but {built.relative_to(root)} was not built")
        notebook = root / f"{page}.ipynb"
        if not notebook.is_file():
            continue
        cells = [c for c in json.loads(notebook.read_text("utf8"))["cells"] if c["cell_type"] == "code" and c["source"]]
        if cells and not any(c["outputs"] for c in cells):
            problems.append(f"{page}.ipynb holds no outputs; run data_scripts/refresh_notebooks.py")
        for number, cell in enumerate(cells, 1):
            if any(o["output_type"] == "error" for o in cell["outputs"]):
                problems.append(f"{page}.ipynb: the stored output of code cell {number} is an error")
    return problems


if __name__ == "__main__":
    found = problems_of() + vendor_web.check()
    if found:
        sys.exit("\n".join(found))
    print(f"checked {len(pages(yaml.safe_load((ROOT / '_toc.yml').read_text('utf8'))))} pages")
