"""The exercises of notebooks/04_batchnorm_vs_groupnorm: group norm, standardised weights, and unequal micro-batches."""

from __future__ import annotations

import math

import torch

from ..check import Exercise
from .cases import random


def group_norm(x, groups):
    """Normalise every group of channels of every picture. x: float [N, C, H, W]."""
    parts = x.unflatten(1, (groups, -1))
    var, mean = torch.var_mean(parts, dim=(2, 3, 4), keepdim=True, correction=0)
    return ((parts - mean) / (var + 1e-5).sqrt()).flatten(1, 2)


def standardize(w):
    """Mean 0 and variance 1 for every filter. w: float [out, in, kh, kw]."""
    var, mean = torch.var_mean(w, dim=(1, 2, 3), keepdim=True, correction=0)
    return (w - mean) / (var + 1e-10).sqrt()


def shares(sizes):
    """One weight for the mean loss of each micro-batch. sizes: list of int."""
    return [size / sum(sizes) for size in sizes]


EXERCISES: dict[str, Exercise] = {
    "group_norm": Exercise(
        "Normalise groups of channels.",
        (
            ("keep the shape", lambda f: f(random(2, 6, 3, 3), 2).shape == (2, 6, 3, 3)),
            (
                "give every group of every picture mean 0",
                lambda f: f(random(2, 6, 3, 3), 3).reshape(2, 3, -1).mean(2).abs().max() < 1e-5,
            ),
            (
                "agree with torch.nn.functional.group_norm",
                lambda f: torch.allclose(
                    f(random(3, 8, 4, 4), 4), torch.nn.functional.group_norm(random(3, 8, 4, 4), 4), atol=1e-4
                ),
            ),
        ),
        (
            "Which axis tells the groups apart? There is none yet; make one.",
            "x.unflatten(1, (groups, -1)) has shape [N, groups, C / groups, H, W]. Over which of these do you take the mean?",
            "Use normalize(parts, (2, 3, 4)), and .flatten(1, 2) to get the channels back.",
        ),
        group_norm,
    ),
    "standardize": Exercise(
        "Standardise the weights of a convolution.",
        (
            ("give every filter mean 0", lambda f: f(random(5, 3, 3, 3)).flatten(1).mean(1).abs().max() < 1e-5),
            (
                "give every filter variance 1, the biased one",
                lambda f: (f(random(5, 3, 3, 3)).flatten(1).var(1, correction=0) - 1).abs().max() < 1e-4,
            ),
            (
                "treat filters on their own, not the layer as a whole",
                lambda f: torch.allclose(
                    f(torch.cat([random(2, 3, 3, 3), 9 * random(2, 3, 3, 3)]))[2:], f(random(2, 3, 3, 3)), atol=1e-4
                ),
            ),
        ),
        (
            "A filter is one output channel. Which axes of [out, in, kh, kw] belong to one filter?",
            "Take mean and variance over axes 1, 2 and 3, with keepdim=True and correction=0.",
            "var, mean = torch.var_mean(w, dim=(1, 2, 3), keepdim=True, correction=0); then (w - mean) / (var + 1e-10).sqrt().",
        ),
        standardize,
    ),
    "shares": Exercise(
        "Weight the losses of unequal micro-batches.",
        (
            ("weight equal parts equally", lambda f: list(f([4, 4])) == [0.5, 0.5]),
            ("let the weights sum to 1", lambda f: math.isclose(sum(f([32, 32, 7])), 1)),
            ("count every picture the same", lambda f: [round(v, 6) for v in f([6, 2])] == [0.75, 0.25]),
        ),
        (
            "The loss of a part is a mean over its pictures. What must the weighted sum be a mean over?",
            "A part with twice the pictures deserves twice the weight.",
            "Divide each size by the sum of all sizes.",
        ),
        shares,
    ),
}
