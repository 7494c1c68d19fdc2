"""The exercises of notebooks/11_knowledge_distillation: softmax with a temperature, and geometric means of networks."""

from __future__ import annotations

import math

import torch

from ..check import Exercise
from .cases import random


def _lecture_row(find) -> bool:
    return find([1e-6, 0.9, 0.1, 1e-9], [0.05, 0.3, 0.2, 0.005]) is None


def _temperature(find) -> bool:
    hard = torch.tensor([4.0, 1.0, -2.0], dtype=torch.float64)
    found = find(hard.softmax(0).tolist(), (hard / 3).softmax(0).tolist())
    return found is not None and math.isclose(found, 3, rel_tol=1e-3)


def _sums_but_does_not_fit(find) -> bool:
    return find([0.7, 0.2, 0.1], [0.4, 0.2, 0.4]) is None


def soften(logits, t):
    """Probabilities at temperature t. logits: float [N, C]."""
    z = logits / t
    e = (z - z.amax(1, keepdim=True)).exp()
    return e / e.sum(1, keepdim=True)


def temperature_of(before, after):
    """The T that softens one list of probabilities into the other, or None."""
    p, q = torch.tensor(before, dtype=torch.float64), torch.tensor(after, dtype=torch.float64)
    if abs(q.sum() - 1) > 1e-3:
        return None
    top = p.argmax()
    others = [i for i in range(len(p)) if i != top]
    ratios = (p[top] / p[others]).log() / (q[top] / q[others]).log()
    return ratios.mean().item() if ratios.isfinite().all() and ratios.std() < 0.01 * ratios.mean() else None


def geometric(logits):
    """Geometric mean of the members' probabilities. logits: list of float [N, C] -> [N, C]."""
    return torch.stack(logits).mean(0).softmax(1)


EXERCISES: dict[str, Exercise] = {
    "soften": Exercise(
        "Softmax with a temperature, from scratch.",
        (
            (
                "be the ordinary softmax at temperature 1",
                lambda f: torch.allclose(f(random(4, 3), 1), random(4, 3).softmax(1)),
            ),
            ("let every row sum to 1 at temperature 7", lambda f: torch.allclose(f(random(4, 3), 7).sum(1), torch.ones(4))),
            (
                "survive logits of a thousand",
                lambda f: torch.allclose(f(torch.tensor([[1000.0, 999.0]]), 1), torch.tensor([[1.0, 0.0]]).softmax(1)),
            ),
        ),
        (
            "Divide first. What does exp(1000) give you?",
            "Subtracting the same number from all logits of a row changes no probability. Which number keeps exp small?",
            "z = logits / t; e = (z - z.amax(1, keepdim=True)).exp(); return e / e.sum(1, keepdim=True).",
        ),
        soften,
    ),
    "temperature_of": Exercise(
        "Find the temperature that turned one row of probabilities into another, or show that there is none.",
        (
            ("find 3 where it was 3", _temperature),
            ("refuse a row that sums to 1 but follows no temperature", _sums_but_does_not_fit),
            ("refuse the lecture's row", _lecture_row),
        ),
        (
            "What must a row of probabilities sum to? Check that first.",
            "log(p_i / p_j) is a difference of logits. A temperature divides all of these differences by the same number.",
            "For each entry, T = log(p_max / p_i) / log(q_max / q_i). If these agree to 1 %, return their mean.",
        ),
        temperature_of,
    ),
    "geometric": Exercise(
        "Join several networks by the geometric mean of their probabilities.",
        (
            (
                "give rows that sum to 1",
                lambda f: torch.allclose(f([random(4, 3), random(4, 3, seed=1)]).sum(1), torch.ones(4)),
            ),
            ("give one network back as it is", lambda f: torch.allclose(f([random(4, 3)]), random(4, 3).softmax(1))),
            (
                "be the softmax of the mean logits",
                lambda f: torch.allclose(
                    f([random(4, 3), random(4, 3, seed=1)]), ((random(4, 3) + random(4, 3, seed=1)) / 2).softmax(1)
                ),
            ),
        ),
        (
            "The logarithm of a geometric mean is a mean of logarithms.",
            "The logarithm of a softmax is the logits less a constant for each row. What happens to the constant at the end?",
            "torch.stack(logits).mean(0).softmax(1).",
        ),
        geometric,
    ),
}
