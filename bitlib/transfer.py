"""From a pre-trained network to a new task: fine-tuning with the HyperRule, freezing, linear probes, few-shot protocol."""

from __future__ import annotations

import csv
import json
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from .data.augment import Augmentation
from .data.batches import Batches
from .data.task import Images, Task
from .device import memory_format, pick_device
from .distill import Distillation, distillation_loss
from .distributed import is_main, whole_state
from .evaluate import Evaluation, evaluate, predict_logits
from .features import cache_features, fit_head, set_head
from .files import UserError, atomic_path
from .hyperrule import HyperRule
from .loop import Loop
from .mixup import mixup_loss
from .norm import hold_standardized, standardized_convs, still_statistics, use_triton
from .resnet import ResNetV2
from .trainer import History, Sgd, settle, train
from .weights import ModelInfo, info_of, save_weights, weights_digest

MARK = 12  # hexadecimal digits by which an image seen in training is recognised
# Values of the rule that go into run.json.
RECORDED = ("warmup_steps", "momentum", "weight_decay", "mixup_alpha", "resize", "crop")


def freeze(model: ResNetV2, until: str | None) -> ResNetV2:
    """Freeze everything before `until`: "stage1" to "stage4", or "head" for all but the head; None unfreezes everything.

    Other networks have their own names for parts, such as "layer3" or "features.4"; `model.freeze_points` holds them. Frozen
    parts get no gradient, and keep their batch-norm statistics and drop nothing out even in train mode. Returns the same
    model. Raises ValueError for any other `until`.
    """
    if until is not None and until not in model.freeze_points:
        raise ValueError(f"cannot freeze until {until!r}; choose one of {', '.join(model.freeze_points)}, or None")
    model.set_frozen(model.parts[: model.parts.index(until)] if until else ())
    return model


def default_rule(model: ResNetV2, task: Task) -> HyperRule:
    """The HyperRule for this task, adapted as the weight file of a small model of the course says.

    Networks of other libraries get images of the size that they were made for, or 128 pixels if the task's are small.
    """
    info = info_of(model)
    rule = HyperRule(len(task.train), task.image_size, model=info.name).adapted(**recipe_for(info, len(task.train)))
    least, largest = info.arch.sides
    if largest and not least <= rule.crop <= largest:
        side = min(max(least, rule.crop), largest)
        rule = rule.adapted(resolution=(round(side * 8 / 7), side))
    return rule


def recipe_for(info, num_examples: int) -> dict:
    """The departures from the HyperRule that a course model needs; none for the official models.

    The rule is meant for big networks and images of 128 pixels or more. The course's networks take 32 pixels and train on a
    laptop, so `shrink` divides the rule's number of steps but keeps the shape of its schedule.
    """
    recipe = dict(info.recipe or {})
    shrink = recipe.pop("shrink", 1)
    if shrink != 1:
        recipe["steps"] = HyperRule(num_examples, (32, 32)).total_steps // shrink
    if "resolution" in recipe:
        recipe["resolution"] = tuple(recipe["resolution"])
    return recipe


@dataclass
class Run:
    """The result of a fine-tuning run. Accuracies from 0 to 1; config: every setting, JSON-able; seconds: wall time.

    test_accuracy: None for a task whose test split is closed. decoded: the validation and test splits, checked and resized
    before training.
    """

    model: ResNetV2
    task: Task
    config: dict
    history: History = field(default_factory=History)
    val_accuracy: float | None = None
    test_accuracy: float | None = None
    seconds: float = 0.0
    decoded: dict[str, Images] = field(default_factory=dict, repr=False)

    @property
    def crop(self) -> int:
        """Side in pixels of the test images."""
        return self.config["crop"]

    def evaluate(self, split: str = "test") -> Evaluation:
        """Logits and labels for a split of the task, in the precision used for training."""
        images = self.decoded.get(split) or getattr(self.task, split)
        return evaluate(self.model, images, self.crop, self.config.get("precision", "fp32"))

    def save(self, out: str | Path) -> None:
        """Write model.safetensors, history.csv and run.json into the folder `out`, and split.csv if the task is a folder.

        Each file is written whole or not at all. All processes must call this; the first one writes.
        """
        self.save_model(Path(out))
        if is_main():
            accuracies = {"val_accuracy": self.val_accuracy, "test_accuracy": self.test_accuracy}
            write_json(Path(out) / "run.json", {**self.config, **accuracies, "seconds": round(self.seconds, 2)})

    def save_model(self, out: Path) -> None:
        """Write everything that is known before the model is evaluated: all files but run.json."""
        state = whole_state(self.model.state_dict())
        if not is_main():
            return
        meta = {"name": self.config["model"], "class_names": list(self.task.class_names), "crop": self.crop}
        meta |= {"task": self.task.name, "fingerprint": self.task.fingerprint, "seen": self.model.info.seen}
        save_weights(self.model, out / "model.safetensors", meta, state=state)
        write_csv(out / "history.csv", self.history.rows)
        if rows := split_table(self.task):
            write_csv(out / "split.csv", rows)


