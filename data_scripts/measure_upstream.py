"""Pre-train small networks by data, network and steps, and by schedule, decay and batch, and write results/upstream.json.

    python data_scripts/measure_upstream.py
Three numbers of characters, three widths and three lengths, and at the middle of this grid other schedules, other weight decays
and larger batches. Every pair of data and network has its learning rate chosen among the same three, by validation accuracy
upstream. A seed decides which characters there are, the initial weights and the order of the images. Downstream: a linear probe
on the real digits, its penalty chosen on the validation images of two random subsets, the mean of five others on the test
images. About 45 minutes of one core; you can interrupt it at any time, and the same command resumes it.
"""

import argparse
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from statistics import fmean

import torch
from record import Cells, record
from tqdm import tqdm

import bitlib
from bitlib.course.protocol import edges, trials
from bitlib.data.task import few_shot_indices
from bitlib.device import pick_device
from bitlib.features import cache_features, fit_head
from bitlib.norm import standardized_convs
from bitlib.pretrain import PAPER_MILESTONES, Upstream, pretrain
from bitlib.trainer import Diverged

TASK = "glyphs-easy"
CLASSES, WIDTHS, STEPS = (128, 512, 2048), (4, 8, 16), (90, 360, 1440)
MIDDLE = {"classes": CLASSES[1], "width": WIDTHS[1]}  # where everything else is varied, at the most steps
RATES, SEARCH, SEEDS = trials(lr=(0.05, 0.15, 0.45)), (100, 101), range(5)
SHOTS, DRAWS, PENALTIES = (5, 25), range(5), (0.01, 0.1, 1.0)
LOOKS = 30  # points of a curve
BATCH, SIDE, LARGER = 64, 16, 4  # LARGER: by how much the large batch is larger
SCHEDULES = {
    "staircase, twice too early": tuple(share / 2 for share in PAPER_MILESTONES),
    "staircase, four times too early": tuple(share / 4 for share in PAPER_MILESTONES),
    "cosine": (),
}
DECAYS = (1e-5, 5e-4, 5e-3)
VARIED = ("steps", "batch_size", "lr", "warmup_steps", "weight_decay", "milestones")
LARGE = {"rate as it was": 1, "rate times 4": 4, "rate times 16": 16}


