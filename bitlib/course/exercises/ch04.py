"""The exercises of notebooks/04_batchnorm_vs_groupnorm: group norm, standardised weights, and unequal micro-batches."""

from __future__ import annotations

from random import Random

import torch
import torch.nn.functional as F

from ..check import Exercise, alike
from .cases import leaves_alone, random


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


def _normalize(x, axes, eps=1e-5, correction=0, power=0.5):
    var, mean = torch.var_mean(x, dim=axes, keepdim=True, correction=correction)
    return (x - mean) / (var + eps) ** power


def _grouped(x, groups, axes=(2, 3, 4), **options):
    return _normalize(x.unflatten(1, (groups, -1)), axes, **options).flatten(1, 2)


def _strided(x, groups):
    """Channels 0, g, 2g, … as one group."""
    return _normalize(x.unflatten(1, (-1, groups)), (1, 3, 4)).flatten(1, 2)


def _as_torch_does(f, x: torch.Tensor, groups: int) -> bool:
    wanted = F.group_norm(x, groups)
    return alike(f(x, groups), wanted)


EXERCISES: dict[str, Exercise] = {
    "group_norm": Exercise(
        "Normalise groups of channels.",
        (
            ("keep the shape", lambda f: tuple(f(random(2, 6, 3, 3), 2).shape) == (2, 6, 3, 3)),
            (
                "give every group of every image mean 0",
                lambda f: f(random(2, 6, 3, 3), 3).reshape(2, 3, -1).mean(2).abs().max() < 1e-5,
            ),
            (
                "give an image the same result whatever batch it is in",
                lambda f: alike(f(random(4, 6, 3, 3), 2)[:1], f(random(4, 6, 3, 3)[:1], 2)),
            ),
            ("agree with torch.nn.functional.group_norm", lambda f: _as_torch_does(f, random(3, 8, 4, 4), 4)),
            (
                "add an epsilon of 1e-5 to the variance, so that a faint image is not blown up to full contrast",
                lambda f: _as_torch_does(f, 1e-3 * random(3, 8, 4, 4), 4),
            ),
            ("leave its input as it was", lambda f: leaves_alone(f, random(2, 6, 3, 3), 2)),
        ),
        (
            "No axis of x tells the groups apart yet. Make one.",
            "x.unflatten(1, (groups, -1)) has shape [N, groups, C / groups, H, W]. Which of these axes do you average over?",
            "A group of an image has channels, rows and columns, so three of the five axes go into each mean and variance, and "
            "two never do. In the end flatten makes one axis of the two that hold channels.",
        ),
        group_norm,
        inputs=lambda: [(random(2, 6, 2, 3, seed=i), groups) for i, groups in enumerate((1, 2, 3, 6))],
        slips=(
            ("average over the images of the batch, too", lambda x, groups: _grouped(x, groups, (0, 2, 3, 4))),
            ("do batch norm: it averages over the images, one channel at a time", lambda x, groups: _normalize(x, (0, 2, 3))),
            ("normalise each channel by itself, which is instance norm", lambda x, groups: _normalize(x, (2, 3))),
            ("normalise all channels together, which is layer norm", lambda x, groups: _normalize(x, (1, 2, 3))),
            ("average over the channels of a group, place by place", lambda x, groups: _grouped(x, groups, (2,))),
            ("put channels into one group that do not lie side by side", _strided),
            ("divide the variance by one less than the number of values", lambda x, groups: _grouped(x, groups, correction=1)),
            ("divide by the variance, not by its square root", lambda x, groups: _grouped(x, groups, power=1)),
            ("normalise the images of a batch together", lambda x, groups: _normalize(x, (0, 1, 2, 3))),
        ),
    ),
    "standardize": Exercise(
        "Standardise the weights of a convolution.",
        (
            (
                "give every filter mean 0",
                lambda f: f(random(5, 3, 3, 3)).flatten(1).mean(1).abs().max() < 1e-5,
            ),
            (
                "give every filter variance 1, where the variance divides by the number of weights and not by one less",
                lambda f: (f(random(5, 3, 3, 3)).flatten(1).var(1, correction=0) - 1).abs().max() < 1e-4,
            ),
            (
                "treat each filter by itself, not the layer as a whole",
                lambda f: alike(f(torch.cat([random(2, 3, 3, 3), 9 * random(2, 3, 3, 3)]))[2:], f(random(2, 3, 3, 3)), 1e-3),
            ),
            (
                "take mean and variance over the whole filter, all its input channels and all its places",
                lambda f: alike(f(random(5, 4, 3, 3)), standardize(random(5, 4, 3, 3)), 1e-3),
            ),
            (
                "return zeros, not nan, for a filter whose weights are all equal",
                lambda f: f(torch.ones(2, 3, 3, 3)).abs().max() < 1e-3,
            ),
            ("leave the stored weights as they were", lambda f: leaves_alone(f, random(2, 3, 3, 3))),
        ),
        (
            "A filter is what makes one output channel. Which axes of [out, in, kh, kw] belong to one filter?",
            "torch.var_mean takes all of these axes at once. Look up keepdim and correction; and what if the variance is 0?",
            "Axis 0 counts the filters: leave it out, and average over the other three. Add a number far below any real "
            "variance, such as 1e-10, before the square root, and make a new tensor.",
        ),
        standardize,
        inputs=lambda: [(random(*shape, seed=i),) for i, shape in enumerate([(4, 3, 3, 3), (6, 2, 1, 1), (2, 4, 3, 1)])],
        slips=(
            ("average over kh and kw alone, one input channel at a time", lambda w: _normalize(w, (2, 3), 1e-10)),
            ("average over the input channels alone, place by place", lambda w: _normalize(w, (1,), 1e-10)),
            ("average over the filters", lambda w: _normalize(w, (0,), 1e-10)),
            ("treat the layer as one big filter", lambda w: _normalize(w, (0, 1, 2, 3), 1e-10)),
            ("standardise each input channel, over all filters", lambda w: _normalize(w, (0, 2, 3), 1e-10)),
            ("divide the variance by one less than the number of weights", lambda w: _normalize(w, (1, 2, 3), 1e-10, 1)),
            ("only subtract the mean", lambda w: w - w.mean((1, 2, 3), keepdim=True)),
            ("divide by the variance, not by its square root", lambda w: _normalize(w, (1, 2, 3), power=1)),
        ),
        within=1e-3,
    ),
    "shares": Exercise(
        "Weight the losses of unequal micro-batches.",
        (
            ("weight equal parts equally", lambda f: alike(f([4, 4]), [0.5, 0.5])),
            ("make the weights sum to 1", lambda f: alike(sum(map(float, f([32, 32, 7]))), 1)),
            (
                "let every image count the same: of 6 + 2 images, the first part has 3/4",
                lambda f: alike(f([6, 2]), [0.75, 0.25]),
            ),
            ("hold for any number of parts", lambda f: alike(f([2, 5, 1, 2]), [0.2, 0.5, 0.1, 0.2]) and alike(f([9]), [1.0])),
        ),
        (
            "The loss of a part is the mean over its images. What should the weighted sum be the mean over?",
            "A part with twice the images deserves twice the weight.",
            "Of 71 images, the last seven are a share of 7/71. What share of the images does each of the full parts have?",
        ),
        shares,
        inputs=lambda: [(Random(seed).choices(range(1, 40), k=2 + seed),) for seed in range(4)],
        slips=(
            ("weight every part the same, however few images it has", lambda sizes: [1 / len(sizes)] * len(sizes)),
            ("give the small parts the large weights", lambda sizes: [1 / s / sum(1 / t for t in sizes) for s in sizes]),
            ("compare each part with the largest, not with all the images", lambda sizes: [s / max(sizes) for s in sizes]),
            ("compare each part with the first, not with all the images", lambda sizes: [s / sizes[0] for s in sizes]),
            ("divide by the number of parts, not by that of the images", lambda sizes: [s / len(sizes) for s in sizes]),
            ("return the number of images, not a share of them", lambda sizes: list(sizes)),
            ("round to whole numbers", lambda sizes: [s // sum(sizes) for s in sizes]),
            ("square the sizes", lambda sizes: [s * s / sum(t * t for t in sizes) for s in sizes]),
        ),
    ),
}
