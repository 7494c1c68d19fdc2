"""Measure few-shot transfer to the real digits, and write results/digits.json and results/digits_scales.json.

    python data_scripts/measure_digits.py
Each cell uses five random subsets of the training images, as in the paper; each run is tested once, at its end.
You can interrupt it at any time; the same command resumes it.
"""

import argparse
from functools import partial
from statistics import fmean

from record import Cells, record, weights_of
from tqdm import tqdm

import bitlib
from bitlib.device import pick_device
from bitlib.transfer import default_rule

SHOTS, SEEDS, MODEL, SCALES = (1, 5, 10, 25), range(5), "glyphs-L", ("glyphs-S", "glyphs-M", "glyphs-L")
SCRATCH_RATES = (0.03, 0.1, 0.3)
SCRATCH = {"steps": 100, "resolution": (27, 24)}  # twice the steps of fine-tuning, at the resolution that suits it best
METHODS = {"finetune": "fine-tuned", "linear_probe": "frozen, linear probe", "scratch": "from scratch"}


def finetuned(name, task, loop, shots, seed):
    model = bitlib.create_model(name, task.num_classes, pretrained=True)
    return bitlib.finetune(model, task.few_shot(shots, seed), None, seed, loop).test_accuracy


def probed(task, loop, shots, seed):
    model = bitlib.create_model(MODEL, task.num_classes, pretrained=True)
    return bitlib.linear_probe(model, task.few_shot(shots, seed), loop=loop).test_accuracy


def scratch(task, loop, lr, shots, seed):
    """A run of the same network from random weights, at its own learning rate."""
    subset, model = task.few_shot(shots, seed), bitlib.create_model(MODEL, task.num_classes, seed=seed)
    rule = default_rule(model, subset).adapted(base_lr=lr, **SCRATCH)
    return bitlib.finetune(model, subset, rule, seed, loop)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    device = pick_device(parser.parse_args().device)
    loop, task = bitlib.Loop(device=str(device), precision="fp32", progress=False), bitlib.load_task("digits")
    cells = Cells("digits", {"task": task.fingerprint, "scratch": SCRATCH, "models": weights_of(SCALES)})
    bar = tqdm(total=(len(SCALES) + 2) * len(SHOTS) * len(SEEDS) + 3 * len(SCRATCH_RATES), unit="run")

    def measured(key, run, *how) -> float:
        value = cells(" ".join(map(str, (key, *how))), run, *how)
        bar.update()
        return value

    def row(key, run) -> dict[str, list[float]]:
        return {str(shots): [measured(key, run, shots, seed) for seed in SEEDS] for shots in SHOTS}

    # Choose the best rate for scratch on validation images, with random subsets that are not reported.
    by_rate = {
        lr: fmean(
            measured(f"rate {lr}", lambda *how, lr=lr: scratch(task, loop, lr, *how).val_accuracy, 5, seed)
            for seed in range(100, 103)
        )
        for lr in SCRATCH_RATES
    }
    best = max(by_rate, key=by_rate.get)
    scales = {name: row(name, partial(finetuned, name, task, loop)) for name in SCALES}
    methods = {
        "finetune": scales[MODEL],
        "linear_probe": row("linear_probe", partial(probed, task, loop)),
        "scratch": row("scratch", lambda *how: scratch(task, loop, best, *how).test_accuracy),
    }
    bar.close()
    common = {
        "task": task.name,
        "fingerprint": task.fingerprint,
        "shots": SHOTS,
        "seeds": list(SEEDS),
        "n_test": len(task.test),
    }
    rule = default_rule(bitlib.create_model(MODEL), task.few_shot(1))
    recipe = {"steps": rule.total_steps, "batch_size": rule.batch_size, "crop": rule.crop, "base_lr": rule.base_lr}
    record(
        "digits",
        {
            **common,
            "model": MODEL,
            "recipe": recipe,
            "methods": METHODS,
            "scratch_recipe": SCRATCH,
            "scratch_lr": best,
            "scratch_lr_validation": {str(k): v for k, v in by_rate.items()},
            **methods,
        },
        device,
    )
    record("digits_scales", {**common, "methods": {name: name for name in SCALES}, **scales}, device)
    cells.clear()


if __name__ == "__main__":
    main()
