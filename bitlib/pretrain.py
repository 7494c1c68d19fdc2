"""Upstream training: a network from random weights on a large task, saved as a model that others can start from.

The paper's upstream recipe (section 3.3) scaled down: SGD with momentum, weight decay 1e-4, a linear warm-up. The decay
is a cosine instead of the paper's steps, which pays at budgets as short as the course's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .data.augment import augment, to_input
from .data.sampling import BatchOrder, generator_for
from .data.task import Task
from .evaluate import evaluate
from .files import UserError
from .norm import split_batch_norm
from .resnet import ARCHS, ResNetV2
from .trainer import History, Settings, memory_format, pick_device, train


@dataclass(frozen=True)
class Upstream:
    """The recipe. lr: peak learning rate, for this batch size. side: pixels of the training pictures after the crop.

    device_batch: pictures that share batch-norm statistics, see `norm.split_batch_norm`; None for the whole batch.
    """

    arch: str = "small"
    steps: int = 8000
    batch_size: int = 128
    lr: float = 0.5
    warmup_steps: int = 400
    momentum: float = 0.9
    weight_decay: float = 1e-4
    side: int = 32
    device_batch: int | None = None

    def __post_init__(self):
        if self.arch not in ARCHS:
            raise UserError(f"unknown architecture {self.arch!r}; choose one of {', '.join(ARCHS)}")
        for name in ("steps", "batch_size", "lr", "side"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name} is {getattr(self, name)}; it must be above 0")

    def learning_rate(self, step: int) -> float:
        """Linear warm-up to `lr`, then half a cosine down to zero."""
        if step < self.warmup_steps:
            return self.lr * (step + 1) / self.warmup_steps
        done = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return self.lr * 0.5 * (1 + math.cos(math.pi * done))


@dataclass
class Pretrained:
    """What upstream training gave: accuracies from 0 to 1, on pictures that training never saw."""

    model: ResNetV2
    history: History
    val_accuracy: float
    test_accuracy: float


def pretrain(
    task: Task,
    recipe: Upstream = Upstream(),
    device: str | torch.device = "auto",
    seed: int = 0,
    checkpoint: Path | None = None,
    *,
    resume: bool = False,
    checkpoint_every: int = 500,
    precision: str = "fp32",
    micro_batches: int = 1,
    compile: bool = False,
    ema: float = 0.0,
    shard: bool = False,
    progress: bool | str = True,
) -> Pretrained:
    """Train a network on `task` from scratch, with one softmax over its classes.

    checkpoint: file for the state, from which `resume` goes on to the same bits. The keywords after it are those of
    `trainer.Settings`. Raises as `trainer.train` does.
    """
    device = pick_device(device)
    layout = memory_format(device, precision)
    model = ResNetV2(ARCHS[recipe.arch], task.num_classes, seed).to(device, memory_format=layout)
    if recipe.device_batch:
        split_batch_norm(model, recipe.device_batch)
    # Room for the random crop, where the task allows one: an eighth of the side.
    images = task.train.prepare(recipe.side + recipe.side // 8 * task.random_crop, device)
    order = BatchOrder(len(images), recipe.batch_size, seed)

    def batch(step: int) -> tuple[Tensor, Tensor]:
        indices, generator = order(step), generator_for(seed, "batch", step)
        pixels = augment(images.batch(indices, generator), recipe.side, generator, task.random_crop, task.random_flip)
        return to_input(pixels).contiguous(memory_format=layout), images.labels[indices].to(device)

    def loss(net: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(net(x), y)

    settings = Settings(
        recipe.steps,
        recipe.learning_rate,
        recipe.momentum,
        recipe.weight_decay,
        micro_batches,
        precision,
        checkpoint_every,
        compile=compile,
        ema=ema,
        shard=shard,
        prefetch=images.prefetch,
    )
    identity = {
        "task": task.fingerprint,
        "seed": seed,
        "precision": precision,
        "micro_batches": micro_batches,
        **({"ema": ema} if ema else {}),
        **recipe.__dict__,
    }
    history = train(model, batch, loss, settings, checkpoint=checkpoint, resume=resume, identity=identity, progress=progress)
    val, test = (evaluate(model, split, recipe.side).accuracy for split in (task.val, task.test))
    return Pretrained(model, history, val, test)
