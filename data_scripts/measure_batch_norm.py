"""Measure small networks on the real digits with and without batch norm, and write results/batch_norm.json.

    python data_scripts/measure_batch_norm.py
Fully connected and convolutional networks, with ReLU and with sigmoid, compared by the protocol of bitlib/course/protocol.py:
each has its learning rate chosen among the same six. A random subset also decides the initial weights and the order of the
batches. About five minutes; you can interrupt it at any time, and the same command resumes it.
"""

import argparse
import math
from functools import partial

import torch
import torch.nn.functional as F
from measure_digits import SEARCH, SEEDS, counted, runs_of
from record import Cells, record
from torch import nn
from tqdm import tqdm

import bitlib
from bitlib.course.protocol import Arm, compare, trials
from bitlib.data import to_input
from bitlib.device import pick_device

SHOTS, STEPS, BATCH = 50, 300, 60
RATES = trials(lr=(0.03, 0.1, 0.3, 1.0, 3.0, 10.0))
HIDDEN = (100, 100, 100)  # units of the hidden layers: section 4.1 of arXiv 1502.03167, with 64 pixels instead of 784
FILTERS = ((16, 1), (32, 2), (32, 1), (64, 2))  # channels and stride of each 3 x 3 convolution
SHAPES, ACTIVATIONS = ("fully connected", "convolutional"), {"ReLU": nn.ReLU, "sigmoid": nn.Sigmoid}
NORMS = {"without a norm": False, "batch norm": True}


class Standardised(nn.Module):
    """The first channel of an image, each pixel standardised by the training images, then `net`."""

    def __init__(self, net: nn.Module, images: torch.Tensor):
        super().__init__()
        self.net = net
        std, mean = torch.std_mean(to_input(images)[:, :1], dim=0, correction=0)
        self.register_buffer("mean", mean)
        self.register_buffer("std", std.clamp_min(1 / 127.5))  # some pixels are always blank

    def forward(self, x):
        return self.net((x[:, :1] - self.mean) / self.std)


def network(shape: str, activation: str, norm: bool, pixels: int, classes: int) -> nn.Sequential:
    """Hidden layers of weights (normal, variance 2 over the inputs of a unit), perhaps batch norm, and the activation."""
    layers, size = [], 1 if shape == "convolutional" else pixels
    for width in FILTERS if shape == "convolutional" else HIDDEN:
        if shape == "convolutional":
            width, stride = width
            layer, norms = nn.Conv2d(size, width, 3, stride, 1), nn.BatchNorm2d
        else:
            layer, norms = nn.Linear(size, width), nn.BatchNorm1d
        nn.init.kaiming_normal_(layer.weight)
        nn.init.zeros_(layer.bias)
        layers += [layer, *([norms(width)] if norm else []), ACTIVATIONS[activation]()]
        size = width
    start, end = ([], [nn.AdaptiveAvgPool2d(1), nn.Flatten()]) if shape == "convolutional" else ([nn.Flatten()], [])
    return nn.Sequential(*start, *layers, *end, nn.Linear(size, classes))


def train_small(shape: str, activation: str, norm: bool, device, task, setting: dict, seed: int) -> bitlib.Run:
    """Plain SGD for STEPS steps of BATCH images, or until the loss is no longer a number."""
    side, generator = task.image_size[0], torch.Generator().manual_seed(seed)
    train = task.train.prepare(side, device)
    torch.manual_seed(seed)
    model = Standardised(network(shape, activation, norm, side * side, task.num_classes), train.images).to(device).train()
    parameters, labels = list(model.parameters()), train.labels.to(device)
    for _ in range(STEPS):
        some = torch.randperm(len(labels), generator=generator)[:BATCH].to(device)
        loss = F.cross_entropy(model(to_input(train.images[some])), labels[some])
        gradients = torch.autograd.grad(loss, parameters)
        with torch.no_grad():
            torch._foreach_add_(parameters, gradients, alpha=-setting["lr"])
        if not math.isfinite(loss.item()):
            break
    run = bitlib.Run(model, task, {"crop": side})
    run.val_accuracy = run.evaluate("val").accuracy
    return run


def arms(device) -> list[Arm]:
    """Every shape with every activation, with and without batch norm."""
    return [
        Arm(f"{shape}, {activation}, {name}", RATES, partial(train_small, shape, activation, norm, device))
        for shape in SHAPES
        for activation in ACTIVATIONS
        for name, norm in NORMS.items()
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    device = pick_device(parser.parse_args().device)
    task = bitlib.load_task("digits")
    settings = {
        "shots": SHOTS,
        "steps": STEPS,
        "batch_size": BATCH,
        "hidden": list(HIDDEN),
        "filters": [list(f) for f in FILTERS],
    }
    cells, methods = Cells("batch_norm", {"task": task.fingerprint, **settings}), arms(device)
    with tqdm(total=runs_of(methods, SEARCH, SEEDS), desc="batch_norm", unit="run") as bar:
        found = compare(methods, partial(task.few_shot, SHOTS), search=SEARCH, final=SEEDS, cells=counted(cells, bar))
    how = {key: {title: result.pop(key) for title, result in found.items()} for key in ("search", "chosen", "edge")}
    seeds = {"seeds": list(SEEDS), "search_seeds": list(SEARCH)}
    record(
        "batch_norm", {"task": "digits", "fingerprint": task.fingerprint, **settings, **seeds, "cells": found, **how}, device
    )
    cells.clear()


if __name__ == "__main__":
    main()
