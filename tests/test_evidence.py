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


def test_the_record_of_verify_is_shown_or_said_to_be_missing(tmp_path, monkeypatch, bl_evidence):
    """As a page would show it; no build of the book is needed for that."""
    record = {
        "accuracy": 0.9762,
        "images": 10_000,
        "interval": [0.973, 0.979],
        "published": 0.9761,
        "holds": True,
        "timm": None,
    }
    record |= {"file": {"bytes": 94_000_000, "sha256": "ab" * 32}, "variances": {"smallest": 1e-5}}
    record |= {"fingerprint": {"features": [], "logits": []}}
    monkeypatch.setattr(bl_evidence, "RECORD", tmp_path / "verified.json")

    class Env:
        def note_dependency(self, path):
            pass

    made = bl_evidence.Verified.__new__(bl_evidence.Verified)
    monkeypatch.setattr(bl_evidence.Verified, "env", Env(), raising=False)
    assert "Not yet run." in made.run()[0].astext()
    (tmp_path / "verified.json").write_text(json.dumps(record))
    told = made.run()[0].astext()
    assert "97.62 of 10,000 images (97.30 to 97.90)" in told and "yes" in told and "not compared" in told
