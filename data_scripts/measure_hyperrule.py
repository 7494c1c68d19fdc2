"""Measure what the BiT-HyperRule leaves on the table, and what its augmentations do to labels; for chapter 8.

    python data_scripts/measure_hyperrule.py            all three records
    python data_scripts/measure_hyperrule.py sides      one

search writes results/hyperrule.json: a random search of 30 trials beside the rule on two few-shot tasks. A trial is chosen by
its validation accuracy on two random subsets and judged on five others. Every trial's test accuracy is kept too, for looking at
the search afterwards; no choice is made from it. sides writes results/hyperrule_sides.json: networks fine-tuned at several
resolutions, each tested at several sides. labels writes results/hyperrule_labels.json: flips and crops, on and off, on
tasks whose labels survive them and tasks whose labels do not. The photographs are Tiny-ImageNet's official validation images,
which the course's networks have not seen; they have to be in the cache. You can interrupt it at any time; the same command
resumes it.
"""

import argparse
from dataclasses import replace
from math import pi
from random import Random
from statistics import fmean

import torch
from measure_digits import SEARCH, SEEDS, counted
from record import Cells, record, weights_of
from tqdm import tqdm

import bitlib
from bitlib.data.task import ArrayImages, Task, fingerprint, split_indices
from bitlib.device import pick_device
from bitlib.transfer import default_rule

MODEL, PHOTO_MODEL, SHOTS = "glyphs-L", "photos-L", 10

# The search. Its ranges are as wide around our rule as the paper's are around its own (appendix A).
TASKS, TRIALS = ("digits", "tiles"), 30
SPACE = {
    "base_lr": (0.001, 1.0),  # log-uniform
    "steps": (25, 50, 100, 200),
    "alpha": (0.0, 0.05, 0.1, 0.2, 0.4),
    "weight_decay": (0.0, 1e-4, 1e-3, 1e-2),
    "crop": (16, 24, 32, 40),
}
RULE, FOUND, MORE = "the rule", f"best of {TRIALS} trials", "the rule, and the validation images to train on"

# Train and test resolution: (resize, crop) of the training images, and sides of the test images.
TRAINED, SIDES = ((32, 32), (40, 32), (48, 32), (48, 48)), (24, 32, 40, 48, 64)
CLASSES, PER_CLASS = 20, (0.2, 0.4)  # photographs: how many classes; shares for validation and test

# What augmentation does to labels.
MIRRORED, UNPAIRED = "bdpq", "aegk"  # letters that are mirror images of one another, and letters that are not
COPIES = 30  # test images per letter and font
SHAPES = {"position": 9, "size": 6, "count": 6, "angle": 8}  # tasks that are drawn, with their number of classes
DRAWN, SIDE = (40, 20, 40), 64  # images per class for training, validation and test; pixels
ZOOM = 1.25  # 160 / 128: how much larger a training image shows its objects than a test image, by the rule
CROPS = {"random crop": ((40, 32), True), "central crop": ((40, 32), False), "no crop": ((32, 32), False)}


def random_trials(count: int, seed: int = 0) -> list[dict]:
    """This many settings, drawn independently from SPACE."""
    random = Random(seed)

    def drawn() -> dict:
        low, high = SPACE["base_lr"]
        rate = float(f"{low * (high / low) ** random.random():.2g}")
        return {"base_lr": rate, **{name: random.choice(values) for name, values in SPACE.items() if name != "base_lr"}}

    return [drawn() for _ in range(count)]


def with_validation(task: Task) -> Task:
    """The same task with its validation images among those for training."""
    parts = task.train, task.val
    images = [part.images for part in parts]
    return replace(task, train=ArrayImages(torch.cat(images), torch.cat([part.labels for part in parts])))


def opened(run: bitlib.Run, task: Task) -> bitlib.Run:
    """The run, which has seen no test image so far, with the test split that it was denied."""
    run.task = replace(run.task, test=task.test)
    return run


def tuned(name: str, task: Task, seed: int, loop, crop: int | None = None, **changes) -> bitlib.Run:
    """The network of this name fine-tuned on the task, whose test split stays closed, by the rule with some changes."""
    model = bitlib.create_model(name, task.num_classes, pretrained=True)
    rule = default_rule(model, task)
    if crop is not None:  # at the rule's own proportion of crop to image
        changes["resolution"] = (round(crop * rule.resize / rule.crop), crop)
    return opened(bitlib.finetune(model, task.closed(), rule.adapted(**changes), seed, loop), task)


