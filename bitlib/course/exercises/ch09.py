"""The exercises of notebooks/09_mixup: mixing a batch, the calibration error, and counting pairs."""

from __future__ import annotations

import math

import torch

from ..check import Exercise
from .cases import random

# Four images of two pixels, in three classes. The partners are neither the batch reversed nor the batch moved along.
_LABELS, _PARTNERS = torch.tensor([0, 2, 2, 1]), torch.tensor([2, 0, 1, 1])


def _mixed(f, lam: float) -> tuple:
    images, labels = f(random(4, 2), _LABELS, lam, _PARTNERS, 3)
    return images.double(), labels.double()


def _images_are(f, lam: float) -> bool:
    x = random(4, 2).double()
    return torch.allclose(_mixed(f, lam)[0], lam * x + (1 - lam) * x[_PARTNERS], atol=1e-6)


def _leaves_the_batch_alone(f) -> bool:
    x, y = random(4, 2), _LABELS.clone()
    f(x, y, 0.75, _PARTNERS, 3)
    return torch.equal(x, random(4, 2)) and torch.equal(y, _LABELS)


def _error(f, confidence: list[float], right: list[float], **bins) -> float:
    return float(f(torch.tensor(confidence), torch.tensor(right, dtype=torch.float32), **bins))


def mix(x, y, lam, partners, num_classes):
    """(mixed images, mixed labels). x: float [N, ...]; y: int [N]; partners: int [N]; mixed labels: float [N, num_classes]."""
    labels = torch.nn.functional.one_hot(y, num_classes).to(x.dtype)
    return lam * x + (1 - lam) * x[partners], lam * labels + (1 - lam) * labels[partners]


def ece(confidence, right, bins=10):
    """Mean |confidence - share right| over equal bins, weighted by their number of images. Both float [N], 0 to 1."""
    which = (confidence * bins).long().clamp_max(bins - 1)
    total = 0.0
    for b in which.unique():
        inside = which == b
        total += inside.double().mean() * (confidence[inside].mean() - right[inside].mean()).abs()
    return float(total)


def pairs(partners):
    """How many different pairs of images a batch mixes, where image i is mixed with image partners[i]. partners: int [N]."""
    return len({frozenset((i, p)) for i, p in enumerate(partners.tolist()) if p != i})


EXERCISES: dict[str, Exercise] = {
    "mix": Exercise(
        "Mix a batch of images and labels.",
        (
            (
                "change nothing where lam is 1",
                lambda f: _images_are(f, 1.0) and _mixed(f, 1.0)[1].tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 1], [0, 1, 0]],
            ),
            (
                "give image i the weight lam and image partners[i] the rest",
                lambda f: _images_are(f, 0.75) and _images_are(f, 0.1),
            ),
            (
                "mix each label with its partner's, in the same proportion",
                lambda f: torch.allclose(
                    _mixed(f, 0.75)[1],
                    torch.tensor([[0.75, 0, 0.25], [0.25, 0, 0.75], [0, 0, 1], [0, 0.75, 0.25]], dtype=torch.float64),
                ),
            ),
            ("leave the batch that it was given as it was", _leaves_the_batch_alone),
        ),
        (
            "x[partners] is a batch too: the partner of every image, in the right order.",
            "torch.nn.functional.one_hot(y, num_classes) turns labels into rows, and rows can be mixed like images.",
            "lam * x + (1 - lam) * x[partners], and the same formula for the one-hot labels.",
        ),
        mix,
    ),
    "ece": Exercise(
        "Measure how far confidence is from the truth.",
        (
            (
                "give 0 where the network is 75 % sure and right three times out of four",
                lambda f: math.isclose(_error(f, [0.75] * 4, [1, 1, 1, 0]), 0, abs_tol=1e-6),
            ),
            (
                "put a confidence of exactly 1 into the last bin, beside 0.95",
                lambda f: math.isclose(_error(f, [1.0, 0.95], [0, 1]), 0.475, abs_tol=1e-6),
            ),
            (
                "weight each bin by its number of images",
                lambda f: math.isclose(_error(f, [0.95, 0.95, 0.95, 0.25], [1, 1, 1, 1]), 0.9 / 4, abs_tol=1e-6),
            ),
            (
                "not let a bin that is too sure make up for one that is too modest",
                lambda f: math.isclose(_error(f, [0.95, 0.95, 0.15, 0.15], [1, 0, 1, 0]), 0.4, abs_tol=1e-6),
            ),
            (
                "use as many bins as it is asked to",
                lambda f: (
                    math.isclose(_error(f, [0.95, 0.65], [0, 1], bins=2), 0.3, abs_tol=1e-6)
                    and math.isclose(_error(f, [0.95, 0.65], [0, 1], bins=4), 0.65, abs_tol=1e-6)
                ),
            ),
        ),
        (
            "First decide which bin each image falls into.",
            "(confidence * bins).long() is the bin; a confidence of exactly 1 needs clamp_max(bins - 1).",
            "For each bin that is not empty: its share of the images times |mean confidence - mean right|. Add these up.",
        ),
        ece,
    ),
    "pairs": Exercise(
        "Count the pairs that a batch mixes.",
        (
            (
                "count a pair once, whichever of the two images comes first",
                lambda f: int(f(torch.tensor([3, 2, 1, 0]))) == 2,
            ),
            ("find four pairs where four images stand in a ring", lambda f: int(f(torch.tensor([1, 2, 3, 0]))) == 4),
            ("not count an image that is mixed with itself", lambda f: int(f(torch.tensor([0, 2, 1, 3]))) == 1),
            ("keep pairs apart that share one image", lambda f: int(f(torch.tensor([1, 0, 1, 0, 4]))) == 3),
        ),
        (
            "Write down the pairs for partners = [3, 2, 1, 0]. Which of the four are the same?",
            "A set keeps one copy of each pair, provided (0, 3) and (3, 0) are written alike.",
            "frozenset((i, p)) or (min(i, p), max(i, p)) writes them alike; leave out i == p and take the length of the set.",
        ),
        pairs,
    ),
}