def seconds_of(model: ResNetV2, rule: HyperRule, loop: Loop = Loop()) -> float:
    """About how long fine-tuning by this rule takes on this device: two images are timed, at half the side, and scaled up."""
    device = pick_device(loop.device)
    side = max(32, rule.crop // 2)
    model.to(device).train()
    times = []
    for _ in range(2):  # the first one includes what happens only once
        started = time.perf_counter()
        with still_statistics(model):
            model(torch.zeros(2, 3, side, side, device=device)).sum().backward()
        next(p for p in model.parameters() if p.requires_grad).grad.sum().item()  # waits for the device
        times.append(time.perf_counter() - started)
    model.zero_grad()
    return times[-1] / 2 * (rule.crop / side) ** 2 * rule.batch_size * rule.total_steps


def learnt(model: ResNetV2, task: Task, crop: int) -> ModelInfo:
    """The ModelInfo of a model that has been trained on `task`, at `crop` pixels."""
    seen = {split: "".join(seen_marks(getattr(task, split))) for split in ("train", "val")}
    return replace(info_of(model), num_classes=task.num_classes, class_names=task.class_names, crop=crop, seen=seen)


def seen_marks(images: Images) -> list[str]:
    """A short hash of each image's content, by which `bitlib evaluate` recognises it; empty for tasks that are not folders."""
    return [digest[:MARK] for digest in getattr(images, "digests", ())]


def unseen(model: ResNetV2, task: Task, split: str) -> tuple[Images, int]:
    """(images of a split that the model has not seen, how many were left out), for tasks that are folders.

    From the test split this leaves out images that the model was trained or validated on, from the validation split those
    that it was trained on, and from the training split none.
    """
    images = getattr(task, split)
    without = {"train": (), "val": ("train",), "test": ("train", "val")}[split]
    seen = "".join((info_of(model).seen or {}).get(name, "") for name in without)
    marks = {seen[i : i + MARK] for i in range(0, len(seen), MARK)}
    kept = torch.tensor([i for i, mark in enumerate(seen_marks(images)) if mark not in marks], dtype=torch.long)
    if not marks or not seen_marks(images):
        return images, 0
    return images.subset(kept), len(images) - len(kept)


def split_table(task: Task) -> list[dict]:
    """Which split each image of a folder went to, one row per image; empty for tasks that are not folders."""
    splits = {name: getattr(task, name) for name in ("train", *task.open_splits)}
    return [
        {"split": name, "class": task.class_names[label], "file": str(path), "content": digest}
        for name, images in splits.items()
        if hasattr(images, "digests")
        for path, label, digest in zip(images.paths, images.labels.tolist(), images.digests)
    ]


def write_json(path: str | Path, content: dict) -> None:
    """Write JSON atomically, with a final newline."""
    with atomic_path(Path(path)) as temporary:
        Path(temporary).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf8")


def write_csv(path: Path, rows: list[dict]) -> None:
    """Write a table atomically, with a column for every key in the rows."""
    with atomic_path(path) as temporary, open(temporary, "w", newline="", encoding="utf8") as f:
        writer = csv.DictWriter(f, dict.fromkeys(key for row in rows for key in row))
        writer.writeheader()
        writer.writerows(rows)


def finetune(
    model: ResNetV2,
    task: Task,
    rule: HyperRule | None = None,
    seed: int = 0,
    loop: Loop = Loop(),
    *,
    keep_head: bool = False,
) -> Run:
    """Fine-tune `model` on `task` with the HyperRule, in place, starting from a new head of zeros.

    rule: None for `default_rule`. seed: order of the examples, crops, flips, MixUp. loop: device, precision, memory, and the
    folder for the result. keep_head: start from the head that is there, as `linear_probe` leaves one (probe first, then
    fine-tune: arXiv 2202.10054). Frozen parts stay frozen. The test split is evaluated once, at the end, unless the task keeps
    it closed. Raises UserError for unreadable images, a kept head with another number of classes, settings that do not work on
    this machine, or a loss that is no longer finite; and `trainer.Interrupted` on Ctrl-C.
    """
    if keep_head and model.num_classes != task.num_classes:
        raise UserError(f"the head has {model.num_classes} classes, {task.name} has {task.num_classes}; use keep_head=False")

    def loss(net: nn.Module, x: Tensor, y: Tensor, y_other: Tensor, lam: float, indices: Tensor) -> Tensor:
        return mixup_loss(net(x), y, y_other, lam)

    return _fit(model, task, rule, seed, loop, loss, {"method": "finetune", "keep_head": keep_head})


def distill(
    model: ResNetV2,
    teacher: nn.Module,
    task: Task,
    rule: HyperRule | None = None,
    seed: int = 0,
    loop: Loop = Loop(),
    how: Distillation = Distillation(),
) -> Run:
    """Train `model`, the student, to imitate `teacher`, which already solves `task`. The student gets a new head of zeros.

    rule: None for `default_rule`. seed: order of the examples, crops, flips, MixUp. loop: device, precision, memory, and the
    folder for the result. how: temperature, weight of the teacher, and which images it sees. Raises UserError if the
    numbers of classes differ, for MixUp with how.consistent=False, for unreadable images, settings that do not work on this
    machine, or a loss that is no longer finite; and `trainer.Interrupted` on Ctrl-C.
    """
    if teacher.num_classes != task.num_classes:
        wrong = f"the teacher has {teacher.num_classes} classes, {task.name} has {task.num_classes}"
        raise UserError(f"{wrong}; fine-tune the teacher on the same task first")
    rule = rule or default_rule(model, task)
    if not how.consistent and rule.mixup_alpha:
        wrong = f"MixUp (alpha {rule.mixup_alpha}) needs a teacher that sees the mixed images"
        raise UserError(f"{wrong}; use a consistent teacher, or a rule adapted with alpha=0")
    device = pick_device(loop.device)
    layout = memory_format(device, settle(loop, device).precision)
    teacher = teacher.to(device, memory_format=layout).eval().requires_grad_(False)
    with hold_standardized(standardized_convs(teacher)):
        fixed = None if how.consistent else predict_logits(teacher, task.train, rule.crop).to(device)

        def loss(net: nn.Module, x: Tensor, y: Tensor, y_other: Tensor, lam: float, indices: Tensor) -> Tensor:
            logits = net(x)
            with torch.no_grad():
                target = teacher(x) if fixed is None else fixed[indices]
            # Autocast may have left either in 16 bits, which are too coarse for a difference of logarithms.
            soft = distillation_loss(logits.float(), target.float(), temperature=how.temperature)
            return soft if how.alpha == 1 else how.alpha * soft + (1 - how.alpha) * mixup_loss(logits, y, y_other, lam)

        known_by = {"teacher": teacher.info.name, "teacher_weights": weights_digest(teacher)}
        return _fit(model, task, rule, seed, loop, loss, {"method": "distill", **known_by, **asdict(how)})


def _fit(model: ResNetV2, task: Task, rule: HyperRule | None, seed: int, loop: Loop, loss: Callable, method: dict) -> Run:
    """The part that fine-tuning and distillation share. loss(net, *part) -> mean loss; method: its entries in run.json."""
    started = time.perf_counter()
    rule = rule or default_rule(model, task)
    device = pick_device(loop.device)
    loop = settle(loop, device)
    config = method | _subject(model, task) | {"seed": seed, "steps": rule.total_steps, "batch_size": rule.batch_size}
    config |= {"base_lr": rule.base_lr, "rule": rule.variant, "adapted": rule.is_adapted, "boundaries": [*rule.boundaries]}
    config |= {name: getattr(rule, name) for name in RECORDED}
    config |= {"frozen": [*model.frozen], "precision": loop.precision, "ema": loop.ema}
    how = Augmentation(rule.resize, rule.crop, task.random_crop, task.random_flip, rule.mixup_alpha)
    # An unreadable image should stop the run now, not after hours of training.
    decoded = {split: getattr(task, split).prepare(rule.crop, "cpu") for split in task.open_splits}
    layout = memory_format(device, loop.precision)
    batches = Batches(task.train, how, rule.batch_size, seed, device, layout)
    if not method.get("keep_head"):
        model.reset_head(task.num_classes)
    model.to(device, memory_format=layout)
    model.grad_checkpointing = loop.grad_checkpointing
    if loop.triton:
        use_triton(model)

    def accuracy(net: nn.Module) -> dict[str, float]:
        return {"val_accuracy": evaluate(net, decoded["val"], rule.crop, loop.precision).accuracy}

    sgd = Sgd(rule.total_steps, rule.lr, rule.momentum, rule.weight_decay)
    history = train(model, batches, loss, sgd, loop, config, accuracy if loop.evaluate_every else None)
    model.info = learnt(model, task, rule.crop)
    run = Run(model, task, config | {"micro_batches": loop.micro_batches} | environment(device), history, decoded=decoded)
    return _finish(run, started, loop.out)


def _subject(model: ResNetV2, task: Task) -> dict:
    """Model and data, for run.json."""
    images = {"task": task.name, "fingerprint": task.fingerprint, "num_train": len(task.train)}
    return {"model": info_of(model).name, **images}


def environment(device: torch.device) -> dict:
    """Versions and hardware, for run.json."""
    from . import __version__

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU"
    versions = {"torch": torch.__version__.split("+")[0], "python": platform.python_version(), "bitlib": __version__}
    return {"device": name, "threads": torch.get_num_threads(), **versions}


def _finish(run: Run, started: float, out: str | Path | None) -> Run:
    """Save the weights, evaluate, then save the accuracies: if evaluation fails, the weights are safe."""
    if out:
        run.save_model(Path(out))
    for split in run.task.open_splits:
        setattr(run, f"{split}_accuracy", run.evaluate(split).accuracy)
    run.seconds = time.perf_counter() - started
    if out:
        run.save(out)
    return run


def linear_probe(
    model: ResNetV2, task: Task, rule: HyperRule | None = None, loop: Loop = Loop(), *, c: float = 1.0, mirror: bool = False
) -> Run:
    """Keep the network as it is and fit only a new head, by logistic regression on cached features.

    The features are computed once, in 32 bits, and standardised, so this takes seconds and involves no randomness. loop: only
    `device` and `out` matter. c: inverse strength of the L2 penalty. mirror: also fit on the mirror image of every image.
    The standardisation is folded into the head, so run.model is an ordinary network. Raises UserError for unreadable images,
    or for `mirror` on a task whose labels do not survive mirroring.
    """
    started = time.perf_counter()
    rule = rule or default_rule(model, task)
    device = pick_device(loop.device)
    if mirror and not task.random_flip:
        raise UserError(f"{task.name} has labels that do not survive mirroring; use mirror=False")
    decoded = {split: getattr(task, split).prepare(rule.crop, "cpu") for split in ("train", *task.open_splits)}
    model.reset_head(task.num_classes)
    model.to(device, memory_format=torch.channels_last)
    features, labels = cache_features(model, decoded["train"], rule.crop), task.train.labels
    if mirror:
        features = torch.cat([features, cache_features(model, decoded["train"], rule.crop, mirrored=True)])
        labels = labels.repeat(2)
    set_head(model, *fit_head(features, labels, task.num_classes, c))
    config = {"method": "linear_probe", **_subject(model, task), "c": c, "mirror": mirror, "crop": rule.crop}
    model.info = learnt(model, task, rule.crop)
    return _finish(Run(model.eval(), task, config | environment(device), decoded=decoded), started, loop.out)


def few_shot_runs(make_model, task: Task, shots: int, seeds: range = range(5), method=finetune, **kwargs) -> list[Run]:
    """One run per seed, each on its own random subset of `task`. The paper takes five subsets (section 4.1).

    make_model(seed) -> a fresh model. shots: training images per class. method: `finetune` or `linear_probe`, called with
    kwargs.
    """
    runs = []
    for seed in seeds:
        extra = {"seed": seed} if method is finetune else {}
        runs.append(method(make_model(seed), task.few_shot(shots, seed), **extra, **kwargs))
    return runs
