"""The exercises of notebooks/10_few_shot: medians, paired differences and pseudo-labels."""

from __future__ import annotations

import math
import statistics

import torch

from ..check import Exercise


def _leaves_its_list_alone(median) -> bool:
    values = [0.3, 0.1, 0.2]
    median(values)
    return values == [0.3, 0.1, 0.2]


_PROBABILITIES = torch.tensor([[0.1, 0.9, 0.0], [0.4, 0.3, 0.3], [0.8, 0.1, 0.1], [0.2, 0.2, 0.6]])


def median_and_range(values):
    """(median, lowest, highest) of a list of accuracies."""
    ordered, n = sorted(values), len(values)
    middle = (ordered[(n - 1) // 2] + ordered[n // 2]) / 2
    return middle, ordered[0], ordered[-1]


def paired_difference(a, b):
    """(mean, sample standard deviation) of b - a, draw by draw; a[i] and b[i] share draw i."""
    differences = [y - x for x, y in zip(a, b)]
    return statistics.fmean(differences), statistics.stdev(differences)


def pseudo_labels(probabilities, sure):
    """(indices, labels) of the rows whose largest probability exceeds `sure`. float [N, C]."""
    confidence, guess = probabilities.max(1)
    indices = (confidence > sure).nonzero()[:, 0]
    return indices, guess[indices]


EXERCISES: dict[str, Exercise] = {
    "median": Exercise(
        "Report some accuracies by their median and their range.",
        (
            ("take the middle one of three", lambda f: tuple(f([0.9, 0.7, 0.8])) == (0.8, 0.7, 0.9)),
            ("take the mean of the two middle ones of four", lambda f: math.isclose(f([0.1, 0.9, 0.5, 0.3])[0], 0.4)),
            ("leave the list as it was", _leaves_its_list_alone),
        ),
        (
            "Sort first. What do you need besides the middle?",
            "With n values in order, the middle ones are at (n - 1) // 2 and n // 2; for an odd n these are the same.",
            "ordered = sorted(values) makes a new list; return the mean of the two middle ones, ordered[0] and ordered[-1].",
        ),
        median_and_range,
    ),
    "paired": Exercise(
        "Compare two methods draw by draw.",
        (
            ("give the mean difference", lambda f: math.isclose(f([0.5, 0.7], [0.6, 0.9])[0], 0.15)),
            (
                "give the spread of the differences, not of the methods",
                lambda f: math.isclose(f([0.1, 0.5, 0.9], [0.2, 0.6, 1.0])[1], 0, abs_tol=1e-9),
            ),
            ("divide by n - 1", lambda f: math.isclose(f([0, 0], [0, 1])[1], math.sqrt(0.5))),
        ),
        (
            "The draws come in pairs. What can you compute for each pair?",
            "zip(a, b) walks through the pairs; take b - a in each.",
            "statistics.fmean and statistics.stdev of the list of differences are what is asked for.",
        ),
        paired_difference,
    ),
    "pseudo_labels": Exercise(
        "Keep the predictions that are sure enough, and use them as labels.",
        (
            ("keep only what is sure", lambda f: f(_PROBABILITIES, 0.7)[0].tolist() == [0, 2]),
            ("give the predicted classes", lambda f: f(_PROBABILITIES, 0.7)[1].tolist() == [1, 0]),
            ("keep nothing where nothing is sure", lambda f: [len(part) for part in f(_PROBABILITIES, 0.99)] == [0, 0]),
        ),
        (
            "How sure a row is, is its largest entry. Where that entry stands is the class.",
            "probabilities.max(1) gives both, the values and their places.",
            "(confidence > sure).nonzero()[:, 0] are the rows to keep; index the places with them.",
        ),
        pseudo_labels,
    ),
}
