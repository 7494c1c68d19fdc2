"""Measure the grids that chapters 4, 7, 9 and 11 show next to a live run; write results/NAME.json for each NAME in GRIDS.

    python data_scripts/measure_chapters.py             all of them
    python data_scripts/measure_chapters.py mixup       one
What is compared with one another is searched by the protocol of bitlib/course/protocol.py: as many trials for each, chosen on
validation images of two draws, then trained on five others and tested once on each. A draw is a seed for the network and the
order of the images, and in few-shot cells a random subset as well. You can interrupt it at any time; the same command resumes
it. One grid takes from 2 to 30 minutes of one core.
"""

import argparse
from dataclasses import replace
from functools import partial

import torch
import torch.nn.functional as F
from measure_digits import MODEL, PENALTIES, SEARCH, SEEDS, counted, probed, probed_then_tuned, runs_of, scratch, tuned
from record import Cells, record, weights_of
from tqdm import tqdm

import bitlib
from bitlib.course.protocol import Arm, compare, trials
from bitlib.device import pick_device
from bitlib.transfer import default_rule

# Chapter 4: {images per step: number of steps}; rates are for steps of 32 images, and scale with the size of a step.
SMALL_STEPS = {32: 50, 2: 200}
RATES = (0.01, 0.03, 0.1, 0.3)
# Chapter 7: {task: {images per class: the fewer of two numbers of steps; the other is four times that}}.
SHOTS = {"digits": {1: 50, 5: 50, 80: 60}, "tiles": {5: 50, 50: 60}}
SCRATCH = trials(base_lr=(0.03, 0.1), steps=(120, 400))
# Chapter 9: MixUp's alpha; (images per class or None for all, numbers of steps) from random weights; the same for the transfer.
ALPHAS, LENGTHS, TRANSFER = (0, 0.1, 0.4, 1), ((None, (600, 1500)), (5, (100, 300))), (50, (75, 225))
TRANSFER_RATES = (0.03, 0.1)
# Chapter 11: steps of every student, labelled images per class, weight of the teacher in "both".
STUDENT_STEPS, LABELLED, BOTH = 1000, 10, 0.7
SOFT = tuple({"temperature": t, "base_lr": rate} for t, rate in ((1, 0.1), (1, 0.05), (4, 0.02)))
TEMPERATURES = (1, 2, 4, 8)


def judged(run) -> dict[str, float]:
    """The values to store for a run."""
    seen = run.evaluate("test")
    return {
        "accuracy": seen.accuracy,
        "training_accuracy": run.evaluate("train").accuracy,
        "calibration_error": seen.calibration_error(),
        "confidence": seen.logits.softmax(1).amax(1).mean().item(),
        "scaled_calibration_error": replace(seen, logits=seen.logits / temperature(run)).calibration_error(),
    }


def temperature(run) -> float:
    """The temperature, from 0.1 to 10, at which the validation images have the smallest cross-entropy."""
    seen = run.evaluate("val")
    return min(torch.logspace(-1, 1, 201).tolist(), key=lambda t: F.cross_entropy(seen.logits / t, seen.labels).item())


def norm_transfer(loop):
    """Fine-tuning with group norm and batch norm, with 32 and with 2 images per step."""
    digits = bitlib.load_task("digits")

    def run(name, size, steps, task, setting, seed):
        model = bitlib.create_model(name, task.num_classes, pretrained=True)
        return bitlib.finetune(
            model, task, default_rule(model, task).adapted(batch_size=size, steps=steps, **setting), seed, loop
        )

    arms = [
        Arm(f"{name}, steps of {size}", trials(base_lr=[rate * size / 32 for rate in RATES]), partial(run, name, size, steps))
        for size, steps in SMALL_STEPS.items()
        for name in ("glyphs-L", "glyphs-L-bn")
    ]
    return [(arms, partial(digits.few_shot, 5))]


def freezing(loop):
    """A similar and a different task, with few and many images, at every degree of freezing."""

    def arms(name, shots, steps):
        lengths = (steps, 4 * steps)
        sgd = trials(base_lr=(0.03, 0.1), steps=lengths)
        ways = {
            "head only": (PENALTIES, partial(probed, MODEL, loop)),
            "stage 4 and head": (sgd, partial(tuned, MODEL, "stage4", loop)),
            "everything": (sgd, partial(tuned, MODEL, None, loop)),
            "probe then everything": (trials(base_lr=(0.01, 0.03), steps=lengths), partial(probed_then_tuned, MODEL, loop)),
            "from scratch": (SCRATCH, partial(scratch, loop)),
        }
        if name == "tiles":
            ways["photos-L, head only"] = (PENALTIES, partial(probed, "photos-L", loop))
        return [Arm(f"{name}, {way}, {shots}-shot", *how) for way, how in ways.items()]

    return [
        (arms(name, shots, steps), partial(bitlib.load_task(name).few_shot, shots))
        for name, by_shots in SHOTS.items()
        for shots, steps in by_shots.items()
    ]


def unchanged_tiles():
    """The tiles without crops and flips, so that nothing but MixUp changes an image."""
    return replace(bitlib.load_task("tiles"), random_crop=False, random_flip=False)


