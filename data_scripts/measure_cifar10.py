"""Measure few-shot transfer from the course's photo models to CIFAR-10, and write results/cifar10.json
and cifar10_scales.json.

    python data_scripts/measure_cifar10.py [--models photos-L photos-M photos-S] [--methods linear_probe]
Each cell uses five random subsets of the training images, as in the paper; each run is tested once, at its end. Needs CIFAR-10
(data_scripts/prepare_data.py). With --methods only those are measured, and the others stay in the files as they are.
You can interrupt it at any time; the same command resumes it.
"""

import argparse
import json
from dataclasses import replace
from statistics import fmean

import torch
from record import RESULTS, Cells, commit, record, weights_of
from tqdm import tqdm

import bitlib
from bitlib.device import pick_device
from bitlib.transfer import default_rule

SEEDS = range(5)
SCRATCH_RATES = (0.03, 0.1)
SCRATCH_STEPS = {1: 100, 5: 100, 10: 200, 25: 300, 100: 500}  # fine-tuning needs fewer
METHODS = {"finetune": "fine-tuned", "linear_probe": "frozen, linear probe", "scratch": "from scratch"}
PENALTIES = (0.001, 0.003, 0.01, 0.03, 0.1)  # candidates for the linear head: inverse strengths of the penalty


def finetuned(name, task, shots, seed, loop):
    model = bitlib.create_model(name, task.num_classes, pretrained=True)
    return bitlib.finetune(model, task.few_shot(shots, seed), None, seed, loop)


def probed(name, task, shots, seed, loop, c):
    model = bitlib.create_model(name, task.num_classes, pretrained=True)
    return bitlib.linear_probe(model, task.few_shot(shots, seed), loop=loop, c=c, mirror=True)


def scratch(name, task, shots, seed, loop, lr):
    subset, model = task.few_shot(shots, seed), bitlib.create_model(name, task.num_classes, seed=seed)
    rule = default_rule(model, subset).adapted(base_lr=lr, steps=SCRATCH_STEPS[shots])
    return bitlib.finetune(model, subset, rule, seed, loop)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["photos-L", "photos-M", "photos-S"], metavar="MODEL")
    parser.add_argument("--shots", nargs="+", type=int, default=list(SCRATCH_STEPS), choices=SCRATCH_STEPS, metavar="K")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    device, task, largest = pick_device(args.device), bitlib.load_task("cifar10"), args.models[0]
    loop = bitlib.Loop(device=str(device), precision="fp32", progress=False)
    # Every eighth validation image is enough, since they only choose settings.
    task = replace(task, val=task.val.subset(torch.arange(0, len(task.val), 8)))
    rule = default_rule(bitlib.create_model(largest), task.few_shot(1))
    recipe = {"steps": rule.total_steps, "batch_size": rule.batch_size, "crop": rule.crop, "base_lr": rule.base_lr}
    cells = Cells("cifar10", {"task": task.fingerprint, "recipe": recipe, "models": weights_of(args.models)})

    before = {} if args.methods == list(METHODS) else json.loads((RESULTS / "cifar10.json").read_text("utf8"))
    if before and (before["fingerprint"], before["recipe"], before["shots"]) != (task.fingerprint, recipe, args.shots):
        parser.error("the files were measured with other data, recipes or shots; measure everything")
    new = {}
    arms = {}
    if "finetune" in args.methods:
        arms["finetune"] = lambda *a: finetuned(largest, *a)
        arms |= {f"finetune_{name}": lambda *a, name=name: finetuned(name, *a) for name in args.models[1:]}
    if "linear_probe" in args.methods:
        # For each number of images, choose the head's best penalty on validation images, with random subsets that are not
        # reported. Test images are not used.
        trial = replace(task, test=task.val.subset(torch.arange(1)))
        penalty = {}
        for shots in tqdm(args.shots, "penalty", unit="shots"):
            by_penalty = {
                c: fmean(
                    cells(
                        f"penalty {c} {shots} {seed}",
                        lambda c=c, shots=shots, seed=seed: probed(largest, trial, shots, seed, loop, c).val_accuracy,
                    )
                    for seed in range(100, 102)
                )
                for c in PENALTIES
            }
            penalty[shots] = max(by_penalty, key=by_penalty.get)
        new["head_c"] = {str(k): v for k, v in penalty.items()}
        arms["linear_probe"] = lambda task, shots, *a: probed(largest, task, shots, *a, penalty[shots])
    if "scratch" in args.methods:  # its learning rate is chosen in the same way
        by_rate = {
            lr: fmean(
                cells(f"rate {lr} {seed}", lambda lr=lr, seed=seed: scratch(largest, task, 10, seed, loop, lr).val_accuracy)
                for seed in range(100, 102)
            )
            for lr in SCRATCH_RATES
        }
        best = max(by_rate, key=by_rate.get)
        new |= {
            "scratch_lr": best,
            "scratch_lr_validation": {str(k): v for k, v in by_rate.items()},
            "scratch_steps": {str(k): SCRATCH_STEPS[k] for k in args.shots},
        }
        arms["scratch"] = lambda *a: scratch(largest, *a, best)
    measured = {key: {} for key in arms}
    with tqdm(total=len(arms) * len(args.shots) * len(SEEDS), unit="run") as bar:
        for key, run in arms.items():
            for shots in args.shots:
                measured[key][str(shots)] = []
                for seed in SEEDS:
                    accuracy = cells(
                        f"{key} {shots} {seed}",
                        lambda run=run, shots=shots, seed=seed: run(task, shots, seed, loop).test_accuracy,
                    )
                    measured[key][str(shots)].append(accuracy)
                    bar.update()
    common = {
        "task": task.name,
        "fingerprint": task.fingerprint,
        "shots": args.shots,
        "seeds": list(SEEDS),
        "n_test": len(task.test),
        "recipe": recipe,
    }
    commits = before.get("commits", dict.fromkeys(METHODS, before.get("commit"))) | dict.fromkeys(args.methods, commit())
    record(
        "cifar10",
        before
        | common
        | new
        | {
            "model": largest,
            "methods": METHODS,
            "commits": commits,
            **{key: measured[key] for key in METHODS if key in measured},
        },
        device,
    )
    if "finetune" in measured:
        record(
            "cifar10_scales",
            {
                **common,
                "methods": {name: name for name in args.models[::-1]},
                largest: measured["finetune"],
                **{name: measured[f"finetune_{name}"] for name in args.models[1:]},
            },
            device,
        )
    cells.clear()


if __name__ == "__main__":
    main()
