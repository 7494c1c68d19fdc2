"""The exercises of notebooks/10_few_shot: medians, paired differences, how many subsets, and pseudo-labels."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Sequence

import torch

from ..check import Exercise


def _alike(given: Sequence[float], wanted: Sequence[float]) -> bool:
    return len(given) == len(wanted) and all(math.isclose(g, w, abs_tol=1e-9) for g, w in zip(given, wanted))


def _in_every_order(median: Callable, values: Sequence[float]) -> bool:
    wanted = (statistics.median(values), min(values), max(values))
    return all(_alike(median(list(order)), wanted) for order in itertools.permutations(values))


def _leaves_its_list_alone(median: Callable) -> bool:
    values = [0.3, 0.1, 0.2]
    median(values)
    return values == [0.3, 0.1, 0.2]


def _kept(pseudo_labels: Callable, probabilities: torch.Tensor, sure: float) -> list[list[int]]:
    return [torch.as_tensor(part).tolist() for part in pseudo_labels(probabilities, sure)]


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
            ("cope with a single value", lambda f: _alike(f([0.8]), (0.8, 0.8, 0.8))),
            ("leave the list as it was", _leaves_its_list_alone),
        ),
        (
            "Put the values in order first. Which places hold the lowest and the highest then?",
            "With n values in order, the middle ones are at (n - 1) // 2 and n // 2. For an odd n these are the same place.",
            "sorted(values) makes a new list and leaves the old one alone. The median is the mean of its two middle values.",
        ),
        median_and_range,
    ),
    "paired": Exercise(
        "Compare two methods subset by subset.",
        (
            ("return the mean difference", lambda f: math.isclose(f([0.5, 0.7], [0.6, 0.9])[0], 0.15)),
            ("return a negative mean where b is worse", lambda f: math.isclose(f([0.9, 0.8], [0.8, 0.6])[0], -0.15)),
            (
                "let gains and losses cancel",
                lambda f: _alike(f([0.5, 0.5, 0.5, 0.5], [0.6, 0.4, 0.9, 0.3]), (0.05, math.sqrt(0.07))),
            ),
            (
                "return the spread of the differences, not of the methods",
                lambda f: math.isclose(f([0.1, 0.5, 0.9], [0.2, 0.6, 1.0])[1], 0, abs_tol=1e-9),
            ),
            ("keep the pairs together", lambda f: math.isclose(f([0.1, 0.9], [0.9, 0.1])[1], 0.8 * math.sqrt(2))),
            ("divide by n - 1", lambda f: math.isclose(f([0, 0], [0, 1])[1], math.sqrt(0.5))),
        ),
        (
            "Each subset gave two results, one per method. What can you compute from such a pair?",
            "zip(a, b) walks through the pairs. Keep the sign of each difference: it says who won.",
            "You want the mean and the sample standard deviation of one list. The module statistics has both.",
        ),
        paired_difference,
    ),
    "subsets_needed": Exercise(
        "How many shared subsets does a comparison need?",
        (
            ("return 16 for a difference of 1 and a spread of 2", lambda f: f(1.0, 2.0) == 16),
            (
                "return 9 for a difference of 1 and a spread of 1.5: exactly two standard errors will do",
                lambda f: f(1.0, 1.5) == 9,
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
    ),
    "pseudo_labels": Exercise(
        "Keep the predictions that are sure enough, and use them as labels.",
        (
            ("return the indices of the sure rows only", lambda f: _kept(f, _PROBABILITIES, 0.7)[0] == [0, 2]),
            ("return the predicted classes of those rows", lambda f: _kept(f, _PROBABILITIES, 0.7)[1] == [1, 0]),
            (
                "work for other thresholds and other numbers of classes",
                lambda f: (
                    _kept(f, _PROBABILITIES, 0.5) == [[0, 2, 3], [1, 0, 2]]
                    and _kept(f, _PROBABILITIES[:, 1:], 0.5) == [[0, 3], [0, 1]]
                ),
            ),
            ("leave out a row that only equals the threshold", lambda f: _kept(f, _HALVES, 0.5) == [[1], [2]]),
            ("return nothing where nothing is sure", lambda f: _kept(f, _PROBABILITIES, 0.99) == [[], []]),
        ),
        (
            "How sure the head is of an image is the largest number of its row. The place of that number is the class.",
            "probabilities.max(1) returns both, the values and their places.",
            "(confidence > sure).nonzero()[:, 0] are the rows to keep. Which of the places belong to them?",
        ),
        pseudo_labels,
    ),
}