def diverged(setting: dict, task: Task, seed: int, loop) -> bitlib.Run | None:
    """`tuned`, or None if the loss did not stay finite, which ends a trial without a result."""
    try:
        return tuned(MODEL, task, seed, loop, **setting)
    except bitlib.UserError:
        return None


def search(loop) -> tuple[str, dict, Cells]:
    """results/hyperrule.json: what the rule and the search reach on each task, and every trial."""
    tasks = {name: bitlib.load_task(name) for name in TASKS}
    settings, counts = random_trials(TRIALS), len(TASKS) * ((TRIALS + 1) * len(SEARCH) + 3 * len(SEEDS))
    cells = Cells("hyperrule", {"tasks": prints(tasks), "models": weights_of((MODEL,)), "space": SPACE})
    tried, final = {}, {}
    with tqdm(total=counts, desc="search", unit="run") as bar:
        measured = counted(cells, bar)

        def trial(name: str, setting: dict, seed: int) -> dict:
            task = tasks[name].few_shot(SHOTS, seed)
            run = diverged(setting, task, seed, loop)
            if run is None:
                return {"validation": 0.0, "test": 0.0, "right": "0" * len(task.val)}
            held = run.evaluate("val")
            right = "".join(str(int(hit)) for hit in held.predictions == held.labels)
            return {"validation": held.accuracy, "test": run.evaluate("test").accuracy, "right": right}

        def judged(name: str, setting: dict, seed: int, more: bool) -> float:
            task = tasks[name].few_shot(SHOTS, seed)
            return tuned(MODEL, with_validation(task) if more else task, seed, loop, **setting).evaluate("test").accuracy

        for name in TASKS:
            rows = []
            for setting in ({}, *settings):
                found = [measured(f"{name} {setting} {seed}", lambda: trial(name, setting, seed)) for seed in SEARCH]  # noqa: B023
                rows.append({"setting": setting, **{key: [row[key] for row in found] for key in found[0]}})
            tried[name] = rows
            best = max(rows[1:], key=lambda row: fmean(row["validation"]))["setting"]
            for title, setting, more in ((RULE, {}, False), (FOUND, best, False), (MORE, {}, True)):
                key = f"{name}, {title}"
                values = [measured(f"{key} {seed}", lambda: judged(name, setting, seed, more)) for seed in SEEDS]  # noqa: B023
                final[key] = {"accuracy": values}
    task = next(iter(tasks.values())).few_shot(SHOTS)
    rule = default_rule(bitlib.create_model(MODEL), task)
    own = {"base_lr": rule.base_lr, "steps": rule.total_steps, "alpha": rule.mixup_alpha, "weight_decay": rule.weight_decay}
    about = {"tasks": prints(tasks), "model": MODEL, "shots": SHOTS, "space": SPACE, "rule": own | {"crop": rule.crop}}
    about |= {"batch_size": rule.batch_size, "n_val": {name: len(task.val) for name, task in tasks.items()}}
    about |= {"seeds": list(SEEDS), "search_seeds": list(SEARCH)}
    return "hyperrule", {**about, "trials": tried, "cells": final}, cells


def photographs() -> Task:
    """A few classes of Tiny-ImageNet, from its official validation images only, which no network of ours was trained on."""
    whole = bitlib.load_task("tiny-imagenet")
    chosen = torch.randperm(whole.num_classes, generator=torch.Generator().manual_seed(0))[:CLASSES].sort().values
    number = torch.full((whole.num_classes,), -1)
    number[chosen] = torch.arange(len(chosen))
    kept = (number[whole.test.labels] >= 0).nonzero()[:, 0]
    images = ArrayImages(whole.test.images[kept], number[whole.test.labels[kept]])
    splits = [images.subset(part) for part in split_indices(images.labels, PER_CLASS)]
    names = tuple(whole.class_names[i] for i in chosen.tolist())
    identity = fingerprint("photographs", whole.fingerprint, CLASSES, PER_CLASS)
    return Task("photographs", *splits, names, whole.image_size, fingerprint=identity)


def prints(tasks: dict[str, Task]) -> dict[str, str]:
    return {name: task.fingerprint for name, task in tasks.items()}


