"""Spelling, and the words that this course uses: in pages, chapters, quizzes, exercises, docstrings and messages."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
# What a careful translator would write, and what the field says instead.
OURS = [
    (r"\bpictures?\b", "image"),
    (
        r"\b(images?|shots?|digits?|examples?|labels?|draws?|photographs?) an? (class|device|chip|step|GPU)\b",
        "per class",
    ),
    (r"\b(one|two|four|eight|16|32|64) a (device|chip|step)\b", "per device, per step"),
    (r"\bdraws? of the (training|images)", "random subset"),
    (r"\b(other|lucky|luckier|unlucky) draws?\b", "random subset, or choice of images"),
    (r"\btest pictures?\b|\btraining pictures?\b", "image"),
    (r"\butili[sz]e|\bleverag(e|ing)\b", "use"),
    (r"\bin order to\b", "to"),
    (r"\b[Ii]t is worth noting\b|\b[Nn]ote that\b|\b[Ll]ast but not least\b", "nothing"),
    (r"\bso-called\b|\bvery unique\b|\bgame.changer|\bcutting.edge\b|\bstate-of-the-art results\b", "nothing"),
    (r"\bgets? to (see|know) what\b", "a verb that says it"),
]
# The figures' own modules speak of drawings; a page element is called picture; words of other people's interfaces.
DRAWINGS = ("explore", "explorables", "plots.py", "show.py", "palette.py")


def python_text(path: Path) -> str:
    """Docstrings and other strings of a module, and its comments."""
    source = path.read_text("utf8")
    strings = [n.value for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
    strings = [s for s in strings if not s.isidentifier()]  # keys of records
    comments = [line.partition("# ")[2] for line in source.splitlines() if "# " in line]
    return "\n".join(strings + comments)


def texts() -> dict[str, str]:
    found = {}
    for pattern in ("*.md", "book/*.md", "bitlib/course/quizzes/*.md", "bitlib/pretrained/*.md"):
        found |= {str(p.relative_to(ROOT)): p.read_text("utf8") for p in ROOT.glob(pattern)}
    for path in ROOT.glob("notebooks/*.ipynb"):
        cells = nbformat.read(path, 4).cells
        found[str(path.relative_to(ROOT))] = "\n\n".join(c.source for c in cells)
    for pattern in ("bitlib/**/*.py", "data_scripts/*.py", "book/_ext/*.py", "benchmarks/*.py"):
        found |= {str(p.relative_to(ROOT)): python_text(p) for p in ROOT.glob(pattern)}
    return found


TEXTS = texts()


@pytest.mark.parametrize("name", TEXTS)
def test_the_words_of_the_field(name):
    if name in ("CONTRIBUTING.md", "CHANGELOG.md") or any(part in name for part in DRAWINGS):
        return  # the first shows such words, the second says what was written when
    prose = re.sub(r"`[^`]*`|\]\([^)]*\)|<[^>]+>|^\s*import .*$", "", TEXTS[name], flags=re.M)
    wrong = [f"{m[0]!r} (write: {better})" for word, better in OURS for m in re.finditer(word, prose)]
    assert not wrong, wrong


def test_spelling(tmp_path):
    pytest.importorskip("codespell_lib")
    for name, text in TEXTS.items():
        text = re.sub(r"`[^`]*`|https?://\S+|[A-Za-z0-9+/]{40,}", "", text)
        (tmp_path / f"{name.replace('/', '__')}.txt").write_text(text, "utf8", errors="ignore")
    known = "te,inh,fo,nd,ot,ba,fpr,hist,arange,rouge,unselect"
    done = subprocess.run(
        [sys.executable, "-m", "codespell_lib", "--ignore-words-list", known, str(tmp_path)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout.replace(str(tmp_path) + "/", "")
