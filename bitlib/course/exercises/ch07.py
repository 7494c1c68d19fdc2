"""The exercises of notebooks/07_freezing_vs_finetuning: what is trained, what moves all the same, and the work of it."""

from __future__ import annotations

import math

import torch

from ..check import Exercise
from .cases import random


def _half_frozen() -> torch.nn.Module:
    model = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Linear(5, 3, bias=False))
    model[0].requires_grad_(False)
    return model  # 25 weights frozen, 15 free


def _statistics_stay(keep) -> bool:
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.Sequential(torch.nn.BatchNorm2d(4)))
    before = model[1][0].running_mean.clone()
    model.train()
    keep(model)
    model(random(2, 3, 4, 4))
    return torch.equal(before, model[1][0].running_mean)


def _others_train(keep) -> bool:
    model = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.BatchNorm2d(4)).train()
    keep(model)
    return model.training and model[0].training and not model[1].training


def trainable_share(model):
    """Share of the weights that training may change, 0 to 1."""
    free = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return free / sum(p.numel() for p in model.parameters())


def keep_statistics(model):
    """Put every batch norm, and nothing else, into evaluation mode."""
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()


def forward_passes(num_pictures, steps, batch_size):
    """(passes for fine-tuning, passes for cached features); forward and backward together count as three."""
    return 3 * steps * batch_size, num_pictures


EXERCISES: dict[str, Exercise] = {
    "trainable_share": Exercise(
        "How much of a network will be trained?",
        (
            ("give 1 where nothing is frozen", lambda f: f(torch.nn.Linear(3, 2)) == 1),
            ("count weights, not layers", lambda f: math.isclose(f(_half_frozen()), 15 / 40)),
            ("give 0 where everything is frozen", lambda f: f(torch.nn.Linear(3, 2).requires_grad_(False)) == 0),
        ),
        (
            "Every parameter knows whether it wants a gradient.",
            "p.requires_grad is True for a trainable parameter p, and p.numel() is its number of weights.",
            "Divide the sum of p.numel() over trainable parameters by the sum over all of model.parameters().",
        ),
        trainable_share,
    ),
    "keep_statistics": Exercise(
        "Freeze the statistics of batch norm.",
        (
            ("leave the running mean alone, however deep the layer lies", _statistics_stay),
            ("leave everything else in train mode", _others_train),
        ),
        (
            "requires_grad has no power over running statistics. Which switch has?",
            "A batch norm in evaluation mode uses its statistics and does not move them. model.modules() visits every layer.",
            "For every m in model.modules() with isinstance(m, nn.BatchNorm2d), call m.eval().",
        ),
        keep_statistics,
    ),
    "forward_passes": Exercise(
        "Compare the work of fine-tuning and of a linear head on cached features.",
        (
            ("count forward and backward as three", lambda f: f(100, 50, 32)[0] == 4800),
            ("need one pass a picture for the features", lambda f: f(647, 500, 64)[1] == 647),
            ("not let the features depend on the number of steps", lambda f: f(10, 5, 2)[1] == f(10, 500, 2)[1]),
        ),
        (
            "How many pictures does fine-tuning process, counting repetitions?",
            "A training step costs about three forward passes a picture: one forward, two for the gradients.",
            "Return (3 * steps * batch_size, num_pictures).",
        ),
        forward_passes,
    ),
}
