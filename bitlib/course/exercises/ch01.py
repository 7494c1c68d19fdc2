"""The exercises of notebooks/01_quickstart: the HyperRule's epochs, few-shot subsets, and one honest test accuracy."""

from __future__ import annotations

import math

import torch

import bitlib

from ..check import Exercise


def _balanced(few_shot) -> bool:
    labels = torch.tensor([0, 1, 2, 2, 1, 0, 0, 1, 2, 2] * 5)
    chosen = torch.as_tensor(few_shot(labels, 4, 0))
    return torch.bincount(labels[chosen], minlength=3).tolist() == [4, 4, 4]


def _distinct(few_shot) -> bool:
    chosen = torch.as_tensor(few_shot(torch.zeros(6, dtype=torch.long), 6, 0))
    return sorted(chosen.tolist()) == [0, 1, 2, 3, 4, 5]


def _seeded(few_shot) -> bool:
    labels = torch.arange(3).repeat(50)
    draws = [torch.as_tensor(few_shot(labels, 5, seed)).tolist() for seed in (0, 0, 1)]
    return draws[0] == draws[1] and sorted(draws[0]) != sorted(draws[2])


def epochs(n):
    """Passes over n training pictures of 32x32 pixels under the published rule."""
    rule = bitlib.HyperRule(n, (32, 32))
    return rule.total_steps * rule.batch_size / n


def few_shot(labels, k, seed):
    """Indices of k examples of every class, drawn by seed. labels: int [N]."""
    generator = torch.Generator().manual_seed(seed)
    picks = []
    for c in labels.unique():
        members = (labels == c).nonzero()[:, 0]
        picks.append(members[torch.randperm(len(members), generator=generator)[:k]])
    return torch.cat(picks)


def report(val, test):
    """One test accuracy to publish; val, test: accuracies at each checkpoint."""
    best = val.index(max(val))
    return test[best]


EXERCISES: dict[str, Exercise] = {
    "epochs": Exercise(
        "How often does the HyperRule show each picture of a small task to the network?",
        (
            ("give 5,120 for 50 pictures", lambda f: math.isclose(f(50), 5120)),
            ("give about 13.5 for 19,000 pictures", lambda f: math.isclose(f(19_000), 500 * 512 / 19_000)),
            ("use the longer schedule from 20,000 pictures on", lambda f: math.isclose(f(20_000), 256.0)),
        ),
        (
            "An epoch is one pass over the training pictures. How many pictures does the whole run show?",
            "The run shows total_steps * batch_size pictures. HyperRule tells you both.",
            "Make rule = bitlib.HyperRule(n, (32, 32)); the answer is rule.total_steps * rule.batch_size / n.",
        ),
        epochs,
    ),
    "few_shot": Exercise(
        "Draw a balanced few-shot subset.",
        (
            ("return four indices of every class", _balanced),
            ("never take the same picture twice", _distinct),
            ("repeat the draw for the same seed, and change it with the seed", _seeded),
        ),
        (
            "Treat one class after the other: find its members first.",
            "(labels == c).nonzero()[:, 0] are the members; torch.randperm(n, generator=g)[:k] picks k of n places.",
            "Make one generator from the seed before the loop, and join the picks of all classes with torch.cat.",
        ),
        few_shot,
    ),
    "report": Exercise(
        "Report one test accuracy of a run that was evaluated at several checkpoints.",
        (
            ("take the checkpoint that is best on validation", lambda f: f([0.80, 0.90, 0.85], [0.81, 0.86, 0.92]) == 0.86),
            ("not look for the best test accuracy", lambda f: f([0.7, 0.6], [0.5, 0.9]) == 0.5),
            ("take the earliest of equals", lambda f: f([0.6, 0.8, 0.8], [0.1, 0.2, 0.3]) == 0.2),
        ),
        (
            "Which of the two lists may you choose by?",
            "Find the position of the largest validation accuracy, and read the test accuracy there.",
            "best = val.index(max(val)) finds the earliest of equals; return test[best].",
        ),
        report,
    ),
}