def recipe_of(width: int, steps: int, lr: float, **other) -> Upstream:
    """The paper's recipe at this size: staircase, momentum 0.9, weight decay 1e-4, a sixteenth of the steps for the warm-up."""
    arch = bitlib.Arch((1, 1, 1, 1), width, width // 2, "small")
    given = dict(steps=steps, batch_size=BATCH, lr=lr, warmup_steps=steps // 16, side=SIDE, milestones=PAPER_MILESTONES)
    return Upstream(arch, **(given | other))


def squared_norm(model) -> dict[str, float]:
    """The mean squared length of the filters that are standardised, each without its mean, which standardising ignores."""
    filters = [conv.weight.detach().flatten(1) for conv in standardized_convs(model)]
    return {"norm": torch.cat([(w - w.mean(1, keepdim=True)).square().sum(1) for w in filters]).mean().item()}


def probed(model, digits) -> dict[str, float]:
    """Test accuracy of a linear probe, by images per class: mean over DRAWS, its penalty chosen on validation images."""
    features = {split: cache_features(model, getattr(digits, split), SIDE).double() for split in ("train", "val", "test")}

    def accuracy(shots: int, draw: int, split: str, c: float) -> float:
        some = few_shot_indices(digits.train.labels, shots, draw)
        weight, bias = fit_head(features["train"][some], digits.train.labels[some], digits.num_classes, c)
        return ((features[split] @ weight.T + bias).argmax(1) == getattr(digits, split).labels).double().mean().item()

    def tested(shots: int) -> float:
        c = max(PENALTIES, key=lambda c: fmean(accuracy(shots, draw, "val", c) for draw in SEARCH))
        return fmean(accuracy(shots, draw, "test", c) for draw in DRAWS)

    return {f"{shots}-shot": tested(shots) for shots in SHOTS}


def measured(glyphs, digits, loop: Callable, classes: int, recipe: Upstream, follow: bool, seed: int) -> dict:
    """One run: accuracies upstream and downstream, training loss at the end, minutes; with `follow` curves over the steps.

    A run that diverges has accuracies of 0 and no loss.
    """
    every = max(1, recipe.steps // LOOKS)
    task = glyphs.some_classes(classes, seed)
    try:
        result = pretrain(task, recipe, seed, loop(evaluate_every=every if follow else 0), squared_norm)
    except Diverged:
        return {"upstream": 0.0, "loss": None, **{f"{shots}-shot": 0.0 for shots in SHOTS}, "minutes": 0.0}
    rows, last = result.history.rows, max(1, recipe.steps // 20)
    found = {"upstream": result.val_accuracy, "loss": fmean(row["loss"] for row in rows[-last:])} | probed(result.model, digits)
    found["minutes"] = round(result.history.seconds / 60, 1)
    if follow:
        seen = [(i, row) for i, row in enumerate(rows, 1) if "val_accuracy" in row]
        losses = [fmean(row["loss"] for row in rows[max(0, i - every) : i]) for i, _ in seen]
        curve = {"step": [i for i, _ in seen], "loss": losses}
        found["curve"] = curve | {key: [row[key] for _, row in seen] for key in ("val_accuracy", "norm", "lr")}
    return found


def runs(chosen: Callable[[int, int], float]) -> dict[str, tuple]:
    """All that is measured: {name: (classes, recipe, whether to follow it)}. chosen(classes, width) -> its learning rate."""
    found = {}
    for classes in CLASSES:
        for width in WIDTHS:
            for steps in STEPS:
                name = f"{classes} characters, width {width}, {steps} steps"
                middle = MIDDLE == {"classes": classes, "width": width} and steps == STEPS[-1]
                found[name] = (classes, recipe_of(width, steps, chosen(classes, width)), middle)
    classes, width, steps = *MIDDLE.values(), STEPS[-1]
    usual = partial(recipe_of, width)
    lr = chosen(classes, width)
    for name, milestones in SCHEDULES.items():
        found[name] = (classes, usual(steps, lr, milestones=milestones), True)
    for decay in DECAYS:
        found[f"weight decay {decay:g}"] = (classes, usual(steps, lr, weight_decay=decay), True)
    for name, factor in LARGE.items():
        for start in ("warm-up", "no warm-up") if factor > 1 else ("warm-up",):
            fewer = usual(steps // LARGER, factor * lr, batch_size=LARGER * BATCH)
            if start == "no warm-up":
                fewer = usual(steps // LARGER, factor * lr, batch_size=LARGER * BATCH, warmup_steps=0)
            found[f"batch of {LARGER * BATCH}, {name}, {start}"] = (classes, fewer, False)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    device = pick_device(parser.parse_args().device)
    loop = partial(bitlib.Loop, device=str(device), precision="fp32", progress=False)
    glyphs, digits = bitlib.load_task(TASK).closed(), bitlib.load_task("digits")
    settings = {
        "classes": list(CLASSES),
        "widths": list(WIDTHS),
        "steps": list(STEPS),
        "batch_size": BATCH,
        "side": SIDE,
        "shots": list(SHOTS),
        "draws": len(DRAWS),
        "milestones": list(PAPER_MILESTONES),
        "decays": list(DECAYS),
    }
    cells = Cells("upstream", {"tasks": [glyphs.fingerprint, digits.fingerprint], **settings})
    one = partial(measured, glyphs, digits, loop)
    pairs, total = [(classes, width) for classes in CLASSES for width in WIDTHS], len(runs(lambda *_: 1.0)) * len(SEEDS)
    search, chosen = {}, {}
    with tqdm(total=len(pairs) * len(RATES) * len(SEARCH) + total, desc="upstream", unit="run") as bar:

        def stored(key: str, *how):
            value = cells(key, one, *how)
            bar.update()
            return value

        for classes, width in pairs:
            name = f"{classes} characters, width {width}"
            search[name] = []
            for setting in RATES:
                recipe = recipe_of(width, STEPS[len(STEPS) // 2], **setting)
                found = [stored(f"search, {name}, rate {setting['lr']:g}, {s}", classes, recipe, False, s) for s in SEARCH]
                search[name].append({"setting": setting, "validation": [value["upstream"] for value in found]})
            chosen[name] = max(search[name], key=lambda trial: fmean(trial["validation"]))["setting"]
        every = runs(lambda classes, width: chosen[f"{classes} characters, width {width}"]["lr"])
        rows = {name: [stored(f"{name}, {seed}", *how, seed) for seed in SEEDS] for name, how in every.items()}
    kept = {name: {key: [row[key] for row in row_of] for key in row_of[0]} for name, row_of in rows.items()}
    used = {name: {k: v for k, v in asdict(recipe).items() if k in VARIED} for name, (_, recipe, _) in every.items()}
    networks = {w: bitlib.ResNetV2(recipe_of(w, STEPS[0], 1.0).arch, 1, 0) for w in WIDTHS}
    size = {str(w): bitlib.count_parameters(net) - bitlib.count_parameters(net.head) for w, net in networks.items()}
    about = {"task": TASK, "fingerprint": glyphs.fingerprint, "downstream": digits.fingerprint, **settings, "parameters": size}
    about |= {"seeds": list(SEEDS), "search_seeds": list(SEARCH), "recipes": used}
    how = {"edge": {name: edges(chosen[name], RATES) for name in chosen}, "search": search, "chosen": chosen}
    record("upstream", {**about, "cells": kept, **how}, device)
    cells.clear()


if __name__ == "__main__":
    main()
