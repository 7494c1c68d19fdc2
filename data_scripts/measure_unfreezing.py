"""Measure fine-tuning with rates that fall towards the root, and with gradual unfreezing; write results/unfreezing.json.

    python data_scripts/measure_unfreezing.py
Four ways to train a whole pre-trained network with few images, compared by the protocol of bitlib/course/protocol.py. All take
the same number of steps and follow the schedule of the HyperRule; its base rate is chosen for each. You can interrupt it at
any time; the same command resumes it.
"""

import argparse
from functools import partial

import torch
import torch.nn.functional as F
from measure_digits import SEARCH, SEEDS, counted, runs_of
from record import Cells, record, weights_of
from tqdm import tqdm

import bitlib
from bitlib.course.protocol import Arm, compare, trials
from bitlib.data.augment import Augmentation
from bitlib.data.batches import Batches
from bitlib.device import pick_device
from bitlib.transfer import default_rule

MODEL, TASKS, SHOTS, STEPS = "glyphs-L", ("digits", "tiles"), 5, 50
RATES = trials(base_lr=(0.01, 0.03, 0.1, 0.3))
FACTOR = 2.6  # from one part of the network to the next; Howard and Ruder (arXiv 1801.06146), section 3.2
PARTS = (("head",), ("norm", "stage4"), ("stage3",), ("stage2",), ("stage1",), ("root",))
FROM = ("head", "stage4", "stage3", "stage2", "stage1", None)  # where training begins, for `bitlib.freeze`
WAYS = {  # (factor, whether parts are unfrozen one by one)
    "one rate": (1.0, False),
    "falling rates": (FACTOR, False),
    "gradual unfreezing": (1.0, True),
    "both": (FACTOR, True),
}


def finetune_in_parts(model, task, rule, seed, loop, factor=1.0, gradual=False) -> bitlib.Run:
    """Fine-tune from a head of zeros, in place, with a learning rate that is divided by `factor` from part to part.

    gradual: begin with the head, and unfreeze one more part every twelfth of the steps; the last one joins as the rate first
    falls. Parts are those of PARTS, from the head down.
    """
    device = pick_device(loop.device)
    how = Augmentation(rule.resize, rule.crop, task.random_crop, task.random_flip)
    batches = Batches(task.train, how, rule.batch_size, seed, device)
    model.reset_head(task.num_classes)
    model.to(device).train()
    groups = [
        {"params": [p for name in part for p in getattr(model, name).parameters()], "scale": factor**-depth}
        for depth, part in enumerate(PARTS)
    ]
    optimizer = torch.optim.SGD(groups, lr=0.0, momentum=rule.momentum)
    for step in range(rule.total_steps):
        if gradual:
            bitlib.freeze(model, FROM[min(12 * step // rule.total_steps, len(FROM) - 1)])
        for group in optimizer.param_groups:
            group["lr"] = group["scale"] * rule.lr(step)
        (part,) = batches(step).parts(1)
        optimizer.zero_grad()
        F.cross_entropy(model(part.x), part.y).backward()
        optimizer.step()
    run = bitlib.Run(model, task, {"crop": rule.crop})
    run.val_accuracy = run.evaluate("val").accuracy
    return run


def arms(name: str, loop) -> list[Arm]:
    """The ways to train, on the task of this name."""

    def run(factor, gradual, task, setting, seed):
        model = bitlib.create_model(MODEL, task.num_classes, pretrained=True)
        rule = default_rule(model, task).adapted(steps=STEPS, **setting)
        return finetune_in_parts(model, task, rule, seed, loop, factor, gradual)

    return [Arm(f"{name}, {way}", RATES, partial(run, *how)) for way, how in WAYS.items()]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    device = pick_device(parser.parse_args().device)
    loop = bitlib.Loop(device=str(device), precision="fp32", progress=False)
    tasks = {name: bitlib.load_task(name) for name in TASKS}
    fingerprints = {name: task.fingerprint for name, task in tasks.items()}
    cells = Cells("unfreezing", {"tasks": fingerprints, "models": weights_of((MODEL,)), "factor": FACTOR})
    methods, found = {name: arms(name, loop) for name in TASKS}, {}
    with tqdm(total=sum(runs_of(each, SEARCH, SEEDS) for each in methods.values()), desc="unfreezing", unit="run") as bar:
        for name, task in tasks.items():
            draw = partial(task.few_shot, SHOTS)
            found |= compare(methods[name], draw, search=SEARCH, final=SEEDS, cells=counted(cells, bar))
    how = {key: {title: result.pop(key) for title, result in found.items()} for key in ("search", "chosen", "edge")}
    settings = {"model": MODEL, "shots": SHOTS, "steps": STEPS, "factor": FACTOR}
    seeds = {"seeds": list(SEEDS), "search_seeds": list(SEARCH)}
    record("unfreezing", {"tasks": fingerprints, **settings, **seeds, "cells": found, **how}, device)
    cells.clear()


if __name__ == "__main__":
    main()
