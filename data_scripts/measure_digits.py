"""Measure few-shot transfer to the real digits, and write results/digits.json and results/digits_scales.json.

    python data_scripts/measure_digits.py
Five draws of the training pictures a cell, as in the paper; test pictures are looked at once a run, at its end.
"""
import argparse
from statistics import fmean

from record import record
from tqdm import tqdm

import bitlib
from bitlib.trainer import pick_device
from bitlib.transfer import default_rule

SHOTS, SEEDS, MODEL = (1, 5, 10, 25), range(5), "glyphs-L"
SCRATCH_RATES = (0.03, 0.1, 0.3)
SCRATCH = {"steps": 100, "resolution": (27, 24)}  # twice the steps of fine-tuning, and the resolution that suits it best


def finetuned(name, task, shots, device, **changes):
    """Test accuracies of fine-tuning over the seeds."""
    runs = []
    for seed in SEEDS:
        subset, model = task.few_shot(shots, seed), bitlib.create_model(name, task.num_classes, pretrained=True)
        rule = default_rule(model, subset).adapted(**changes)
        runs.append(bitlib.finetune(model, subset, rule, device, seed, progress=False))
    return [r.test_accuracy for r in runs]


def scratch(task, shots, device, lr, seeds=SEEDS):
    """Runs of the same network from random weights, with a learning rate of its own."""
    runs = []
    for seed in seeds:
        subset, model = task.few_shot(shots, seed), bitlib.create_model(MODEL, task.num_classes, seed=seed)
        rule = default_rule(model, subset).adapted(base_lr=lr, **SCRATCH)
        runs.append(bitlib.finetune(model, subset, rule, device, seed, progress=False))
    return runs


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    device = pick_device(parser.parse_args().device)
    task = bitlib.load_task("digits")
    common = {"task": task.name, "fingerprint": task.fingerprint, "shots": SHOTS, "seeds": list(SEEDS),
              "n_test": len(task.test)}

    bar = tqdm(total=3 * len(SHOTS) + 3 + 3 * len(SHOTS), unit="cell")
    # Scratch gets the rate that suits it best, on validation pictures and on draws that are not reported.
    by_rate = {}
    for lr in SCRATCH_RATES:
        by_rate[lr] = fmean(r.val_accuracy for r in scratch(task, 5, device, lr, range(100, 103)))
        bar.update()
    best = max(by_rate, key=by_rate.get)
    cells = {"finetune": {}, "linear_probe": {}, "scratch": {}}
    for shots in SHOTS:
        cells["finetune"][str(shots)] = finetuned(MODEL, task, shots, device)
        bar.update()
        cells["linear_probe"][str(shots)] = [
            bitlib.linear_probe(bitlib.create_model(MODEL, task.num_classes, pretrained=True), task.few_shot(shots, seed),
                                device=device).test_accuracy for seed in SEEDS]
        bar.update()
        cells["scratch"][str(shots)] = [r.test_accuracy for r in scratch(task, shots, device, best)]
        bar.update()
    rule = default_rule(bitlib.create_model(MODEL), task.few_shot(1))
    recipe = {"steps": rule.total_steps, "batch_size": rule.batch_size, "crop": rule.crop, "base_lr": rule.base_lr}
    record("digits", {**common, "model": MODEL, "recipe": recipe, "methods": {
        "finetune": "fine-tuned", "linear_probe": "frozen, linear head", "scratch": "from scratch"},
        "scratch_recipe": SCRATCH, "scratch_lr": best,
        "scratch_lr_validation": {str(k): v for k, v in by_rate.items()}, **cells}, device)

    scales = {}
    for name in ("glyphs-S", "glyphs-M", "glyphs-L"):
        scales[name] = {}
        for shots in SHOTS:
            scales[name][str(shots)] = cells["finetune"][str(shots)] if name == MODEL else finetuned(name, task, shots, device)
            bar.update()
    record("digits_scales", {**common, "methods": {name: name for name in scales}, **scales}, device)
    bar.close()


if __name__ == "__main__":
    main()
