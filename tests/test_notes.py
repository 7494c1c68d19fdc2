"""The page that checks the notes this course grew out of: each item leads somewhere, and its arithmetic holds."""

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "book" / "notes_checked.md").read_text("utf8")


@pytest.fixture(scope="module")
def bl_notes():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(ROOT / "book" / "_ext")
        yield importlib.import_module("bl_notes")


def test_every_item_is_complete_and_leads_somewhere(bl_notes):
    letters = set(re.findall(r"^- \*\*([A-Z])\*\*", PAGE, re.MULTILINE))
    kinds = bl_notes.items()
    assert set(kinds) == set(bl_notes.HEADS) == set(re.findall(r"```\{notes-checked\} (\w+)", PAGE))
    for kind, items in kinds.items():
        says, answer = {"named": ("what", None), "number": ("says", "verdict")}.get(kind, ("says", "right"))
        for item in items:
            assert set(item) == {says, "notes", "where"} | ({answer} if answer else set()), item
            assert item["notes"] and set(item["notes"]) <= letters and item["where"], item
            for target in item["where"]:
                bl_notes.find(target)


def test_nothing_stands_twice(bl_notes):
    said = [item.get("what") or item["says"] for items in bl_notes.items().values() for item in items]
    assert len(said) == len(set(said))


def test_sources_are_in_the_bibliography(bl_notes):
    entries = set(re.findall(r"^@\w+\{(\w+),", (ROOT / "book" / "references.bib").read_text("utf8"), re.MULTILINE))
    assert set(re.findall(r"\{cite\}`(\w+)`", bl_notes.FILE.read_text("utf8"))) <= entries


@pytest.mark.parametrize(
    "target",
    [
        "99_nothing",
        "03_batch_norm#Nothing of the kind",
        "book/nothing",
        "tests/test_norm.py::test_nothing",
        "bitlib nothing",
        "tests/x.py::y",
    ],
)
def test_a_target_that_does_not_exist_is_named(target, bl_notes):
    with pytest.raises(ValueError, match=re.escape(repr(target))):
        bl_notes.find(target)


def test_the_notes_arithmetic_as_the_page_gives_it():
    rows = {(48.8, 24), (40.2, 34), (70.8, 20), (110, 12)}  # images a second, hours for 240 epochs
    epochs = sorted(round(rate * hours * 3600 / 240) for rate, hours in rows)
    assert (epochs[0], epochs[-1]) == (17_568, 21_240)
    assert (round(100 * 70.8 / (2 * 40.2)), round(100 * 110 / (4 * 40.2))) == (88, 68)
    assert round(0.8 * (415 + 394)) == 647 and 1_288 + 190 == 1_478 and 190 / 38 == 5
    assert round(500 * 64 / 30) == 1_067
    assert 23_587_712 + 4_098 == 23_591_810 == 23_538_690 + 53_120
    assert round(0.05 + 0.3 + 0.2 + 0.005, 3) == 0.555
    assert 0.03 * 4_096 / 256 == pytest.approx(0.48) and 512 * 8 == 4_096
    assert round(10_000 * 512 / 50_000) == 102
