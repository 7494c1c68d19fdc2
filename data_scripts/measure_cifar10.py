"""Measure few-shot transfer from the course's photo models to CIFAR-10; write results/cifar10.json and cifar10_scales.json.

    python data_scripts/measure_cifar10.py              both
    python data_scripts/measure_cifar10.py cifar10      one
cifar10 compares four methods by the protocol of bitlib/course/protocol.py, as measure_digits.py does: four trials each, chosen
on validation images of two random subsets, then tested once on each of five others. cifar10_scales fine-tunes three networks by
the rule, without a search. Needs CIFAR-10 (data_scripts/prepare_data.py). You can interrupt it at any time; the same command
resumes it.
"""

import argparse
from dataclasses import replace
from functools import partial
from itertools import product

import torch
from measure_digits import SEARCH, SEEDS, TUNING, by_shots, probed, probed_then_tuned, recipe_of, tuned
from record import Cells, record, weights_of
from tqdm import tqdm

import bitlib
from bitlib.course.protocol import Arm, trials
from bitlib.device import pick_device
from bitlib.transfer import default_rule

SHOTS, MODEL, SCALES = (1, 5, 10, 25, 100), "photos-L", ("photos-S", "photos-M", "photos-L")
METHODS = {
    "finetune": "fine-tuned",
    "linear_probe": "frozen, linear probe",
    "probe_finetune": "linear probe, then fine-tuned",
    "scratch": "from scratch",
}
PROBE_C = 0.003  # of the probe with which "probe, then fine-tuned" begins


def scratch(loop, task, setting, seed) -> bitlib.Run:
    """The same network from random weights. setting: base_lr, steps."""
    model = bitlib.create_model(MODEL, task.num_classes, seed=seed)
    return bitlib.finetune(model, task, default_rule(model, task).adapted(**setting), seed, loop)


def arms(loop) -> tuple[Arm, ...]:
    """What is compared, in the order of METHODS."""
    return (
        Arm("finetune", TUNING, partial(tuned, MODEL, None, loop)),
        Arm("linear_probe", trials(c=(0.001, 0.003, 0.01, 0.1)), partial(probed, MODEL, loop, mirror=True)),
        Arm(
            "probe_finetune",
            trials(base_lr=(0.003, 0.01), steps=(50, 200)),
            partial(probed_then_tuned, MODEL, loop, c=PROBE_C, mirror=True),
        ),
        Arm("scratch", trials(base_lr=(0.03, 0.1), steps=(150, 500)), partial(scratch, loop)),
    )


def cifar10(task, loop, cells) -> dict:
    about = {"model": MODEL, "recipe": recipe_of(MODEL, task), "methods": METHODS}
    return about | by_shots(task, arms(loop), SHOTS, SEARCH, SEEDS, cells)


def cifar10_scales(task, loop, cells) -> dict:
    """Accuracies by network and shots, fine-tuned by the rule, without a search."""

    def accuracy(name, shots, seed) -> float:
        model = bitlib.create_model(name, task.num_classes, pretrained=True)
        return bitlib.finetune(model, task.few_shot(shots, seed), None, seed, loop).test_accuracy

    found = {name: {str(shots): [] for shots in SHOTS} for name in SCALES}
    with tqdm(total=len(SCALES) * len(SHOTS) * len(SEEDS), desc=f"{task.name}, scales", unit="run") as bar:
        for name, shots, seed in product(SCALES, SHOTS, SEEDS):
            found[name][str(shots)].append(cells(f"{name} {shots} {seed}", accuracy, name, shots, seed))
            bar.update()
    return {"recipe": recipe_of(SCALES[-1], task), "methods": {name: name for name in SCALES}, **found}


RECORDS = {"cifar10": cifar10, "cifar10_scales": cifar10_scales}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", nargs="*", metavar="NAME", help=", ".join(RECORDS))
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    if unknown := set(args.records) - set(RECORDS):
        parser.error(f"no record {', '.join(sorted(unknown))}; choose from {', '.join(RECORDS)}")
    device, task = pick_device(args.device), bitlib.load_task("cifar10")
    loop = bitlib.Loop(device=str(device), precision="fp32", progress=False)
    # Every eighth validation image is enough, since they only choose settings.
    task = replace(task, val=task.val.subset(torch.arange(0, len(task.val), 8)))
    about = {"task": task.name, "fingerprint": task.fingerprint, "shots": SHOTS, "seeds": list(SEEDS), "n_test": len(task.test)}
    identity, finished = {"task": task.fingerprint, "models": weights_of(SCALES), "probe": PROBE_C}, []
    for name in args.records or RECORDS:
        cells = Cells(name, identity)
        finished.append((name, cells, RECORDS[name](task, loop, cells)))
    for name, cells, measured in finished:
        record(name, about | measured, device)
        cells.clear()


if __name__ == "__main__":
    main()
