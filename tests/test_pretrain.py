import math
from dataclasses import replace

import pytest
import torch
from conftest import QUIET, TINY, TINY_BN, quiet, toy_task

import bitlib.data.batches as batches_module
from bitlib import ResNetV2, UserError, resnet, save_weights
from bitlib.pretrain import PAPER_MILESTONES, Upstream, pretrain


@pytest.fixture(autouse=True)
def tiny_arch(monkeypatch):
    monkeypatch.setitem(resnet.ARCHS, "tiny", TINY)


RECIPE = dict(arch="tiny", steps=40, batch_size=12, lr=0.1, warmup_steps=5, side=12)


def test_it_learns():
    result = pretrain(toy_task(), Upstream(**RECIPE), loop=QUIET)
    assert result.test_accuracy > 0.6 and result.history.seconds > 0
    assert result.model.num_classes == 3


@pytest.mark.parametrize("precision, layout", [("fp32", torch.channels_last), ("bf16", torch.contiguous_format)])
def test_weights_and_pictures_lie_as_suits_the_machine(monkeypatch, precision, layout):
    seen = []
    monkeypatch.setattr(resnet.Root, "forward", lambda self, x, real=resnet.Root.forward: seen.append(x) or real(self, x))
    result = pretrain(toy_task(), Upstream(**{**RECIPE, "steps": 1}), loop=quiet(precision=precision))
    assert seen[0].is_contiguous(memory_format=layout)
    assert result.model.stage1[0].b.conv.weight.is_contiguous(memory_format=layout)


def test_schedule():
    recipe = Upstream(steps=1000, warmup_steps=100, lr=0.4)
    assert recipe.learning_rate(0) == pytest.approx(0.004) and recipe.learning_rate(99) == pytest.approx(0.4)
    assert recipe.learning_rate(550) == pytest.approx(0.4 * 0.5 * (1 + math.cos(math.pi / 2)))
    assert 0 < recipe.learning_rate(999) < 1e-5


def test_the_papers_staircase():
    recipe = Upstream(steps=900, warmup_steps=10, lr=0.4, milestones=PAPER_MILESTONES)
    rates = {step: recipe.learning_rate(step) for step in (0, 9, 299, 300, 599, 600, 799, 800, 899)}
    wanted = [0.04, 0.4, 0.4, 0.04, 0.04, 0.004, 0.004, 0.0004, 0.0004]
    assert list(rates.values()) == pytest.approx(wanted)
    # Warm-up comes first, even where a decay is due in it.
    assert Upstream(steps=30, warmup_steps=20, lr=0.4, milestones=(0.1,)).learning_rate(9) == pytest.approx(0.2)


def test_any_architecture_and_what_to_watch():
    def watch(model) -> dict[str, float]:
        return {"width": model.arch.root_width}

    recipe = Upstream(**{**RECIPE, "arch": replace(TINY, root_width=2 * TINY.root_width), "steps": 6})
    result = pretrain(toy_task(), recipe, loop=quiet(evaluate_every=3), watch=watch)
    assert result.model.arch == recipe.arch
    seen = [row for row in result.history.rows if "val_accuracy" in row]
    assert [row["step"] for row in seen] == [2, 5] and all(row["width"] == 2 * TINY.root_width for row in seen)


def test_interrupted_and_resumed(tmp_path, monkeypatch):
    real, calls = batches_module.cut, []
    whole = pretrain(toy_task(), Upstream(**RECIPE), loop=QUIET)

    def dying(*args):
        calls.append(1)
        if len(calls) == 20:
            raise MemoryError
        return real(*args)

    monkeypatch.setattr(batches_module, "cut", dying)
    with pytest.raises(MemoryError):
        pretrain(toy_task(), Upstream(**RECIPE), loop=quiet(out=tmp_path, checkpoint_every=7))
    monkeypatch.setattr(batches_module, "cut", real)
    resumed = pretrain(toy_task(), Upstream(**RECIPE), loop=quiet(out=tmp_path, resume=True))
    assert all(torch.equal(p, q) for p, q in zip(whole.model.parameters(), resumed.model.parameters()))


def test_progressive_resizing_from_a_model(tmp_path, monkeypatch):
    seen = []
    real = resnet.Root.forward
    monkeypatch.setattr(resnet.Root, "forward", lambda self, x: seen.append(x.shape[2]) or real(self, x))
    save_weights(ResNetV2(TINY, 3, seed=5), tmp_path / "start.safetensors", {"name": "start"})
    recipe = Upstream(**{**RECIPE, "steps": 5, "lr": 1e-9}, init=str(tmp_path / "start.safetensors"), first_side=8)
    result = pretrain(toy_task(), recipe, loop=QUIET)
    assert seen[:5] == [8, 8, 12, 12, 12]
    start = ResNetV2(TINY, 3, seed=5)
    assert all((p - q).abs().max() < 1e-6 for p, q in zip(start.parameters(), result.model.parameters()))
    seen.clear()
    pretrain(toy_task(), Upstream(**{**RECIPE, "steps": 2, "side": 8}, resize=12), loop=QUIET)
    assert seen == [8, 8, 12, 12]  # crops, then whole images for validation and test
    with pytest.raises(UserError, match="cannot be the start"):
        pretrain(toy_task(), Upstream(**{**RECIPE, "arch": "small"}, init=str(tmp_path / "start.safetensors")), loop=QUIET)


@pytest.mark.parametrize("wrong", [(0.5, 0.5), (0.6, 0.3), (0.5, 1.0), (0.0, 0.5)])
def test_milestones_are_checked(wrong):
    with pytest.raises(UserError, match="milestones"):
        Upstream(milestones=wrong)


@pytest.mark.parametrize("wrong", [{"arch": "R51"}, {"steps": 0}, {"lr": -1.0}, {"weight_decay": -1.0}, {"resize": 3}])
def test_recipes_are_checked(wrong):
    with pytest.raises(UserError, match=str(next(iter(wrong.values())))):
        Upstream(**wrong)


def test_device_batch_changes_batch_norm_and_nothing_else(monkeypatch):
    monkeypatch.setitem(resnet.ARCHS, "tiny-bn", TINY_BN)

    def losses(arch, size):
        recipe = Upstream(**{**RECIPE, "arch": arch, "steps": 4, "device_batch": size})
        return [row["loss"] for row in pretrain(toy_task(), recipe, loop=QUIET).history.rows]

    assert losses("tiny", None) == losses("tiny", 2)
    assert losses("tiny-bn", None)[1:] != losses("tiny-bn", 2)[1:]


def test_a_closed_test_split_stays_closed():
    recipe = Upstream(**{**RECIPE, "steps": 2, "warmup_steps": 1})
    closed, tested = (pretrain(task, recipe, loop=QUIET) for task in (toy_task().closed(), toy_task()))
    assert closed.test_accuracy is None and tested.test_accuracy is not None
    assert closed.val_accuracy == tested.val_accuracy