def sides(loop) -> tuple[str, dict, Cells]:
    """results/hyperrule_sides.json: networks fine-tuned at every resolution of TRAINED, tested at every side of SIDES."""
    tasks = {"digits": (bitlib.load_task("digits"), MODEL), "photographs": (photographs(), PHOTO_MODEL)}
    only = {name: task for name, (task, _) in tasks.items()}
    cells = Cells("hyperrule_sides", {"tasks": prints(only), "models": weights_of((MODEL, PHOTO_MODEL)), "sides": SIDES})
    found = {}

    def tested(task: Task, model: str, resolution: tuple, seed: int) -> list[float]:
        run = tuned(model, task.few_shot(SHOTS, seed), seed, loop, resolution=resolution)
        return [bitlib.evaluate(run.model, task.test, side).accuracy for side in SIDES]

    with tqdm(total=len(tasks) * len(TRAINED) * len(SEEDS), desc="sides", unit="run") as bar:
        measured = counted(cells, bar)
        for name, (task, model) in tasks.items():
            for resize, crop in TRAINED:
                key = f"{name}, {resize} to {crop}"
                rows = [measured(f"{key} {seed}", lambda: tested(task, model, (resize, crop), seed)) for seed in SEEDS]  # noqa: B023
                found[key] = {str(side): list(column) for side, column in zip(SIDES, zip(*rows))}
    about = {"tasks": prints(only), "models": {name: model for name, (_, model) in tasks.items()}, "shots": SHOTS}
    about |= {"seeds": list(SEEDS), "n_test": {name: len(task.test) for name, task in only.items()}}
    about["classes"] = {"photographs": list(only["photographs"].class_names)}
    return "hyperrule_sides", {**about, "cells": found}, cells


def letters(wanted: str) -> Task:
    """These letters, in fonts for training and, for validation and test, in other fonts."""
    whole = bitlib.load_task("glyphs")
    number = torch.tensor([wanted.find(name) for name in whole.class_names])
    kept = (number[whole.train.labels] >= 0).nonzero()[:, 0]
    images, labels = whole.train.subset(kept), number[whole.train.labels[kept]]
    train, *held = split_indices(labels, (0.15, 0.3))

    def drawn(part: torch.Tensor, seed: int) -> ArrayImages:
        part = part.repeat(COPIES)
        numbers = images.draw(len(part), torch.Generator().manual_seed(seed))
        return ArrayImages(images.batch(part, numbers), labels[part])

    val, test = (drawn(part, seed) for seed, part in enumerate(held))
    pool = drawn(train, 2)
    identity = fingerprint(whole.fingerprint, wanted, COPIES)
    return Task(f"letters {' '.join(wanted)}", pool, val, test, tuple(wanted), whole.image_size, fingerprint=identity)


