import importlib
import json
from pathlib import Path

import pytest
import torch
from matplotlib.figure import Figure

from bitlib.course import plots
from bitlib.course.check import ClaimFailed, Exercise, claim
from bitlib.course.exercises import EXERCISES, _join, ch01


def test_claim(capsys):
    claim("water is wet", torch.tensor(True))
    assert capsys.readouterr().out == "claim holds: water is wet\n"
    with pytest.raises(ClaimFailed, match="does not hold here: the moon is cheese"):
        claim("the moon is cheese", 0)


def test_hints_climb_and_stay_on_the_last(capsys):
    exercise = Exercise("?", (("double its input", lambda f: f(2) == 4),), ("one", "two", "three"))

    def empty(x):
        raise NotImplementedError

    for answer, expected in (
        (empty, "still empty\nhint 1 of 3: one"),
        (lambda x: x, "should double its input\nhint 2 of 3"),
        (lambda x: x / 0, "stopped with ZeroDivisionError"),
        (lambda x: x, "hint 3 of 3: three"),
    ):
        assert not exercise.passes(answer)
        assert expected in capsys.readouterr().out
    assert exercise.passes(lambda x: 2 * x)
    assert "passed" in capsys.readouterr().out


@pytest.mark.parametrize("name", EXERCISES)
def test_exercises_are_complete(name):
    exercise = EXERCISES[name]
    assert len(exercise.hints) == 3 and exercise.checks and exercise.question
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exercise, "tries", 0)
        assert not exercise.passes(lambda *args: None)


CHAPTERS = sorted((Path(__file__).resolve().parent.parent / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda p: p.stem)
def test_exercises_stand_in_the_file_of_their_chapter(path):
    """Nobody finds a check that stands elsewhere, and nobody notices one that no notebook asks for."""
    chapter = importlib.import_module(f"bitlib.course.exercises.ch{path.stem[:2]}")
    cells = json.loads(path.read_text("utf8"))["cells"]
    asked = [c["metadata"]["exercise"] for c in cells if "exercise" in c["metadata"].get("tags", ())]
    assert list(chapter.EXERCISES) == asked  # in the order of the chapter
    assert all(EXERCISES[name] is chapter.EXERCISES[name] for name in asked)


def test_two_exercises_of_one_name_are_refused():
    with pytest.raises(ValueError, match="two chapters have an exercise called report; rename one"):
        _join(ch01.EXERCISES, {"report": EXERCISES["mix"]})


def test_plots_draw_what_they_are_given():
    images = torch.randint(0, 255, (5, 3, 8, 8), dtype=torch.uint8)
    grid = plots.image_grid(images, list("abcde"), columns=3)
    assert [a.get_title() for a in grid.axes] == ["a", "b", "c", "d", "e", ""]
    curve = plots.few_shot_curve({"A": {1: [0.5, 0.7], 5: [0.8, 0.9]}, "B": {1: [0.2], 5: [0.4]}}, chance=0.1)
    line = curve.axes[0].lines[0]
    assert list(line.get_xdata()) == [1, 5] and list(line.get_ydata()) == pytest.approx([60, 85])
    loss = plots.learning_curve({"a": (range(10), [1.0] * 10), "b": (range(10), [2.0] * 10)}, smooth=3)
    assert len(loss.axes[0].lines[0].get_xdata()) == 8
    assert isinstance(plots.confusion(torch.tensor([[3, 1], [0, 2]]), "ab"), Figure)
    wrong = plots.mistakes(images, torch.tensor([0, 1, 0, 1, 0]), torch.randn(5, 2), "xy")
    assert " as " in wrong.axes[0].get_title()


def test_plots_of_several_seeds():
    panels = plots.dot_panels({"left": {"A": [0.5, 0.7], "B": [0.1]}, "right": {"A": [0.2, 0.2], "B": [0.3]}})
    assert [a.get_title() for a in panels.axes] == ["left", "right"]
    assert [t.get_text() for t in panels.axes[0].get_yticklabels()] == ["A", "B"]
    assert panels.axes[0].collections[0].get_offsets()[:, 0].tolist() == pytest.approx([50, 70])
    assert len(plots.dots({"A": [0.5]}).axes) == 1


def test_norm_axes_colours_what_shares_a_mean():
    shown = [axes.images[0].get_array() for axes in plots.norm_axes(4, 8, 2).axes]
    assert [len(set(panel.flatten().tolist())) for panel in shown] == [8, 4, 32, 8]
    batch, layer, _, group = shown
    assert (batch == batch[:1]).all() and (layer == layer[:, :1]).all() and (group[:, 0] == group[:, 3]).all()
    assert (group[:, 0] != group[:, 4]).all()


def test_histograms_and_reliability():
    bars = plots.histograms({"a": torch.tensor([0.0, 0.01, 1.0, 1.0])}, "x", bins=4).axes[0].patches
    assert [b.get_height() for b in bars] == [50, 0, 0, 50]
    bins = torch.tensor([0.2, 0.9]), torch.tensor([0.1, 0.5]), torch.tensor([0, 4])
    _, line = plots.reliability({"a": bins}).axes[0].lines
    assert line.get_xdata().tolist() == pytest.approx([90]) and line.get_ydata().tolist() == [50]


def test_long_claims_wrap(capsys):
    claim("long " * 30, True)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and all(len(line) <= 78 for line in lines) and lines[1].startswith("    long")
