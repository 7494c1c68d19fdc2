"""The suite: twelve tasks whose images and labels are what they say, and the command that measures models on them."""

import json

import numpy as np
import pytest
import torch
from conftest import QUIET
from scipy import ndimage
from sklearn.linear_model import LogisticRegression

import bitlib
from bitlib import UserError
from bitlib import suite as measuring
from bitlib.cli import main
from bitlib.data import drawing, natural, specialised, structured
from bitlib.data import suite as generating
from bitlib.data.suite import GROUPS, SIZES, SUITE, load_suite

SPLITS = ("train", "val", "test")


@pytest.fixture(scope="module")
def tasks():
    return {name: bitlib.load_task(name) for name in SUITE}


def drawn(make, label, count=20, split="test"):
    """Some images of one class, uint8 [N, 32, 32, 3]."""
    return make(np.full(count, label), split, np.random.default_rng(label))


def objects(image):
    """Connected regions that differ from the background, which is the colour at the border: {label: pixels}."""
    border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]]).astype(float)
    away = np.abs(image - np.median(border, 0)).mean(2)
    regions, count = ndimage.label(away > 100, np.ones((3, 3)))
    sizes = ndimage.sum_labels(np.ones_like(regions), regions, range(1, count + 1))
    return [np.argwhere(regions == i + 1) for i in range(count) if sizes[i] >= 3]


def test_four_tasks_in_each_group_with_a_thousand_training_images(tasks):
    assert [sum(entry.group == group for entry in SUITE.values()) for group in GROUPS] == [4, 4, 4]
    for name, task in tasks.items():
        sizes = {split: len(getattr(task, split)) for split in SPLITS}
        assert sizes == (SIZES if name != "suite/digits" else SIZES | {"test": 597})
        for split in SPLITS:
            counts = torch.bincount(getattr(task, split).labels, minlength=task.num_classes)
            assert counts.max() - counts.min() <= 1 or (name, split) == ("suite/digits", "test")
        assert task.train.images.shape[1:] == (3, *task.image_size) and task.train.images.dtype == torch.uint8


def test_a_draw_changes_what_is_trained_on_and_never_the_test(tasks):
    for name in ("suite/digits", "suite/letters", "suite/terrain", "suite/distance"):
        again, other = load_suite(name), load_suite(name, draw=1)
        assert again.fingerprint == tasks[name].fingerprint != other.fingerprint
        assert again.test.digest() == other.test.digest()
        assert again.train.digest() != other.train.digest() and again.val.digest() != other.val.digest()


def test_no_image_is_in_two_splits(tasks):
    """An image that the network was trained on would tell nothing when it is met again."""
    for name, task in tasks.items():
        splits = [{image.numpy().tobytes() for image in getattr(task, split).images} for split in SPLITS]
        # Twice in scikit-learn's digits, two people wrote the same 64 pixels.
        assert len(splits[0] & splits[2]) + len(splits[0] & splits[1]) + len(splits[1] & splits[2]) <= 2 * ("digits" in name)


def test_windows_of_different_splits_share_no_pixel():
    seen = np.zeros((100, 130), int)
    for i, split in enumerate(SPLITS):
        for y, x in drawing.blocks(100, 130, 20, split):
            assert not seen[y : y + 20, x : x + 20].any()
            seen[y : y + 20, x : x + 20] = i + 1
    shares = np.bincount(seen[:100, :120].ravel(), minlength=4) / 12_000
    assert shares[0] == 0 and np.allclose(shares[1:], [*drawing.SHARES.values()], atol=0.02)
    for _, top, left, height, width in natural.MATERIALS.values():
        assert min(len(drawing.blocks(height, width, natural.BLOCK, split)) for split in SPLITS) >= 1 and top >= 0 <= left
    assert all(len(specialised._tissue(split)) >= 2 for split in SPLITS)


@pytest.mark.parametrize("label", range(8))
def test_counted_by_connected_regions(label, monkeypatch):
    monkeypatch.setattr(structured, "Canvas", Clear)
    found = [len(objects(image)) for image in drawn(structured.counting, label)]
    assert found == [structured.COUNTS[label]] * 20


class Clear(drawing.Canvas):
    """White on black without grain, for what is checked by counting pixels."""

    def __init__(self, rng):
        super().__init__(rng)
        self.image.paste((0, 0, 0), (0, 0, *self.image.size))

    def polygon(self, corners, ink=None):
        super().polygon(corners, np.ones(3))

    def pixels(self):
        return np.asarray(self.image.resize((32, 32), 4))


@pytest.mark.parametrize("label", range(5))
def test_distance_measured_between_centres_of_mass(label, monkeypatch):
    monkeypatch.setattr(structured, "Canvas", Clear)
    low, high = structured.DISTANCES[label : label + 2]
    for image in drawn(structured.distance, label):
        one, two = (pixels.mean(0) for pixels in objects(image))
        assert low - 0.7 < np.linalg.norm(one - two) < high + 0.7


