"""The page that sets what the chapters measured beside what papers say."""

import importlib
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "book" / "evidence.md").read_text("utf8")
SECTIONS = re.findall(r"^## (.+?)$(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def bl_evidence(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "book" / "_ext")
    return importlib.import_module("bl_evidence")


@pytest.mark.parametrize(("heading", "text"), SECTIONS)
def test_a_section_asks_cites_and_shows_evidence(heading, text, bl_evidence):
    blocks = re.findall(r"```\{evidence\} (\w+)\n:shows: (.+)\n\n(.+?)\n```", text, re.DOTALL)
    assert heading.endswith("?") and "{cite}" in text and len(blocks) == 1
    chapter, shows, lines = blocks[0]
    stored = bl_evidence.found(chapter)
    assert shows in bl_evidence.SHOWS
    assert all(line.split(" => ")[0] in stored for line in lines.splitlines())


def test_evidence_is_read_with_its_interval_and_an_ambiguous_sentence_is_not(tmp_path, monkeypatch, bl_evidence):
    def output(text):
        return {"outputs": [{"data": {"text/plain": [text]}}]}

    told = "✓ {} [+1.5 points, 95 % interval −0.5 to +3.5, 5 seeds; needs more than −1]"
    cells = [output(told.format(s)) for s in ("twice", "once", "twice")] + [output("✓ a check"), {"cell_type": "markdown"}]
    (tmp_path / "99_toy.ipynb").write_text(json.dumps({"cells": cells}), "utf8")
    monkeypatch.setattr(bl_evidence, "NOTEBOOKS", tmp_path)
    assert bl_evidence.found("99_toy") == {"once": ("+1.5 points", "−0.5 to +3.5", "5 seeds")}
