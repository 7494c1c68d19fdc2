"""Measure norms in a large batch, and running averages; write results/large_batch.json and running_averages.json.

    python data_scripts/measure_norms.py
large_batch: the runs of measure_batch_size.py with fewer and larger steps, by the protocol of bitlib/course/protocol.py.
running_averages: batch norm over few images per device, at one learning rate, tested with several means and variances while the
weights are left alone. You can interrupt it at any time; the same command resumes it.
"""

import argparse
from functools import partial

import torch
from measure_batch_size import NORMS, RATES, TASK
from measure_digits import SEARCH, SEEDS, counted, runs_of
from record import Cells, record
from tqdm import tqdm

import bitlib
from bitlib.course.protocol import Arm, compare, trials
from bitlib.data import resize, to_input
from bitlib.data.augment import Augmentation
from bitlib.data.batches import Batches
from bitlib.device import pick_device
from bitlib.norm import split_batch_norm, still_statistics
from bitlib.pretrain import Upstream, pretrain

PICTURES, LARGE, BATCH, RATE = 12_800, 256, 64, 0.2  # the rate for running averages; one of those searched for a batch of BATCH
DEVICES = (64, 2)  # images that share statistics
ANEW, TESTED = 50, 320  # training batches for new averages; test images that are judged by their own statistics


def large_batch(loop) -> list[Arm]:
    """The three norms with steps of LARGE images; the rates grow in proportion."""

    def run(arch, task, setting, seed):
        steps = PICTURES // LARGE
        recipe = Upstream(arch, steps, LARGE, warmup_steps=steps // 10, **setting)
        found = pretrain(task, recipe, seed, loop)
        return bitlib.Run(found.model, task, {"crop": recipe.side}, val_accuracy=found.val_accuracy)

    rates = trials(lr=[rate * LARGE / BATCH for rate in RATES])
    return [Arm(label, rates, partial(run, arch)) for label, arch in NORMS.values()]


def running_averages(task, size: int, seed: int, loop) -> dict[str, float]:
    """Test accuracies of one network, by where its means and variances come from."""
    steps = PICTURES // BATCH
    recipe = Upstream(NORMS["bn"][1], steps, BATCH, RATE, warmup_steps=steps // 10, device_batch=size)
    found = pretrain(task, recipe, seed, loop)
    model, device, side = found.model, next(found.model.parameters()).device, recipe.side
    mixed = torch.randperm(len(task.test), generator=torch.Generator().manual_seed(0))[:TESTED]
    x, y = to_input(resize(task.test.images[mixed], side)).to(device), task.test.labels[mixed].to(device)

    def own(images: int) -> float:
        with torch.no_grad(), still_statistics(model):
            return (split_batch_norm(model, images).train()(x).argmax(1) == y).double().mean().item()

    values = {"as trained": found.test_accuracy, "own": own(size), "own of many": own(BATCH)}
    fresh = Batches(task.train, Augmentation(side, side, False, False), BATCH, 100 + seed, device)
    split_batch_norm(model, None).train()
    with torch.no_grad():
        for step in range(ANEW):
            for part in fresh(step).parts(1):
                model(part.x)
    return values | {"recalibrated": bitlib.evaluate(model, task.test, side).accuracy}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    device, task = pick_device(parser.parse_args().device), bitlib.load_task(TASK)
    loop = bitlib.Loop(device=str(device), precision="fp32", progress=False)
    about = {"task": task.name, "fingerprint": task.fingerprint, "n_test": len(task.test), "pictures": PICTURES}

    arms, cells = large_batch(loop), Cells("large_batch", about)
    with tqdm(total=runs_of(arms, SEARCH, SEEDS), desc="large_batch", unit="run") as bar:
        found = compare(arms, lambda seed: task, search=SEARCH, final=SEEDS, cells=counted(cells, bar))
    how = {key: {title: result.pop(key) for title, result in found.items()} for key in ("search", "chosen", "edge")}

    averages, by_size = Cells("running_averages", about | {"lr": RATE}), {}
    with tqdm(total=len(DEVICES) * len(SEEDS), desc="running_averages", unit="run") as bar:
        for size in DEVICES:
            rows = []
            for seed in SEEDS:
                rows.append(averages(f"{size}, seed {seed}", running_averages, task, size, seed, loop))
                bar.update()
            by_size[str(size)] = {name: [row[name] for row in rows] for name in rows[0]}

    seeds = {"seeds": list(SEEDS)}
    record("large_batch", about | seeds | {"search_seeds": list(SEARCH), "batch_size": LARGE, "cells": found, **how}, device)
    record("running_averages", about | seeds | {"batch_size": BATCH, "lr": RATE, "cells": by_size}, device)
    for each in (cells, averages):
        each.clear()


if __name__ == "__main__":
    main()
