"""Distil glyphs-L, fine-tuned on 10 digits per class, into a tiny student in three ways; write results/distillation.json.

    python data_scripts/measure_distillation.py
fixed: the teacher is run once, on whole images. consistent: it sees the student's crops. function matching: it also sees the
student's MixUp, with weights uniform between 0 and 1. Every draw has its own labelled images, a teacher fine-tuned on them and
a student. Each way gets three learning rates at each number of steps, by the protocol of bitlib/course/protocol.py. You can
interrupt it at any time; the same command resumes it.
"""

import argparse
from functools import partial

from measure_digits import SEARCH, SEEDS, counted, runs_of
from record import Cells, record, weights_of
from tqdm import tqdm

import bitlib
from bitlib.course.protocol import Arm, compare, trials
from bitlib.device import pick_device

TEACHER, LABELLED, STEPS, RATES = "glyphs-L", 10, (100, 300, 1000), (0.05, 0.1, 0.2)
WAYS = {
    "fixed": ("fixed teacher", False, 0.0),
    "consistent": ("consistent teacher", True, 0.0),
    "funmatch": ("function matching", True, 1.0),
}  # Beta(1, 1) is the uniform distribution
RECIPE = {"batch_size": 32, "resolution": (36, 32)}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    device, task = pick_device(parser.parse_args().device), bitlib.load_task("digits")
    cells = Cells("distillation", {"task": task.fingerprint, "recipe": RECIPE, "models": weights_of([TEACHER])})
    loop, teachers, found = bitlib.Loop(device=str(device), precision="fp32", progress=False), {}, {}

    def teacher(seed: int) -> bitlib.Run:
        if seed not in teachers:
            model = bitlib.create_model(TEACHER, task.num_classes, pretrained=True)
            teachers[seed] = bitlib.finetune(model, task.few_shot(LABELLED, seed), None, seed, loop)
        return teachers[seed]

    def student(consistent: bool, alpha: float, steps: int, images, setting, seed) -> bitlib.Run:
        rule = bitlib.HyperRule(len(images.train), (32, 32)).adapted(steps=steps, alpha=alpha, **RECIPE, **setting)
        model, how = bitlib.create_model("tiny", images.num_classes, seed=seed), bitlib.Distillation(consistent=consistent)
        return bitlib.distill(model, teacher(seed).model, images, rule, seed, loop, how)

    def arms(steps: int) -> list[Arm]:
        return [Arm(key, trials(base_lr=RATES), partial(student, *how, steps)) for key, (_, *how) in WAYS.items()]

    with tqdm(total=sum(runs_of(arms(steps), SEARCH, SEEDS) for steps in STEPS), unit="run") as bar:
        for steps in STEPS:
            measured = counted(cells, bar, f"{steps} steps, ")
            found[str(steps)] = compare(arms(steps), lambda seed: task, search=SEARCH, final=SEEDS, cells=measured)

    def of(what: str) -> dict:
        return {key: {str(steps): found[str(steps)][key][what] for steps in STEPS} for key in WAYS}

    about = {
        "task": task.name,
        "fingerprint": task.fingerprint,
        "n_test": len(task.test),
        "seeds": list(SEEDS),
        "search_seeds": list(SEARCH),
        "shots": STEPS,
        "axis": "steps",
        "column": "{} steps",
        "recipe": RECIPE,
        "labelled": LABELLED,
        "teacher": [cells(f"teacher {seed}", lambda: teacher(seed).test_accuracy) for seed in SEEDS],  # noqa: B023
        "methods": {key: label for key, (label, *_) in WAYS.items()},
    }
    record("distillation", about | {key: of(key) for key in ("search", "chosen", "edge")} | of("accuracy"), device)
    cells.clear()


if __name__ == "__main__":
    main()
