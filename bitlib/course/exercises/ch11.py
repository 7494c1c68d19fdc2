"""The exercises of notebooks/11_knowledge_distillation: softened probabilities, Hinton's loss, and joining an ensemble."""

from __future__ import annotations

import math

import torch

from ...distill import distillation_loss
from ..check import Exercise
from .cases import random


def _softens(f, t) -> bool:
    return torch.allclose(f(random(4, 3), t), (random(4, 3) / t).softmax(1), atol=1e-5)


def _survives_large_logits(f) -> bool:
    # The second row alone would be harmless; a maximum over the whole batch would make it 0 / 0.
    logits = torch.tensor([[1000.0, 999.0], [1.0, 0.0]])
    return torch.allclose(f(logits, 1), torch.tensor([[1.0, 0.0]]).softmax(1).expand(2, 2), atol=1e-3)


def _leaves_its_input_alone(f) -> bool:
    logits = random(4, 3)
    f(logits, 4)
    return torch.equal(logits, random(4, 3))


def _pull(loss, t, alpha) -> torch.Tensor:
    """The gradient at the student's logits."""
    x = random(6, 5).requires_grad_()
    loss(x, random(6, 5, seed=1), torch.tensor([0, 1, 2, 3, 4, 0]), t, alpha).backward()
    return x.grad


def _pulls(loss, t, alpha) -> bool:
    return torch.allclose(_pull(loss, t, alpha), _pull(distillation_loss, t, alpha), atol=1e-5)


def _spares_the_teacher(loss) -> bool:
    x, v = random(6, 5).requires_grad_(), random(6, 5, seed=1).requires_grad_()
    loss(x, v, torch.tensor([0, 1, 2, 3, 4, 0]), 4, 0.7).backward()
    return v.grad is None or not v.grad.any()


def _softened(row, t) -> list[float]:
    q = torch.tensor(row, dtype=torch.float64) ** (1 / t)
    return (q / q.sum()).tolist()


def _finds(find, before, t) -> bool:
    found = find(before, _softened(before, t))
    return found is not None and math.isclose(found, t, rel_tol=1e-2)


def _swapped_in_the_middle() -> tuple[list[float], list[float]]:
    """Two rows whose first and last entries follow temperature 2 and whose others do not."""
    before = [0.6, 0.25, 0.1, 0.05]
    first, second, third, last = _softened(before, 2)
    return before, [first, third, second, last]


def _product(logits) -> torch.Tensor:
    p = torch.stack([z.double().softmax(1) for z in logits]).prod(0) ** (1 / len(logits))
    return (p / p.sum(1, keepdim=True)).float()


def _joins(f, members) -> bool:
    logits = [random(4, 3, seed=i) for i in range(members)]
    return torch.allclose(f(logits), _product(logits), atol=1e-5)


def _joins_sure_members(f) -> bool:
    joined = f([torch.tensor([[300.0, 0.0]]), torch.tensor([[0.0, 298.0]])])
    return torch.allclose(joined, torch.tensor([[1.0, 0.0]]).softmax(1), atol=1e-3)


def soften(logits, t):
    """Probabilities at temperature t. logits: float [N, C] -> float [N, C]."""
    z = logits / t
    e = (z - z.amax(1, keepdim=True)).exp()  # the largest of each row becomes 0, and exp cannot overflow
    return e / e.sum(1, keepdim=True)


def hintons_loss(student, teacher, labels, t, alpha):
    """The distillation loss, a number: alpha for the teacher, 1 - alpha for the labels.

    student, teacher: logits, float [N, C]; labels: int [N]. Only the student learns. The teacher's term may be the
    KL divergence or the cross-entropy with its probabilities: their gradients are equal.
    """
    target = (teacher.detach() / t).softmax(1)
    soft = -(target * (student / t).log_softmax(1)).sum(1).mean()
    hard = -student.log_softmax(1)[torch.arange(len(labels)), labels].mean()
    return alpha * t**2 * soft + (1 - alpha) * hard


def temperature_of(before, after):
    """The T > 0 that turns one list of probabilities into the other, or None unless exactly one T does."""
    p, q = (torch.tensor(row, dtype=torch.float64) for row in (before, after))
    if max(abs(p.sum() - 1), abs(q.sum() - 1)) > 1e-3 or not torch.equal(p > 0, q > 0):
        return None
    a, b = (row[row > 0].log() for row in (p, q))
    a, b = a - a.mean(), b - b.mean()  # centred logits: T divides the first into the second
    t = (a @ a / (a @ b)).item()
    return t if 0 < t < float("inf") and torch.allclose(a / t, b, atol=0.01) else None


