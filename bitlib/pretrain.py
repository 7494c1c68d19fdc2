"""Upstream training: train a network from random weights on a large task, as a starting point for fine-tuning.

The paper's upstream recipe (section 3.3), scaled down: SGD with momentum, weight decay 1e-4, a linear warm-up. The learning
rate then follows a cosine, which ends ahead in runs as short as the course's (results/upstream.json), or with `milestones` the
paper's staircase.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from .data.augment import Augmentation
from .data.batches import Batches, InTurn
from .data.task import Task
from .device import memory_format, pick_device
from .evaluate import evaluate
from .files import UserError
from .loop import Loop
from .norm import split_batch_norm, use_triton
from .resnet import ARCHS, Arch, ResNetV2
from .trainer import History, Sgd, settle, train
from .weights import create_model, weights_digest

PAPER_MILESTONES = (30 / 90, 60 / 90, 80 / 90)  # of BiT-S and BiT-M, which train for 90 epochs


@dataclass(frozen=True)
class Upstream:
    """The recipe. arch: an Arch, or a name in ARCHS. lr: peak learning rate, for this batch size. side: side in pixels of the
    training images after the crop. milestones: shares of the steps after each of which the rate is a tenth of what it was, in
    the paper PAPER_MILESTONES; none for half a cosine.

    device_batch: how many images share batch-norm statistics (see `norm.split_batch_norm`); None for the whole batch. init:
    a model whose weights to start from, by name, instead of random ones. first_side: another side for the first half of the
    steps; small images first make a large side affordable. resize: side to which images are brought before the random crop,
    None for an eighth more than `side`. Raises UserError for an unknown architecture or values out of range.
    """

    arch: str | Arch = "small"
    steps: int = 8000
    batch_size: int = 128
    lr: float = 0.5
    warmup_steps: int = 400
    momentum: float = 0.9
    weight_decay: float = 1e-4
    side: int = 32
    device_batch: int | None = None
    init: str | None = None
    first_side: int | None = None
    resize: int | None = None
    milestones: tuple[float, ...] = ()

    def __post_init__(self):
        if not isinstance(self.arch, Arch) and self.arch not in ARCHS:
            raise UserError(f"unknown architecture {self.arch!r}; choose one of {', '.join(ARCHS)}")
        for name in ("steps", "batch_size", "lr", "side"):
            if not getattr(self, name) > 0:
                raise UserError(f"{name} is {getattr(self, name)}; it must be above 0")
        if self.resize is not None and self.resize < self.side:
            raise UserError(f"resize is {self.resize}; it must be {self.side} or more, the side of the crop")
        if not all(0 < a < b for a, b in zip(self.milestones, (*self.milestones[1:], 1))):
            raise UserError(f"milestones are {self.milestones}; they must rise and lie between 0 and 1")
        if not self.weight_decay >= 0:
            raise UserError(f"weight_decay is {self.weight_decay}; it must be 0 or more")

    @property
    def architecture(self) -> Arch:
        """What `arch` stands for."""
        return self.arch if isinstance(self.arch, Arch) else ARCHS[self.arch]

    def learning_rate(self, step: int) -> float:
        """Learning rate at `step`, counted from 0: linear warm-up to `lr`, then the staircase or half a cosine down to zero."""
        if step < self.warmup_steps:
            return self.lr * (step + 1) / self.warmup_steps
        if self.milestones:
            return self.lr * 0.1 ** sum(step >= share * self.steps for share in self.milestones)
        done = (step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return self.lr * 0.5 * (1 + math.cos(math.pi * done))


@dataclass
class Pretrained:
    """The result of upstream training. Accuracies from 0 to 1, on held-out images; None for a closed test split."""

    model: ResNetV2
    history: History
    val_accuracy: float
    test_accuracy: float | None


def pretrain(
    task: Task,
    recipe: Upstream = Upstream(),
    seed: int = 0,
    loop: Loop = Loop(),
    watch: Callable[[ResNetV2], dict[str, float]] | None = None,
) -> Pretrained:
    """Train a network on `task` from scratch, with one softmax over its classes.

    seed: initial weights where they are random, order of the images, crops, flips. loop: device, precision, memory, and the
    folder for checkpoints. watch(model): what to keep in the history beside the validation accuracy, at the same steps. Raises
    UserError for unreadable images, or if the loss or a weight is no longer finite, and `trainer.Interrupted` on Ctrl-C.
    """
    device = pick_device(loop.device)
    loop = settle(loop, device)
    layout = memory_format(device, loop.precision)

    def batches_of(side: int, resize: int | None = None) -> Batches:
        # Leave room for the random crop, if the task allows one: an eighth of the side.
        how = Augmentation(resize or side + side // 8 * task.random_crop, side, task.random_crop, task.random_flip)
        return Batches(task.train, how, recipe.batch_size, seed, device, layout)

    decoded = {split: getattr(task, split).prepare(recipe.resize or recipe.side, "cpu") for split in task.open_splits}
    batches = batches_of(recipe.side, recipe.resize)
    if recipe.first_side:
        batches = InTurn(batches_of(recipe.first_side), batches, recipe.steps // 2)
    if recipe.init:
        model = create_model(recipe.init, task.num_classes, pretrained=True)
        if model.arch != recipe.architecture:
            raise UserError(f"{recipe.init} is no {recipe.arch!r} network, so it cannot be the start of one")
    else:
        model = ResNetV2(recipe.architecture, task.num_classes, seed)
    model.to(device, memory_format=layout)
    if recipe.device_batch:
        split_batch_norm(model, recipe.device_batch)
    model.grad_checkpointing = loop.grad_checkpointing
    if loop.triton:
        use_triton(model)

    def loss(net: nn.Module, x: Tensor, y: Tensor, *_) -> Tensor:
        return F.cross_entropy(net(x), y)

    def accuracy(net: nn.Module, split: str = "val") -> dict[str, float]:
        return {f"{split}_accuracy": evaluate(net, decoded[split], recipe.resize or recipe.side, loop.precision).accuracy}

    sgd = Sgd(recipe.steps, recipe.learning_rate, recipe.momentum, recipe.weight_decay)
    start = weights_digest(model) if recipe.init else None
    identity = {"task": task.fingerprint, "seed": seed, **asdict(recipe), "start": start}
    identity |= {"precision": loop.precision, "ema": loop.ema}

    def looked_at(net: nn.Module) -> dict[str, float]:
        return accuracy(net) | (watch(net) if watch else {})

    history = train(model, batches, loss, sgd, loop, identity, looked_at if loop.evaluate_every else None)
    held_out = {"test_accuracy": None}
    for split in task.open_splits:
        held_out |= accuracy(model, split)
    return Pretrained(model, history, **held_out)
