"""Measure few-shot transfer to the real digits, and write results/digits.json and results/digits_scales.json.

    python data_scripts/measure_digits.py               both
    python data_scripts/measure_digits.py digits        one
digits compares five methods, and digits_scales three networks to fine-tune, by the protocol of bitlib/course/protocol.py: four
trials each, chosen on validation images of two random subsets, then tested once on each of five others, for every number of
images per class. You can interrupt it at any time; the same command resumes it.
"""

import argparse
from functools import partial

import torch
from record import Cells, record, weights_of
from torch import nn
from tqdm import tqdm

import bitlib
from bitlib.course.protocol import Arm, compare, trials
from bitlib.data import to_input
from bitlib.device import pick_device
from bitlib.features import fit_head
from bitlib.transfer import default_rule

SHOTS, SEEDS, SEARCH, MODEL = (1, 5, 10, 25), range(5), (100, 101), "glyphs-L"
SCALES = ("glyphs-S", "glyphs-M", "glyphs-L")
METHODS = {
    "finetune": "fine-tuned",
    "linear_probe": "frozen, linear probe",
    "probe_finetune": "linear probe, then fine-tuned",
    "scratch": "from scratch",
    "pixels": "raw pixels, regression",
}
PENALTIES = trials(c=(0.001, 0.01, 0.1, 1.0))
TUNING = trials(base_lr=(0.01, 0.03), steps=(50, 200))
SCRATCH_RESOLUTION = (27, 24)  # suits a network from scratch better than (36, 32), and is cheaper
PROBE_C = 0.1  # of the probe with which "probe, then fine-tuned" begins


class Pixels(nn.Module):
    """A linear classifier of the pixels in the first channel of images of `side` x `side` pixels."""

    def __init__(self, side: int, num_classes: int):
        super().__init__()
        self.head = nn.Linear(side * side, num_classes)

    def forward(self, x):
        return self.head(x[:, 0].flatten(1))


def pixels(task, setting, seed) -> bitlib.Run:
    """Logistic regression on the pixels as they come."""
    side = task.image_size[0]
    values = to_input(task.train.prepare(side, "cpu").images)[:, 0].flatten(1)
    model = Pixels(side, task.num_classes)
    with torch.no_grad():
        for parameter, found in zip(
            (model.head.weight, model.head.bias), fit_head(values, task.train.labels, task.num_classes, **setting)
        ):
            parameter.copy_(found)
    return bitlib.Run(model, task, {"crop": side}, val_accuracy=bitlib.evaluate(model, task.val, side).accuracy)


def probed(name, loop, task, setting, seed, mirror=False) -> bitlib.Run:
    """A head fitted to the frozen network called `name`, perhaps on mirrored images, too. setting: c."""
    model = bitlib.create_model(name, task.num_classes, pretrained=True)
    return bitlib.linear_probe(model, task, loop=loop, mirror=mirror, **setting)


def tuned(name, until, loop, task, setting, seed) -> bitlib.Run:
    """The network fine-tuned from a head of zeros, frozen before `until`. setting: base_lr, steps."""
    model = bitlib.freeze(bitlib.create_model(name, task.num_classes, pretrained=True), until)
    return bitlib.finetune(model, task, default_rule(model, task).adapted(**setting), seed, loop)


def probed_then_tuned(name, loop, task, setting, seed, c=PROBE_C, mirror=False) -> bitlib.Run:
    """A fitted head first, then the whole network. No zoomed crops: they show objects larger than the head knows them."""
    model = bitlib.create_model(name, task.num_classes, pretrained=True)
    rule = default_rule(model, task)
    rule = rule.adapted(resolution=(rule.crop, rule.crop), **setting)
    bitlib.linear_probe(model, task, rule, loop, c=c, mirror=mirror)
    return bitlib.finetune(model, task, rule, seed, loop, keep_head=True)


def scratch(loop, task, setting, seed) -> bitlib.Run:
    """The same network from random weights. setting: base_lr, steps."""
    model = bitlib.create_model(MODEL, task.num_classes, seed=seed)
    rule = default_rule(model, task).adapted(resolution=SCRATCH_RESOLUTION, **setting)
    return bitlib.finetune(model, task, rule, seed, loop)


