"""Measure training on all of CIFAR-10, with and without MixUp; write results/cifar10_full.json.

    python data_scripts/measure_cifar10_full.py
Three seeds per cell (order, crops, flips, MixUp, and the initial weights if they are random). Learning rates are chosen on
validation images with a seed that is not reported; each run is tested once, at its end. Needs CIFAR-10
(data_scripts/prepare_data.py). You can interrupt it at any time; the same command resumes it.
"""

import argparse
from dataclasses import replace

import torch
from record import Cells, record, weights_of
from tqdm import tqdm

import bitlib
from bitlib.device import pick_device

MODEL, SEEDS, STEPS = "photos-L", range(3), (150, 600)
RATES = (0.03, 0.1, 0.3)
RECIPE = {"batch_size": 128, "resolution": (36, 32)}
METHODS = {
    "finetune": ("fine-tuned", True, 0.0),
    "finetune_mixup": ("fine-tuned with MixUp", True, 0.1),
    "scratch": ("from scratch", False, 0.0),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    device, task = pick_device(parser.parse_args().device), bitlib.load_task("cifar10")

    def loop(progress: str) -> bitlib.Loop:
        return bitlib.Loop(device=str(device), precision="bf16", progress=progress)

    # Every fourth validation image is enough, since they only choose learning rates.
    task = replace(task, val=task.val.subset(torch.arange(0, len(task.val), 4)))
    cells = Cells("cifar10_full", {"task": task.fingerprint, "recipe": RECIPE, "models": weights_of([MODEL])})

    def rule(steps: int, lr: float, alpha: float) -> bitlib.HyperRule:
        return bitlib.HyperRule(len(task.train), task.image_size).adapted(steps=steps, base_lr=lr, alpha=alpha, **RECIPE)

    trial = replace(task, test=task.val.subset(torch.arange(1)))  # for choosing settings: the test images stay out of it

    def run(task: bitlib.Task, pretrained: bool, steps: int, lr: float, alpha: float, seed: int, progress: str) -> bitlib.Run:
        model = bitlib.create_model(MODEL, task.num_classes, pretrained=pretrained, seed=seed)
        return bitlib.finetune(model, task, rule(steps, lr, alpha), seed, loop(progress))

    rate = {}
    for pretrained in (True, False):
        found = {
            lr: cells(
                f"rate {pretrained} {lr}",
                lambda *how: run(trial, *how).val_accuracy,
                pretrained,
                STEPS[0],
                lr,
                0.0,
                100,
                f"rate {lr}",
            )
            for lr in RATES
        }
        rate[pretrained] = max(found, key=found.get)
    measured = {key: {str(s): [] for s in STEPS} for key in METHODS}
    with tqdm(total=len(METHODS) * len(STEPS) * len(SEEDS), unit="run") as bar:
        for seed in SEEDS:
            for key, (_, pretrained, alpha) in METHODS.items():
                for steps in STEPS:
                    title = f"{key} {steps} {seed}"
                    measured[key][str(steps)].append(
                        cells(
                            title,
                            lambda *how: run(task, *how).test_accuracy,
                            pretrained,
                            steps,
                            rate[pretrained],
                            alpha,
                            seed,
                            title,
                        )
                    )
                    bar.update()
    record(
        "cifar10_full",
        {
            "task": task.name,
            "fingerprint": task.fingerprint,
            "n_train": len(task.train),
            "n_test": len(task.test),
            "seeds": list(SEEDS),
            "axis": "steps",
            "column": "{} steps",
            "batch_size": RECIPE["batch_size"],
            "model": MODEL,
            "shots": STEPS,
            "lr": rate[True],
            "scratch_lr": rate[False],
            "methods": {key: label for key, (label, *_) in METHODS.items()},
            **measured,
        },
        device,
    )
    cells.clear()


if __name__ == "__main__":
    main()
