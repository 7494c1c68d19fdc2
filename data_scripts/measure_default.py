"""Compare the default of `bitlib finetune` with its alternatives, on folders of photographs; write results/default.json.

    python data_scripts/measure_default.py flowers=PATH ants-and-bees=PATH
    python data_scripts/measure_default.py cifar10:10 cifar10:100    the default alone: results/default_few_shot.json
Each PATH holds one folder per class, or splits of such folders, which are pooled. Three random splits each (70/15/15). The
alternatives are linear probes and fine-tuning of one network at several sizes, and logistic regression on hand-made features,
each with its penalty or rate chosen on validation images. TASK:SHOTS is a task that bitlib knows, with five random subsets of
that many images per class; measure_cifar10.py has the alternatives. The default times itself: let nothing else run beside it.
You can interrupt it; the same command resumes it.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from record import Cells, record, weights_of

import bitlib
from bitlib.choose import PENALTIES, RATES
from bitlib.data.folder import FileImages, class_folders, list_images
from bitlib.data.task import Task, fingerprint, split_indices
from bitlib.device import pick_device
from bitlib.evaluate import Evaluation
from bitlib.features import cache_features, fit_head
from bitlib.transfer import default_rule

SPLITS, SHOT_SEEDS = range(3), range(5)
WAYS = ("default", "probe", "hand-made", "fine-tuned")
SIDES, TUNED_SIDES, TUNED_STEPS = (32, 48, 64, 96, 128), (32, 64), 100


def pooled(name: str, root: Path, seed: int) -> Task:
    """All images below `root`, split at random."""
    folders = [p for p in class_folders(root) if class_folders(p)] or [root]
    names = sorted({p.name for folder in folders for p in class_folders(folder)})
    listing = [(image, i) for folder in folders for i, c in enumerate(names) for image in list_images(folder / c)]
    images = FileImages([path for path, _ in listing], torch.tensor([label for _, label in listing]))
    splits = [images.subset(indices) for indices in split_indices(images.labels, (0.15, 0.15), seed)]
    sizes = torch.tensor([size_of(path) for path, _ in listing[:: max(1, len(listing) // 100)]]).median(0).values
    return Task(name, *splits, tuple(names), tuple(sizes.tolist()), fingerprint=fingerprint(name, len(listing), seed))


def size_of(path: Path) -> tuple[int, int]:
    from PIL import Image

    with Image.open(path) as image:
        return image.height, image.width


def by_penalty(features: dict, labels: dict, classes: int) -> dict:
    """Logistic regression; the penalty has the best accuracy on validation images, and only its test accuracy is computed."""
    heads = {c: fit_head(features["train"], labels["train"], classes, c) for c in PENALTIES}

    def accuracy(c, split):
        weight, bias = heads[c]
        return Evaluation(features[split].double() @ weight.T + bias, labels[split]).accuracy

    validation = {c: accuracy(c, "val") for c in PENALTIES}
    best = max(validation, key=validation.get)
    return {"c": best, "validation": validation[best], "test": accuracy(best, "test")}


def probe(task: Task, model: str, side: int) -> dict:
    net, parts = bitlib.create_model(model, pretrained=True), {s: getattr(task, s) for s in ("train", "val", "test")}
    return by_penalty({s: cache_features(net, images, side) for s, images in parts.items()}, labels_of(task), task.num_classes)


def labels_of(task: Task) -> dict:
    return {s: getattr(task, s).labels for s in ("train", "val", "test")}


def hand_made(task: Task) -> dict:
    """Histograms of gradients and of colours at 64 pixels."""
    features = {}
    for split in ("train", "val", "test"):
        pixels = getattr(task, split).prepare(64, "cpu").images.float() / 255
        grey = pixels.mean(1)
        dy, dx = torch.gradient(grey, dim=(1, 2))
        strength, angle = (dx**2 + dy**2).sqrt(), (torch.atan2(dy, dx) % torch.pi) / torch.pi * 9
        soft = strength[:, None] * (1 - (angle[:, None] - torch.arange(9)[:, None, None] - 0.5).abs()).clamp_min(0)
        hog = torch.nn.functional.avg_pool2d(soft, 8).flatten(1)
        hog = hog / hog.norm(dim=1, keepdim=True).clamp_min(1e-6)
        bins = (pixels * 3.999).long()
        index = bins[:, 0] * 16 + bins[:, 1] * 4 + bins[:, 2]
        colours = torch.nn.functional.one_hot(index.flatten(1), 64).float().mean(1).sqrt()
        features[split] = torch.cat([hog, colours], 1)
    return by_penalty(features, labels_of(task), task.num_classes)


def tuned(task: Task, model: str, side: int, loop) -> dict:
    """Fine-tuning from a head of zeros; the rate has the best validation accuracy."""
    runs = []
    for lr in RATES:
        net = bitlib.create_model(model, task.num_classes, pretrained=True)
        rule = default_rule(net, task).adapted(steps=TUNED_STEPS, base_lr=lr, resolution=(side + side // 8, side))
        runs.append((bitlib.finetune(net, task.closed(), rule, 0, loop), lr))
    run, lr = max(runs, key=lambda pair: pair[0].val_accuracy)
    run.decoded["test"] = task.test.prepare(side, "cpu")
    return {"lr": lr, "validation": run.val_accuracy, "test": run.evaluate("test").accuracy}


def default(task: Task, models: tuple, loop) -> dict:
    started = time.perf_counter()
    run = bitlib.choose([bitlib.create_model(name, pretrained=True) for name in models], task, loop=loop)
    keys = ("model", "method", "crop", "why", "plan")
    found = {key: run.config[key] for key in keys} | {"validation": run.val_accuracy, "test": run.test_accuracy}
    return found | {"seconds": round(time.perf_counter() - started, 1), "tried": run.config["tried"]}


def of_folder(name: str, root: Path, cells, wanted, models, loop) -> dict:
    """All ways, on splits of a folder."""
    tasks = [pooled(name, root, seed) for seed in SPLITS]
    ways = {"default": (default, models, loop)}
    ways |= {f"probe at {side} px": (probe, models[0], side) for side in SIDES}
    ways["hand-made features"] = (hand_made,)
    ways |= {f"fine-tuned at {side} px": (tuned, models[0], side, loop) for side in TUNED_SIDES}
    return measured(name, tasks, {way: how for way, how in ways.items() if way.split()[0] in wanted}, cells)


def measured(name: str, tasks: list, ways: dict, cells) -> dict:
    rows = {}
    for way, (run, *how) in ways.items():
        rows[way] = [cells(f"{name}, {way}, {task.fingerprint}", run, task, *how) for task in tasks]
        tests = [row["test"] for row in rows[way]]
        print(f"{name}, {way}: {100 * np.mean(tests):.1f} {json.dumps([round(100 * t, 1) for t in tests])}", flush=True)
    sizes = {"train": len(tasks[0].train), "val": len(tasks[0].val), "test": len(tasks[0].test)}
    return {"images": sizes, "classes": tasks[0].num_classes, "size": tasks[0].image_size, "ways": rows}


def table(found: dict, models: tuple) -> dict:
    """The record of these measurements, with one row for each way."""
    ways = dict.fromkeys(way for data in found.values() for way in data["ways"])
    tests = {way: {name: [row["test"] for row in data["ways"][way]] for name, data in found.items()} for way in ways}
    return {
        "models": models,
        "shots": list(found),
        "column": "{}",
        "methods": {way: way for way in ways},
        **tests,
        "data": found,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="+", metavar="NAME=PATH|TASK:SHOTS")
    parser.add_argument("--models", nargs="+", default=["photos-L", "glyphs-L"], help="the first one is tried at all sizes")
    parser.add_argument("--only", nargs="+", choices=WAYS, default=WAYS, help="measure only these, and write no record")
    args = parser.parse_args()
    loop, models = bitlib.Loop(progress=False), tuple(args.models)
    identity = {"models": weights_of(models), "threads": torch.get_num_threads()}
    folders = [given.partition("=")[::2] for given in args.data if "=" in given]
    few = [given.partition(":")[::2] for given in args.data if "=" not in given]
    cells = Cells("default", identity)
    found = {name: of_folder(name, Path(path), cells, args.only, models, loop) for name, path in folders}
    cells_few, found_few = Cells("default_few_shot", identity), {}
    for name, shots in few:
        tasks = [bitlib.load_task(name, int(shots), seed) for seed in SHOT_SEEDS]
        found_few[f"{name}:{shots}"] = measured(f"{name}:{shots}", tasks, {"default": (default, models, loop)}, cells_few)
    if args.only == WAYS:
        for name, values, stored in (("default", found, cells), ("default_few_shot", found_few, cells_few)):
            if values:
                record(name, table(values, models), pick_device("auto"))
                stored.clear()


if __name__ == "__main__":
    main()