@pytest.mark.parametrize("label", range(8))
@pytest.mark.parametrize("shape", ["ARROW", "DART", "WEDGE"])
def test_orientation_from_the_pixels(shape, label, monkeypatch):
    """Along its longest axis, an arrow is wider in its front half, a dart and a wedge in their rear half."""
    monkeypatch.setattr(structured, "Canvas", Clear)
    for other in ("ARROW", "DART", "WEDGE"):
        monkeypatch.setattr(structured, other, getattr(structured, shape))
    for image in drawn(structured.orientation, label):
        (pixels,) = objects(image)
        away = (pixels - pixels.mean(0))[:, ::-1]  # (x, y)
        values, axes = np.linalg.eigh(np.cov(away.T))
        axis = axes[:, values.argmax()]
        front, rear = (np.abs(away[side > 1] @ (-axis[1], axis[0])).max() for side in (away @ axis, -away @ axis))
        tip = axis if (front > rear) == (shape == "ARROW") else -axis
        turned = np.degrees(np.arctan2(tip[1], tip[0])) - 45 * label
        assert abs((turned + 180) % 360 - 180) < 22.5 + 8  # as coarse as pixels are


def test_matching_shapes_are_the_same_after_turning_and_scaling(monkeypatch):
    """Compared by two numbers that neither changes: how much of their disc the shapes fill, and their second moment."""
    monkeypatch.setattr(structured, "Canvas", Clear)

    def unlike(image):
        features = []
        for pixels in objects(image):
            away = np.linalg.norm(pixels - pixels.mean(0), axis=1)
            features.append([len(pixels) / (np.pi * (away.max() + 0.5) ** 2), (away**2).mean() / len(pixels) * 2 * np.pi])
        return np.abs(np.subtract(*features)).sum()

    same, different = (np.array([unlike(image) for image in drawn(structured.matching, label, 60)]) for label in (0, 1))
    assert (same < 0.2).mean() > 0.9 and (different > 0.2).mean() > 0.6


def test_terrain_from_flat_to_steep():
    """The mean slope of a window, from the differences between neighbours, in metres per 100 metres or so."""
    heights = specialised._elevation()
    corners, classes = (found[::37] for found in specialised._windows("train"))
    windows = [heights[y : y + 32, x : x + 32] for y, x in corners]
    slope = np.array([np.hypot(np.diff(w, axis=0)[:, 1:], np.diff(w, axis=1)[1:]).mean() for w in windows])
    means = [slope[classes == label].mean() for label in range(len(specialised.STEEPNESS))]
    assert 2 < means[0] and all(1.15 * one < other for one, other in zip(means, means[1:])) and means[-1] < 40


def test_sounds_rise_and_fall():
    """The loudest pitch of every moment, from the top of the image, goes up or down."""
    for kind, sign in (("rising tone", -1), ("falling tone", 1), ("tone", 0)):
        for image in drawn(specialised.sounds, specialised.SOUNDS.index(kind)):
            loudest = image[:, 2:-2, 0].argmax(0)
            assert np.sign(round(np.polyfit(np.arange(28), loudest, 1)[0], 1)) == sign


@pytest.mark.parametrize("name", [name for name in SUITE if name not in ("suite/digits", "suite/sounds")])
def test_neither_mean_colour_nor_coarse_pixels_solve_it(tasks, name):
    """Digits and spectrograms lie in fixed places, so that coarse pixels tell them apart; nothing else may be so easy."""
    task = tasks[name]
    parts = [images.images.float() / 255 for images in (task.train, task.test)]
    for features in (lambda x: x.mean((2, 3)), lambda x: torch.nn.functional.adaptive_avg_pool2d(x, 4).flatten(1)):
        train, test = (features(part).numpy() for part in parts)
        right = LogisticRegression(max_iter=300).fit(train, task.train.labels).score(test, task.test.labels)
        assert right < 1 / task.num_classes + 0.28


def test_upstream_saw_none_of_the_classes():
    upstream = set(bitlib.create_model("glyphs-L", pretrained=True).info.class_names)
    assert not upstream & {*natural.LETTERS, *"0123456789"}


# The command


@pytest.fixture
def small(monkeypatch):
    """Two trials of one and two steps, on a few images."""
    monkeypatch.setattr(generating, "SIZES", {"train": 40, "val": 20, "test": 20})
    monkeypatch.setattr(measuring, "RATES", (0.03,))
    monkeypatch.setattr(measuring, "STEPS", (1, 2))


COMMAND = ["suite", "--model", "glyphs-S", "--tasks", "suite/scan", "suite/distance", "--device", "cpu", "--quiet"]


