"""The exercises of notebooks/09_mixup: mixing a batch, and the error of calibration."""

from __future__ import annotations

import math

import torch

from ..check import Exercise

_PAIR = torch.tensor([[1.0, 2.0], [5.0, 0.0]])


def _mixed(mix, lam: float) -> tuple:
    return mix(_PAIR, torch.tensor([0, 2]), lam, torch.tensor([1, 0]), 3)


def mix(x, y, lam, partners, num_classes):
    """(mixed pictures, mixed labels). x: float [N, ...]; y: int [N]; partners: int [N]; labels: float [N, C]."""
    labels = torch.nn.functional.one_hot(y, num_classes).to(x.dtype)
    return lam * x + (1 - lam) * x[partners], lam * labels + (1 - lam) * labels[partners]


def ece(confidence, right, bins=10):
    """Mean |confidence - share right| over equal bins, weighted by their pictures. Both float [N], 0 to 1."""
    which = (confidence * bins).long().clamp_max(bins - 1)
    total = 0.0
    for b in which.unique():
        inside = which == b
        total += inside.double().mean() * (confidence[inside].mean() - right[inside].mean()).abs()
    return float(total)


EXERCISES: dict[str, Exercise] = {
    "mix": Exercise(
        "Mix a batch of pictures and labels.",
        (
            (
                "change nothing where lam is 1",
                lambda f: torch.equal(_mixed(f, 1.0)[0], _PAIR) and _mixed(f, 1.0)[1].tolist() == [[1, 0, 0], [0, 0, 1]],
            ),
            (
                "mix labels in the same proportion",
                lambda f: torch.allclose(_mixed(f, 0.75)[1], torch.tensor([[0.75, 0, 0.25], [0.25, 0, 0.75]])),
            ),
            (
                "give every picture its own partner",
                lambda f: torch.allclose(_mixed(f, 0.75)[0], 0.75 * _PAIR + 0.25 * _PAIR.flip(0)),
            ),
        ),
        (
            "x[partners] is the batch of partners, in the right order.",
            "torch.nn.functional.one_hot(y, num_classes) turns labels into rows that can be mixed like pictures.",
            "lam * x + (1 - lam) * x[partners], and the same formula for the one-hot labels.",
        ),
        mix,
    ),
    "ece": Exercise(
        "Measure how far confidence is from truth.",
        (
            (
                "give 0 where 75 % sure means right three times of four",
                lambda f: math.isclose(f(torch.full((4,), 0.75), torch.tensor([1.0, 1, 1, 0])), 0, abs_tol=1e-6),
            ),
            (
                "give 0.5 where half of the sure answers are wrong",
                lambda f: math.isclose(f(torch.ones(4), torch.tensor([1.0, 0, 1, 0])), 0.5, abs_tol=1e-6),
            ),
            (
                "weight bins by their pictures",
                lambda f: math.isclose(
                    f(torch.tensor([1.0, 1, 1, 0.25]), torch.tensor([1.0, 1, 1, 1])), 0.75 / 4, abs_tol=1e-6
                ),
            ),
        ),
        (
            "First decide for each picture which bin it falls into.",
            "(confidence * bins).long() is the bin; a confidence of exactly 1 needs clamp_max(bins - 1).",
            "For each bin: its share of pictures, times |mean confidence - mean right|. Add these up.",
        ),
        ece,
    ),
}
