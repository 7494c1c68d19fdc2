"""The exercises of the chapters: their questions, checks and hints. Stubs and solutions stand in the notebooks."""
from __future__ import annotations

import math

import torch

from .check import Exercise


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


def _leaves_its_list_alone(median) -> bool:
    values = [0.3, 0.1, 0.2]
    median(values)
    return values == [0.3, 0.1, 0.2]


_PROBABILITIES = torch.tensor([[0.1, 0.9, 0.0], [0.4, 0.3, 0.3], [0.8, 0.1, 0.1], [0.2, 0.2, 0.6]])

EXERCISES: dict[str, Exercise] = {
    "epochs": Exercise(
        "How often does the HyperRule show each picture of a small task to the network?",
        (("give 5,120 for 50 pictures", lambda f: math.isclose(f(50), 5120)),
         ("give about 13.5 for 19,000 pictures", lambda f: math.isclose(f(19_000), 500 * 512 / 19_000)),
         ("use the longer schedule from 20,000 pictures on", lambda f: math.isclose(f(20_000), 256.0))),
        ("An epoch is one pass over the training pictures. How many pictures does the whole run show?",
         "The run shows total_steps * batch_size pictures. HyperRule tells you both.",
         "Make rule = bitlib.HyperRule(n, (32, 32)); the answer is rule.total_steps * rule.batch_size / n."),
    ),
    "few_shot": Exercise(
        "Draw a balanced few-shot subset.",
        (("return four indices of every class", _balanced),
         ("never take the same picture twice", _distinct),
         ("repeat the draw for the same seed, and change it with the seed", _seeded)),
        ("Treat one class after the other: find its members first.",
         "(labels == c).nonzero()[:, 0] are the members; torch.randperm(n, generator=g)[:k] picks k of n places.",
         "Make one generator from the seed before the loop, and join the picks of all classes with torch.cat."),
    ),
    "report": Exercise(
        "Report one test accuracy of a run that was evaluated at several checkpoints.",
        (("take the checkpoint that is best on validation", lambda f: f([0.80, 0.90, 0.85], [0.81, 0.86, 0.92]) == 0.86),
         ("not look for the best test accuracy", lambda f: f([0.7, 0.6], [0.5, 0.9]) == 0.5),
         ("take the earliest of equals", lambda f: f([0.6, 0.8, 0.8], [0.1, 0.2, 0.3]) == 0.2)),
        ("Which of the two lists may you choose by?",
         "Find the position of the largest validation accuracy, and read the test accuracy there.",
         "best = val.index(max(val)) finds the earliest of equals; return test[best]."),
    ),
    "median": Exercise(
        "Report some accuracies by their median and their range.",
        (("take the middle one of three", lambda f: tuple(f([0.9, 0.7, 0.8])) == (0.8, 0.7, 0.9)),
         ("take the mean of the two middle ones of four", lambda f: math.isclose(f([0.1, 0.9, 0.5, 0.3])[0], 0.4)),
         ("leave the list as it was", _leaves_its_list_alone)),
        ("Sort first. What do you need besides the middle?",
         "With n values in order, the middle ones are at (n - 1) // 2 and n // 2; for an odd n these are the same.",
         "ordered = sorted(values) makes a new list; return the mean of the two middle ones, ordered[0] and ordered[-1]."),
    ),
    "paired": Exercise(
        "Compare two methods draw by draw.",
        (("give the mean difference", lambda f: math.isclose(f([0.5, 0.7], [0.6, 0.9])[0], 0.15)),
         ("give the spread of the differences, not of the methods",
          lambda f: math.isclose(f([0.1, 0.5, 0.9], [0.2, 0.6, 1.0])[1], 0, abs_tol=1e-9)),
         ("divide by n - 1", lambda f: math.isclose(f([0, 0], [0, 1])[1], math.sqrt(0.5)))),
        ("The draws come in pairs. What can you compute for each pair?",
         "zip(a, b) walks through the pairs; take b - a in each.",
         "statistics.fmean and statistics.stdev of the list of differences are what is asked for."),
    ),
    "pseudo_labels": Exercise(
        "Keep the predictions that are sure enough, and use them as labels.",
        (("keep only what is sure", lambda f: f(_PROBABILITIES, 0.7)[0].tolist() == [0, 2]),
         ("give the predicted classes", lambda f: f(_PROBABILITIES, 0.7)[1].tolist() == [1, 0]),
         ("keep nothing where nothing is sure", lambda f: [len(part) for part in f(_PROBABILITIES, 0.99)] == [0, 0])),
        ("How sure a row is, is its largest entry. Where that entry stands is the class.",
         "probabilities.max(1) gives both, the values and their places.",
         "(confidence > sure).nonzero()[:, 0] are the rows to keep; index the places with them."),
    ),
}
