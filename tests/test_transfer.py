"""Fine-tuning, freezing, the linear probe and the few-shot protocol, on small networks and on the real digits."""

import csv
import json
from dataclasses import replace
from statistics import fmean, stdev

import pytest
import torch
from conftest import QUIET, TINY, TINY_BN, quiet, toy_task

import bitlib
import bitlib.data.batches as batches_module
from bitlib import ARCHS, HyperRule, UserError, create_model, few_shot_runs, finetune, freeze, linear_probe, load_task
from bitlib.data import ArrayImages
from bitlib.features import fit_head, out_of_fold
from bitlib.resnet import ResNetV2
from bitlib.transfer import default_rule
from bitlib.weights import ModelInfo


def tiny(arch=TINY, classes: int = 3, seed: int = 0) -> ResNetV2:
    model = ResNetV2(arch, classes, seed)
    model.info = ModelInfo("tiny", arch, classes, "architecture")
    return model


def rule(task, steps: int = 25, **kwargs) -> HyperRule:
    return HyperRule(len(task.train), task.image_size).adapted(
        **{"steps": steps, "batch_size": 12, "base_lr": 0.05, "resolution": (14, 12), **kwargs}
    )


def test_the_rule_is_followed_to_the_letter():
    """Learning rates of the run, step by step; batch size; resolution; MixUp off for a small task."""
    task = toy_task()
    run = finetune(tiny(), task, rule(task), loop=QUIET)
    assert [r["lr"] for r in run.history.rows] == [rule(task).lr(s) for s in range(25)]
    assert run.config["mixup_alpha"] == 0 and run.config["adapted"] and run.config["crop"] == 12
    assert run.test_accuracy == run.evaluate("test").accuracy > 0.6


def test_published_rule_for_official_models_adapted_one_for_the_course_models():
    task = load_task("digits")
    official, course = create_model("R50x1", 10), create_model("glyphs-L", 10)
    assert default_rule(official, task) == HyperRule(len(task.train), (8, 8), model="R50x1")
    adapted = default_rule(course, task)
    assert adapted.is_adapted and adapted.total_steps == 50 and adapted.crop == 32
    assert (adapted.warmup_steps, adapted.boundaries) == (10, (20, 30, 40))


@pytest.mark.parametrize("precision, layout", [("fp32", torch.channels_last), ("bf16", torch.contiguous_format)])
def test_weights_and_images_lie_as_suits_the_machine(precision, layout):
    seen, task, model = [], toy_task(), tiny()
    model.root.register_forward_pre_hook(lambda root, arguments: seen.append(arguments[0]))
    run = finetune(model, task, rule(task, 1), loop=quiet(precision=precision))
    assert seen[0].is_contiguous(memory_format=layout)
    assert run.model.stage1[0].b.conv.weight.is_contiguous(memory_format=layout)


def test_same_seed_same_result_and_other_seed_another():
    task = toy_task()
    a, b, c = (finetune(tiny(), task, rule(task), seed=s, loop=QUIET) for s in (0, 0, 1))
    assert a.history.rows == b.history.rows and a.test_accuracy == b.test_accuracy
    assert all(torch.equal(p, q) for p, q in zip(a.model.parameters(), b.model.parameters()))
    assert a.history.rows != c.history.rows


def test_micro_batches_with_mixup_are_exact():
    """Lambda and the partners are drawn for the whole batch, before it is split."""
    task = toy_task()
    one, four = (finetune(tiny(), task, rule(task, 4, alpha=0.4), loop=quiet(micro_batches=m)) for m in (1, 4))
    worst = max((p - q).abs().max().item() for p, q in zip(one.model.parameters(), four.model.parameters()))
    assert worst < 1e-6


def test_files_of_a_run(tmp_path):
    task, out = toy_task(), tmp_path / "run"
    run = finetune(tiny(), task, rule(task), loop=quiet(out=out))
    assert {p.name for p in out.iterdir()} == {"model.safetensors", "run.json", "history.csv", "checkpoint"}
    config = json.loads((out / "run.json").read_text())
    assert config["test_accuracy"] == run.test_accuracy and config["fingerprint"] == task.fingerprint
    assert config["torch"] and config["seed"] == 0 and config["steps"] == 25
    rows = list(csv.DictReader(open(out / "history.csv")))
    assert len(rows) == 25 and float(rows[-1]["loss"]) == run.history.rows[-1]["loss"]
    again = create_model(str(out / "model.safetensors"), pretrained=True)
    assert again.info.class_names == task.class_names and again.info.crop == 12
    assert bitlib.evaluate(again, task.test, 12).accuracy == run.test_accuracy


def test_resume_after_a_kill_gives_the_same_bits(tmp_path, monkeypatch):
    task, real, calls = toy_task(), batches_module.cut, []

    def dying(*args, **kwargs):
        calls.append(1)
        if len(calls) == 15:
            raise MemoryError
        return real(*args, **kwargs)

    whole = finetune(tiny(), task, rule(task), loop=QUIET)
    monkeypatch.setattr(batches_module, "cut", dying)
    with pytest.raises(MemoryError):
        finetune(tiny(), task, rule(task), loop=quiet(out=tmp_path, checkpoint_every=4))
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint"]
    monkeypatch.setattr(batches_module, "cut", real)
    resumed = finetune(tiny(seed=5), task, rule(task), loop=quiet(out=tmp_path, resume=True))
    assert all(torch.equal(p, q) for p, q in zip(whole.model.parameters(), resumed.model.parameters()))
    assert whole.history.rows == resumed.history.rows


