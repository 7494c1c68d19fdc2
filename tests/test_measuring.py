"""The measuring scripts from end to end, on a few toy pictures and with runs of two steps: they write all that the pages
read, and after an interruption they go on where they stopped."""

import importlib
import inspect
import json
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import TINY, toy_task
from PIL import Image

import bitlib
from bitlib.pretrain import Upstream
from bitlib.transfer import default_rule
from bitlib.weights import ModelInfo, load_weights

ROOT = Path(__file__).resolve().parent.parent
FEW = {"SEEDS": range(2)}
# What is made smaller in each script, its options, and the records that it writes.


def stored(name: str) -> dict:
    return json.loads((ROOT / "results" / f"{name}.json").read_text("utf8"))


FEWER_SIZES = {"PICTURES": 8, "LARGEST": 4, "SIZES": (2, 4), "SEARCH": (100,), "RATES": (0.1, 0.2)}
SCRIPTS = {
    "measure_digits": ({"SHOTS": (1, 5), "SEARCH": (100,)}, [], ["digits", "digits_scales"]),
    "measure_transfer_map": ({"SHOTS": (1, 5)}, [], ["transfer_map"]),
    "measure_distillation": ({"STEPS": (2, 3), "SEARCH": (100,), "RATES": (0.1,)}, [], ["distillation"]),
    "measure_batch_size": (FEWER_SIZES, [], ["batch_size", "device_batch"]),
    "measure_norms": (
        {"PICTURES": 8, "LARGE": 4, "BATCH": 4, "DEVICES": (4, 2), "ANEW": 1, "TESTED": 4, "SEARCH": (100,)},
        [],
        ["large_batch", "running_averages"],
    ),
    "measure_chapters": (
        {
            "SHOTS": {"tiles": {2: 40}},
            "SMALL_STEPS": {2: 200},
            "SEARCH": (100,),
            "ALPHAS": (0, 1),
            "TRANSFER": (5, (75, 225)),
            "TEMPERATURES": (4,),
        },
        [],
        ["norm_transfer", "freezing", "mixup", "mixup_rates", "soft_labels"],
    ),
    "measure_beyond_vision": (
        {"SHOTS": (1,), "TASKS": ("order",), "SEARCH": (100,), "TRAINED": ({"lr": 1e-3, "steps": 2},)}
        | {"BAGS": ({"c": 1},), "PENALTIES": ({"c": 1.0},)},
        [],
        ["beyond_vision"],
    ),
    "measure_zero_head": ({"SHOTS": (1, 5), "SEARCH": (100,)}, [], ["zero_head"]),
    "measure_robustness": (
        {"SHOTS": (1, 5), "PHOTO_SHOTS": (1,), "TUNED_SHOTS": 5, "SEARCH": (100,), "SHARE": 0.05, "MORE": 0.1, "CUTS": (1.0,)}
        | {"MODELS": ("glyphs-S", "glyphs-L"), "PHOTO_MODELS": ("photos-S",), "SEVERITIES": (1,), "PHOTO_SEVERITIES": (1,)},
        [],
        ["robustness"],
    ),
    "measure_suite": ({"MODELS": ("glyphs-S",), "TASKS": ("suite/digits", "suite/distance")}, [], ["suite"]),
    "measure_unfreezing": ({"TASKS": ("tiles",), "SEARCH": (100,), "STEPS": 2}, [], ["unfreezing"]),
    "measure_hyperrule": (
        {
            "SEARCH": (100,),
            "TRIALS": 3,
            "SHOTS": 2,
            "PER_CLASS": (0.25, 0.25),
            "MIRRORED": "abc",
            "UNPAIRED": "cab",
            "DRAWN": (4, 2, 2),
        },
        [],
        ["hyperrule", "hyperrule_sides", "hyperrule_labels"],
    ),
    "measure_batch_norm": ({"SHAPES": ("fully connected",), "SHOTS": 4, "SEARCH": (100,), "STEPS": 2}, [], ["batch_norm"]),
    "measure_why_transfer": (
        {"LENGTHS": {5: ((2, 3), 4)}, "WATCHED": (5, 3), "EVERY": 1, "GAP": 10, "SEARCH": (100,)},
        [],
        ["why_transfer"],
    ),
    "measure_backbones": (
        {"TASKS": ("tiles",), "SIZES": ("photos-L", "glyphs-L"), "SEARCH": (100,), "MANY": {"train": 12, "val": 6, "test": 6}},
        ["accuracy"],
        ["backbones"],
    ),
    "measure_detection": (
        {"COUNTS": (2, 3), "STEPS": 1, "LONGER": 2, "BATCH": 2, "HELD_OUT": (2, 2), "SEARCH": (100,), "SIDE": 64},
        [],
        ["detection"],
    ),
    "measure_upstream": (
        {"CLASSES": (2, 3), "WIDTHS": (4, 8), "STEPS": (1, 2), "MIDDLE": {"classes": 2, "width": 4}, "SEARCH": (100,)}
        | {"DRAWS": range(1), "LOOKS": 2, "BATCH": 4, "SIDE": 12, "DECAYS": (1e-5,), "LARGER": 2},
        [],
        ["upstream"],
    ),
    "measure_cifar10_full": ({"STEPS": (2, 3), "RATES": (0.03, 0.1)}, [], ["cifar10_full"]),
    "measure_cifar10": ({"SHOTS": (1, 5), "SEARCH": (100,)}, [], ["cifar10", "cifar10_scales"]),
}


