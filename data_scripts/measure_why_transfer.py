"""Measure what steps and images can make up for without pre-training, and write results/why_transfer.json.

    python data_scripts/measure_why_transfer.py
Fine-tuning and training from scratch on the real digits, with few and with many images per class, for several numbers of steps:
for each of them both choose between two learning rates by the protocol of bitlib/course/protocol.py. Training from scratch
then goes on to a length that is not searched again, at the rate that it took before. Beside it, training and test accuracy at
a number of images per class for which no other record has them, by the settings in results/digits.json. About nine minutes;
you can interrupt it at any time, and the same command resumes it.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from measure_digits import MODEL, SEARCH, SEEDS, counted, probed, runs_of, scratch, tuned
from record import RESULTS, Cells, record, weights_of
from tqdm import tqdm

import bitlib
from bitlib.course.protocol import Arm, compare, trials
from bitlib.device import pick_device

# {images per class: (numbers of steps that both ways get, the number at which only training from scratch goes on)}.
LENGTHS = {5: ((50, 200), 800), 80: ((50, 300), 1200)}
RATES = {"fine-tuned": (0.01, 0.03), "from scratch": (0.03, 0.1)}  # as in measure_digits
WATCHED, EVERY = (5, 200), 10  # images per class and steps of the runs whose validation accuracy is kept, every so many steps
GAP = 10  # images per class
GAP_WAYS = {"linear probe": "linear_probe", "fine-tuned": "finetune", "from scratch": "scratch"}  # as digits.json calls them


def trained(way: str, steps: int, loop, task, setting, seed) -> bitlib.Run:
    """One run of so many steps. setting: base_lr."""
    setting = setting | {"steps": steps}
    return tuned(MODEL, None, loop, task, setting, seed) if way == "fine-tuned" else scratch(loop, task, setting, seed)


def judged(run) -> dict[str, float]:
    return {"accuracy": run.evaluate("test").accuracy, "training_accuracy": run.evaluate("train").accuracy}


def watched(run) -> dict:
    """The same, and the validation accuracy on the way."""
    return judged(run) | {"curve": list(run.history.column("val_accuracy")[1])}


def repeated(arm: Arm, draw: Callable, seeds, cells) -> dict[str, list]:
    """The only setting of an arm on these random subsets; a run does not see a test image before its one test."""

    def once(seed: int) -> dict[str, float]:
        task = draw(seed)
        run = arm.run(task.closed(), arm.settings[0], seed)
        run.task = replace(run.task, test=task.test)
        return judged(run)

    rows = [cells(f"{arm.name}, draw {seed}", lambda: once(seed)) for seed in seeds]  # noqa: B023
    return {key: [row[key] for row in rows] for key in rows[0]}


def arms(shots: int, steps: int, loop) -> list[Arm]:
    """Both ways at this number of images and steps."""
    return [
        Arm(f"{way}, {shots}-shot, {steps} steps", trials(base_lr=rates), partial(trained, way, steps, loop))
        for way, rates in RATES.items()
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    device = pick_device(parser.parse_args().device)
    loop, task = bitlib.Loop(device=str(device), precision="fp32", progress=False), bitlib.load_task("digits")
    before = json.loads((RESULTS / "digits.json").read_text())["chosen"]
    settings = {way: before[name][str(GAP)] for way, name in GAP_WAYS.items()}
    cells = Cells("why_transfer", {"task": task.fingerprint, "models": weights_of((MODEL,)), "gap": settings})
    found, how = {}, {"search": {}, "chosen": {}, "edge": {}}
    searched = [(shots, steps) for shots, (lengths, _) in LENGTHS.items() for steps in lengths]
    total = sum(runs_of(arms(*cell, loop), SEARCH, SEEDS) for cell in searched)
    with tqdm(total=total + len(SEEDS) * (len(LENGTHS) + len(GAP_WAYS)), desc=task.name, unit="run") as bar:
        kept = counted(cells, bar)
        ways = {"linear probe": partial(probed, MODEL), "fine-tuned": partial(tuned, MODEL, None), "from scratch": scratch}
        for way, run in ways.items():
            arm = Arm(f"{way}, {GAP}-shot", (settings[way],), partial(run, loop))
            found[arm.name] = repeated(arm, partial(task.few_shot, GAP), SEEDS, kept)
        for shots, steps in searched:
            watch = (shots, steps) == WATCHED
            methods = arms(shots, steps, replace(loop, evaluate_every=EVERY) if watch else loop)
            draw = partial(task.few_shot, shots)
            done = compare(methods, draw, search=SEARCH, final=SEEDS, cells=kept, judge=watched if watch else judged)
            for name, result in done.items():
                for key, values in how.items():
                    values[name] = result.pop(key)
                found[name] = result
        for shots, (lengths, longest) in LENGTHS.items():
            rate = how["chosen"][f"from scratch, {shots}-shot, {lengths[-1]} steps"]
            run = partial(trained, "from scratch", longest, loop)
            arm = Arm(f"from scratch, {shots}-shot, {longest} steps", (rate,), run)
            found[arm.name] = repeated(arm, partial(task.few_shot, shots), SEEDS, kept)
    about = {"task": task.name, "fingerprint": task.fingerprint, "n_test": len(task.test), "model": MODEL, "every": EVERY}
    about |= {
        "lengths": {shots: [*lengths, longest] for shots, (lengths, longest) in LENGTHS.items()},
        "gap_settings": settings,
    }
    seeds = {"seeds": list(SEEDS), "search_seeds": list(SEARCH)}
    record("why_transfer", {**about, **seeds, "cells": found, **how}, device)
    cells.clear()


if __name__ == "__main__":
    main()
