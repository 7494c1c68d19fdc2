"""The exercises of notebooks/11_knowledge_distillation: softened probabilities, Hinton's loss, and joining an ensemble."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from ...distill import distillation_loss
from ..check import Exercise, alike
from .cases import leaves_alone, random


def _softens(f, t) -> bool:
    return alike(f(random(4, 3), t), (random(4, 3) / t).softmax(1))


def _survives_large_logits(f) -> bool:
    # The second row alone would be harmless; a maximum over the whole batch would make it 0 / 0.
    logits = torch.tensor([[1000.0, 999.0], [1.0, 0.0]])
    return alike(f(logits, 1), torch.tensor([[1.0, 0.0]]).softmax(1).expand(2, 2), 1e-3)


def _survives_very_negative_logits(f) -> bool:
    return alike(f(torch.tensor([[-1000.0, -1001.0]]), 1), torch.tensor([[1.0, 0.0]]).softmax(1), 1e-3)


def _pull(loss, seed, t, alpha, scale=1) -> torch.Tensor:
    """The gradient at the student's logits."""
    x = (scale * random(6, 5, seed=seed)).requires_grad_()
    loss(x, scale * random(6, 5, seed=seed + 1), torch.tensor([0, 1, 2, 3, 4, 0]), t, alpha).backward()
    return x.grad


def _pulls(loss, t, alpha, scale=1) -> bool:
    return alike(_pull(loss, 0, t, alpha, scale), _pull(distillation_loss, 0, t, alpha, scale))


def _loss(factor=lambda t: t**2, hard_t=False, swap=False, reverse=False, raw_teacher=False, divide=lambda n, classes: n):
    """Hinton's loss with some mistakes."""

    def loss(student, teacher, labels, t, alpha):
        p, q = (teacher.detach() / (1 if raw_teacher else t)).log_softmax(1), (student / t).log_softmax(1)
        soft = (q.exp() * (q - p) if reverse else p.exp() * (p - q)).sum() / divide(*student.shape)
        hard = F.cross_entropy(student / (t if hard_t else 1), labels)
        weight = 1 - alpha if swap else alpha
        return weight * factor(t) * soft + (1 - weight) * hard

    return loss


def _spares_the_teacher(loss) -> bool:
    x, v = random(6, 5).requires_grad_(), random(6, 5, seed=1).requires_grad_()
    loss(x, v, torch.tensor([0, 1, 2, 3, 4, 0]), 4, 0.7).backward()
    return v.grad is None or not v.grad.any()


def _both_terms_t_squared(student, teacher, labels, t, alpha):
    soft, hard = (hintons_loss(student, teacher, labels, t, a) for a in (1, 0))
    return alpha * soft + (1 - alpha) * t**2 * hard


def _with_the_teachers_guess(student, teacher, labels, t, alpha):
    return hintons_loss(student, teacher, teacher.argmax(1), t, alpha)


def _settings() -> list[tuple]:
    """(seed of the logits, temperature, alpha)."""
    return [(2, 2, 0.5), (4, 3.5, 0.9), (6, 6, 0.2)]


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


def _rows() -> list[tuple]:
    """Rows before and after a temperature, in random order of their classes, and rows that none turns into each other."""
    made = []
    for seed, t in enumerate((0.4, 0.7, 1.7, 3.6, 8.0)):
        before = random(3 + seed, seed=seed).double().softmax(0).tolist()
        made.append((before, _softened(before, t)))
    unequal = _softened(made[3][0], 2)
    unequal[0], unequal[2] = unequal[2], unequal[0]
    return [*made, (made[3][0], unequal), (made[1][0], _softened(made[1][0], -1))]


def _from_two_entries(i: int, j: int):
    def find(before, after):
        log = [[math.log(v) for v in row] for row in (before, after)]
        return (log[0][i] - log[0][j]) / (log[1][i] - log[1][j])

    return find


def _but(change):
    """`temperature_of` with its result changed where there is one."""

    def find(before, after):
        found = temperature_of(before, after)
        return None if found is None else change(found)

    return find


def _negative_allowed(before, after):
    found = temperature_of(before, after)
    if found is None and (turned := temperature_of(before, _softened(after, -1))) is not None:
        return -turned
    return found


def _product(logits, root=None) -> torch.Tensor:
    p = torch.stack([z.double().softmax(1) for z in logits]).prod(0) ** (1 / (root or len(logits)))
    return (p / p.sum(1, keepdim=True)).float()


def _members(count: int, seed: int = 0) -> list[torch.Tensor]:
    return [random(4, 3, seed=100 * seed + i) for i in range(count)]