@pytest.mark.parametrize("arch", [TINY, TINY_BN])
@pytest.mark.parametrize("until", ["stage2", "head"])
def test_frozen_parts_stay_bit_for_bit_through_a_whole_run(arch, until):
    task, model = toy_task(), freeze(tiny(arch), until)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    run = finetune(model, task, rule(task), loop=QUIET)
    order = ["root", "stage1", "stage2", "stage3", "stage4", "norm", "head"]
    for key, value in run.model.state_dict().items():
        frozen = order.index(key.split(".")[0]) < order.index(until)
        if frozen:
            assert torch.equal(value, before[key]), key
    assert model.head.weight.any()  # freezing must not take the new head with it
    assert run.config["frozen"] == order[: order.index(until)]


def test_freeze_refuses_what_it_does_not_know():
    with pytest.raises(ValueError, match="cannot freeze until 'stage5'"):
        freeze(tiny(), "stage5")
    assert freeze(freeze(tiny(), "head"), None).root.conv.weight.requires_grad


def test_a_feature_that_hardly_ever_moves_gets_no_enormous_weight():
    """Divided by its own spread it did: a head learnt on flowers blew up in step 26 of fine-tuning, from 0.5 to 600,000."""
    features = torch.randn(60, 8, generator=torch.Generator().manual_seed(0))
    features[:, 3] *= 1e-5
    weight, _ = fit_head(features, torch.arange(60) % 3, 3)
    assert weight[:, 3].abs().max() < 20 * weight.abs().median()


def test_a_class_without_images_is_never_predicted():
    weight, bias = fit_head(torch.randn(20, 4), torch.tensor([0, 2] * 10), 3)
    assert (torch.randn(50, 4).double() @ weight.T + bias).argmax(1).unique().tolist() == [0, 2]


@pytest.mark.parametrize("classes", [2, 3])
def test_linear_probe_is_logistic_regression_on_the_features(classes):
    from sklearn.linear_model import LogisticRegression

    task = toy_task(classes=classes)
    model = tiny(classes=classes)
    features = [bitlib.cache_features(model, split, 12).numpy() for split in (task.train, task.test)]
    spread = features[0].std(0)
    features = [(x - features[0].mean(0)) / spread.clip(0.1 * spread.mean()) for x in features]
    reference = LogisticRegression(C=1.0, max_iter=2000).fit(features[0], task.train.labels)
    before = {k: v.clone() for k, v in model.state_dict().items() if not k.startswith("head")}
    run = linear_probe(model, task, rule(task), loop=QUIET)
    assert all(torch.equal(v, run.model.state_dict()[k]) for k, v in before.items())
    ours = run.evaluate("test").logits.softmax(1)
    torch.testing.assert_close(ours, torch.from_numpy(reference.predict_proba(features[1])).float(), atol=1e-3, rtol=0)


def test_linear_probe_on_mirror_images_is_the_same_on_a_task_with_twice_the_pictures():
    task = toy_task()
    both = torch.cat([task.train.images, task.train.images.flip(3)])
    doubled = replace(task, train=ArrayImages(both, task.train.labels.repeat(2)))
    runs = [
        linear_probe(tiny(), task, rule(task), mirror=True, loop=QUIET),
        linear_probe(tiny(), doubled, rule(task), loop=QUIET),
    ]
    torch.testing.assert_close(*(r.evaluate().logits for r in runs), atol=1e-3, rtol=0)
    assert not torch.allclose(
        runs[0].evaluate().logits, linear_probe(tiny(), task, rule(task), loop=QUIET).evaluate().logits, atol=1e-3
    )
    with pytest.raises(UserError, match="do not survive mirroring"):
        linear_probe(tiny(), replace(task, random_flip=False), rule(task), mirror=True, loop=QUIET)


def test_five_subsamples():
    task = toy_task(60)
    runs = few_shot_runs(lambda seed: tiny(seed=seed), task, 2, range(3), rule=rule(task, 2), loop=QUIET)
    assert [r.config["seed"] for r in runs] == [0, 1, 2]
    assert len({r.config["fingerprint"] for r in runs}) == 3 and all(r.config["num_train"] == 6 for r in runs)


def test_wrong_seed_of_history_is_refused_on_resume(tmp_path):
    task = toy_task()
    finetune(tiny(), task, rule(task, 4), loop=quiet(out=tmp_path))
    with pytest.raises(UserError, match="seed 0, this one has 1"):
        finetune(tiny(), task, rule(task, 4), seed=1, loop=quiet(out=tmp_path, resume=True))


