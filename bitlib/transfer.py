"""From a pre-trained network to a new task: fine-tuning by the HyperRule, freezing, linear probe, few-shot protocol."""

from __future__ import annotations

import csv
import json
import platform
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from .data.augment import augment, to_input
from .data.sampling import BatchOrder, generator_for
from .data.task import Images, Task
from .distill import distillation_loss
from .distributed import is_main
from .evaluate import Evaluation, evaluate, predict_logits, run_over
from .files import UserError, atomic_path
from .hyperrule import HyperRule
from .mixup import mixup, mixup_loss
from .norm import hold_standardized, standardized_convs
from .resnet import STAGES, ResNetV2
from .trainer import History, Settings, memory_format, pick_device, train
from .weights import save_weights

FREEZE_POINTS = (*STAGES, "head")


def freeze(model: ResNetV2, until: str | None) -> ResNetV2:
    """Freeze what comes before `until`: "stage1" to "stage4", or "head" for all but the head; None thaws everything.

    Frozen parts get no gradient and keep their batch-norm statistics even in train mode. Returns the same model.
    """
    order = ("root", *STAGES, "norm", "head")
    if until is not None and until not in FREEZE_POINTS:
        raise ValueError(f"cannot freeze until {until!r}; choose one of {', '.join(FREEZE_POINTS)}, or None")
    model.set_frozen(order[: order.index(until)] if until else ())
    return model


def default_rule(model: ResNetV2, task: Task) -> HyperRule:
    """The HyperRule for this task; for the course's small models, with the adaptation that their file states."""
    info = model.info
    return HyperRule(len(task.train), task.image_size, model=info.name).adapted(**recipe_for(info, len(task.train)))