def _joins(f, members) -> bool:
    return alike(f(_members(members)), _product(_members(members)))


def _joins_sure_members(f) -> bool:
    joined = f([torch.tensor([[300.0, 0.0]]), torch.tensor([[0.0, 298.0]])])
    return alike(joined, torch.tensor([[1.0, 0.0]]).softmax(1), 1e-3)


def _members_stay(f) -> bool:
    members = _members(3)
    f(members)
    return alike(members, _members(3))


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
    if min(a.abs().max(), b.abs().max()) < 1e-6:
        return None  # every T turns an even row into an even row, and none turns another row into or out of one
    t = (a @ a / (a @ b)).item()
    return t if 0 < t < float("inf") and torch.allclose(a / t, b, atol=0.01) else None


def geometric(logits):
    """Geometric mean of the members' probabilities, each row made to sum to 1. logits: list of float [N, C] -> [N, C]."""
    return torch.stack(logits).mean(0).softmax(1)


EXERCISES: dict[str, Exercise] = {
    "soften": Exercise(
        "Softmax with a temperature, from scratch.",
        (
            ("be the ordinary softmax of each row at temperature 1", lambda f: _softens(f, 1)),
            ("use the temperature: at T = 4, give the softmax of a quarter of the logits", lambda f: _softens(f, 4)),
            ("sharpen at temperature 0.5", lambda f: _softens(f, 0.5)),
            ("survive a row of logits around a thousand beside a row of small ones", _survives_large_logits),
            ("survive a row of logits around minus a thousand", _survives_very_negative_logits),
            ("leave the logits that it was given as they were", lambda f: leaves_alone(f, random(4, 3), 4)),
        ),
        (
            "Divide by the temperature before anything else. Then ask yourself what exp(1000) returns.",
            "Subtracting the same number from every logit of a row changes no probability. Which number keeps exp small?",
            "Each row needs its own maximum, not the batch's. amax finds it, and keepdim keeps its shape fit for subtracting. "
            "The sum by which you divide in the end needs keepdim, too.",
        ),
        soften,
        inputs=lambda: [(random(4, 3, seed=i), t) for i, t in enumerate((1, 0.4, 2.5, 8))],
        slips=(
            ("ignore the temperature", lambda z, t: z.softmax(1)),
            ("multiply by the temperature", lambda z, t: (z * t).softmax(1)),
            ("divide by the square root of the temperature", lambda z, t: (z / t**0.5).softmax(1)),
            ("divide by the temperature twice", lambda z, t: (z / t**2).softmax(1)),
            ("divide the probabilities by the temperature, not the logits", lambda z, t: z.softmax(1) / t),
            ("take the softmax of probabilities, not of logits", lambda z, t: (z.softmax(1) / t).softmax(1)),
            ("make each column sum to 1, not each row", lambda z, t: (z / t).softmax(0)),
            ("make the whole batch sum to 1, not each row", lambda z, t: (z / t).flatten().softmax(0).view_as(z)),
            ("return logarithms", lambda z, t: (z / t).log_softmax(1)),
            ("forget to divide by the sum of the row", lambda z, t: (z / t - (z / t).amax(1, keepdim=True)).exp()),
        ),
    ),
    "hintons_loss": Exercise(
        "Hinton's loss for a student, from scratch.",
        (
            ("pull as the labels alone do where alpha is 0, whatever the temperature", lambda f: _pulls(f, 8, 0)),
            ("pull as the teacher alone does where alpha is 1 and the temperature 1", lambda f: _pulls(f, 1, 1)),
            ("pull as hard at temperature 8 as the factor T² says", lambda f: _pulls(f, 8, 1)),
            ("mix both terms at temperature 4 with alpha 0.7", lambda f: _pulls(f, 4, 0.7)),
            ("send no gradient to the teacher", _spares_the_teacher),
            (
                "survive logits of a thousand, where the logarithm of a probability that rounds to 0 is lost",
                lambda f: _pulls(f, 1, 0.5, scale=300),
            ),
        ),
        (
            "There are two terms. Which of them ever sees the temperature, and which one never does?",
            "The teacher's term: the sum over the classes of the teacher's probability times the student's log-probability, "
            "with a minus, averaged over the images. Both logits are divided by t first.",
            "Dividing by t makes the gradient of the teacher's term t² times smaller, so give that back, to this term alone. "
            "Detach the teacher. Sum over classes, but average over images, in both terms.",
        ),
        hintons_loss,
        inputs=_settings,
        run=_pull,
        slips=(
            ("forget the factor T²", _loss(factor=lambda t: 1)),
            ("multiply by T where T² is needed", _loss(factor=lambda t: t)),
            ("use the temperature in the labels' term, too", _loss(hard_t=True)),
            ("multiply the labels' term by T², too", _both_terms_t_squared),
            ("give alpha to the labels, and the rest to the teacher", _loss(swap=True)),
            ("turn the KL divergence round: the student's probabilities weigh the logarithms", _loss(reverse=True)),
            ("leave the teacher's probabilities as they are at temperature 1", _loss(raw_teacher=True)),
            ("average over the classes, where the sum is needed", _loss(divide=lambda n, classes: n * classes)),
            ("add up the images of the batch, where the mean is needed", _loss(divide=lambda n, classes: 1)),
            ("take the teacher's guesses for the labels", _with_the_teachers_guess),
            ("ignore the labels", lambda s, v, y, t, alpha: hintons_loss(s, v, y, t, 1)),
            ("ignore the teacher", lambda s, v, y, t, alpha: hintons_loss(s, v, y, t, 0)),
        ),
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
                "cope with two classes that tie for first",
                lambda f: _finds(f, [0.45, 0.45, 0.1], 3),
            ),
            ("cope with a probability of 0, which stays 0", lambda f: _finds(f, [0.8, 0.2, 0.0], 2)),
            (
                "refuse a row in which a probability that was 0 no longer is",
                lambda f: f([0.8, 0.2, 0], [0.6, 0.3, 0.1]) is None,
            ),
            (
                "refuse two even rows, which any temperature turns into each other",
                lambda f: f([0.25] * 4, [0.25] * 4) is None,
            ),
            ("refuse a row whose order is reversed", lambda f: f([0.7, 0.2, 0.1], _softened([0.7, 0.2, 0.1], -1)) is None),
            ("look at every entry, not at the first and the last alone", lambda f: f(*_swapped_in_the_middle()) is None),
            (
                "refuse a row that does not sum to 1, though a temperature gives its ratios",
                lambda f: f([0.6, 0.3, 0.1], [v / 2 for v in _softened([0.6, 0.3, 0.1], 2)]) is None,
            ),
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
        inputs=_rows,
        within=1e-2,
        slips=(
            ("return 1 / T", _but(lambda t: 1 / t)),
            ("find whole numbers only", _but(lambda t: round(t) or 1)),
            ("accept a temperature below 0", _negative_allowed),
            ("look at the first and the last entry alone", _from_two_entries(0, -1)),
            ("look at the first two entries alone", _from_two_entries(0, 1)),
            (
                "divide two logarithms, where their row's constant is still in them",
                lambda p, q: math.log(p[0]) / math.log(q[0]),
            ),
            ("divide the probabilities, not their logarithms", lambda p, q: p[0] / q[0]),
            ("return 1, whatever the rows are", lambda p, q: 1),
        ),
    ),
    "geometric": Exercise(
        "Join several networks by the geometric mean of their probabilities.",
        (
            ("give a single network's probabilities back unchanged", lambda f: _joins(f, 1)),
            ("be right for two networks", lambda f: _joins(f, 2)),
            ("be right for three networks", lambda f: _joins(f, 3)),
            ("survive members so sure that their small probabilities round to 0", _joins_sure_members),
            ("leave the members' logits as they were", _members_stay),
        ),
        (
            "The logarithm of a geometric mean is a mean of logarithms.",
            "The logarithm of a softmax is the logits less one constant per row. What happens to such a constant at the end?",
            "You never need the members' probabilities: average something else, and take one softmax of the average.",
        ),
        geometric,
        inputs=lambda: [(_members(count, seed=count),) for count in (1, 2, 3, 5)],
        slips=(
            ("take the arithmetic mean of the probabilities", lambda z: torch.stack(z).softmax(2).mean(0)),
            ("always take the square root, however many members there are", lambda z: _product(z, 2)),
            ("multiply the probabilities without taking the root", lambda z: _product(z, 1)),
            ("forget to make each row sum to 1", lambda z: torch.stack(z).log_softmax(2).mean(0).exp()),
            ("join the first and the last member alone", lambda z: geometric([z[0], z[-1]])),
            ("join the first two members alone", lambda z: geometric(z[:2])),
            ("make each column sum to 1, not each row", lambda z: torch.stack(z).mean(0).softmax(0)),
            ("take the softmax of probabilities", lambda z: torch.stack(z).softmax(2).mean(0).softmax(1)),
            ("return the mean of the logits, without a softmax", lambda z: torch.stack(z).mean(0)),
            (
                "take the harmonic mean",
                lambda z: (lambda h: h / h.sum(1, keepdim=True))(1 / (1 / torch.stack(z).softmax(2)).mean(0)),
            ),
        ),
    ),
}
