"""Checks, claims, evidence and exercises: an untrue sentence stops a notebook, and a learner gets help in steps."""

import configparser
import importlib
import json
import re
from pathlib import Path

import pytest
import torch

from bitlib.course.check import ClaimFailed, Exercise, _statement, ahead, check, claim, evidence
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


def test_evidence_states_effect_interval_and_number(capsys):
    """By hand: mean 6, standard deviation √2.5, standard error √0.5, and t of 4 degrees of freedom is 2.776."""
    evidence("A beats B", torch.tensor([4.0, 5, 6, 7, 8]), above=3)
    evidence("B loses", (-4, -5, -6, -7, -8), below=-4, unit="", paired="seed")
    evidence("hardly a difference", [0.001, -0.001, 0.002, -0.002, 0.003, -0.003], below=0.5)
    evidence("always the same", [2, 2, 2, 2, 2], above=1.5)
    assert capsys.readouterr().out.splitlines() == [
        "✓ A beats B [+6.0 points, 95 % interval +4.0 to +8.0, 5 random subsets; needs more than 3]",
        "✓ B loses [−6.0, 95 % interval −8.0 to −4.0, 5 seeds; needs less than −4]",
        "✓ hardly a difference [+0.0000 points, 95 % interval −0.0025 to +0.0025, 6 random subsets; needs less than 0.5]",
        "✓ always the same [+2.0 points, 95 % interval +2.0 to +2.0, 5 random subsets; needs more than 1.5]",
    ]


def test_evidence_is_the_interval_of_the_paired_t_test():
    from scipy import stats

    differences = torch.randn(7, generator=torch.Generator().manual_seed(0)).double().tolist()
    low, high = stats.ttest_1samp(differences, 0).confidence_interval(0.95)
    evidence("just inside", differences, above=low - 1e-9)
    evidence("just inside", differences, below=high + 1e-9)
    for limit in ({"above": low + 1e-9}, {"below": high - 1e-9}):
        with pytest.raises(ClaimFailed):
            evidence("just outside", differences, **limit)


def test_evidence_needs_more_than_a_mean_beyond_the_limit():
    """A claim of the mean would hold in each of these cases."""
    for differences, limit in (
        ([4, 5, 6, 7, 8], {"above": 5}),  # the lower end is 4.04
        ([-4, -5, -6, -7, -8], {"below": -5}),
        ([1, 1, 1, 1, 40], {"above": 0}),  # ahead in all five, but one of them makes the mean
    ):
        with pytest.raises(ClaimFailed, match="does not hold here: A beats B .*95 % interval"):
            evidence("A beats B", differences, **limit)
    with pytest.raises(ClaimFailed):
        evidence("nothing was measured", [float("nan")] * 5, above=0)
    with pytest.raises(ValueError, match="needs 5 differences or more and got 4; repeat the comparison, or use claim"):
        evidence("A beats B", [9, 9, 9, 9.1], above=3)
    with pytest.raises(TypeError, match=r"evidence\(\) takes above= or below="):
        evidence("A beats B", [1, 2, 3, 4, 5])


def test_accuracies_are_compared_pair_by_pair():
    assert ahead([0.5, 0.75], torch.tensor([0.25, 1.0])) == [25, -25]
    with pytest.raises(ValueError, match="shorter|longer"):
        ahead([0.5, 0.75], [0.5])


def test_margins_are_not_compared_between_machines(capsys):
    """What one machine measures is masked in a notebook's outputs, as HTML and as text; the sentence is not."""
    masks = configparser.ConfigParser(interpolation=None)
    masks.read(Path(__file__).with_name("nbval_sanitize.cfg"))
    seen = []
    for shift in (0.0, 0.5):
        differences = [4 + shift, 5, 6, 7, 8]
        evidence("A [the first] beats B by 3 points", differences, above=3)
        text = capsys.readouterr().out
        told = re.search(r"\[([^\[]*)\]$", text.strip())[1]
        shown = [text, _statement("evidence", "A [the first] beats B by 3 points", told).html()]
        for name in masks.sections():
            shown = [re.sub(masks[name]["regex"], masks[name]["replace"], part) for part in shown]
        seen.append(shown)
    assert seen[0] == seen[1] and all("beats B by 3 points" in part and "interval" not in part for part in seen[0])


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
