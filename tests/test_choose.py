"""Choosing by validation: what is tried, what wins, and that test images stay closed until then."""

import json
from dataclasses import replace
from importlib import import_module

import pytest
import torch
from conftest import QUIET, TINY, quiet, toy_task

import bitlib
from bitlib import ResNetV2, UserError, choose, finetune, linear_probe
from bitlib.cli import main
from bitlib.data.task import ArrayImages
from bitlib.transfer import default_rule
from bitlib.weights import ModelInfo

choosing = import_module("bitlib.choose")  # the package's own name is the function
RECIPE = {"shrink": 100, "batch_size": 8, "base_lr": 0.03, "resolution": [12, 12]}


def tiny(seed: int = 0, name: str = "tiny", crop: int = 12) -> ResNetV2:
    model = ResNetV2(TINY, 3, seed)
    model.info = ModelInfo(name, TINY, 3, "course", crop=crop, recipe=RECIPE)
    return model


@pytest.fixture
def small(monkeypatch):
    """Few trials, each short, and the same speed on every machine."""
    monkeypatch.setattr(choosing, "SIDES", (8, 12, 16, 24))
    monkeypatch.setattr(choosing, "PENALTIES", (0.01, 0.1))
    monkeypatch.setattr(choosing, "STEPS", (4,))
    monkeypatch.setattr(choosing, "_pixels_per_second", lambda *how: 1e5)


def test_a_closed_task_gives_no_test_image():
    task = toy_task().closed()
    assert len(task.test) == 12 and task.open_splits == ("val",)
    for use in (lambda: task.test.labels, lambda: task.test.prepare(12, "cpu"), lambda: task.test.subset(torch.tensor([0]))):
        with pytest.raises(UserError, match="the test split is closed while settings are chosen"):
            use()
    rule = default_rule(tiny(), task)
    for run in (linear_probe(tiny(), task, rule, QUIET), finetune(tiny(), task, rule.adapted(steps=2), loop=QUIET)):
        assert run.val_accuracy is not None and run.test_accuracy is None
        with pytest.raises(UserError, match="closed"):
            run.evaluate("test")


def test_everything_tried_is_recorded_and_the_test_is_opened_once(small, monkeypatch, tmp_path):
    task, opened = toy_task(60), []
    real = ArrayImages.prepare
    monkeypatch.setattr(
        ArrayImages, "prepare", lambda self, *how: (self is task.test and opened.append(how), real(self, *how))[1]
    )
    run = choose(tiny(), task, 30, 0, quiet(out=tmp_path / "run"))
    assert len(opened) == 1 and run.test_accuracy > 0.8
    stored = json.loads((tmp_path / "run" / "run.json").read_text())
    tried = stored["tried"]
    assert stored["plan"]["sides"] == {"tiny": [8, 12]}  # no larger than the images
    assert {(t["side"], t["c"]) for t in tried if t["method"] == "linear probe" and not t["mirror"]} == {
        (side, c) for side in (8, 12) for c in (0.01, 0.1)
    }
    assert sum(t["mirror"] and not t["steps"] for t in tried) == 1
    assert [(t["base_lr"], t["steps"]) for t in tried if t["method"] == "fine-tuning"] == [(0.003, 4), (0.01, 4)]
    assert stored["why"].startswith("Tried 5 linear probes at 8, 12 px and 2 runs of fine-tuning. On held-out images the ")
    assert stored["test_accuracy"] == run.test_accuracy and not (tmp_path / "run" / "trials").exists()
    loaded = bitlib.create_model(str(tmp_path / "run" / "model.safetensors"), pretrained=True)
    assert loaded.info.crop == run.crop == stored["crop"]
    assert torch.equal(loaded.head.weight, run.model.head.weight)


def test_the_best_probe_is_the_one_with_the_lowest_held_out_loss(small):
    run = choose(tiny(), toy_task(60), 1e-3, 0, QUIET)  # nothing but the cheapest
    tried = run.config["tried"]
    assert {t["side"] for t in tried} == {8} and all(t["method"] == "linear probe" for t in tried)
    best = min(tried, key=lambda t: t["loss"])
    assert (run.config["c"], run.config["mirror"], run.config["crop"]) == (best["c"], best["mirror"], best["side"])


def test_fine_tuning_has_to_be_clearly_better(small, monkeypatch):
    monkeypatch.setattr(choosing, "RATES", (1e-12, 2e-12))  # it changes nothing, so the probe stays
    run = choose(tiny(), toy_task(60), 30, 0, QUIET)
    assert run.config["method"] == "linear_probe" and "fine-tuning got" in run.config["why"]
    probe = linear_probe(tiny(), toy_task(60), default_rule(tiny(), toy_task()).adapted(resolution=(run.crop, run.crop)), QUIET,
                         c=run.config["c"], mirror=run.config["mirror"])  # fmt: skip
    assert torch.equal(probe.model.head.weight, run.model.head.weight)
    untouched = tiny().state_dict()
    assert all(torch.equal(p, untouched[k]) for k, p in run.model.state_dict().items() if not k.startswith("head"))


def test_fine_tuning_wins_where_heads_cannot_learn(small, monkeypatch):
    monkeypatch.setattr(choosing, "PENALTIES", (1e-9,))  # too strong for any head to learn
    monkeypatch.setattr(choosing, "STEPS", (60,))
    monkeypatch.setattr(choosing, "RATES", (0.03, 0.1))
    task = toy_task(60)
    run = choose(tiny(), task, 1e4, 0, QUIET)
    assert run.config["method"] == "finetune" and run.config["keep_head"] and run.test_accuracy > 0.6
    assert run.model.info.class_names == task.class_names


