"""Measured accuracies over shots, trained part and upstream set, for every data set that was measured."""

from __future__ import annotations

from statistics import fmean

import traitlets as t

from ..show import Html, table
from .base import Explorable

# What is trained, in the order of the rows; by the names that the results give to it.
PARTS = {
    "fitted": "Head, fitted",
    "head": "Head, by steps",
    "stage4": "Stage 4 and head",
    "stage3": "Stages 3, 4 and head",
    "everything": "Everything",
    "scratch": "From scratch",
}
NAMES = {
    "linear_probe": "fitted",
    "head only": "fitted",
    "head": "head",
    "stage 4 and head": "stage4",
    "stages 3, 4, head": "stage3",
    "everything": "everything",
    "finetune": "everything",
    "scratch": "scratch",
    "from scratch": "scratch",
}


class TransferMap(Explorable):
    """Measured accuracies over images per class, trained part and pre-training data, with every draw.

    tasks: {name: {"shots": [...], "n_test": images or None, "rows": [{"id", "part", "model", "cells": [shots] lists over
    draws, 0 to 1}]}}; draws of one task are the same in all of its rows. models: {name: {"classes", "images" or None}}.
    task, row, shot: the chosen cell; row is the id of a row ("everything/photos-L") and shot the images per class.
    """

    module = "transfermap"
    alt = "Test accuracies by trained part, upstream set and images per class, as a heat map."
    tasks = t.Dict().tag(sync=True)
    models = t.Dict().tag(sync=True)
    parts = t.Dict(PARTS).tag(sync=True)
    task = t.Unicode("").tag(sync=True)
    row = t.Unicode("").tag(sync=True)
    shot = t.Int(0).tag(sync=True)

    @classmethod
    def of(cls, *results: dict, **traits) -> TransferMap:
        """From records in results/: transfer_map, digits, cifar10, cifar10_scales, freezing, and pretrain_NAME in any number.

        The first record of a task sets its shots and its draws; what was measured on others is left out. Fine-tuning from a
        record that compares methods, each with settings of its own, gives way to one by the same settings as its neighbours.
        """
        tasks, models = {}, {}
        for record in results:
            if "arch" in record:
                models[record["model"]] = {"classes": record["classes"], "images": record.get("n_train")}
                continue
            for name, part, model, cells in measured(record):
                draws = {"shots": list(cells), "seeds": record["seeds"]}
                task = tasks.setdefault(name, draws | {"n_test": record.get("n_test"), "rows": {}})
                key = f"{part}/{model}" if model else part
                gives_way = "model" in record and part == "everything" and key in task["rows"]
                if draws == {key: task[key] for key in draws} and not gives_way:
                    task["rows"][key] = {"id": key, "part": part, "model": model, "cells": list(cells.values())}
        for task in tasks.values():
            order = list(PARTS)
            task["rows"] = sorted(task["rows"].values(), key=lambda row: (order.index(row["part"]), size(row["model"])))
        used = {row["model"] for task in tasks.values() for row in task["rows"]}
        models = {name: about for name, about in models.items() if name in used}
        first = traits.get("task") or ("cifar10" if "cifar10" in tasks else next(iter(tasks)))
        shots = sorted({k for task in tasks.values() for k in task["shots"]})
        rows = list(dict.fromkeys(row["id"] for task in tasks.values() for row in task["rows"]))
        own = tasks[first]
        chosen = {
            "task": first,
            "row": [row["id"] for row in own["rows"] if row["part"] != "scratch"][-1],
            "shot": own["shots"][min(2, len(own["shots"]) - 1)],
        }
        limits = {"task": {"of": list(tasks)}, "row": {"of": rows}, "shot": {"of": shots}}
        return cls(tasks=tasks, models=models, limits=limits, **chosen | traits)

    def picture(self) -> Html:
        task = self.tasks[self.task]
        rows = (
            [
                PARTS[row["part"]] + (f", {row['model']}" if row["model"] else ""),
                *(f"{100 * fmean(cell):.1f}" for cell in row["cells"]),
            ]
            for row in task["rows"]
        )
        return table(["Test accuracy (%); images per class:", *map(str, task["shots"])], rows)


def size(model: str) -> int:
    """S before M before L; what has no size comes last."""
    return ["-S", "-M", "-L"].index(model[-2:]) if model[-2:] in ("-S", "-M", "-L") else 3


def measured(record: dict):
    """(task, part, model, {shots: accuracies}) for each row of a record, whichever of the three forms it has."""
    if "depths" in record:
        for model, table in zip(record["models"], record["accuracy"]):
            for depth, cells in zip(record["depths"], table):
                yield record["task"], NAMES[depth], model, dict(zip(record["shots"], cells))
        if record.get("scratch"):
            yield record["task"], "scratch", "", dict(zip(record["shots"], record["scratch"]))
    elif "cells" in record:  # "tiles, photos-L, head only, 5-shot"; without a name it is glyphs-L
        rows: dict = {}
        for title, cell in record["cells"].items():
            name, *model, part, shots = title.split(", ")
            if part not in NAMES:
                continue  # a method that is no degree of freezing
            part = NAMES[part]
            model = "" if part == "scratch" else (model or ["glyphs-L"])[0]
            rows.setdefault((name, part, model), {})[int(shots.removesuffix("-shot"))] = cell["accuracy"]
        for key, cells in rows.items():
            yield *key, cells
    else:
        for method in record["methods"]:
            if "model" in record and method not in NAMES:
                continue  # it is about something else than how much is trained
            part = NAMES.get(method, "everything")  # of several networks, each is named by itself
            model = "" if part == "scratch" else record.get("model", method)
            yield record["task"], part, model, {k: record[method][str(k)] for k in record["shots"]}