def test_real_digits_gain_from_the_course_weights():
    """One seed of what notebook 01 shows over five."""
    task = load_task("digits", shots=5, seed=0)
    tuned = finetune(create_model("glyphs-L", 10, pretrained=True), task, loop=QUIET)
    scratch = finetune(
        create_model("glyphs-L", 10, seed=0), task, default_rule(tuned.model, task).adapted(base_lr=0.1), loop=QUIET
    )
    assert tuned.test_accuracy > 0.88 and tuned.test_accuracy > scratch.test_accuracy + 0.05


def test_fp16_learns_as_fp32_does():
    """100 steps on real digits with loss scaling: on average within two standard deviations of four runs in fp32."""
    task = load_task("digits")
    how = HyperRule(len(task.train), task.image_size, steps=100, batch_size=16, resolution=(16, 16), base_lr=0.05)

    def accuracies(precision, seeds):
        networks = [(seed, ResNetV2(ARCHS["tiny"], 10, seed)) for seed in range(seeds)]
        return [finetune(net, task, how, seed, quiet(precision=precision)).test_accuracy for seed, net in networks]

    full, half = accuracies("fp32", 4), accuracies("fp16", 2)
    assert abs(fmean(half) - fmean(full)) <= 2 * stdev(full) and min(full) > 0.5
    assert half != full[:2]


def test_weights_are_safe_before_the_last_evaluation(tmp_path, monkeypatch):
    """Running out of memory there lost the run, and every resume ran out again."""

    def failing(*args):
        raise MemoryError

    task = toy_task()
    monkeypatch.setattr(bitlib.transfer, "evaluate", failing)
    with pytest.raises(MemoryError):
        finetune(tiny(), task, rule(task), loop=quiet(out=tmp_path))
    assert {p.name for p in tmp_path.iterdir()} == {"checkpoint", "history.csv", "model.safetensors"}
    monkeypatch.undo()
    run = finetune(tiny(), task, rule(task), loop=quiet(out=tmp_path, resume=True))
    assert run.test_accuracy is not None and (tmp_path / "run.json").exists()


def test_a_validation_curve_for_everyone(tmp_path):
    task = toy_task()
    run = finetune(tiny(), task, rule(task), loop=quiet(out=tmp_path, evaluate_every=10))
    steps, accuracies = run.history.column("val_accuracy")
    assert steps == (9, 19, 24) and accuracies[-1] == run.val_accuracy
    assert (tmp_path / "history.csv").read_text().startswith("step,lr,loss,val_accuracy\n")
    plain = finetune(tiny(), task, rule(task), loop=QUIET)
    assert all(torch.equal(p, q) for p, q in zip(run.model.parameters(), plain.model.parameters()))


def test_networks_built_by_hand_and_what_is_known_afterwards():
    task = toy_task()
    run = finetune(ResNetV2(TINY, 5), task, rule(task, 2), loop=QUIET)  # used to have no info
    assert run.config["model"] == "custom"
    assert (run.model.info.class_names, run.model.info.num_classes, run.model.info.crop) == (task.class_names, 3, 12)


def test_another_teacher_is_not_resumed(tmp_path):
    """The same name is not the same network."""
    task = toy_task()
    teachers = [finetune(tiny(seed=s), task, rule(task, 3), loop=QUIET).model for s in (0, 1)]
    bitlib.distill(tiny(seed=2), teachers[0], task, rule(task, 3), loop=quiet(out=tmp_path))
    with pytest.raises(UserError, match="its run had teacher weights [0-9a-f]{16}, this one has"):
        bitlib.distill(tiny(seed=2), teachers[1], task, rule(task, 3), loop=quiet(out=tmp_path, resume=True))


def test_out_of_fold_never_sees_the_label_it_judges():
    """Changing the label of one image leaves its own probabilities as they were, and those of its fold; others may move."""
    generator = torch.Generator().manual_seed(0)
    x, labels = torch.randn(60, 5, generator=generator), torch.arange(60) % 3
    p = out_of_fold(x + torch.eye(3, 5)[labels], labels, 3, folds=4)
    assert p.shape == (60, 3) and torch.allclose(p.sum(1), torch.ones(60).double())
    wild = x.clone()
    assert not out_of_fold(x, labels, 3, seed=1).equal(out_of_fold(x, labels, 3, seed=2))
    # By hand: the fold of image 7 is found by which others do not move when image 7 itself is thrown far away.
    wild[7] = 100.0
    moved = (out_of_fold(x, labels, 3, folds=4) - out_of_fold(wild, labels, 3, folds=4)).abs().sum(1) > 1e-9
    mates = (~moved).nonzero()[:, 0]
    assert len(mates) == 14  # the other fourteen of its fold
    rest = torch.ones(60, dtype=torch.bool)
    rest[mates], rest[7] = False, False
    weight, bias = fit_head(x[rest], labels[rest], 3)
    torch.testing.assert_close(out_of_fold(x, labels, 3, folds=4)[7], (x[7].double() @ weight.T + bias).softmax(0))
    assert torch.bincount(labels[~rest]).tolist() == [5, 5, 5]  # alike in their shares of the classes
    with pytest.raises(ValueError, match="fewer than two"):
        out_of_fold(x, labels, 3, folds=1)