def geometric(logits):
    """Geometric mean of the members' probabilities, each row made to sum to 1. logits: list of float [N, C] -> [N, C]."""
    return torch.stack(logits).mean(0).softmax(1)


EXERCISES: dict[str, Exercise] = {
    "soften": Exercise(
        "Softmax with a temperature, from scratch.",
        (
            ("be the ordinary softmax at temperature 1", lambda f: _softens(f, 1)),
            ("give the softmax of a quarter of the logits at temperature 4", lambda f: _softens(f, 4)),
            ("sharpen at temperature 0.5", lambda f: _softens(f, 0.5)),
            ("survive a row of logits around a thousand beside a row of small ones", _survives_large_logits),
            ("leave the logits that it was given as they were", _leaves_its_input_alone),
        ),
        (
            "Divide by the temperature before anything else. Then ask yourself what exp(1000) returns.",
            "Subtracting the same number from every logit of a row changes no probability. Which number keeps exp small?",
            "Each row needs its own maximum: z.amax(1, keepdim=True). Subtract it, exponentiate, and divide by the row's sum.",
        ),
        soften,
    ),
    "hintons_loss": Exercise(
        "Hinton's loss for a student, from scratch.",
        (
            ("pull as the labels alone do where alpha is 0, whatever the temperature", lambda f: _pulls(f, 8, 0)),
            ("pull as the teacher alone does where alpha is 1 and the temperature 1", lambda f: _pulls(f, 1, 1)),
            ("pull as hard at temperature 8 as the factor T² says", lambda f: _pulls(f, 8, 1)),
            ("mix both terms at temperature 4 with alpha 0.7", lambda f: _pulls(f, 4, 0.7)),
            ("send no gradient to the teacher", _spares_the_teacher),
        ),
        (
            "There are two terms. Which of them ever sees the temperature, and which one never does?",
            "The teacher's term: the sum over the classes of the teacher's probability times the student's log-probability, "
            "with a minus, averaged over the images. Both logits are divided by t first.",
            "Use log_softmax and not the logarithm of softmax; detach the teacher's logits; multiply its term by alpha * t**2.",
        ),
        hintons_loss,
    ),
    "temperature_of": Exercise(
        "Find the temperature that turned one row of probabilities into another, or show that there is none.",
        (
            ("find 2 for [0.9, 0.1] and [0.75, 0.25]", lambda f: _finds(f, [0.9, 0.1], 2)),
            (
                "find 2.5, and 0.5 where the row was sharpened",
                lambda f: all(_finds(f, [0.6, 0.3, 0.08, 0.02], t) for t in (2.5, 0.5)),
            ),
            (
                "cope with two classes that tie for first, and with a probability of 0, which stays 0",
                lambda f: _finds(f, [0.45, 0.45, 0.1], 3) and _finds(f, [0.8, 0.2, 0.0], 2),
            ),
            ("refuse a row whose order is reversed", lambda f: f([0.7, 0.2, 0.1], _softened([0.7, 0.2, 0.1], -1)) is None),
            ("look at every entry, not at the first and the last alone", lambda f: f(*_swapped_in_the_middle()) is None),
            (
                "refuse the row that sums to 0.555",
                lambda f: f([1e-6, 0.9, 0.1, 1e-9], [0.05, 0.3, 0.2, 0.005]) is None,
            ),
        ),
        (
            "What must a row of probabilities sum to? Check that first.",
            "log(p_i / p_j) is a difference of two logits, and a temperature divides every such difference by the same T.",
            "Leave out the zeros, take logarithms and subtract their mean, in both rows. One row must now be T times the "
            "other: find T from the whole row, then test every entry.",
        ),
        temperature_of,
    ),
    "geometric": Exercise(
        "Join several networks by the geometric mean of their probabilities.",
        (
            ("give a single network's probabilities back unchanged", lambda f: _joins(f, 1)),
            ("be right for two networks", lambda f: _joins(f, 2)),
            ("be right for three networks", lambda f: _joins(f, 3)),
            ("survive members so sure that their small probabilities round to 0", _joins_sure_members),
        ),
        (
            "The logarithm of a geometric mean is a mean of logarithms.",
            "The logarithm of a softmax is the logits less one constant per row. What happens to such a constant at the end?",
            "You never need the members' probabilities: average something else, and take one softmax of the average.",
        ),
        geometric,
    ),
}
