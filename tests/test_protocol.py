"""The protocol of comparisons: equal searches, on validation images only, then one test of the chosen setting per draw."""

from dataclasses import replace

import pytest
from conftest import QUIET, TINY, toy_task

import bitlib
from bitlib import HyperRule, ResNetV2, UserError
from bitlib.course.protocol import Arm, compare, edges, spoken, trials


class Counted:
    """A split that counts in `looks` how often its images are used."""

    def __init__(self, images, looks: list):
        self.images, self.looks = images, looks

    def __len__(self) -> int:
        return len(self.images)

    def __getattr__(self, name: str):
        return getattr(self.images, name)

    def prepare(self, side, device):
        self.looks.append(side)
        return self.images.prepare(side, device)


def rule(task, **changes) -> HyperRule:
    small = {"steps": 2, "batch_size": 4, "resolution": (12, 12)}
    return HyperRule(len(task.train), task.image_size).adapted(**small | changes)


def probed(task, setting, seed):
    return bitlib.linear_probe(ResNetV2(TINY, task.num_classes), task, rule(task), QUIET, **setting)


def tuned(task, setting, seed):
    return bitlib.finetune(ResNetV2(TINY, task.num_classes, seed=seed), task, rule(task, **setting), seed, QUIET)


def probe_then_tuned(task, setting, seed):
    model = ResNetV2(TINY, task.num_classes, seed=seed)
    bitlib.linear_probe(model, task, rule(task), QUIET, c=0.1)
    return bitlib.finetune(model, task, rule(task, **setting), seed, QUIET, keep_head=True)


ARMS = (
    Arm("probe", trials(c=(0.1, 1)), probed),
    Arm("fine-tuned", trials(base_lr=(0.03, 0.1)), tuned),
    Arm("both", trials(base_lr=(0.01, 0.03)), probe_then_tuned),
)


def draw(seed: int):
    return toy_task(30).few_shot(4, seed)


@pytest.fixture(scope="module")
def found() -> dict:
    return compare(ARMS, draw, final=range(3))


def test_every_arm_is_searched_and_tested_alike(found):
    assert list(found) == [arm.name for arm in ARMS]
    for arm in ARMS:
        result = found[arm.name]
        assert [trial["setting"] for trial in result["search"]] == list(arm.settings)
        assert all(len(trial["validation"]) == 2 for trial in result["search"]) and len(result["accuracy"]) == 3
    again = tuned(draw(1), found["fine-tuned"]["chosen"], 1)  # what is stored is what anyone gets who repeats a run
    assert found["fine-tuned"]["accuracy"][1] == again.test_accuracy


def test_the_choice_is_by_validation_and_the_earlier_of_equals():
    """The test labels speak for another setting than the validation labels do."""

    class Fixed:
        """A run of no training, right as often as its setting says: on validation, and on test."""

        def __init__(self, task, setting):
            self.task, self.setting, self.val_accuracy = task, setting, setting["val"]

        def evaluate(self, split):
            len(self.task.test.labels)  # open only when it is judged
            return type("Seen", (), {"accuracy": self.setting["test"]})

    settings = ({"val": 0.5, "test": 0.9}, {"val": 0.8, "test": 0.1}, {"val": 0.8, "test": 1.0})
    result = compare([Arm("one", settings, lambda task, how, seed: Fixed(task, how))], draw)["one"]
    assert result["chosen"] == settings[1] and result["accuracy"] == [0.1] * 5


def test_unequal_trials_are_refused():
    with pytest.raises(ValueError, match="same number of trials.*'probe': 2, 'fine-tuned': 1"):
        compare([ARMS[0], replace(ARMS[1], settings=trials(base_lr=(0.1,)))], draw)
    with pytest.raises(ValueError, match="one or more"):
        compare([replace(ARMS[0], settings=())], draw)
    with pytest.raises(ValueError, match="same name"):
        compare([ARMS[0], ARMS[0]], draw)


def test_a_draw_for_search_and_test_is_refused():
    with pytest.raises(ValueError, match=r"draws \[2\]"):
        compare(ARMS, draw, search=(2, 100), final=range(5))


def test_no_run_can_touch_test_images():
    def peeks(task, setting, seed):
        task.test.batch([0])

    with pytest.raises(UserError, match="closed"):
        compare([Arm("peeks", ({},), peeks)], draw)
    with pytest.raises(UserError, match="closed"):  # nor one whose search is done
        compare([Arm("peeks", ({},), peeks)], draw, cells=lambda key, run: 0.5 if "10" in key else run())


def test_the_test_split_is_used_once_for_each_final_run():
    looks: list[int] = []

    def counted(seed):
        task = draw(seed)
        return replace(task, test=Counted(task.test, looks))

    compare(ARMS[1:], counted, final=range(3))
    assert len(looks) == 2 * 3


def test_resumed_it_gives_the_same(found):
    """Interrupted after any number of cells, it goes on with those that are stored, and calls no run twice."""
    stored, limit, made = {}, 5, []

    def cells(key, measure):
        if key not in stored:
            if len(made) == limit:
                raise KeyboardInterrupt
            stored[key] = measure()
            made.append(key)
        return stored[key]

    with pytest.raises(KeyboardInterrupt):
        compare(ARMS, draw, final=range(3), cells=cells)
    limit = None
    assert compare(ARMS, draw, final=range(3), cells=cells) == found
    assert len(made) == len(stored) == len(ARMS) * (2 * 2 + 3)


def test_edges_need_three_values():
    settings = trials(base_lr=(0.01, 0.03, 0.1), steps=(50, 200))
    assert len(settings) == 6
    assert edges({"base_lr": 0.1, "steps": 200}, settings) == ["base_lr"]
    assert edges({"base_lr": 0.03, "steps": 50}, settings) == []


def test_a_kept_head_is_where_fine_tuning_begins():
    """Probe first, then tiny steps: as good as the probe, which a head of zeros would not be."""
    task = draw(0)
    probe = probed(task, {"c": 0.1}, 0)
    kept = probe_then_tuned(task, {"base_lr": 1e-9}, 0)
    assert kept.test_accuracy == probe.test_accuracy > 1 / task.num_classes


def test_a_setting_in_words():
    assert spoken({"base_lr": 0.03, "steps": 50}) == "rate 0.03, 50 steps" and spoken({"c": 1.0}) == "C = 1"