def drawn_shapes(kind: str, labels: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """One image per label, uint8 [N, 3, SIDE, SIDE]: discs whose place, radius or number is the label, or bars at an angle."""
    count, axis = len(labels), (torch.arange(SIDE) + 0.5) / SIDE
    y, x = axis[:, None], axis

    def between(low: float, high: float, *shape: int) -> torch.Tensor:
        return low + (high - low) * torch.rand(count, *shape, generator=generator)

    radius, centre = between(0.06, 0.09), between(0.2, 0.8, 2)
    if kind == "position":  # which cell of a grid of three by three
        centre = (torch.stack([labels // 3, labels % 3], 1) + between(0.15, 0.85, 2)) / 3
    elif kind == "size":  # each size is larger than the one before by the zoom of the rule's crop
        radius, centre = 0.07 * ZOOM**labels * between(0.96, 1.04), between(0.3, 0.7, 2)

    def disc(centre: torch.Tensor, radius: torch.Tensor) -> torch.Tensor:
        far = torch.hypot(y - centre[:, 0, None, None], x - centre[:, 1, None, None])
        return torch.sigmoid((radius[:, None, None] - far) * 2 * SIDE)

    if kind == "angle":
        angle = (labels * pi / SHAPES["angle"] + between(-0.1, 0.1))[:, None, None]
        right, down = x - centre[:, 1, None, None], y - centre[:, 0, None, None]
        along, across = right * angle.cos() - down * angle.sin(), right * angle.sin() + down * angle.cos()
        length, width = between(0.16, 0.2, 1, 1), between(0.025, 0.04, 1, 1)
        ink = torch.sigmoid(torch.minimum(length - along.abs(), width - across.abs()) * 2 * SIDE)
    elif kind == "count":  # distinct cells of a grid of four by four, so that no two discs touch
        cells = torch.rand(count, 16, generator=generator).argsort(1)[:, : SHAPES["count"]]
        places = (torch.stack([cells // 4, cells % 4], 2) + between(0.42, 0.58, SHAPES["count"], 2)) / 4
        ink = sum(disc(places[:, i], radius) * (i <= labels)[:, None, None].float() for i in range(SHAPES["count"]))
    else:
        ink = disc(centre, radius)
    paper, pen = between(0, 0.4, 3, 1, 1), between(0.6, 1, 3, 1, 1)
    dark = (between(0, 1, 1, 1, 1) < 0.5).float()
    paper, pen = torch.lerp(paper, pen, dark), torch.lerp(pen, paper, dark)
    noise = 0.03 * torch.randn(count, 3, SIDE, SIDE, generator=generator)
    return ((torch.lerp(paper, pen, ink[:, None]) + noise).clamp(0, 1) * 255).round().to(torch.uint8)


def shapes(kind: str) -> Task:
    """A task that is drawn."""
    generator, splits = torch.Generator().manual_seed(0), []
    for each in DRAWN:
        labels = torch.arange(SHAPES[kind]).repeat(each)
        splits.append(ArrayImages(drawn_shapes(kind, labels, generator), labels))
    names = tuple(str(label + 1) for label in range(SHAPES[kind]))
    return Task(kind, *splits, names, (SIDE, SIDE), fingerprint=fingerprint(kind, *(part.digest() for part in splits)))


def labels(loop) -> tuple[str, dict, Cells]:
    """results/hyperrule_labels.json: flips on and off, and crops of three kinds, where labels survive them and where not."""
    characters = {"mirror pairs": letters(MIRRORED), "no mirror pairs": letters(UNPAIRED), "digits": bitlib.load_task("digits")}
    flipped = {**dict.fromkeys(characters, MODEL), "angle": MODEL, "photographs": PHOTO_MODEL}
    tasks = {**characters, **{kind: shapes(kind) for kind in SHAPES}, "photographs": photographs()}
    identity = {"tasks": prints(tasks), "models": weights_of((MODEL, PHOTO_MODEL)), "crops": CROPS}
    cells, found = Cells("hyperrule_labels", identity), {}

    def flips(name: str, model: str, flip: bool, seed: int) -> float:
        task = replace(tasks[name].few_shot(SHOTS, seed), random_crop=False, random_flip=flip)
        return tuned(model, task, seed, loop, resolution=(32, 32)).evaluate("test").accuracy

    def crops(name: str, resolution: tuple, random: bool, seed: int) -> list[float]:
        task = replace(tasks[name].few_shot(2 * SHOTS, seed), random_crop=random, random_flip=False)
        run = tuned(MODEL, task, seed, loop, resolution=resolution)
        return [bitlib.evaluate(run.model, task.test, side).accuracy for side in (32, 40)]

    cropped = [kind for kind in SHAPES if kind != "angle"]
    with tqdm(total=(2 * len(flipped) + len(CROPS) * len(cropped)) * len(SEEDS), desc="labels", unit="run") as bar:
        measured = counted(cells, bar)
        for name, model in flipped.items():
            for title, flip in (("mirrored", True), ("not mirrored", False)):
                key = f"{name}, {title}"
                values = [measured(f"{key} {seed}", lambda: flips(name, model, flip, seed)) for seed in SEEDS]  # noqa: B023
                found[key] = {"accuracy": values}
        for name in cropped:
            for title, (resolution, random) in CROPS.items():
                key = f"{name}, {title}"
                rows = [measured(f"{key} {seed}", lambda: crops(name, resolution, random, seed)) for seed in SEEDS]  # noqa: B023
                found[key] = {str(side): list(column) for side, column in zip((32, 40), zip(*rows))}
    about = {"tasks": prints(tasks), "models": {name: flipped.get(name, MODEL) for name in tasks}, "shots": SHOTS}
    about |= {"seeds": list(SEEDS), "crops": {title: list(resolution) for title, (resolution, _) in CROPS.items()}}
    return "hyperrule_labels", {**about, "cells": found}, cells


RECORDS = {"search": search, "sides": sides, "labels": labels}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", nargs="*", metavar="NAME", help=", ".join(RECORDS))
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    if unknown := set(args.records) - set(RECORDS):
        parser.error(f"no record {', '.join(sorted(unknown))}; choose from {', '.join(RECORDS)}")
    device = pick_device(args.device)
    loop = bitlib.Loop(device=str(device), precision="fp32", progress=False)
    for name, content, cells in [RECORDS[name](loop) for name in args.records or RECORDS]:
        record(name, content, device)
        cells.clear()


if __name__ == "__main__":
    main()
