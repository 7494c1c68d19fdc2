"""Distil glyphs-L, fine-tuned on 10 digits per class, into a tiny student in three ways; write results/distillation.json.

    python data_scripts/measure_distillation.py
fixed: the teacher is run once, on whole images. consistent: it sees the student's crops. function matching: it also sees the
student's MixUp, with weights uniform between 0 and 1. You can interrupt it at any time; the same command resumes it.
"""

import argparse
from dataclasses import replace
from functools import partial
from itertools import product

from record import Cells, record, weights_of
from tqdm import tqdm

import bitlib
from bitlib.device import pick_device

TEACHER, STEPS, SEEDS = "glyphs-L", (100, 300, 1000), range(3)
WAYS = {
    "fixed": ("fixed teacher", False, 0.0),
    "consistent": ("consistent teacher", True, 0.0),
    "funmatch": ("function matching", True, 1.0),
}  # Beta(1, 1) is the uniform distribution
RECIPE = {"base_lr": 0.1, "batch_size": 32, "resolution": (36, 32)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    device, task = pick_device(parser.parse_args().device), bitlib.load_task("digits")
    cells = Cells("distillation", {"task": task.fingerprint, "recipe": RECIPE, "models": weights_of([TEACHER])})
    loop = bitlib.Loop(device=str(device), precision="fp32", progress=False)
    model = bitlib.create_model(TEACHER, task.num_classes, pretrained=True)
    teacher = bitlib.finetune(model, task.few_shot(10, 0), loop=replace(loop, progress="teacher"))

    def accuracy(consistent: bool, alpha: float, steps: int, seed: int) -> float:
        rule = bitlib.HyperRule(len(task.train), (32, 32)).adapted(steps=steps, alpha=alpha, **RECIPE)
        student, how = bitlib.create_model("tiny", task.num_classes, seed=seed), bitlib.Distillation(consistent=consistent)
        return bitlib.distill(student, teacher.model, task, rule, seed, loop, how).test_accuracy

    measured = {}
    with tqdm(total=len(WAYS) * len(STEPS) * len(SEEDS), unit="run") as bar:
        for key, (_, consistent, alpha) in WAYS.items():
            measured[key] = {str(steps): [] for steps in STEPS}
            for steps, seed in product(STEPS, SEEDS):
                run = partial(accuracy, consistent, alpha, steps, seed)
                measured[key][str(steps)].append(cells(f"{key} {steps} {seed}", run))
                bar.update()
    record(
        "distillation",
        {
            "task": task.name,
            "fingerprint": task.fingerprint,
            "n_test": len(task.test),
            "seeds": list(SEEDS),
            "shots": STEPS,
            "axis": "steps",
            "column": "{} steps",
            "recipe": RECIPE,
            "teacher": teacher.test_accuracy,
            "methods": {key: label for key, (label, *_) in WAYS.items()},
            **measured,
        },
        device,
    )
    cells.clear()


if __name__ == "__main__":
    main()
