"""Measure light networks against heavy ones, and write results/backbones.json and results/backbone_costs.json.

    python data_scripts/measure_backbones.py             both
    python data_scripts/measure_backbones.py costs       one
accuracy compares the course's own networks by the protocol of bitlib/course/protocol.py: the sizes on two tasks, average with
max pooling, many classes with few images, two classes. costs counts weights and multiplications, times one thread in CPU
seconds, which other processes hardly disturb, and looks at what freezing leaves alone; torchvision's networks have random
weights there, on which none of it depends. You can interrupt it at any time; the same command resumes it.
"""

import argparse
import time
from functools import partial
from statistics import median

import torch
import torch.nn.functional as F
from measure_digits import SEARCH, SEEDS, counted, probed, runs_of
from record import Cells, record, weights_of
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

import bitlib
from bitlib.course.protocol import Arm, compare, trials
from bitlib.data.task import ArrayImages, Task, fingerprint
from bitlib.device import pick_device
from bitlib.suite import mean_and_interval
from bitlib.transfer import default_rule

SIZES = ("photos-S", "photos-M", "photos-L", "glyphs-S", "glyphs-M", "glyphs-L")
POOLED = ("photos-L", "glyphs-L")
TASKS, SHOTS = ("digits", "tiles"), 5
PENALTIES = trials(c=(0.001, 0.01, 0.1))
RATES = trials(base_lr=(0.03, 0.1, 0.3))
STEPS = 100
MANY = {"train": 1288, "val": 190, "test": 190}  # the mushrooms of the notes: 38 kinds, and as many images of them
CLASSES = 38
THEIRS = ("mobilenet_v3_small", "efficientnet_b0", "alexnet", "googlenet", "resnet18", "resnet50", "vgg16")
BATCH, ROUNDS = 4, 5  # images at a time, and how often, for the seconds per image
TWO = {"images": 647, "iterations": 500, "batch": 64, "network": "googlenet", "side": 224}  # leopards and giraffes
TIMED = 3  # iterations of those that take seconds each; the rest is multiplied up


# --- accuracy ---------------------------------------------------------------------------------------------------------


def max_pooled(name: str, loop, task: Task, setting: dict, seed: int) -> bitlib.Run:
    """A linear probe of features that are the maximum of each map, where this network has always taken the mean."""
    model = bitlib.create_model(name, task.num_classes, pretrained=True)

    def head(features, pre_logits=False):
        pooled = features.amax(dim=(2, 3))
        return pooled if pre_logits else model.head(pooled)

    model.forward_head = head
    return bitlib.linear_probe(model, task, loop=loop, **setting)


