"""Answers to the exercises of chapter 1."""

import random

import numpy as np
import torch

from bitlib import HyperRule


def _rule(n):
    return HyperRule(n, (32, 32))


def _schedule(n):
    steps = 500 if n < 20_000 else 10_000 if n < 500_000 else 20_000
    return steps * 512 / n


def _members(labels):
    return [(labels == c).nonzero()[:, 0] for c in labels.unique()]


def _seed_per_class(labels, k, seed):
    picks = []
    for members in _members(labels):
        generator = torch.Generator().manual_seed(seed)
        picks.append(members[torch.randperm(len(members), generator=generator)[:k]])
    return torch.cat(picks)


def _one_permutation(labels, k, seed):
    order = torch.randperm(int(labels.unique(return_counts=True)[1].min()), generator=torch.Generator().manual_seed(seed))
    return torch.cat([members[order[:k]] for members in _members(labels)])


def _with_replacement(labels, k, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.cat([m[torch.randint(len(m), (k,), generator=generator)] for m in _members(labels)])


def _a_run_of_neighbours(labels, k, seed):
    generator = torch.Generator().manual_seed(seed)
    picks = []
    for members in _members(labels):
        start = torch.randint(len(members) - k + 1, (1,), generator=generator).item()
        picks.append(members[start : start + k])
    return torch.cat(picks)


def _places_among_members(labels, k, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.cat([torch.randperm(len(m), generator=generator)[:k] for m in _members(labels)])


def _numbered_from_zero(labels, k, seed):
    generator = torch.Generator().manual_seed(seed)
    picks = []
    for c in range(len(labels.unique())):
        members = (labels == c).nonzero()[:, 0]
        picks.append(members[torch.randperm(len(members), generator=generator)[:k]])
    return torch.cat(picks)


def _not_balanced(labels, k, seed):
    number = k * len(labels.unique())
    return torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))[:number]


def _shuffled_first(labels, k, seed):
    left, chosen = {}, []
    for i in torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed)).tolist():
        c = int(labels[i])
        if left.setdefault(c, k) > 0:
            left[c] -= 1
            chosen.append(i)
    return chosen


def _numpy(labels, k, seed):
    rng, labels = np.random.default_rng(seed), labels.numpy()
    return np.concatenate([rng.choice(np.flatnonzero(labels == c), k, replace=False) for c in np.unique(labels)])


def _plain_python(labels, k, seed):
    rng, labels = random.Random(seed), labels.tolist()
    return [i for c in sorted(set(labels)) for i in rng.sample([j for j, label in enumerate(labels) if label == c], k)]


def _global_seed(labels, k, seed):
    torch.manual_seed(seed)
    return torch.cat([m[torch.randperm(len(m))[:k]] for m in _members(labels)])


def _loop(val, test):
    best, chosen = -1.0, None
    for v, t in zip(val, test):
        if v > best:
            best, chosen = v, t
    return chosen


WRONG = {
    "epochs": {
        "one image per step": (lambda n: _rule(n).total_steps / n, "forget that each step shows a whole batch"),
        "not divided by n": (lambda n: _rule(n).total_steps * 512, "count the images shown, and not divide by n"),
        "always the small schedule": (lambda n: 500 * 512 / n, "take 500 steps whatever n is"),
        "no large schedule": (lambda n: (500 if n < 20_000 else 10_000) * 512 / n, "500,000 images, where the longest"),
        "20,000 is small": (lambda n: 500 * 512 / n if n == 20_000 else _schedule(n), "20,000 images, where the longer"),
        "500,000 is medium": (
            lambda n: 10_000 * 512 / n if n == 500_000 else _schedule(n),
            "500,000 images, where the longest",
        ),
        "whole epochs": (lambda n: _rule(n).total_steps * 512 // n, "not round it; it seems to drop the fraction"),
        "rounded steps per epoch": (lambda n: _rule(n).total_steps / -(-n // 512), "5,120 for 50 images"),
    },
    "few_shot": {
        "the first ones": (
            lambda labels, k, seed: torch.cat([m[:k] for m in _members(labels)]),
            "other images for another seed",
        ),
        "seeded anew for each class": (_seed_per_class, "independently of the other classes"),
        "one permutation for all classes": (_one_permutation, "independently of the other classes"),
        "with replacement": (_with_replacement, "never choose the same image twice"),
        "neighbours from a random start": (_a_run_of_neighbours, "every pair of images, too"),
        "places among the members": (_places_among_members, "indices into labels"),
        "classes numbered from zero": (_numbered_from_zero, "take the classes from labels"),
        "k per class on average": (_not_balanced, "four indices into labels per class"),
        "no seed": (
            lambda labels, k, seed: torch.cat([m[torch.randperm(len(m))[:k]] for m in _members(labels)]),
            "choose the same images again for the same seed",
        ),
        "labels for indices": (lambda labels, k, seed: labels[_shuffled_first(labels, k, seed)], "indices into labels"),
    },
    "report": {
        "best on test": (lambda val, test: max(test), "choose by the test accuracy"),
        "validation accuracy": (lambda val, test: max(val), "report a validation accuracy"),
        "last checkpoint": (lambda val, test: test[-1], "report the last checkpoint"),
        "mean": (lambda val, test: sum(test) / len(test), "mean over all checkpoints"),
        "latest of equals": (
            lambda val, test: test[max(enumerate(val), key=lambda p: (p[1], p[0]))[0]],
            "latest of several equals",
        ),
        "luckiest of equals": (lambda val, test: max(zip(val, test))[1], "best test accuracy among several equals"),
        "index for accuracy": (lambda val, test: val.index(max(val)), "report the test accuracy"),
    },
}
RIGHT = {
    "epochs": {
        "the rule's own property": lambda n: _rule(n).epochs,
        "thresholds by hand": _schedule,
        "a tensor": lambda n: torch.tensor(_rule(n).total_steps * 512) / n,
    },
    "few_shot": {
        "one shuffle of all images": _shuffled_first,
        "NumPy": _numpy,
        "plain Python": _plain_python,
        "the global generator, seeded": _global_seed,
    },
    "report": {
        "a loop": _loop,
        "NumPy": lambda val, test: np.asarray(test)[np.argmax(val)],
        "sorted pairs": lambda val, test: sorted(zip(val, range(0, -len(val), -1), test))[-1][2],
        "float32 tensors": lambda val, test: torch.tensor(test)[torch.tensor(val) == max(val)][0],
    },
}