def transferred(loop, alpha, task, setting, seed):
    """photos-L, fine-tuned. setting: base_lr, steps."""
    model = bitlib.create_model("photos-L", task.num_classes, pretrained=True)
    rule = default_rule(model, task)
    rule = rule.adapted(alpha=alpha, resolution=(rule.crop, rule.crop), **setting)
    return bitlib.finetune(model, task, rule, seed, loop)


def mixup(loop):
    """MixUp on the tiles, from random weights with all and with few images, and in transfer. Crops and flips are off."""
    tiles = unchanged_tiles()

    def untrained(alpha, task, setting, seed):
        model = bitlib.create_model("tiny", task.num_classes, seed=seed)
        rule = bitlib.HyperRule(len(task.train), task.image_size, batch_size=32, alpha=alpha, resolution=(24, 24))
        return bitlib.finetune(model, task, rule.adapted(**setting), seed, loop)

    def compared(start, run, alphas, lengths, rates):
        """One trial of the shorter length and two of the longer one."""
        (short, long), (slow, fast) = lengths, rates
        settings = tuple({"base_lr": rate, "steps": n} for rate, n in ((fast, short), (fast, long), (slow, long)))
        return [Arm(start + (f"alpha {a}" if a else "no MixUp"), settings, partial(run, a)) for a in alphas]

    grids = []
    for shots, lengths in LENGTHS:
        start, draw = (f"{shots}-shot, ", partial(tiles.few_shot, shots)) if shots else ("", lambda seed: tiles)
        grids.append((compared(start, untrained, ALPHAS, lengths, (0.05, 0.1)), draw))
    shots, lengths = TRANSFER
    arms = compared(f"photos-L, {shots}-shot, ", partial(transferred, loop), ALPHAS[:3], lengths, TRANSFER_RATES)
    return [*grids, (arms, partial(tiles.few_shot, shots))]


def mixup_rates(loop):
    """Transfer without MixUp and with the smallest alpha, both at each rate: the search of `mixup` gave them different ones."""
    shots, (_, steps) = TRANSFER
    arms = [
        Arm(f"alpha {alpha}, rate {rate}", ({"base_lr": rate, "steps": steps},), partial(transferred, loop, alpha))
        for alpha in ALPHAS[:2]
        for rate in TRANSFER_RATES
    ]
    return [(arms, partial(unchanged_tiles().few_shot, shots))]


def soft_labels(loop):
    """A small student, trained on labels, on a teacher's outputs, with more images, at several temperatures.

    Every draw has labelled images, a teacher fine-tuned on these, and a student of its own.
    """
    digits, teachers, students = bitlib.load_task("digits"), {}, {}

    def teacher(task, setting, seed):
        if seed not in teachers:
            model = bitlib.create_model("glyphs-L", task.num_classes, pretrained=True)
            teachers[seed] = bitlib.finetune(model, task.few_shot(LABELLED, seed), None, seed, loop)
        return teachers[seed]

    def student(shots, alpha, task, setting, seed):
        images = task.few_shot(shots, seed) if shots else task
        model = bitlib.create_model("tiny", task.num_classes, seed=seed)
        rule = bitlib.HyperRule(len(images.train), (32, 32), batch_size=32, resolution=(36, 32))
        rule = rule.adapted(steps=STUDENT_STEPS, base_lr=setting["base_lr"])
        if alpha == 0:
            return bitlib.finetune(model, images, rule, seed, loop)
        how = bitlib.Distillation(setting["temperature"], alpha, consistent=False)
        return bitlib.distill(model, teacher(task, {}, seed).model, images, rule, seed, loop, how)

    def on_all(task, setting, seed):
        key = *setting.values(), seed  # the search over temperatures and the curve have some in common
        if key not in students:
            students[key] = student(None, 1, task, setting, seed)
        return students[key]

    arms = [
        Arm("hard labels", trials(base_lr=(0.05, 0.1, 0.2)), partial(student, LABELLED, 0)),
        Arm("soft labels", SOFT, partial(student, LABELLED, 1)),
        Arm("both", SOFT, partial(student, LABELLED, BOTH)),
        Arm("soft labels on all", SOFT, on_all),
    ]
    arms += [
        Arm(f"soft labels on all, T = {t}", trials(temperature=(t,), base_lr=(0.01, 0.03, 0.1)), on_all) for t in TEMPERATURES
    ]
    return [(arms, lambda seed: digits), ([Arm("teacher", ({},), teacher)], lambda seed: digits)]


# Each gives [(arms to compare, draw)].
GRIDS = {grid.__name__: grid for grid in (freezing, soft_labels, mixup, mixup_rates, norm_transfer)}


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
        grid, cells, found = GRIDS[name](loop), Cells(name, identity), {}
        with tqdm(total=sum(runs_of(arms, SEARCH, SEEDS) for arms, _ in grid), desc=name, unit="run") as bar:
            for arms, draw in grid:
                found |= compare(arms, draw, search=SEARCH, final=SEEDS, cells=counted(cells, bar), judge=judged)
        finished.append((name, cells, found))
    for name, cells, found in finished:
        how = {key: {title: result.pop(key) for title, result in found.items()} for key in ("search", "chosen", "edge")}
        seeds = {"seeds": list(SEEDS), "search_seeds": list(SEARCH)}
        record(name, {"tasks": fingerprints, **seeds, "cells": found, **how}, device)
        cells.clear()


if __name__ == "__main__":
    main()