def recipe_for(info, num_examples: int) -> dict:
    """The departures from the HyperRule that a course model asks for; none for the official ones.

    The rule is made for big networks at 128 pixels and more. The course's run at 32 on a laptop: `shrink` divides the
    rule's number of steps and keeps the shape of its schedule.
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
    """What a fine-tuning run gave. Accuracies from 0 to 1; config: every setting, JSON-able; seconds: wall time."""

    model: ResNetV2
    task: Task
    config: dict
    history: History = field(default_factory=History)
    val_accuracy: float | None = None
    test_accuracy: float | None = None
    seconds: float = 0.0

    @property
    def crop(self) -> int:
        """Side in pixels of the pictures that the model is tested on."""
        return self.config["crop"]

    def evaluate(self, split: str = "test") -> Evaluation:
        """Logits and labels of a split of the task."""
        return evaluate(self.model, getattr(self.task, split), self.crop)

    def save(self, out: str | Path) -> None:
        """Write model.safetensors, run.json and history.csv into the folder `out`; each appears whole or not at all."""
        out = Path(out)
        out.mkdir(parents=True, exist_ok=True)
        save_weights(
            self.model,
            out / "model.safetensors",
            {
                "name": self.config["model"],
                "class_names": list(self.task.class_names),
                "crop": self.crop,
                "task": self.task.name,
                "fingerprint": self.task.fingerprint,
            },
        )
        with atomic_path(out / "history.csv") as path, open(path, "w", newline="") as f:
            columns = dict.fromkeys(key for row in self.history.rows for key in row)
            writer = csv.DictWriter(f, columns)
            writer.writeheader()
            writer.writerows(self.history.rows)
        metrics = {"val_accuracy": self.val_accuracy, "test_accuracy": self.test_accuracy, "seconds": round(self.seconds, 2)}
        write_json(out / "run.json", {**self.config, **metrics})


def write_json(path: str | Path, content: dict) -> None:
    """Write JSON atomically, with a final newline."""
    with atomic_path(Path(path)) as temporary:
        Path(temporary).write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf8")


def finetune(
    model: ResNetV2,
    task: Task,
    rule: HyperRule | None = None,
    device: str | torch.device = "auto",
    seed: int = 0,
    out: str | Path | None = None,
    *,
    precision: str = "fp32",
    micro_batches: int = 1,
    compile: bool = False,
    ema: float = 0.0,
    shard: bool = False,
    resume: bool = False,
    checkpoint_every: int = 0,
    progress: bool | str = True,
) -> Run:
    """Fine-tune `model` on `task` by the HyperRule; the model is changed in place, with a new head of zeros.

    rule: None for `default_rule`. seed: order of the examples, crops, flips, MixUp. out: folder for the result and for a
    checkpoint from which `resume` goes on; None keeps everything in memory. What was frozen before stays frozen. The
    keywords after it are those of `trainer.Settings`. The test split is looked at once, at the end. Raises UserError for
    unreadable data or settings.
    """

    def loss(net: nn.Module, x: Tensor, y: Tensor, y_other: Tensor, lam: float, indices: Tensor) -> Tensor:
        return mixup_loss(net(x), y, y_other, lam)

    return _fit(
        model,
        task,
        rule,
        device,
        seed,
        out,
        loss,
        {"method": "finetune"},
        precision=precision,
        micro_batches=micro_batches,
        compile=compile,
        ema=ema,
        shard=shard,
        resume=resume,
        checkpoint_every=checkpoint_every,
        progress=progress,
    )


def distill(
    model: ResNetV2,
    teacher: nn.Module,
    task: Task,
    rule: HyperRule | None = None,
    device: str | torch.device = "auto",
    seed: int = 0,
    out: str | Path | None = None,
    *,
    temperature: float = 1.0,
    alpha: float = 1.0,
    consistent: bool = True,
    precision: str = "fp32",
    micro_batches: int = 1,
    compile: bool = False,
    ema: float = 0.0,
    shard: bool = False,
    resume: bool = False,
    checkpoint_every: int = 0,
    progress: bool | str = True,
) -> Run:
    """Train `model` to imitate `teacher`, which already solves `task`; the student gets a new head of zeros.

    temperature, alpha: see `distill.distillation_loss`. consistent: the teacher sees what the student sees, the same crop,
    flip and MixUp (function matching, arXiv 2106.05237); else it judges each whole picture once, before training, and
    MixUp must be off. The other arguments are those of `finetune`. Raises UserError where the teacher does not fit.
    """
    if teacher.num_classes != task.num_classes:
        raise UserError(
            f"the teacher knows {teacher.num_classes} classes, {task.name} has {task.num_classes}; "
            "fine-tune the teacher on the same task first"
        )
    rule = rule or default_rule(model, task)
    if not consistent and rule.mixup_alpha:
        raise UserError(
            f"MixUp (alpha {rule.mixup_alpha}) needs a teacher that sees the mixed pictures; "
            "use consistent=True, or a rule adapted with alpha=0"
        )
    device = pick_device(device)
    teacher = teacher.to(device, memory_format=memory_format(device, precision)).eval()
    fixed = None if consistent else predict_logits(teacher, task.train, rule.crop)

    def loss(net: nn.Module, x: Tensor, y: Tensor, y_other: Tensor, lam: float, indices: Tensor) -> Tensor:
        logits = net(x)
        with torch.no_grad():
            target = teacher(x) if fixed is None else fixed[indices].to(x.device)
        # Autocast may have left either of them in 16 bits, too coarse for a difference of logarithms.
        soft = distillation_loss(logits.float(), target.float(), temperature=temperature)
        return soft if alpha == 1 else alpha * soft + (1 - alpha) * mixup_loss(logits, y, y_other, lam)

    config = {
        "method": "distill",
        "teacher": teacher.info.name,
        "temperature": temperature,
        "alpha": alpha,
        "consistent": consistent,
    }
    return _fit(
        model,
        task,
        rule,
        device,
        seed,
        out,
        loss,
        config,
        precision=precision,
        micro_batches=micro_batches,
        compile=compile,
        ema=ema,
        shard=shard,
        resume=resume,
        checkpoint_every=checkpoint_every,
        progress=progress,
    )


def _fit(
    model: ResNetV2,
    task: Task,
    rule: HyperRule | None,
    device: str | torch.device,
    seed: int,
    out: str | Path | None,
    loss,
    config: dict,
    *,
    precision: str,
    micro_batches: int,
    compile: bool,
    ema: float,
    shard: bool,
    resume: bool,
    checkpoint_every: int,
    progress: bool | str,
) -> Run:
    """What fine-tuning and distillation share. loss(net, x, y, y_other, lam, indices of the pictures) -> mean loss."""
    rule = rule or default_rule(model, task)
    device = pick_device(device)
    config = (
        config
        | {
            "model": model.info.name,
            "frozen": list(model.frozen),
            "task": task.name,
            "fingerprint": task.fingerprint,
            "num_train": len(task.train),
            "seed": seed,
            "rule": rule.variant,
            "adapted": rule.is_adapted,
            "steps": rule.total_steps,
            "warmup_steps": rule.warmup_steps,
            "boundaries": list(rule.boundaries),
            "base_lr": rule.base_lr,
            "batch_size": rule.batch_size,
            "momentum": rule.momentum,
            "weight_decay": rule.weight_decay,
            "mixup_alpha": rule.mixup_alpha,
            "resize": rule.resize,
            "crop": rule.crop,
            "micro_batches": micro_batches,
            "precision": precision,
        }
        | ({"ema": ema} if ema else {})
    )
    started = time.perf_counter()
    images = task.train.prepare(rule.resize, device)
    layout = memory_format(device, precision)
    model.reset_head(task.num_classes)
    model.to(device, memory_format=layout)
    order = BatchOrder(len(images), rule.batch_size, seed)

    def batch(step: int) -> tuple:
        indices = order(step)
        generator = generator_for(seed, "batch", step)
        pixels = augment(images.batch(indices, generator), rule.crop, generator, task.random_crop, task.random_flip)
        mixed = mixup(
            to_input(pixels).contiguous(memory_format=layout), images.labels[indices].to(device), rule.mixup_alpha, generator
        )
        return *mixed, indices

    settings = Settings(
        rule.total_steps,
        rule.lr,
        rule.momentum,
        rule.weight_decay,
        micro_batches,
        precision,
        checkpoint_every,
        compile=compile,
        ema=ema,
        shard=shard,
        prefetch=images.prefetch,
    )
    history = train(
        model,
        batch,
        loss,
        settings,
        checkpoint=Path(out) / "checkpoint" / "state.safetensors" if out else None,
        resume=resume,
        identity=config,
        progress=progress,
    )
    return _finish(Run(model, task, config | environment(device), history), started, out)


def environment(device: torch.device) -> dict:
    """Versions and hardware, for the record."""
    from . import __version__

    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU"
    return {
        "device": name,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__.split("+")[0],
        "python": platform.python_version(),
        "bitlib": __version__,
    }


def _finish(run: Run, started: float, out: str | Path | None) -> Run:
    run.val_accuracy = run.evaluate("val").accuracy
    run.test_accuracy = run.evaluate("test").accuracy
    run.seconds = time.perf_counter() - started
    if out and is_main():
        run.save(out)
    return run


def cache_features(model: ResNetV2, images: Images, side: int, mirrored: bool = False) -> Tensor:
    """Pooled features float [N, num_features] of every picture, resized, without augmentation; mirrored if you say so."""
    device = next(model.parameters()).device
    model.eval()

    def features(x: Tensor) -> Tensor:
        return model.forward_head(model.forward_features(x.flip(3) if mirrored else x), pre_logits=True)

    with hold_standardized(standardized_convs(model)):
        return run_over(features, images, side, device)


def linear_probe(
    model: ResNetV2,
    task: Task,
    rule: HyperRule | None = None,
    device: str | torch.device = "auto",
    out: str | Path | None = None,
    c: float = 1.0,
    mirror: bool = False,
) -> Run:
    """Leave the network as it is and fit only its head, by logistic regression on cached features.

    The features are computed once and standardised, so this takes seconds and has no random part. c: inverse strength
    of the L2 penalty. mirror: fit on every picture and its mirror image; only where the task's labels survive that, else
    UserError. The standardisation is folded into the head: run.model is an ordinary network.
    """
    from sklearn.linear_model import LogisticRegression

    rule = rule or default_rule(model, task)
    device = pick_device(device)
    started = time.perf_counter()
    model.reset_head(task.num_classes)
    model.to(device, memory_format=torch.channels_last)
    if mirror and not task.random_flip:
        raise UserError(f"{task.name} has labels that do not survive mirroring; use mirror=False")
    features, labels = cache_features(model, task.train, rule.crop).double(), task.train.labels
    if mirror:
        features = torch.cat([features, cache_features(model, task.train, rule.crop, mirrored=True).double()])
        labels = labels.repeat(2)
    std, mean = torch.std_mean(features, dim=0, correction=0)
    std = std.clamp_min(1e-6)
    fitted = LogisticRegression(C=c, max_iter=2000).fit(((features - mean) / std).numpy(), labels.numpy())
    weight, bias = torch.from_numpy(fitted.coef_), torch.from_numpy(fitted.intercept_)
    if task.num_classes == 2:  # scikit-learn keeps one row of the two
        weight, bias = torch.cat([-weight, weight]) / 2, torch.cat([-bias, bias]) / 2
    with torch.no_grad():
        model.head.weight.copy_(weight / std)
        model.head.bias.copy_(bias - (weight / std) @ mean)
    config = {
        "method": "linear_probe",
        "model": model.info.name,
        "task": task.name,
        "fingerprint": task.fingerprint,
        "num_train": len(task.train),
        "c": c,
        "mirror": mirror,
        "crop": rule.crop,
    }
    return _finish(Run(model.eval(), task, config | environment(device)), started, out)


def few_shot_runs(make_model, task: Task, shots: int, seeds: range = range(5), method=finetune, **kwargs) -> list[Run]:
    """One run a seed, on that seed's subsample of `task`: the paper's protocol takes five (section 4.1).

    make_model(seed) -> a fresh model. method: `finetune` or `linear_probe`; kwargs go to it.
    """
    runs = []
    for seed in seeds:
        extra = {"seed": seed} if method is finetune else {}
        runs.append(method(make_model(seed), task.few_shot(shots, seed), **extra, **kwargs))
    return runs
