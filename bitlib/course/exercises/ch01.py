"""The exercises of notebooks/01_quickstart: the HyperRule's epochs, few-shot subsets, and one honest test accuracy."""

from __future__ import annotations

from collections import Counter
from random import Random

import torch

import bitlib

from ..check import Exercise, alike
from .cases import shares_of_one


def _balanced(few_shot) -> bool:
    labels = torch.tensor([1, 1, 0, 2, 2, 0, 0, 1, 2, 2] * 5)
    chosen = torch.as_tensor(few_shot(labels, 4, 0))
    return torch.bincount(labels[chosen], minlength=3).tolist() == [4, 4, 4]


def _any_class_numbers(few_shot) -> bool:
    labels = torch.tensor([7, 3, 3, 7, 12] * 4)
    chosen = torch.as_tensor(few_shot(labels, 3, 0))
    return sorted(labels[chosen].tolist()) == [3, 3, 3, 7, 7, 7, 12, 12, 12]


def _distinct(few_shot) -> bool:
    chosen = torch.as_tensor(few_shot(torch.zeros(6, dtype=torch.long), 6, 0))
    return sorted(chosen.tolist()) == [0, 1, 2, 3, 4, 5]


def _repeatable(few_shot) -> bool:
    labels = torch.arange(3).repeat(50)
    return alike(*(torch.as_tensor(few_shot(labels, 5, 0)).sort().values for _ in range(2)))


def _seeded(few_shot) -> bool:
    labels = torch.arange(3).repeat(50)
    one, other = (torch.as_tensor(few_shot(labels, 5, seed)).sort().values for seed in (0, 1))
    return not torch.equal(one, other)


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


def _numbers_of_images() -> list[tuple[int]]:
    random = Random(0)
    ranges = (10, 1000), (1000, 19_999), (20_000, 100_000), (100_000, 499_999), (500_000, 5_000_000)
    return [(random.randint(*ends),) for ends in ranges]


def _runs() -> list[tuple[list[float], list[float]]]:
    """Accuracies at six checkpoints, of which two are equally good on validation, and not the last is best."""
    runs = []
    for seed in range(5):
        val, test = shares_of_one(6, seed), shares_of_one(6, seed + 100)
        val[1 + seed % 2] = val[4] = 0.96
        runs.append((val, test))
    return runs


EXERCISES: dict[str, Exercise] = {
    "epochs": Exercise(
        "How often does the HyperRule show each training image to the network?",
        (
            ("give 5,120 for 50 images: 500 steps of 512 images each", lambda f: alike(f(50), 5120)),
            ("give about 13.5 for 19,000 images, and not round it", lambda f: alike(f(19_000), 500 * 512 / 19_000)),
            ("give 256 for 20,000 images, where the longer schedule begins", lambda f: alike(f(20_000), 256)),
            ("give 20.48 for 500,000 images, where the longest schedule begins", lambda f: alike(f(500_000), 20.48)),
            ("give about 8 for the 1,281,167 images of ILSVRC-2012", lambda f: alike(f(1_281_167), 2e4 * 512 / 1_281_167)),
        ),
        (
            "An epoch is one pass over the training images. How many images does the whole run show, counting repeats?",
            "bitlib.HyperRule(n, (32, 32)) knows the number of steps, total_steps, and of images per step, batch_size.",
            "A run that shows 256,000 images of a training set of 50 has shown each of them 5,120 times. The rule takes care "
            "of small, medium and large tasks by itself.",
        ),
        epochs,
        inputs=_numbers_of_images,
        slips=(
            ("forget that each step shows a whole batch", lambda n: bitlib.HyperRule(n, (32, 32)).total_steps / n),
            ("count the images shown, and not divide by n", lambda n: bitlib.HyperRule(n, (32, 32)).total_steps * 512),
            ("count the steps, not the epochs", lambda n: bitlib.HyperRule(n, (32, 32)).total_steps),
            ("take 500 steps whatever n is", lambda n: 500 * 512 / n),
            ("know no schedule for 500,000 images and more", lambda n: epochs(n) if n < 500_000 else 1e4 * 512 / n),
            ("round to whole epochs", lambda n: round(epochs(n))),
            ("drop the fraction of an epoch", lambda n: int(epochs(n))),
        ),
    ),
    "few_shot": Exercise(
        "Choose a balanced few-shot subset.",
        (
            ("return four indices into labels per class when k is 4", _balanced),
            ("take the classes from labels, where they need not be 0, 1, 2, …", _any_class_numbers),
            ("never choose the same image twice", _distinct),
            ("choose the same images again for the same seed", _repeatable),
            ("choose other images for another seed", _seeded),
            ("give every image of a class the same chance, and every pair of images, too", _even),
            ("choose in each class independently of the other classes", _independent),
        ),
        (
            "Take one class after the other. Where in labels are its members?",
            "(labels == c).nonzero()[:, 0] are the members. The first k places of a random order choose k of them.",
            "torch.randperm takes a generator. Make one from the seed before the loop, not in it, so that no two classes get "
            "the same order; and look up the chosen places among the members: they are not yet places in labels.",
        ),
        few_shot,
    ),
    "report": Exercise(
        "Report one test accuracy of a run that was evaluated at several checkpoints.",
        (
            (
                "report the test accuracy of the checkpoint that is best on validation",
                lambda f: alike(f([0.80, 0.90, 0.85], [0.81, 0.86, 0.92]), 0.86),
            ),
            ("not look for the best test accuracy", lambda f: alike(f([0.7, 0.6], [0.5, 0.9]), 0.5)),
            ("report the earliest of several equals", lambda f: alike(f([0.6, 0.8, 0.8], [0.1, 0.2, 0.3]), 0.2)),
        ),
        (
            "One of the two lists may be used for choosing. Which one?",
            "Find where the validation accuracy is highest, and read the test accuracy at the same place.",
            "max tells how good the best checkpoint is, and the list's method index tells where a value stands first.",
        ),
        report,
        inputs=_runs,
        slips=(
            ("choose by the test accuracy, which is what a test set must never do", lambda val, test: max(test)),
            ("report a validation accuracy", lambda val, test: max(val)),
            ("report the last checkpoint", lambda val, test: test[-1]),
            ("report the mean over all checkpoints", lambda val, test: sum(test) / len(test)),
            ("take the latest of several equals", lambda val, test: test[max(range(len(val)), key=lambda i: (val[i], i))]),
            (
                "take the best test accuracy among several equals",
                lambda val, test: max(t for v, t in zip(val, test) if v == max(val)),
            ),
        ),
    ),
}