class Script:
    """One of SCRIPTS, made small. runs: how many trainings it has begun; limit: after how many it is interrupted."""

    def __init__(self, title: str, folder: Path, monkeypatch):
        self.runs, self.limit, self.patch = 0, None, monkeypatch
        few, self.options, self.records = SCRIPTS[title]
        monkeypatch.syspath_prepend(ROOT / "data_scripts")
        self.module, self.folder = importlib.import_module(title.split()[0]), folder / "results"
        self.folder.mkdir(parents=True)
        for name, value in (FEW | few).items():
            monkeypatch.setattr(self.module, name, value)
        for module in (self.module, importlib.import_module("record")):
            monkeypatch.setattr(module, "RESULTS", self.folder, raising=False)
        (self.folder / "digits.json").write_bytes((ROOT / "results" / "digits.json").read_bytes())  # transfer_map reads it
        monkeypatch.setattr(bitlib, "load_task", lambda name: replace(toy_task(36), name=name, random_flip=True))
        trainers = [(bitlib, name) for name in ("finetune", "distill", "linear_probe")]
        for owner, name in (
            *trainers,
            (bitlib.suite, "finetune"),
            (self.module, "pretrain"),
            (self.module, "finetune_in_parts"),
            (self.module, "train_detector"),
            (self.module, "train_small"),
        ):
            if hasattr(owner, name):
                monkeypatch.setattr(owner, name, self.small(getattr(owner, name)))

    def small(self, train):
        """The same function, with two steps of four pictures at most of 12 pixels."""
        signature = inspect.signature(train)

        def run(*args, **kwargs):
            if self.runs == self.limit:
                raise KeyboardInterrupt
            self.runs += 1
            given = signature.bind(*args, **kwargs).arguments
            if "rule" in signature.parameters:
                rule = given.get("rule") or default_rule(given["model"], given["task"])
                given["rule"] = rule.adapted(steps=2, batch_size=4, resolution=(12, 12))
            return train(**given)

        return run

    def __call__(self, *options: str, limit: int | None = None) -> dict:
        """The records that it writes."""
        self.runs, self.limit = 0, limit
        self.patch.setattr("sys.argv", [self.module.__name__, *self.options, *options, "--device", "cpu"])
        self.module.main()
        return {name: json.loads((self.folder / f"{name}.json").read_text("utf8")) for name in self.records}