def test_mirroring_is_left_out_where_it_destroys_labels(small):
    """Bright on the left or on the right: mirrored, one class is the other."""
    generator = torch.Generator().manual_seed(0)

    def split(n: int) -> ArrayImages:
        labels = torch.arange(n) % 2
        images = torch.randint(0, 90, (n, 3, 12, 12), generator=generator)
        columns = (torch.arange(12) >= 6).long()
        images += 120 * (columns == labels[:, None])[:, None, None, :]
        return ArrayImages(images.to(torch.uint8), labels)

    task = replace(toy_task(), train=split(60), val=split(24), test=split(24), class_names=("left", "right"))
    run = choose(tiny(), task, 30, 0, QUIET)
    mirrored = [t for t in run.config["tried"] if t["mirror"]]
    assert len(mirrored) == 1 and mirrored[0]["accuracy"] < 0.7
    assert not run.config.get("mirror") and run.test_accuracy > 0.9
    assert set(choosing.spoilt(task)) >= {"mirror"} and choosing.spoilt(task)["mirror"] > 0.5
    assert choosing.spoilt(toy_task(60)) == {}


def test_several_starts(small):
    run = choose([tiny(name="one"), tiny(3, "two")], toy_task(60), 30, 0, QUIET)
    assert run.config["plan"]["sides"] == {"one": [8, 12], "two": [12]}
    best = min(run.config["tried"], key=lambda t: t["loss"])
    assert run.config["model"] == best["model"] or run.config["method"] == "finetune"


def test_interrupted_in_fine_tuning_and_resumed(small, monkeypatch, tmp_path):
    whole = choose(tiny(), toy_task(60), 30, 0, quiet(out=tmp_path / "whole"))
    real, calls = choosing.finetune, []

    def dying(*args, **options):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*args, **options)

    monkeypatch.setattr(choosing, "finetune", dying)
    with pytest.raises(KeyboardInterrupt):
        choose(tiny(), toy_task(60), 30, 0, quiet(out=tmp_path / "cut"))
    monkeypatch.setattr(choosing, "finetune", real)
    assert not (tmp_path / "cut" / "run.json").exists()
    with pytest.raises(UserError, match="was not finished; add --resume"):
        choose(tiny(), toy_task(60), 30, 0, quiet(out=tmp_path / "cut"))
    # Another speed now, but the plan is the one that it began with.
    monkeypatch.setattr(choosing, "_pixels_per_second", lambda *how: 1.0)
    resumed = choose(tiny(), toy_task(60), 30, 0, quiet(out=tmp_path / "cut", resume=True))
    assert resumed.config["tried"] == whole.config["tried"]
    files = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "cut")]
    assert files[0] == files[1]


def test_few_validation_images_are_joined_by_folds_of_the_training_images(small, monkeypatch):
    fitted = []
    real = choosing.fit_head
    monkeypatch.setattr(choosing, "fit_head", lambda x, *how, **more: (fitted.append(len(x)), real(x, *how, **more))[1])
    choose(tiny(), toy_task(60), 1e-3, 0, QUIET)
    assert len(fitted) == 3 * (1 + choosing.FOLDS) and sum(n == 60 for n in fitted) == 2 and sum(n == 120 for n in fitted) == 1
    assert sorted(n for n in fitted[:6])[:5] == [48] * 5


def test_budget_is_checked():
    with pytest.raises(UserError, match="budget is 0; it must be a number of seconds above 0"):
        choose(tiny(), toy_task(), 0)


def test_the_command_line_chooses_by_default(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(choosing, "PENALTIES", (0.01,))
    monkeypatch.setattr(choosing, "_pixels_per_second", lambda *how: 1e5)
    how = ["--quiet", "--device", "cpu", "--precision", "fp32", "--shots", "2"]
    assert main(["finetune", "digits", "--out", str(tmp_path / "a"), "--budget", "1", *how]) == 0
    assert capsys.readouterr().out.startswith("Tried 2 linear probes at 16, 32 px. On held-out images the linear probe of ")
    stored = json.loads((tmp_path / "a" / "run.json").read_text())
    assert set(stored["plan"]["sides"]) == {"photos-L", "glyphs-L"} and stored["model"] == "glyphs-L"
    for option, message in (
        (["--steps", "5"], "with --steps there is nothing to try"),
        (["--linear-probe"], "with --linear-probe there is nothing to try"),
        (["--hyperrule"], "with --hyperrule there is nothing to try"),
    ):
        assert main(["finetune", "digits", "--out", str(tmp_path / "b"), "--budget", "9", *option, *how]) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        main(["finetune", "digits", "--out", str(tmp_path / "c"), "--budget", "-1"])


@pytest.mark.parametrize("rates", [(0.003, 1e30), (1e30, 1e35)], ids=["one", "all"])
def test_a_rate_that_diverges_is_a_trial_that_lost(small, monkeypatch, tmp_path, rates):
    monkeypatch.setattr(choosing, "RATES", rates)
    run = choose(tiny(), toy_task(60), 30, 0, quiet(out=tmp_path / "run"))
    tuned = [t["base_lr"] for t in run.config["tried"] if t["steps"]]
    assert run.config["diverged"] == [lr for lr in rates if lr > 1] and tuned == [lr for lr in rates if lr < 1]
    assert "Fine-tuning diverged at " in run.config["why"] and "1e+30" in run.config["why"]
    assert run.test_accuracy > 0.8 and all(p.isfinite().all() for p in run.model.parameters())
    assert not (tmp_path / "run" / "trials").exists()
