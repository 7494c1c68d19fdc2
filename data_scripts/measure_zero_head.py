"""Measure fine-tuning from a head of zeros against random heads, and write results/zero_head.json.

    python data_scripts/measure_zero_head.py
Three heads on one pre-trained network, once with the rule's own learning rate for all and once with a rate chosen for each by
the protocol of bitlib/course/protocol.py. Beside the accuracy it keeps how far the features have moved from where they began.
You can interrupt it at any time; the same command resumes it.
"""

import argparse
from functools import partial

import torch
from measure_digits import SEARCH, SEEDS, counted, runs_of
from record import Cells, record, weights_of
from torch import nn
from tqdm import tqdm

import bitlib
from bitlib.course.protocol import Arm, compare, trials
from bitlib.device import pick_device
from bitlib.features import cache_features
from bitlib.transfer import default_rule

MODEL, TASK, SHOTS = "glyphs-L", "digits", (1, 5)
RATES = trials(base_lr=(0.01, 0.03, 0.1))
OWN = trials(base_lr=(0.03,))  # what the rule takes for this network
HEADS = ("zeros", "normal, deviation 0.01", "PyTorch's default")


def new_head(model, kind: str, seed: int) -> None:
    """Give the model a head as the official code, timm, or a plain nn.Linear begins with it, drawn by `seed`."""
    torch.manual_seed(seed)
    fresh = nn.Linear(model.num_features, model.num_classes)
    if kind != "PyTorch's default":
        nn.init.normal_(fresh.weight, std=0.01 if kind.startswith("normal") else 0.0)
        nn.init.zeros_(fresh.bias)
    model.head.load_state_dict(fresh.state_dict())


def arms(loop, rates) -> list[Arm]:
    def run(kind, task, setting, seed):
        model = bitlib.create_model(MODEL, task.num_classes, pretrained=True)
        new_head(model, kind, seed)
        return bitlib.finetune(model, task, default_rule(model, task).adapted(**setting), seed, loop, keep_head=True)

    return [Arm(kind, rates, partial(run, kind)) for kind in HEADS]


def judged(before, run) -> dict[str, float]:
    """Test accuracy, and the movement of the features of validation images as a share of their length."""
    after = cache_features(run.model, run.task.val, run.crop)
    return {"accuracy": run.evaluate("test").accuracy, "moved": ((after - before).norm() / before.norm()).item()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    device = pick_device(parser.parse_args().device)
    loop = bitlib.Loop(device=str(device), precision="fp32", progress=False)
    task, model = bitlib.load_task(TASK), bitlib.create_model(MODEL, pretrained=True).to(device)
    rule = default_rule(model, task.few_shot(SHOTS[0]))
    before = cache_features(model, task.val, rule.crop)
    cells = Cells("zero_head", {"task": task.fingerprint, "models": weights_of((MODEL,))})
    ways = {"own rate": arms(loop, OWN), "chosen rate": arms(loop, RATES)}
    found, how = {}, {"search": {}, "chosen": {}, "edge": {}}
    with tqdm(total=len(SHOTS) * sum(runs_of(way, SEARCH, SEEDS) for way in ways.values()), desc=TASK, unit="run") as bar:
        for shots in SHOTS:
            for way, heads in ways.items():
                done = compare(
                    heads,
                    partial(task.few_shot, shots),
                    search=SEARCH,
                    final=SEEDS,
                    cells=counted(cells, bar, f"{shots}-shot, "),
                    judge=partial(judged, before),
                )
                for kind, result in done.items():
                    name = f"{shots}-shot, {way}, {kind}"
                    for key, values in how.items():
                        values[name] = result.pop(key)
                    found[name] = result
    settings = {"task": {TASK: task.fingerprint}, "model": MODEL, "shots": list(SHOTS), "heads": list(HEADS)}
    settings |= {"steps": rule.total_steps, "batch_size": rule.batch_size}
    seeds = {"seeds": list(SEEDS), "search_seeds": list(SEARCH)}
    record("zero_head", {**settings, **seeds, "cells": found, **how}, device)
    cells.clear()


if __name__ == "__main__":
    main()
