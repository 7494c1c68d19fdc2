"""A random search beside the rule: every trial, and what to expect of the best of some of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import comb
from statistics import fmean

import torch
import traitlets as t
from torch import Tensor

from ..show import Html, table
from .base import Explorable, rounded

SETTINGS = ("base_lr", "steps", "crop", "alpha", "weight_decay")
HELD, ALL = (10, 30, 100), 0  # validation images to choose by; 0 stands for all of them
SUBSETS = 400  # of the validation images, over which is averaged


def ranked(right: Tensor, test: Tensor, images: int, subsets: int = SUBSETS) -> tuple[Tensor, Tensor]:
    """(validation, test) accuracy of the trial in first place, in second place and so on, float64 [trials] each.

    right: whether a trial was right, bool [trials, draws, validation images]; test: accuracy, [trials]. The places are by
    validation accuracy on `images` of the images, and averaged over random choices of these. Trials that are level share
    their places, so each has the mean test accuracy of them.
    """
    count, generator = right.shape[2], torch.Generator().manual_seed(0)
    totals = torch.zeros(2, len(test), dtype=torch.float64)
    subsets = 1 if images == count else subsets
    for _ in range(subsets):
        chosen = torch.randperm(count, generator=generator)[:images]
        score = right[:, :, chosen].double().mean((1, 2))
        levels, level = score.unique(return_inverse=True)
        sums = torch.zeros(len(levels), dtype=torch.float64).index_add(0, level, test.double())
        shared = (sums / torch.bincount(level))[level]
        order = score.argsort(descending=True)
        totals += torch.stack([score[order], shared[order]])
    return tuple(totals / subsets)


def expected(by_place: Sequence[float], k: int) -> float:
    """The mean, over all choices of k trials, of the value of the one with the best place among them."""
    count = len(by_place)
    ways = [comb(count - 1 - place, k - 1) for place in range(count)]  # the others come from the places behind
    return sum(w * v for w, v in zip(ways, by_place)) / comb(count, k)


class Search(Explorable):
    """The trials of a random search, and the accuracy to expect of the best of k of them, beside the rule's.

    tasks: {name: {"trials": [{the SETTINGS, "cost", "validation", "test"}], "rule": the same, "images": how many for
    validation, "held": {validation images: {"validation", "test"} by place}}}; accuracies from 0 to 1, cost in runs of the
    rule. shots: training images per class. task, held, trials: what the curve shows, with held 0 for all validation images;
    by: the setting on the axis of the trials; trial: the chosen one.
    """

    module = "search"
    alt = (
        "Accuracy to expect of the best of k trials of a random search, on the validation images that chose it and on test "
        "images, beside the accuracy of the rule."
    )
    tasks = t.Dict().tag(sync=True)
    shots = t.Int(0).tag(sync=True)
    task = t.Unicode("").tag(sync=True)
    held = t.Int(ALL).tag(sync=True)
    trials = t.Int(1).tag(sync=True)
    by = t.Unicode("base_lr").tag(sync=True)
    trial = t.Int(0).tag(sync=True)

    @classmethod
    def of(cls, record: Mapping, **traits) -> Search:
        """From results/hyperrule.json. Begins with its first task, all validation images and eight trials."""
        own, tasks = record["rule"], {}
        work = own["steps"] * own["crop"] ** 2

        def row(found: Mapping) -> dict:
            setting = own | found["setting"]
            cost = setting["steps"] * setting["crop"] ** 2 / work
            scores = {key: round(fmean(found[key]), 5) for key in ("validation", "test")}
            return {**{name: setting[name] for name in SETTINGS}, "cost": round(cost, 4), **scores}

        for name, (rule, *trials) in record["trials"].items():
            right = torch.tensor([[[c == "1" for c in draw] for draw in found["right"]] for found in trials])
            test = torch.tensor([fmean(found["test"]) for found in trials], dtype=torch.float64)
            sizes = {images: images for images in HELD if images < right.shape[2]} | {ALL: right.shape[2]}
            places = {key: ranked(right, test, images) for key, images in sizes.items()}
            held = {str(key): {"validation": rounded(v), "test": rounded(u)} for key, (v, u) in places.items()}
            tasks[name] = {
                "trials": [row(found) for found in trials],
                "rule": row(rule),
                "held": held,
                "images": right.shape[2],
            }
        first = traits.get("task") or next(iter(tasks))
        count = len(tasks[first]["trials"])
        best = max(range(count), key=lambda i: tasks[first]["trials"][i]["validation"])
        limits = {
            "task": {"of": list(tasks)},
            "held": {"of": [int(key) for key in tasks[first]["held"]]},
            "trials": [1, count, 1],
            "by": {"of": list(SETTINGS)},
            "trial": [0, count - 1, 1],
        }
        chosen = {"task": first, "trials": min(8, count), "trial": best}
        return cls(tasks=tasks, shots=record["shots"], limits=limits, **chosen | traits)

    def picture(self) -> Html:
        rows = []
        for name, task in self.tasks.items():
            held, trials, rule = task["held"][str(ALL)], task["trials"], task["rule"]
            rows.append([name, "the rule", f"{100 * rule['validation']:.1f}", f"{100 * rule['test']:.1f}", "1"])
            for k in sorted({k for k in (1, 2, 5, 10, 20, len(trials)) if k <= len(trials)}):
                validation, test = (f"{100 * expected(held[key], k):.1f}" for key in ("validation", "test"))
                rows.append([name, f"best of {k}", validation, test, f"{k * fmean(each['cost'] for each in trials):.0f}"])
        return table(["task", "", "validation (%)", "test (%)", "cost, in runs of the rule"], rows)
