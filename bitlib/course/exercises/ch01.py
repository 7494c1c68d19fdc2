"""The exercises of notebooks/01_quickstart: the HyperRule's epochs, few-shot subsets, and one honest test accuracy."""

from __future__ import annotations

import math
from collections import Counter

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
    chosen = [torch.as_tensor(few_shot(labels, 5, seed)).tolist() for seed in (0, 0, 1)]
    return chosen[0] == chosen[1] and sorted(chosen[0]) != sorted(chosen[2])


def _even(few_shot) -> bool:
    """Over 400 seeds, each of ten images is chosen about 80 times (standard deviation 8), in most of the 45 pairs."""
    labels = torch.zeros(10, dtype=torch.long)
    pairs = [tuple(sorted(torch.as_tensor(few_shot(labels, 2, seed)).tolist())) for seed in range(400)]
    counts = Counter(i for pair in pairs for i in pair)
    return all(40 <= counts[i] <= 120 for i in range(10)) and len(set(pairs)) > 30


def _independent(few_shot) -> bool:
    """Image i of a class must not bring along image i of the others, as it does where the seed is set anew for each."""
    labels = torch.arange(3).repeat_interleave(50)
    chosen = torch.as_tensor(few_shot(labels, 5, 0))
    return len({tuple(sorted((chosen[labels[chosen] == c] % 50).tolist())) for c in range(3)}) == 3


def epochs(n):
    """Passes over n training images of 32x32 pixels under the published rule."""
    rule = bitlib.HyperRule(n, (32, 32))
    return rule.total_steps * rule.batch_size / n


def few_shot(labels, k, seed):
    """Indices of k examples per class, chosen at random by seed. labels: int [N]."""
    generator = torch.Generator().manual_seed(seed)
    picks = []
    for c in labels.unique():
        members = (labels == c).nonzero()[:, 0]
        picks.append(members[torch.randperm(len(members), generator=generator)[:k]])
    return torch.cat(picks)


def report(val, test):
    """The test accuracy to publish. val, test: accuracies at each checkpoint, in order."""
    best = val.index(max(val))
    return test[best]


EXERCISES: dict[str, Exercise] = {
    "epochs": Exercise(
        "How often does the HyperRule show each training image to the network?",
        (
            ("give 5,120 for 50 images", lambda f: math.isclose(f(50), 5120)),
            ("give about 13.5 for 19,000 images", lambda f: math.isclose(f(19_000), 500 * 512 / 19_000)),
            ("give 256 for 20,000 images, where the longer schedule begins", lambda f: math.isclose(f(20_000), 256.0)),
            (
                "give about 8 for the 1,281,167 images of ILSVRC-2012",
                lambda f: math.isclose(f(1_281_167), 2e4 * 512 / 1_281_167),
            ),
        ),
        (
            "An epoch is one pass over the training images. How many images does the whole run show, counting repeats?",
            "A run shows total_steps * batch_size images. bitlib.HyperRule(n, (32, 32)) knows both.",
            "Divide that number by n. The rule takes care of small, medium and large tasks by itself.",
        ),
        epochs,
    ),
    "few_shot": Exercise(
        "Choose a balanced few-shot subset.",
        (
            ("return four indices per class when k is 4", _balanced),
            ("never choose the same image twice", _distinct),
            ("choose the same images for the same seed, and others for another seed", _seeded),
            ("give every image of a class the same chance", _even),
            ("choose in each class independently of the other classes", _independent),
        ),
        (
            "Take one class after the other. Where in labels are its members?",
            "(labels == c).nonzero()[:, 0] are the members. torch.randperm(n, generator=g)[:k] chooses k of n places.",
            "Make one generator from the seed before the loop, not in it, and join what you chose with torch.cat.",
        ),
        few_shot,
    ),
    "report": Exercise(
        "Report one test accuracy of a run that was evaluated at several checkpoints.",
        (
            ("report the checkpoint that is best on validation", lambda f: f([0.80, 0.90, 0.85], [0.81, 0.86, 0.92]) == 0.86),
            ("not look for the best test accuracy", lambda f: f([0.7, 0.6], [0.5, 0.9]) == 0.5),
            ("report the earliest of several equals", lambda f: f([0.6, 0.8, 0.8], [0.1, 0.2, 0.3]) == 0.2),
        ),
        (
            "One of the two lists may be used for choosing. Which one?",
            "Find where the validation accuracy is highest, and read the test accuracy at the same place.",
            "val.index(max(val)) is the place, and of several equals the earliest.",
        ),
        report,
    ),
}
