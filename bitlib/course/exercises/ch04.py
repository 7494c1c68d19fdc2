"""The exercises of notebooks/04_batchnorm_vs_groupnorm: group norm, standardised weights, and unequal micro-batches."""

from __future__ import annotations

import math

import torch

from ..check import Exercise
from .cases import random


def group_norm(x, groups):
    """Normalise every group of channels of every image on its own. x: float [N, C, H, W] -> the same shape."""
    parts = x.unflatten(1, (groups, -1))
    var, mean = torch.var_mean(parts, dim=(2, 3, 4), keepdim=True, correction=0)
    return ((parts - mean) / (var + 1e-5).sqrt()).flatten(1, 2)


def standardize(w):
    """Give every filter mean 0 and variance 1. w: float [out, in, kh, kw] -> the same shape."""
    var, mean = torch.var_mean(w, dim=(1, 2, 3), keepdim=True, correction=0)
    return (w - mean) / (var + 1e-10).sqrt()


def shares(sizes):
    """One weight for the mean loss of each micro-batch. sizes: list of int -> list of float."""
    return [size / sum(sizes) for size in sizes]


def _leaves_its_input_alone(f, x: torch.Tensor, *arguments) -> bool:
    before = x.clone()
    f(x, *arguments)
    return torch.equal(x, before)


def _as_torch_does(f, x: torch.Tensor, groups: int) -> bool:
    return torch.allclose(f(x, groups), torch.nn.functional.group_norm(x, groups), atol=1e-4)


def _close(found, wanted: list[float]) -> bool:
    found = [float(v) for v in found]
    return len(found) == len(wanted) and all(math.isclose(a, b, abs_tol=1e-5) for a, b in zip(found, wanted))


EXERCISES: dict[str, Exercise] = {
    "group_norm": Exercise(
        "Normalise groups of channels.",
        (
            ("keep the shape", lambda f: f(random(2, 6, 3, 3), 2).shape == (2, 6, 3, 3)),
            (
                "give every group of every image mean 0",
                lambda f: f(random(2, 6, 3, 3), 3).reshape(2, 3, -1).mean(2).abs().max() < 1e-5,
            ),
            ("agree with torch.nn.functional.group_norm", lambda f: _as_torch_does(f, random(3, 8, 4, 4), 4)),
            (
                "add an epsilon of 1e-5 to the variance, so that a faint image is not blown up to full contrast",
                lambda f: _as_torch_does(f, 1e-3 * random(3, 8, 4, 4), 4),
            ),
            ("leave its input as it was", lambda f: _leaves_its_input_alone(f, random(2, 6, 3, 3), 2)),
        ),
        (
            "No axis of x tells the groups apart yet. Make one.",
            "x.unflatten(1, (groups, -1)) has shape [N, groups, C / groups, H, W]. Which of these axes do you average over?",
            "normalize(parts, (2, 3, 4)) does the arithmetic; .flatten(1, 2) gives the channels back.",
        ),
        group_norm,
    ),
    "standardize": Exercise(
        "Standardise the weights of a convolution.",
        (
            ("give every filter mean 0", lambda f: f(random(5, 3, 3, 3)).flatten(1).mean(1).abs().max() < 1e-5),
            (
                "give every filter variance 1, where the variance divides by the number of weights and not by one less",
                lambda f: (f(random(5, 3, 3, 3)).flatten(1).var(1, correction=0) - 1).abs().max() < 1e-4,
            ),
            (
                "treat each filter by itself, not the layer as a whole",
                lambda f: torch.allclose(
                    f(torch.cat([random(2, 3, 3, 3), 9 * random(2, 3, 3, 3)]))[2:], f(random(2, 3, 3, 3)), atol=1e-4
                ),
            ),
            (
                "take mean and variance over the whole filter, all its input channels and all its places",
                lambda f: torch.allclose(f(random(5, 4, 3, 3)), standardize(random(5, 4, 3, 3)), atol=1e-4),
            ),
            (
                "return zeros, not nan, for a filter whose weights are all equal",
                lambda f: f(torch.ones(2, 3, 3, 3)).abs().max() < 1e-3,
            ),
            ("leave the stored weights as they were", lambda f: _leaves_its_input_alone(f, random(2, 3, 3, 3))),
        ),
        (
            "A filter is what makes one output channel. Which axes of [out, in, kh, kw] belong to one filter?",
            "Take mean and variance over axes 1, 2 and 3, with keepdim=True and correction=0; what if the variance is 0?",
            "var, mean = torch.var_mean(w, dim=(1, 2, 3), keepdim=True, correction=0); then subtract the mean and divide by "
            "(var + 1e-10).sqrt().",
        ),
        standardize,
    ),
    "shares": Exercise(
        "Weight the losses of unequal micro-batches.",
        (
            ("weight equal parts equally", lambda f: _close(f([4, 4]), [0.5, 0.5])),
            ("make the weights sum to 1", lambda f: math.isclose(sum(map(float, f([32, 32, 7]))), 1, rel_tol=1e-5)),
            ("let every image count the same", lambda f: _close(f([6, 2]), [0.75, 0.25])),
            ("hold for any number of parts", lambda f: _close(f([2, 5, 1, 2]), [0.2, 0.5, 0.1, 0.2]) and _close(f([9]), [1.0])),
        ),
        (
            "The loss of a part is the mean over its images. What should the weighted sum be the mean over?",
            "A part with twice the images deserves twice the weight.",
            "Divide each size by the sum of all sizes.",
        ),
        shares,
    ),
}