def drawn(task: Task, draw: int) -> Task:
    """CLASSES classes of a task whose images are drawn anew, MANY images, as even as the number allows. draw: which images."""
    task = task.some_classes(min(CLASSES, task.num_classes))
    splits = {}
    for number, (split, count) in enumerate(MANY.items()):
        # The test images are the same in every draw.
        generator = torch.Generator().manual_seed(10 * (-1 if split == "test" else draw) + number + 10)
        members = [(task.train.labels == label).nonzero()[:, 0] for label in range(task.num_classes)]
        rows = torch.stack(
            [members[i % len(members)][i // len(members) % len(members[i % len(members)])] for i in range(count)]
        )
        pixels = torch.cat([task.train.batch(part, task.train.draw(len(part), generator)) for part in rows.split(512)])
        splits[split] = ArrayImages(pixels, task.train.labels[rows])
    identity = fingerprint(task.fingerprint, [images.digest() for images in splits.values()])
    return Task(f"{task.name}, drawn", **splits, class_names=task.class_names, image_size=task.image_size,
                random_crop=False, random_flip=False, fingerprint=identity)  # fmt: skip


def tuned(name: str, pretrained: bool, loop, task: Task, setting: dict, seed: int) -> bitlib.Run:
    """The network fine-tuned, or trained from scratch. setting: base_lr."""
    model = bitlib.create_model(name, task.num_classes, pretrained, seed)
    return bitlib.finetune(model, task, default_rule(model, task).adapted(steps=STEPS, **setting), seed, loop)


def probed_at_random(name: str, loop, task: Task, setting: dict, seed: int) -> bitlib.Run:
    """A linear probe of the same architecture with random weights."""
    return bitlib.linear_probe(bitlib.create_model(name, task.num_classes, seed=seed), task, loop=loop, **setting)


def ahead_of_max(found: dict, name: str) -> dict[str, float]:
    """By how many points the mean is ahead of the maximum, paired by random subset, and half of the 95 % interval."""
    pairs = zip(found[name.removesuffix("/max")]["accuracy"], found[name]["accuracy"])
    mean, half = mean_and_interval([100 * (a - b) for a, b in pairs])
    return {"mean": round(mean, 1), "half": round(half, 1)}


def comparisons(loop) -> list[tuple]:
    """(task, draw, arms) of every comparison."""
    found = []
    for name in TASKS:
        task = bitlib.load_task(name)
        arms = [Arm(f"{name}/{size}", PENALTIES, partial(probed, size, loop)) for size in SIZES]
        arms += [Arm(f"{name}/{size}/max", PENALTIES, partial(max_pooled, size, loop)) for size in POOLED]
        found.append((task, partial(task.few_shot, SHOTS), arms))
    many = bitlib.load_task("glyphs-armenian")
    arms = [Arm(f"many/{size}/probe", PENALTIES, partial(probed, size, loop)) for size in ("photos-L", "glyphs-L")]
    arms += [Arm("many/glyphs-L/fine-tuned", RATES, partial(tuned, "glyphs-L", True, loop))]
    arms += [Arm("many/glyphs-L/scratch", RATES, partial(tuned, "glyphs-L", False, loop))]
    found.append((many, partial(drawn, many), arms))
    two = bitlib.load_task("suite/photographs")
    arms = [Arm("two/photos-L", PENALTIES, partial(probed, "photos-L", loop))]
    arms += [Arm("two/random", PENALTIES, partial(probed_at_random, "photos-L", loop))]
    found.append((two, partial(two.some_classes, 2), arms))
    return found


def accuracy(device) -> None:
    """Write results/backbones.json."""
    loop = bitlib.Loop(device=str(device), precision="fp32", progress=False)
    todo, found = comparisons(loop), {}
    fingerprints = {task.name: task.fingerprint for task, *_ in todo}
    settings = {"shots": SHOTS, "steps": STEPS, "images": MANY, "classes": CLASSES}
    cells = Cells("backbones", {"tasks": fingerprints, "models": weights_of(SIZES), **settings})
    with tqdm(total=sum(runs_of(arms, SEARCH, SEEDS) for *_, arms in todo), desc="backbones", unit="run") as bar:
        for _, draw, arms in todo:
            found |= compare(arms, draw, search=SEARCH, final=SEEDS, cells=counted(cells, bar))
    how = {key: {title: result.pop(key) for title, result in found.items()} for key in ("search", "chosen", "edge")}
    how |= {"mean_over_max": {name.removesuffix("/max"): ahead_of_max(found, name) for name in found if name.endswith("/max")}}
    seeds = {"seeds": list(SEEDS), "search_seeds": list(SEARCH)}
    record("backbones", {"tasks": fingerprints, **settings, **seeds, "cells": found, **how}, device)
    cells.clear()


# --- costs ------------------------------------------------------------------------------------------------------------


def seconds_of(work) -> float:
    """CPU seconds that a call takes."""
    began = time.process_time()
    work()
    return time.process_time() - began


def cost(name: str) -> dict:
    """Weights, multiplications and seconds of a network on one image of the size that it was made for."""
    info = bitlib.model_info(name)
    side = info.crop or 224
    model = bitlib.create_model(name).eval()
    counter, x = FlopCounterMode(display=False), torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), counter:
        model(x)
    x = x.expand(BATCH, -1, -1, -1).contiguous(memory_format=torch.channels_last)
    model.to(memory_format=torch.channels_last)
    with torch.no_grad():
        times = [seconds_of(lambda: model(x)) / BATCH for _ in range(ROUNDS + 1)][1:]
    multiplications = counter.get_total_flops() // 2
    found = {"parameters": info.num_parameters, "side": side, "multiplications": multiplications, "seconds": times}
    return found | {"millions": round(multiplications / 1e6), "milliseconds": round(1000 * median(times), 1)}


def two_classes() -> dict:
    """Training a head for two classes by iterations of SGD, with features cached once and without, and the whole network."""
    side, batch = TWO["side"], TWO["batch"]
    generator = torch.Generator().manual_seed(0)
    model = bitlib.freeze(bitlib.create_model(f"torchvision/{TWO['network']}", 2), "head").train()
    images = torch.randint(0, 256, (TWO["images"], 3, side, side), generator=generator, dtype=torch.uint8)
    labels = torch.arange(TWO["images"]) % 2
    model.to(memory_format=torch.channels_last)

    def part(rows):
        return bitlib.data.to_input(images[rows]).contiguous(memory_format=torch.channels_last)

    def step(optimizer, logits, y):
        optimizer.zero_grad()
        F.cross_entropy(logits(), y).backward()
        optimizer.step()

    def cached():
        found.append(bitlib.cache_features(model, ArrayImages(images, labels), side))

    found: list[torch.Tensor] = []
    caching = seconds_of(cached)
    optimizer = torch.optim.SGD(model.head.parameters(), lr=0.01, momentum=0.9)

    def head():
        for _ in range(TWO["iterations"]):
            rows = torch.randint(len(labels), (batch,), generator=generator)
            step(optimizer, lambda: model.head(found[0][rows]), labels[rows])  # noqa: B023

    heads = seconds_of(head)

    def network():
        rows = torch.randint(len(labels), (batch,), generator=generator)
        step(optimizer, lambda: model(part(rows)), labels[rows])

    model.train()
    frozen = [seconds_of(network) for _ in range(TIMED)]
    optimizer = torch.optim.SGD(bitlib.freeze(model, None).parameters(), lr=0.01, momentum=0.9)
    whole = [seconds_of(network) for _ in range(TIMED)]
    times = {"caching": caching, "head": heads, "cached": caching + heads, "frozen_step": frozen, "whole_step": whole}
    times |= {name: TWO["iterations"] * median(times[f"{name}_step"]) for name in ("frozen", "whole")}
    shown = {name: round(times[name], 1) for name in ("caching", "head", "cached")}
    shown |= {f"{name}_minutes": round(times[name] / 60) for name in ("frozen", "whole")}
    epochs = TWO["iterations"] * batch / TWO["images"]
    return TWO | times | {"shown": shown, "epochs": round(epochs), "rate_in_30_s": round(TWO["iterations"] * batch / 30)}


def trainable() -> dict:
    """What one training step moves in a ResNet-50 with a new head for two classes: frozen in three ways, and not at all."""
    x = torch.randn(4, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    found = {}
    for way in ("frozen", "no_gradients", "trainable"):
        model = bitlib.create_model("torchvision/resnet50", 2).train()
        with torch.no_grad():
            model.head.weight.normal_(std=0.01, generator=torch.Generator().manual_seed(0))
        if way == "frozen":
            bitlib.freeze(model, "head")
        elif way == "no_gradients":
            model.net.requires_grad_(False)
        before = {name: value.clone() for name, value in model.state_dict().items()}
        learning = [p for p in model.parameters() if p.requires_grad]
        F.cross_entropy(model(x), torch.tensor([0, 1, 0, 1])).backward()
        torch.optim.SGD(learning, lr=0.1).step()
        moved = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
        statistics = [name for name in moved if "running_" in name]
        found[way] = {
            "trainable": sum(p.numel() for p in learning),
            "moved": sum(before[n].numel() for n in moved if n in dict(model.named_parameters())),
            "statistics_moved": sum(before[name].numel() for name in statistics),
        }
    norms = sum(m.num_features for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    body = sum(p.numel() for p in model.net.parameters())
    # Keras counts the statistics as weights, and its ResNet-50 has biases before its batch norms.
    return found | {"body": body, "norm_channels": norms, "statistics": 2 * norms, "keras_body": body + norms + 2 * norms}


def costs(device) -> None:
    """Write results/backbone_costs.json."""
    torch.set_num_threads(1)
    names = [*SIZES[2::3], "R50x1", *(f"torchvision/{name}" for name in THEIRS)]
    todo = {name: partial(cost, name) for name in names} | {"two": two_classes, "trainable": trainable}
    cells = Cells("backbone_costs", {"two": TWO, "batch": BATCH, "rounds": ROUNDS, "timed": TIMED})
    found = {name: cells(name, work) for name, work in tqdm(todo.items(), desc="costs")}
    content = {
        "batch": BATCH,
        "timed": TIMED,
        "networks": {name: found[name] for name in names},
        "two": found["two"],
        "trainable": found["trainable"],
    }
    record("backbone_costs", content | {"torchvision": bitlib.model_info("torchvision/resnet50").arch.version}, device)
    cells.clear()


RECORDS = {"accuracy": accuracy, "costs": costs}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", nargs="*", metavar="NAME", help=", ".join(RECORDS))
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    if unknown := set(args.records) - {*RECORDS}:
        parser.error(f"unknown: {', '.join(sorted(unknown))}; choose from {', '.join(RECORDS)}")
    for name in args.records or RECORDS:
        RECORDS[name](pick_device(args.device))


if __name__ == "__main__":
    main()
