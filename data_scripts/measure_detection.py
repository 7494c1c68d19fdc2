"""Measure detectors on scenes of digits, pre-trained against scratch, and write results/detection.json.

    python data_scripts/measure_detection.py
Three starts for torchvision's RetinaNet, each with its own learning rate by the protocol of bitlib/course/protocol.py, on few
and on many training scenes; then, on the many, the detector from scratch again with several times the steps, and the frozen
one with features that no norm has touched. What counts is COCO's AP, on test scenes of digits that stand in no training scene.
About 20 minutes; you can interrupt it at any time, and the same command resumes it.
"""

import argparse
from dataclasses import replace
from functools import partial

from measure_digits import SEARCH, SEEDS, counted, runs_of
from record import Cells, record, weights_of
from tqdm import tqdm

import bitlib
from bitlib.course.protocol import Arm, compare, trials
from bitlib.data.boxes import BoxTask
from bitlib.data.scenes import load_scenes
from bitlib.detection import SMALL, DetectionRun, Recipe, create_detector, train_detector
from bitlib.device import pick_device

MODEL, SIDE = "glyphs-L", 96
STEPS, BATCH = 200, 8
LONGER = 4  # times the steps, from scratch
COUNTS = (50, 200)  # training scenes
HELD_OUT = (60, 120)  # scenes for validation and test
RATES = trials(lr=(0.003, 0.01, 0.03))
# What is loaded, what is frozen, and which features enter the pyramid.
STARTS = {
    "pre-trained": (True, None, "activated"),
    "frozen backbone": (True, "pyramid", "activated"),
    "from scratch": (False, None, "activated"),
}
ASIDE = {"frozen backbone, raw features": (True, "pyramid", "raw")}  # on the many scenes only


def trained(start: str, steps: int, loop, task: BoxTask, setting: dict, seed: int) -> DetectionRun:
    """One run: a detector with this start, on these scenes. seed: its new weights and the order of the scenes."""
    pretrained, freeze, taps = (STARTS | ASIDE)[start]
    design = replace(SMALL, taps=taps)
    detector = create_detector(MODEL, task.class_names, SIDE, pretrained=pretrained, design=design, seed=seed)
    return train_detector(detector, task, Recipe(steps, BATCH, freeze=freeze, **setting), seed, loop)


def judged(run: DetectionRun) -> dict[str, float]:
    found = run.evaluate("test")
    return {name: found[name] for name in ("ap", "ap50", "ap75")}


def once(arm: Arm, draw, seed: int) -> dict[str, float]:
    """The only setting of an arm; the run does not see a test scene before its one test."""
    task = draw(seed)
    run = arm.run(task.closed(), arm.settings[0], seed)
    run.task = replace(run.task, test=task.test)
    return judged(run)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    device = pick_device(parser.parse_args().device)
    loop = bitlib.Loop(device=str(device), precision="fp32", progress=False)
    draws = {count: partial(load_scenes, count, side=SIDE, held_out=HELD_OUT) for count in COUNTS}
    marks = {str(count): draw(0).fingerprint for count, draw in draws.items()}
    cells = Cells("detection", {"tasks": marks, "models": weights_of((MODEL,)), "steps": STEPS, "batch": BATCH})
    found, how = {}, {"search": {}, "chosen": {}, "edge": {}}

    def arms(count: int) -> list[Arm]:
        return [
            Arm(f"{count} scenes, {start}", RATES, partial(trained, start, STEPS, loop))
            for start in (STARTS | ASIDE if count == COUNTS[-1] else STARTS)
        ]

    total = sum(runs_of(arms(count), SEARCH, SEEDS) for count in COUNTS) + len(SEEDS)
    with tqdm(total=total, desc="scenes", unit="run") as bar:
        kept = counted(cells, bar)
        for count, draw in draws.items():
            for name, result in compare(arms(count), draw, search=SEARCH, final=SEEDS, cells=kept, judge=judged).items():
                for key, values in how.items():
                    values[name] = result.pop(key)
                found[name] = result
        # The rate is the one chosen for the short run.
        name, rate = f"{COUNTS[-1]} scenes, from scratch, longer", how["chosen"][f"{COUNTS[-1]} scenes, from scratch"]
        arm = Arm(name, (rate,), partial(trained, "from scratch", LONGER * STEPS, loop))
        rows = [kept(f"{name}, draw {seed}", partial(once, arm, draws[COUNTS[-1]], seed)) for seed in SEEDS]
        found[name] = {key: [row[key] for row in rows] for key in rows[0]}
    about = {"task": marks, "model": MODEL, "side": SIDE, "steps": STEPS, "batch_size": BATCH, "longer": LONGER * STEPS}
    about |= {"scenes": list(COUNTS), "held_out": list(HELD_OUT), "starts": [*STARTS, *ASIDE]}
    seeds = {"seeds": list(SEEDS), "search_seeds": list(SEARCH)}
    record("detection", {**about, **seeds, "cells": found, **how}, device)
    cells.clear()


if __name__ == "__main__":
    main()