@pytest.mark.parametrize("title", SCRIPTS)
def test_writes_what_the_pages_read_and_resumes(title, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        script = Script(title, tmp_path / "whole", patch)
        whole, runs = script(), script.runs
    for name, found in whole.items():
        assert all(len(cell) == 2 for method in found.get("methods", ()) for cell in found[method].values())
        assert all(len(values) == 2 for cell in found.get("cells", {}).values() for values in cell.values())
        shipped = stored(name)
        assert set(found) == set(shipped) and found.get("methods") == shipped.get("methods")
        kinds = {frozenset(cell) for cell in shipped.get("cells", {}).values()}
        assert {frozenset(cell) for cell in found.get("cells", {}).values()} == kinds
    assert not list(tmp_path.rglob("measure/*.json"))  # or the next time would find the work done

    script = Script(title, tmp_path / "halved", monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        script(limit=runs // 2)
    assert not any((script.folder / f"{name}.json").exists() for name in whole if name != "digits")
    assert script() == whole
    assert script.runs <= runs - runs // 2 + 4  # a probe before fine-tuning, and three teachers, are trained again


def test_pretraining_writes_weights_card_and_record_and_again_only_a_record(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "data_scripts")
    script, record = importlib.import_module("pretrain_models"), importlib.import_module("record")
    for module, name in ((script, "PACKAGE"), (script, "STATE"), (record, "RESULTS")):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(module, name, tmp_path / name)
    monkeypatch.setattr(bitlib, "load_task", lambda name: replace(toy_task(36), name=name))
    recipe = Upstream("tiny", steps=6, batch_size=8, warmup_steps=1, side=12)
    monkeypatch.setattr(script, "MODELS", {"photos-L": script.Spec("tiny-imagenet-l", recipe)})

    def run(*options: str) -> None:
        monkeypatch.setattr("sys.argv", ["pretrain_models", *options, "--device", "cpu"])
        script.main()

    run()
    first = json.loads((tmp_path / "RESULTS" / "pretrain_photos-L.json").read_text("utf8"))
    weights, card = (tmp_path / "PACKAGE" / f"photos-L.{suffix}" for suffix in ("safetensors", "md"))
    _, meta = load_weights(weights)
    assert meta["class_names"] == ["a", "b", "c"] and meta["recipe"] == script.RECIPES["photos"]
    assert bitlib.create_model(str(weights)).num_classes == 3
    assert f"{first['test']:.1%} of the 12 official" in card.read_text("utf8")
    kept = weights.read_bytes()
    run("--again")
    again = json.loads((tmp_path / "RESULTS" / "pretrain_photos-L_again.json").read_text("utf8"))
    assert again | {"minutes": 0} == first | {"minutes": 0}
    assert weights.read_bytes() == kept and not (tmp_path / "STATE" / "photos-L_again").exists()


def test_the_default_beside_its_alternatives(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "data_scripts")
    script, record, choosing = (importlib.import_module(name) for name in ("measure_default", "record", "bitlib.choose"))
    few = {"SIDES": (8, 12), "PENALTIES": (0.01, 0.1), "STEPS": (2,)}
    small = {script: few | {"TUNED_SIDES": (12,), "TUNED_STEPS": 2, "SPLITS": range(2), "SHOT_SEEDS": range(2)}, choosing: few}
    for module, values in small.items():
        for name, value in values.items():
            monkeypatch.setattr(module, name, value, raising=False)
    monkeypatch.setattr(script, "weights_of", list)
    monkeypatch.setattr(choosing, "_pixels_per_second", lambda *how: 1e5)
    monkeypatch.setattr(record, "RESULTS", tmp_path / "results")
    (tmp_path / "results").mkdir()

    def create_model(name, num_classes=3, **how):
        model = bitlib.ResNetV2(TINY, num_classes)
        model.info = ModelInfo(name, TINY, 3, "course", crop=12, recipe={"shrink": 100, "batch_size": 8, "base_lr": 0.03})
        return model

    monkeypatch.setattr(bitlib, "create_model", create_model)
    monkeypatch.setattr(bitlib, "load_task", lambda name, shots, seed: toy_task(3 * shots, seed=seed))
    images = toy_task(60).train
    for i, (image, label) in enumerate(zip(images.images, images.labels.tolist())):
        (tmp_path / "photos" / "abc"[label]).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / "photos" / "abc"[label] / f"{i}.png")
    monkeypatch.setattr("sys.argv", ["measure_default", f"toy={tmp_path / 'photos'}", "cifar10:4"])
    script.main()
    found, shots = (json.loads((tmp_path / "results" / f"{n}.json").read_text()) for n in ("default", "default_few_shot"))
    ways = ["default", "probe at 8 px", "probe at 12 px", "hand-made features", "fine-tuned at 12 px"]
    assert list(found["methods"]) == ways and all(len(found[way]["toy"]) == 2 for way in ways)
    assert found["data"]["toy"]["images"] == {"train": 42, "val": 9, "test": 9}
    assert all(row["tried"] and row["seconds"] > 0 for row in found["data"]["toy"]["ways"]["default"])
    assert list(shots["methods"]) == ["default"] and len(shots["default"]["cifar10:4"]) == 2
