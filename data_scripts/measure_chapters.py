"""Measure the grids that chapters 4, 7, 9 and 11 show next to a live run; write results/NAME.json for each NAME in GRIDS.

    python data_scripts/measure_chapters.py             all of them
    python data_scripts/measure_chapters.py mixup       one
Every cell is trained as in its chapter, once per seed; in few-shot cells each seed has its own random training images.
Each run is tested once, at its end. You can interrupt it at any time; the same command resumes it.
"""

import argparse
from dataclasses import replace
from functools import cache

from record import Cells, record, weights_of
from tqdm import tqdm

import bitlib
from bitlib.device import pick_device
from bitlib.transfer import default_rule

SEEDS = range(3)
# Chapter 4: {images per step: number of steps}.
SMALL_STEPS = {32: 50, 2: 200}
# Chapter 7: {method: (model, where training begins)}; then {task: {images per class: steps}}.
METHODS = {
    "head only": ("glyphs-L", "head"),
    "stage 4 and head": ("glyphs-L", "stage4"),
    "everything": ("glyphs-L", None),
    "from scratch": (None, None),
    "photos-L, head only": ("photos-L", "head"),
}
SHOTS = {"digits": {1: 40, 5: 40, 80: 40}, "tiles": {5: 40, 50: 100}}
# Chapter 9: steps, alpha, images per class.
MIXED = ((300, 0, None), (300, 0.1, None), (600, 0, None), (600, 0.1, None), (600, 1, None))
MIXED += ((100, 0, 5), (100, 0.1, 5), (100, 1, 5))
# Chapter 11: labelled images per class (None: all images, without labels), temperature, weight of the teacher.
WAYS = {"hard labels": (10, 1, 0), "soft labels": (10, 1, 1), "both": (10, 1, 0.7), "soft labels on all": (None, 1, 1)}
WAYS |= {f"soft labels on all, T = {t}": (None, t, 1) for t in (2, 4, 8)}


def judged(run) -> dict[str, float]:
    """The values to store for a run."""
    seen = run.evaluate("test")
    return {
        "accuracy": run.test_accuracy,
        "training_accuracy": run.evaluate("train").accuracy,
        "calibration_error": seen.calibration_error(),
        "confidence": seen.logits.softmax(1).amax(1).mean().item(),
    }


def norm_transfer(loop):
    """Fine-tuning with group norm and batch norm, with 32 and with 2 images per step."""
    digits = bitlib.load_task("digits")

    def run(name, batch_size, steps, seed):
        model, few = bitlib.create_model(name, digits.num_classes, pretrained=True), digits.few_shot(5, seed)
        rule = default_rule(model, few).adapted(batch_size=batch_size, steps=steps, base_lr=0.03 * batch_size / 32)
        return bitlib.finetune(model, few, rule, seed, loop)

    names = ("glyphs-L", "glyphs-L-bn")
    return {f"{name}, steps of {size}": (run, name, size, n) for size, n in SMALL_STEPS.items() for name in names}


def freezing(loop):
    """A similar and a different task, with few and many images, at every degree of freezing."""

    def run(task, method, shots, steps, seed):
        (name, until), few = METHODS[method], task.few_shot(shots, seed)
        model = bitlib.create_model(name or "glyphs-L", task.num_classes, pretrained=bool(name), seed=seed)
        rule = default_rule(model, few)
        if until == "head":
            return bitlib.linear_probe(model, few, rule, loop)
        rule = rule.adapted(steps=steps) if name else rule.adapted(steps=max(steps * 3 // 2, 80), base_lr=0.1)
        return bitlib.finetune(bitlib.freeze(model, until), few, rule, seed, loop)

    tasks = {name: bitlib.load_task(name) for name in SHOTS}
    return {
        f"{task}, {method}, {k}-shot": (run, tasks[task], method, k, steps)
        for task, shots in SHOTS.items()
        for k, steps in shots.items()
        for method in METHODS
        if task == "tiles" or not method.startswith("photos")
    }


def mixup(loop):
    """MixUp on the tiles, by training length, alpha and images per class. Crops and flips are off."""
    tiles = replace(bitlib.load_task("tiles"), random_crop=False, random_flip=False)

    def run(steps, alpha, shots, seed):
        images, net = tiles.few_shot(shots, seed) if shots else tiles, bitlib.create_model("tiny", tiles.num_classes, seed=seed)
        rule = bitlib.HyperRule(len(images.train), tiles.image_size).adapted(
            steps=steps, base_lr=0.1, batch_size=32, alpha=alpha, resolution=(24, 24)
        )
        return bitlib.finetune(net, images, rule, seed, loop)

    def title(steps, alpha, shots):
        return (f"{shots}-shot, " if shots else "") + f"{steps} steps, " + (f"alpha {alpha}" if alpha else "no MixUp")

    return {title(*how): (run, *how) for how in MIXED}


def soft_labels(loop):
    """A small student, trained on labels, on the teacher's outputs, with more images, at several temperatures."""
    digits = bitlib.load_task("digits")

    @cache  # trained only if a cell is still missing
    def teacher():
        model = bitlib.create_model("glyphs-L", digits.num_classes, pretrained=True)
        return bitlib.finetune(model, digits.few_shot(10, 0), loop=loop).model

    def run(shots, temperature, alpha, seed):
        images = digits.few_shot(shots, 0) if shots else digits
        net = bitlib.create_model("tiny", digits.num_classes, seed=seed)
        rule = bitlib.HyperRule(len(images.train), (32, 32)).adapted(steps=250, base_lr=0.1, batch_size=32, resolution=(36, 32))
        if alpha == 0:
            return bitlib.finetune(net, images, rule, seed, loop)
        how = bitlib.Distillation(temperature, alpha, consistent=False)
        return bitlib.distill(net, teacher(), images, rule, seed, loop, how)

    return {way: (run, *how) for way, how in WAYS.items()}


GRIDS = {grid.__name__: grid for grid in (norm_transfer, freezing, mixup, soft_labels)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grids", nargs="*", metavar="NAME", help=", ".join(GRIDS))
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    if unknown := set(args.grids) - set(GRIDS):
        parser.error(f"no grid {', '.join(sorted(unknown))}; choose from {', '.join(GRIDS)}")
    device = pick_device(args.device)
    loop = bitlib.Loop(device=str(device), precision="fp32", progress=False)
    fingerprints = {name: bitlib.load_task(name).fingerprint for name in SHOTS}
    identity = {"tasks": fingerprints, "models": weights_of(("glyphs-L", "glyphs-L-bn", "photos-L"))}
    finished = []
    for name in args.grids or GRIDS:
        cells, measured = Cells(name, identity), {}
        for title, (run, *how) in tqdm(GRIDS[name](loop).items(), name, unit="cell"):
            rows = [cells(f"{title}, {seed}", lambda: judged(run(*how, seed))) for seed in SEEDS]  # noqa: B023
            measured[title] = {key: [row[key] for row in rows] for key in rows[0]}
        finished.append((name, cells, measured))
    for name, cells, measured in finished:
        record(name, {"tasks": fingerprints, "seeds": list(SEEDS), "cells": measured}, device)
        cells.clear()


if __name__ == "__main__":
    main()