def test_command_writes_a_record_and_a_table(small, tmp_path, capsys):
    file = tmp_path / "suite.json"
    assert main([*COMMAND, "--seeds", "2", "--json", str(file)]) == 0
    printed, record = capsys.readouterr().out, json.loads(file.read_text())
    assert record["arms"] == ["glyphs-S, fine-tuned", "glyphs-S, from scratch"] and record["seeds"] == [0, 1]
    assert not set(record["seeds"]) & set(record["search_seeds"]) and record["torch"] and record["device"]
    assert record["tasks"]["suite/scan"]["fingerprint"] == bitlib.load_task("suite/scan").fingerprint
    for arm in record["arms"]:
        trials = record["search"][arm]
        assert [trial["setting"] for trial in trials] == [{"base_lr": 0.03, "steps": 1}, {"base_lr": 0.03, "steps": 2}]
        best = max(trials, key=lambda trial: sum(trial["validation"]))
        assert record["chosen"][arm] == best["setting"]
        mean = np.mean([found[0] for found in best["tasks"].values()])
        assert best["validation"] == [pytest.approx(mean)]
        assert {task: len(values) for task, values in record["accuracy"][arm].items()} == dict.fromkeys(record["tasks"], 2)
    assert "specialised" in printed and "natural" not in printed and "mean of 2 tasks" in printed and "fixed set" in printed
    assert not list(tmp_path.glob("*.partial"))
    run = by_hand("suite/scan", 1, record["chosen"]["glyphs-S, fine-tuned"])
    assert run.test_accuracy == record["accuracy"]["glyphs-S, fine-tuned"]["suite/scan"][1]


def by_hand(name, seed, setting):
    task = load_suite(name, seed)
    model = bitlib.create_model("glyphs-S", task.num_classes, pretrained=True)
    return bitlib.finetune(model, task, measuring.rule_for(model, task, setting), seed, QUIET)


def test_the_rule_is_the_models_own_and_enlarges_nothing_that_is_counted():
    model, setting = bitlib.create_model("glyphs-L", 8, pretrained=True), {"base_lr": 0.03, "steps": 100}
    for name in ("suite/orientation", "suite/counting"):
        task = load_suite(name)
        rule, own = measuring.rule_for(model, task, setting), bitlib.transfer.default_rule(model, task)
        assert (rule.total_steps, rule.base_lr, rule.batch_size) == (100, 0.03, own.batch_size)
        assert (rule.resize, rule.crop) == ((own.resize, own.crop) if task.random_crop else (own.crop, own.crop))


def test_goes_on_where_it_was_interrupted(small, tmp_path, monkeypatch, capsys):
    whole, parts, calls = tmp_path / "whole.json", tmp_path / "parts.json", []
    train = measuring.finetune
    assert main([*COMMAND, "--seeds", "1", "--json", str(whole)]) == 0

    def interrupted(model, task, *how):
        calls.append(task.name)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return train(model, task, *how)

    monkeypatch.setattr(measuring, "finetune", interrupted)
    assert main([*COMMAND, "--seeds", "1", "--json", str(parts)]) == 130
    assert parts.with_name("parts.json.partial").exists() and not parts.exists()
    assert main([*COMMAND, "--seeds", "1", "--json", str(parts)]) == 0
    assert len(calls) == 9  # 8 runs in all, one of them twice
    assert json.loads(parts.read_text()) == json.loads(whole.read_text())
    capsys.readouterr()


@pytest.mark.parametrize(
    "options, told",
    [
        (["--tasks", "suite/counting", "digits"], "there is no task 'digits' in the suite; its tasks are suite/digits, "),
        (["--tasks", "suite/scan", "suite/scan"], "suite/scan is given twice"),
        (["--model", "glyphs-X"], "glyphs-X"),
        (["--model", "R50x1"], "R50x1 has no recipe for images of 32 pixels; the suite measures"),
        (["--model", "BiT-M-R50x1"], "BiT-M-R50x1 has no recipe"),
        (["--seeds", "0"], "--seeds: '0' is not a whole number of 1 or more"),
        (["--json", "there.json"], "there.json exists already; choose another --json, or delete it"),
        (["--json", "there.json/suite.json"], "cannot write to there.json"),
    ],
)
def test_mistakes_are_one_line(options, told, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.json").write_text("{}")
    monkeypatch.setattr(measuring, "finetune", lambda *how: pytest.fail("this would take minutes"))
    try:
        status = main(["suite", *options, "--quiet"])
    except SystemExit as stop:
        status = stop.code
    error = capsys.readouterr().err
    assert status == 2 and told in error and error.count("\n") == 1 and "Traceback" not in error


def test_unknown_names_get_the_closest():
    with pytest.raises(UserError, match="did you mean 'suite/counting'"):
        bitlib.load_task("suite/countin")


def test_score_is_the_mean_over_tasks_and_its_interval_over_seeds():
    accuracy = {"suite/digits": [0.9, 1.0], "suite/fonts": [0.5, 0.4], "suite/scan": [0.1, 0.1]}
    means = measuring.scores(accuracy)
    assert list(means) == ["natural", "specialised", "all"] and means["natural"] == pytest.approx([0.7, 0.7])
    assert means["all"] == pytest.approx([0.5, 0.5])
    mean, half = measuring.mean_and_interval([1.0, 2.0, 3.0])
    assert mean == 2 and half == pytest.approx(4.3027 / 3**0.5, rel=1e-4)  # t of 2 degrees of freedom is 4.3027
    assert np.isnan(measuring.mean_and_interval([1.0])[1])
