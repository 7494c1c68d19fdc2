"""Answers to the exercises of chapter 10."""

import math
import statistics

import numpy as np
import torch


def _in_place(values):
    values.sort()
    n = len(values)
    return (values[(n - 1) // 2] + values[n // 2]) / 2, values[0], values[-1]


def _unsorted(values):
    n = len(values)
    return (values[(n - 1) // 2] + values[n // 2]) / 2, min(values), max(values)


def _by_rank(values):
    """The median by counting how many values lie below each."""
    ranked = sorted(range(len(values)), key=lambda i: (values[i], i))
    lower, upper = ranked[(len(values) - 1) // 2], ranked[len(values) // 2]
    return [0.5 * values[lower] + 0.5 * values[upper], values[ranked[0]], values[ranked[-1]]]


def _paired(a, b, spread=statistics.stdev):
    differences = [y - x for x, y in zip(a, b)]
    return statistics.fmean(differences), spread(differences)


def _by_hand(a, b):
    n, total, squares = len(a), 0.0, 0.0
    for x, y in zip(a, b):
        total += y - x
        squares += (y - x) ** 2
    return total / n, math.sqrt(max(0.0, squares - total**2 / n) / (n - 1))


def _absolute(a, b):
    return _paired([0] * len(a), [abs(y - x) for x, y in zip(a, b)])


def _count_up(difference, spread):
    n = 2
    while 2 * spread / math.sqrt(n) > abs(difference):
        n += 1
    return n


def _need(difference, spread):
    return (2 * spread / difference) ** 2


def _loop(probabilities, sure):
    indices, labels = [], []
    for i, row in enumerate(probabilities.tolist()):
        if max(row) > sure:
            indices.append(i)
            labels.append(row.index(max(row)))
    return indices, labels


def _numpy(probabilities, sure):
    p = probabilities.numpy()
    indices = np.flatnonzero((p > sure).any(1))
    return indices, p[indices].argmax(1)


def _kept(p, sure):
    return (p.amax(1) > sure).nonzero()[:, 0]


WRONG = {
    "median": {
        "mean": (lambda v: (sum(v) / len(v), min(v), max(v)), "return the mean, not the median"),
        "not in order": (_unsorted, "without putting it in order"),
        "upper middle": (lambda v: (sorted(v)[len(v) // 2], min(v), max(v)), "upper of the two middle values"),
        "torch.median": (lambda v: (torch.tensor(v).median(), min(v), max(v)), "lower of the two middle values"),
        "highest first": (lambda v: (statistics.median(v), max(v), min(v)), "return the highest before the lowest"),
        "one number for the range": (lambda v: (statistics.median(v), max(v) - min(v)), "one number for the range"),
        "first and last": (lambda v: (statistics.median(v), v[0], v[-1]), "first and the last of the list"),
        "middle of the range": (lambda v: ((min(v) + max(v)) / 2, min(v), max(v)), "middle of the range"),
        "sorts the caller's list": (_in_place, "leave the list as it was"),
        "no maximum but the last": (lambda v: (statistics.median(v), min(v), v[-1]), "whatever the order of three values"),
        "quarters for the range": (
            lambda v: (statistics.median(v), *np.quantile(v, (0.25, 0.75))),
            "find all three whatever the order",
        ),
    },
    "paired": {
        "a - b": (lambda a, b: _paired(b, a), "return a - b"),
        "absolute differences": (_absolute, "drop the sign of each difference"),
        "absolute mean": (lambda a, b: (abs(_paired(a, b)[0]), _paired(a, b)[1]), "drop the sign of the mean"),
        "difference of spreads": (
            lambda a, b: (_paired(a, b)[0], statistics.stdev(b) - statistics.stdev(a)),
            "compare the spreads of the two methods",
        ),
        "not paired": (
            lambda a, b: (_paired(a, b)[0], math.sqrt(statistics.variance(a) + statistics.variance(b))),
            "forget the pairs",
        ),
        "sorted": (lambda a, b: _paired(sorted(a), sorted(b)), "tears the pairs apart"),
        "n": (lambda a, b: _paired(a, b, statistics.pstdev), "divide by n, not by n - 1"),
        "variance": (lambda a, b: _paired(a, b, statistics.variance), "return the variance"),
        "standard error": (
            lambda a, b: (_paired(a, b)[0], _paired(a, b)[1] / math.sqrt(len(a))),
            "return the standard error",
        ),
        "mean alone": (lambda a, b: statistics.fmean(b) - statistics.fmean(a), "cannot be used here"),
    },
    "subsets_needed": {
        "rounded": (lambda d, s: max(2, round(_need(d, s))), "round to the nearest number"),
        "rounded down": (lambda d, s: max(2, int(_need(d, s))), "round down"),
        "one more to be sure": (lambda d, s: max(2, math.floor(_need(d, s)) + 1), "exactly two standard errors will do"),
        "one standard error": (lambda d, s: max(2, math.ceil((s / d) ** 2)), "ask for one standard error"),
        "no square": (lambda d, s: max(2, math.ceil(2 * s / abs(d))), "forget to square"),
        "rounded before squaring": (lambda d, s: max(2, math.ceil(2 * s / abs(d)) ** 2), "round before it squares"),
        "2 not squared": (lambda d, s: max(2, math.ceil(2 * (s / d) ** 2)), "but not the 2"),
        "one pair": (lambda d, s: max(1, math.ceil(_need(d, s))), "a single pair has no spread"),
        "1.96": (lambda d, s: max(2, math.ceil((1.96 * s / d) ** 2)), "1.96 standard errors"),
        "sign lost": (lambda d, s: 2 if 2 * s / d <= 2**0.5 else math.ceil(_need(d, s)), "which of the two methods is ahead"),
        "upside down": (lambda d, s: max(2, math.ceil((2 * d / s) ** 2) if s else 2), "take the difference for the spread"),
    },
    "pseudo_labels": {
        "at least": (lambda p, sure: ((p.amax(1) >= sure).nonzero()[:, 0], p.argmax(1)[p.amax(1) >= sure]), "only equals"),
        "all labels": (lambda p, sure: (_kept(p, sure), p.argmax(1)), "return the classes of all rows"),
        "probabilities": (lambda p, sure: (_kept(p, sure), p.amax(1)[_kept(p, sure)]), "where classes are asked for"),
        "mask": (lambda p, sure: (p.amax(1) > sure, p.argmax(1)[p.amax(1) > sure]), "return a mask, not indices"),
        "every class": (lambda p, sure: tuple((p > sure).nonzero().T), "even where two of its classes exceed"),
        "unsure rows": (
            lambda p, sure: ((p.amax(1) <= sure).nonzero()[:, 0], p.argmax(1)[p.amax(1) <= sure]),
            "the unsure rows",
        ),
        "threshold fixed": (lambda p, sure: _loop(p, 0.7), "work for other thresholds"),
        "labels first": (lambda p, sure: _loop(p, sure)[::-1], "the labels before the indices"),
        "numbered among the kept": (
            lambda p, sure: (list(range(len(_kept(p, sure)))), p.argmax(1)[_kept(p, sure)]),
            "indices of the sure rows",
        ),
    },
}
RIGHT = {
    "median": {
        "statistics": lambda v: (statistics.median(v), min(v), max(v)),
        "NumPy": lambda v: np.quantile(v, (0.5, 0, 1)),
        "float32 tensor": lambda v: torch.tensor(v).quantile(torch.tensor([0.5, 0.0, 1.0])),
        "ranks": _by_rank,
    },
    "paired": {
        "sums by hand": _by_hand,
        "NumPy": lambda a, b: ((d := np.subtract(b, a)).mean(), d.std(ddof=1)),
        "float32 tensors": lambda a, b: torch.std_mean(torch.tensor(b).float() - torch.tensor(a).float())[::-1],
    },
    "subsets_needed": {
        "count up": _count_up,
        "NumPy": lambda d, s: np.maximum(2, np.ceil(4 * s**2 / d**2)).astype(int),
        "whole numbers by negation": lambda d, s: max(2, int(-(-4 * s * s // (d * d)))),
    },
    "pseudo_labels": {
        "a loop": _loop,
        "NumPy": _numpy,
        "where": lambda p, sure: ((rows := torch.where(p.amax(1) > sure)[0]), p.argmax(1)[rows]),
    },
}