def arms(loop) -> tuple[Arm, ...]:
    """What chapter 1 compares, in the order of METHODS."""
    return (
        Arm("finetune", TUNING, partial(tuned, MODEL, None, loop)),
        Arm("linear_probe", PENALTIES, partial(probed, MODEL, loop)),
        Arm("probe_finetune", trials(base_lr=(0.003, 0.01), steps=(50, 200)), partial(probed_then_tuned, MODEL, loop)),
        Arm("scratch", trials(base_lr=(0.03, 0.1), steps=(100, 300)), partial(scratch, loop)),
        Arm("pixels", PENALTIES, pixels),
    )


def counted(cells, bar, title=""):
    """`cells` for the protocol: every key begins with `title`, and every value moves the bar."""

    def measured(key, measure):
        value = cells(f"{title}{key}", measure)
        bar.update()
        return value

    return measured


def runs_of(arms, search, final) -> int:
    """How many values `compare` asks for."""
    return sum(len(arm.settings) * len(search) + len(final) for arm in arms)


def by_shots(task, arms, all_shots, search, final, cells) -> dict:
    """These arms compared at every number of images per class: what was tried and chosen, and accuracies by arm and shots."""
    found = {}
    with tqdm(total=len(all_shots) * runs_of(arms, search, final), desc=task.name, unit="run") as bar:
        for shots in all_shots:
            measured = counted(cells, bar, f"{shots}-shot, ")
            found[str(shots)] = compare(arms, partial(task.few_shot, shots), search=search, final=final, cells=measured)

    def of(what: str) -> dict:
        return {arm.name: {shots: result[arm.name][what] for shots, result in found.items()} for arm in arms}

    return {"search_seeds": list(search), **{key: of(key) for key in ("search", "chosen", "edge")}, **of("accuracy")}


def recipe_of(name, task) -> dict:
    """The rule for this model at one image per class."""
    rule = default_rule(bitlib.create_model(name), task.few_shot(1))
    return {"steps": rule.total_steps, "batch_size": rule.batch_size, "crop": rule.crop, "base_lr": rule.base_lr}


def digits(task, loop, cells) -> dict:
    """What chapter 1 compares."""
    about = {
        "model": MODEL,
        "recipe": recipe_of(MODEL, task),
        "methods": METHODS,
        "scratch_resolution": list(SCRATCH_RESOLUTION),
    }
    return about | by_shots(task, arms(loop), SHOTS, SEARCH, SEEDS, cells)


def digits_scales(task, loop, cells) -> dict:
    """Three networks fine-tuned, each with a search of its own at every number of images per class."""
    networks = tuple(Arm(name, TUNING, partial(tuned, name, None, loop)) for name in SCALES)
    return {"methods": {name: name for name in SCALES}} | by_shots(task, networks, SHOTS, SEARCH, SEEDS, cells)


RECORDS = {"digits": digits, "digits_scales": digits_scales}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", nargs="*", metavar="NAME", help=", ".join(RECORDS))
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    if unknown := set(args.records) - set(RECORDS):
        parser.error(f"no record {', '.join(sorted(unknown))}; choose from {', '.join(RECORDS)}")
    device = pick_device(args.device)
    loop, task = bitlib.Loop(device=str(device), precision="fp32", progress=False), bitlib.load_task("digits")
    identity = {"task": task.fingerprint, "models": weights_of(SCALES), "scratch": SCRATCH_RESOLUTION, "probe": PROBE_C}
    common = {
        "task": task.name,
        "fingerprint": task.fingerprint,
        "shots": SHOTS,
        "seeds": list(SEEDS),
        "n_test": len(task.test),
    }
    finished = []
    for name in args.records or RECORDS:
        cells = Cells(name, identity)
        finished.append((name, cells, RECORDS[name](task, loop, cells)))
    for name, cells, measured in finished:
        record(name, {**common, **measured}, device)
        cells.clear()


if __name__ == "__main__":
    main()
