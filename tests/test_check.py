"""Checks, claims and exercises: an untrue sentence stops a notebook, and a learner gets help in steps."""

import importlib
import json
from pathlib import Path

import pytest
import torch

from bitlib.course.check import ClaimFailed, Exercise, check, claim
from bitlib.course.exercises import EXERCISES, _join, ch01


def double(x):
    """Twice x."""
    return 2 * x


def partly(x):
    """Twice x, and a constant."""
    # begin solution
    y = 2 * x
    # end solution
    return y + 1


def test_checks_and_claims_stand_or_stop(capsys):
    check("water is wet", torch.tensor(True))
    claim("the gap is wide", torch.tensor(51.04), above=10, unit="points")
    claim("the error is small", -3e-7, below=1e-5)
    assert capsys.readouterr().out.splitlines() == [
        "✓ water is wet",
        "✓ the gap is wide [51 points; needs more than 10]",
        "✓ the error is small [−3e-07; needs less than 1e-05]",
    ]
    for statement in (
        lambda: check("the moon is cheese", 0),
        lambda: claim("the moon is cheese", 3, above=3),
        lambda: claim("the moon is cheese", float("nan"), below=1),
    ):
        with pytest.raises(ClaimFailed, match="does not hold here: the moon is cheese"):
            statement()
    for wrong in ({}, {"above": 1, "below": 2}):
        with pytest.raises(TypeError, match="one of the two"):
            claim("neither", 1, **wrong)


def test_hints_climb_and_stay_on_the_last(capsys):
    exercise = Exercise("?", (("double its input", lambda f: f(2) == 4),), ("one", "two", "three"), double)

    def empty(x):
        raise NotImplementedError

    for answer, expected in (
        (empty, "Still empty."),  # and no hint is used up
        (lambda x: x, "should double its input\nhint 1 of 3: one"),
        (lambda x: x / 0, "should double its input, but it stopped with ZeroDivisionError: division by zero, in the line"),
        (lambda x: None, "but it returned None. Is `return` missing?"),
        (lambda x: y, "NameError: name 'y' is not defined"),  # noqa: F821  a learner's slip
        (lambda x: x.exp(), "AttributeError: 'int' object has no attribute 'exp'"),
        (lambda: 4, "takes 0 positional arguments but 1 was given. This uses up no hint."),
        (4, "Give the function itself, without calling it"),
        (lambda x: 3 * x, "should double its input\nhint 2 of 3"),
        (empty, "Still empty."),
        (lambda x: x, "hint 3 of 3: three"),
        (lambda x: x, "hint 3 of 3: three"),
    ):
        assert not exercise.passes(answer)
        assert expected in capsys.readouterr().out
    assert exercise.passes(lambda x: 2 * x)
    assert "passed" in capsys.readouterr().out


def test_stub_and_solution_come_from_one_function():
    whole, part = (Exercise("?", (), ("", "", ""), answer) for answer in (double, partly))
    assert whole.stub() == 'def double(x):\n    """Twice x."""\n    # your turn\n    raise NotImplementedError'
    assert part.stub().endswith("    # your turn\n    raise NotImplementedError\n    return y + 1")
    assert "return 2 * x" in whole.solution().html() and "begin" not in part.solution().html()
    assert whole.solution().html().startswith("<details") and "open" not in whole.solution().html().split(">")[0]


@pytest.mark.parametrize("name", EXERCISES)
def test_stubs_fail_and_solutions_pass(name, capsys):
    exercise = EXERCISES[name]
    assert len(exercise.hints) == 3 and exercise.checks and exercise.question
    space = {}
    exec(compile(exercise.stub(), name, "exec"), space)  # our own code
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exercise, "tries", 0)
        assert not exercise.passes(space[exercise.answer.__name__])
        assert "Still empty" in capsys.readouterr().out
        assert not exercise.passes(lambda *args: None)
        assert exercise.tries == (name in ("keep_statistics", "accumulate"))  # of these alone, nothing is returned
        assert exercise.passes(exercise.answer), capsys.readouterr().out


CHAPTERS = sorted((Path(__file__).resolve().parent.parent / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.stem)
def test_exercises_stand_in_the_file_of_their_chapter(path):
    """Nobody finds a check that stands elsewhere, and nobody notices one that no notebook asks for."""
    chapter = importlib.import_module(f"bitlib.course.exercises.ch{path.stem[:2]}")
    cells = json.loads(path.read_text("utf8"))["cells"]
    asked = [c["metadata"]["exercise"] for c in cells if "exercise" in c["metadata"]]
    assert list(chapter.EXERCISES) == asked  # in the order of the chapter
    assert all(EXERCISES[name] is chapter.EXERCISES[name] for name in asked)


def test_two_exercises_of_one_name_are_refused():
    with pytest.raises(ValueError, match="two chapters have an exercise called report; rename one"):
        _join(ch01.EXERCISES, {"report": EXERCISES["mix"]})
