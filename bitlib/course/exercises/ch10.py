"""The exercises of notebooks/10_few_shot: medians, paired differences, how many subsets, and pseudo-labels."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Sequence
from random import Random

import torch

from ..check import Exercise, alike
from .cases import leaves_alone, shares_of_one


def _in_every_order(median: Callable, values: Sequence[float]) -> bool:
    wanted = (statistics.median(values), min(values), max(values))
    return all(alike(median(list(order)), wanted) for order in itertools.permutations(values))


def _keeps(pseudo_labels: Callable, probabilities: torch.Tensor, sure: float, indices: list, labels: list) -> bool:
    return alike(pseudo_labels(probabilities, sure), (indices, labels))


_PROBABILITIES = torch.tensor([[0.1, 0.9, 0.0], [0.4, 0.3, 0.3], [0.8, 0.1, 0.1], [0.2, 0.2, 0.6]])
_HALVES = torch.tensor([[0.5, 0.25, 0.25], [0.125, 0.125, 0.75]])  # exact in binary, so that "exceeds" can be told apart


def median_and_range(values):
    """(median, lowest, highest) of a list of accuracies."""
    ordered, n = sorted(values), len(values)
    middle = (ordered[(n - 1) // 2] + ordered[n // 2]) / 2
    return middle, ordered[0], ordered[-1]


def paired_difference(a, b):
    """(mean, sample standard deviation) of b - a; a[i] and b[i] come from the same random subset."""
    differences = [y - x for x, y in zip(a, b)]
    return statistics.fmean(differences), statistics.stdev(differences)


def subsets_needed(difference, spread):
    """The fewest subsets, two or more, that put the mean difference two standard errors or more from zero."""
    return max(2, math.ceil((2 * spread / difference) ** 2))


def pseudo_labels(probabilities, sure):
    """(indices, labels) of the rows whose largest probability exceeds `sure`. float [N, C]."""
    confidence, guess = probabilities.max(1)
    indices = (confidence > sure).nonzero()[:, 0]
    return indices, guess[indices]


def _accuracies() -> list[tuple[list[float]]]:
    """Seven, eight and ten in random order; the extremes stand neither first nor last."""
    made = []
    for seed, n in enumerate((7, 8, 10)):
        values = shares_of_one(n, seed)
        values[1:3] = 0.97, 0.11
        made.append((values,))
    return made


def _middles(values, low: bool, high: bool) -> tuple[float, float, float]:
    ordered, n = sorted(values), len(values)
    middle = [ordered[(n - 1) // 2]] * low + [ordered[n // 2]] * high
    return sum(middle) / len(middle), ordered[0], ordered[-1]


def _unsorted_middle(values) -> tuple[float, float, float]:
    n = len(values)
    return (values[(n - 1) // 2] + values[n // 2]) / 2, min(values), max(values)


def _unpaired(a, b) -> tuple[float, float]:
    return statistics.fmean(b) - statistics.fmean(a), math.hypot(statistics.stdev(a), statistics.stdev(b))


def _ratios() -> list[tuple[float, float]]:
    """Differences and spreads that need from 2 to some 100 subsets."""
    random = Random(0)
    return [(random.choice((1, -1)) * random.randint(5, 30) / 10, random.randint(31, 99) / 10) for _ in range(8)]


def _guesses() -> list[tuple[torch.Tensor, float]]:
    made = []
    for seed, (classes, sure) in enumerate([(3, 0.6), (4, 0.5), (5, 0.3), (2, 0.8)]):
        logits = torch.randn(12, classes, generator=torch.Generator().manual_seed(seed)) * 2
        made.append((logits.softmax(1), sure))
    return made


EXERCISES: dict[str, Exercise] = {
    "median": Exercise(
        "Report some accuracies by their median and their range.",
        (
            ("find all three whatever the order of three values", lambda f: _in_every_order(f, (0.9, 0.7, 0.8))),
            (
                "take the mean of the two middle values of four, whatever their order",
                lambda f: _in_every_order(f, (0.1, 0.9, 0.5, 0.3)),
            ),
            ("find all three among five values", lambda f: _in_every_order(f, (0.62, 0.71, 0.71, 0.84, 0.55))),
            ("cope with a single value", lambda f: alike(f([0.8]), (0.8, 0.8, 0.8))),
            ("leave the list as it was", lambda f: leaves_alone(f, [0.3, 0.1, 0.2])),
        ),
        (
            "Put the values in order first. Which places hold the lowest and the highest then?",
            "With n values in order, the middle ones are at (n - 1) // 2 and n // 2. For an odd n these are the same place.",
            "sorted makes a new list, where the method sort changes the one it was given. Take the mean of the values at the "
            "two middle places, which changes nothing where they are one and the same, and return three numbers.",
        ),
        median_and_range,
        inputs=_accuracies,
        slips=(
            ("return the mean, not the median", lambda values: (statistics.fmean(values), min(values), max(values))),
            ("take the middle of the list without putting it in order", _unsorted_middle),
            ("take the upper of the two middle values", lambda values: _middles(values, False, True)),
            ("take the lower of the two middle values", lambda values: _middles(values, True, False)),
            ("return the highest before the lowest", lambda values: (statistics.median(values), max(values), min(values))),
            (
                "return one number for the range, where both ends are asked for",
                lambda values: (statistics.median(values), max(values) - min(values)),
            ),
            (
                "take the first and the last of the list for the lowest and the highest",
                lambda values: (statistics.median(values), values[0], values[-1]),
            ),
            ("take the middle of the range for the median", lambda v: ((min(v) + max(v)) / 2, min(v), max(v))),
        ),
    ),
    "paired": Exercise(
        "Compare two methods subset by subset.",
        (
            ("return the mean difference", lambda f: alike(f([0.5, 0.7], [0.6, 0.9])[0], 0.15)),
            ("return a negative mean where b is worse", lambda f: alike(f([0.9, 0.8], [0.8, 0.6])[0], -0.15)),
            (
                "let gains and losses cancel",
                lambda f: alike(f([0.5, 0.5, 0.5, 0.5], [0.6, 0.4, 0.9, 0.3]), (0.05, math.sqrt(0.07))),
            ),
            (
                "return the spread of the differences, not of the methods",
                lambda f: alike(f([0.1, 0.5, 0.9], [0.2, 0.6, 1.0])[1], 0),
            ),
            ("keep the pairs together", lambda f: alike(f([0.1, 0.9], [0.9, 0.1])[1], 0.8 * math.sqrt(2))),
            ("divide by n - 1, not by n", lambda f: alike(f([0, 0], [0, 1])[1], math.sqrt(0.5))),
        ),
        (
            "Each subset gave two results, one per method. What can you compute from such a pair?",
            "zip(a, b) walks through the pairs. Keep the sign of each difference: it says who won.",
            "You want the mean and the sample standard deviation of one list. The module statistics has both.",
        ),
        paired_difference,
        inputs=lambda: [(shares_of_one(n, n), shares_of_one(n, 50 + n)) for n in (5, 6, 9)],
        slips=(
            ("return a - b", lambda a, b: paired_difference(b, a)),
            (
                "drop the sign of each difference",
                lambda a, b: paired_difference([0] * len(a), [abs(y - x) for x, y in zip(a, b)]),
            ),
            ("drop the sign of the mean", lambda a, b: (abs(paired_difference(a, b)[0]), paired_difference(a, b)[1])),
            (
                "compare the spreads of the two methods, and not spread the differences",
                lambda a, b: (paired_difference(a, b)[0], statistics.stdev(b) - statistics.stdev(a)),
            ),
            ("forget the pairs, and join the spreads of the two methods", _unpaired),
            ("sort both lists, which tears the pairs apart", lambda a, b: paired_difference(sorted(a), sorted(b))),
            (
                "divide by n, not by n - 1",
                lambda a, b: (paired_difference(a, b)[0], statistics.pstdev(y - x for x, y in zip(a, b))),
            ),
            (
                "return the variance, not its square root",
                lambda a, b: (paired_difference(a, b)[0], paired_difference(a, b)[1] ** 2),
            ),
            (
                "return the standard error, not the standard deviation",
                lambda a, b: (paired_difference(a, b)[0], paired_difference(a, b)[1] / math.sqrt(len(a))),
            ),
        ),
    ),
    "subsets_needed": Exercise(
        "How many shared subsets does a comparison need?",
        (
            (
                "return 16 for a difference of 1 and a spread of 2: exactly two standard errors will do",
                lambda f: alike(f(1.0, 2.0), 16),
            ),
            (
                "return 9 for a difference of 1 and a spread of 1.5: exactly two standard errors will do",
                lambda f: alike(f(1.0, 1.5), 9),
            ),
            ("round up: where 4.41 are needed, 4 are too few", lambda f: f(1.0, 1.05) == 5),
            ("depend on the ratio alone, so that points and shares agree", lambda f: f(0.25, 0.5) == f(25, 50) == 16),
            ("not care which of the two methods is ahead", lambda f: f(-1.0, 2.0) == 16),
            ("return at least 2: a single pair has no spread", lambda f: f(5.0, 0.1) == 2 and f(1.0, 0.0) == 2),
        ),
        (
            "Over n subsets the mean difference has a standard error of spread / √n. What must it be, at most?",
            "Two standard errors must not exceed the difference: 2 * spread / √n ≤ |difference|. Solve this for n.",
            "math.ceil rounds up, and max(2, …) keeps the answer from being a single pair.",
        ),
        subsets_needed,
        inputs=_ratios,
        slips=(
            ("round down", lambda d, s: max(2, math.floor((2 * s / d) ** 2))),
            ("round to the nearest number", lambda d, s: max(2, round((2 * s / d) ** 2))),
            ("ask for one standard error", lambda d, s: max(2, math.ceil((s / d) ** 2))),
            ("forget to square", lambda d, s: max(2, math.ceil(2 * s / abs(d)))),
            ("forget to square, and the sign", lambda d, s: max(2, math.ceil(2 * s / d))),
            ("round before it squares", lambda d, s: max(2, math.ceil(2 * s / abs(d)) ** 2)),
            ("square the spread and the difference, but not the 2", lambda d, s: max(2, math.ceil(2 * (s / d) ** 2))),
            ("ask for 1.96 standard errors", lambda d, s: max(2, math.ceil((1.96 * s / d) ** 2))),
            ("take the difference for the spread, and the spread for the difference", lambda d, s: subsets_needed(s, d)),
            ("return a number that is not whole", lambda d, s: (2 * s / d) ** 2),
        ),
    ),
    "pseudo_labels": Exercise(
        "Keep the predictions that are sure enough, and use them as labels.",
        (
            ("return the indices of the sure rows only, in order", lambda f: alike(f(_PROBABILITIES, 0.7)[0], [0, 2])),
            (
                "return the predicted classes of those rows, and of no others",
                lambda f: alike(f(_PROBABILITIES, 0.7)[1], [1, 0]),
            ),
            (
                "work for other thresholds and other numbers of classes",
                lambda f: (
                    _keeps(f, _PROBABILITIES, 0.5, [0, 2, 3], [1, 0, 2])
                    and _keeps(f, _PROBABILITIES[:, 1:], 0.5, [0, 3], [0, 1])
                ),
            ),
            (
                "return a row once, even where two of its classes exceed a low threshold",
                lambda f: _keeps(f, _PROBABILITIES, 0.25, [0, 1, 2, 3], [1, 0, 0, 2]),
            ),
            ("leave out a row that only equals the threshold", lambda f: _keeps(f, _HALVES, 0.5, [1], [2])),
            ("return nothing where nothing is sure", lambda f: _keeps(f, _PROBABILITIES, 0.99, [], [])),
        ),
        (
            "How sure the head is of an image is the largest number of its row. The place of that number is the class.",
            "probabilities.max(1) returns both, the values and their places.",
            "Compare the values with sure: where are the rows that exceed it? nonzero tells, in a column. Then look up the "
            "classes of just these rows.",
        ),
        pseudo_labels,
        inputs=_guesses,
        slips=(
            ("return the classes of all rows", lambda p, sure: (pseudo_labels(p, sure)[0], p.argmax(1))),
            (
                "return probabilities where classes are asked for",
                lambda p, sure: (pseudo_labels(p, sure)[0], p.amax(1)[p.amax(1) > sure]),
            ),
            ("return a mask, not indices", lambda p, sure: (p.amax(1) > sure, pseudo_labels(p, sure)[1])),
            ("keep every class that exceeds the threshold, not the largest", lambda p, sure: (p > sure).nonzero().T),
            ("keep the unsure rows", lambda p, sure: ((p.amax(1) <= sure).nonzero()[:, 0], p.argmax(1)[p.amax(1) <= sure])),
            ("keep all rows", lambda p, sure: (torch.arange(len(p)), p.argmax(1))),
            (
                "return the least probable class",
                lambda p, sure: (pseudo_labels(p, sure)[0], p.argmin(1)[pseudo_labels(p, sure)[0]]),
            ),
            ("return the labels before the indices", lambda p, sure: pseudo_labels(p, sure)[::-1]),
        ),
    ),
}
