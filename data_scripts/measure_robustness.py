"""Measure accuracy and calibration under shift, and how wrong labels are found and what they cost; for chapter 13.

    python data_scripts/measure_robustness.py
It writes results/robustness.json. Three networks that differ in their upstream set are probed and fine-tuned on digits, and a
fourth starts from scratch; then three more are probed on CIFAR-10. Every arm has four trials, is chosen on validation images of
two random subsets, and is judged on five others: on the test images as they are, and under all that bitlib/data/shifts.py does
to them. Of wrong labels, five sets are planted. Needs CIFAR-10 (data_scripts/prepare_data.py), of which our copy is lossy JPEG.
You can interrupt it at any time; the same command resumes it.
"""

import argparse
from dataclasses import dataclass, replace
from functools import partial
from statistics import fmean

import torch
from measure_digits import SEARCH, SEEDS, counted, runs_of
from measure_digits import scratch as from_scratch
from measure_digits import tuned as fine_tuned
from record import Cells, record, weights_of
from torch import Tensor
from tqdm import tqdm

import bitlib
from bitlib.course.protocol import Arm, compare, trials
from bitlib.data import resize
from bitlib.data.shifts import SHIFTS, likeness, mislabelled, shifted
from bitlib.data.task import ArrayImages, Task, few_shot_indices
from bitlib.device import pick_device
from bitlib.evaluate import Evaluation, fit_temperature
from bitlib.features import cache_features, fit_head, out_of_fold
from bitlib.transfer import default_rule

SIDE = 32
MODELS, PHOTO_MODELS = ("glyphs-S", "glyphs-M", "glyphs-L"), ("photos-S", "photos-M", "photos-L")
SHOTS, PHOTO_SHOTS, TUNED_SHOTS = (5, 10, 25, 75), (25, 100), 25
PENALTIES = trials(c=(0.001, 0.01, 0.1, 1.0))
PHOTO_PENALTIES = trials(c=(0.001, 0.003, 0.01, 0.1))
SEVERITIES, PHOTO_SEVERITIES = (1, 2, 3, 4, 5), (1, 3, 5)
PHOTO_TEST = 5  # of CIFAR-10's test images, every fifth

SHARE, MORE = 0.05, 0.2  # of the training labels that are wrong
KINDS = ("random", "confusable")
FINDERS = trials(c=(0.001, 0.003, 0.01, 0.1))
CUTS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0)  # of as many as were planted: how far down the list one looks
PIXELS, FITTED = "raw pixels", "glyphs-L, fitted to the same labels"
PLANTED, REMOVED, RELABELLED, REVIEWED, NEVER = (
    "as planted",
    "flagged ones removed",
    "flagged ones relabelled",
    "flagged ones reviewed",
    "never planted",
)


@dataclass
class Probe:
    """A head on cached features, in the part of a Run that the protocol needs."""

    task: Task
    model: str
    weight: Tensor
    bias: Tensor
    val_accuracy: float

    def logits(self, features: Tensor) -> Tensor:
        return features.double() @ self.weight.T + self.bias


class Bench:
    """A task's images at the size that the networks take, under every shift, and features of them, each computed once."""

    def __init__(self, task: Task, conditions: dict[str, tuple[str, int]], device: torch.device):
        self.task, self.conditions, self.device, self._seen = task, conditions, device, {}
        self._images: dict[str, ArrayImages] = {}

    def images(self, condition: str) -> ArrayImages:
        """The test images under a condition, or the training or validation images."""
        if condition not in self._images:
            split = getattr(self.task, condition) if condition in ("train", "val") else self.task.test
            x = resize(split.images, SIDE)
            if condition in self.conditions:
                x = shifted(x, *self.conditions[condition])
            self._images[condition] = ArrayImages(x, split.labels)
        return self._images[condition]

    def features(self, name: str, condition: str) -> Tensor:
        if (name, condition) not in self._seen:
            model = bitlib.create_model(name, self.task.num_classes, pretrained=True).to(self.device)
            self._seen[name, condition] = cache_features(model, self.images(condition), SIDE)
        return self._seen[name, condition]

    def probe(self, name: str, shots: int, task: Task, setting: dict, seed: int) -> Probe:
        """A head fitted to `shots` images per class; the same ones as in `task`."""
        some = few_shot_indices(self.task.train.labels, shots, seed)
        head = fit_head(self.features(name, "train")[some], self.task.train.labels[some], task.num_classes, **setting)
        probe = Probe(task, name, *head, 0.0)
        held = Evaluation(probe.logits(self.features(name, "val")), self.task.val.labels)
        probe.val_accuracy = held.accuracy
        return probe

    def judge(self, run) -> dict[str, float]:
        """Accuracy and calibration error under every condition, the latter also at the temperature of the validation images."""

        def seen(condition: str) -> Evaluation:
            if isinstance(run, Probe):
                return Evaluation(run.logits(self.features(run.model, condition)), self.images(condition).labels)
            return bitlib.evaluate(run.model, self.images(condition), run.crop)

        temperature = fit_temperature(seen("val"))
        found = {"temperature": round(temperature, 4)}
        for condition in self.conditions:
            held = seen(condition)
            found[f"{condition}: accuracy"] = held.accuracy
            found[f"{condition}: error"] = round(held.calibration_error(), 5)
            found[f"{condition}: tempered"] = round(held.at_temperature(temperature).calibration_error(), 5)
        return found


def conditions(kinds, severities) -> dict[str, tuple[str, int]]:
    """The conditions by name: as the images are, and each kind at each severity."""
    return {"clean": ("blur", 0)} | {f"{kind} {severity}": (kind, severity) for kind in kinds for severity in severities}


def under_shift(title: str, bench: Bench, groups: dict[int, list[Arm]], cells) -> tuple[dict, dict]:
    """({arm and condition: lists over the draws}, what was searched), for the arms at every number of images per class."""
    found, how = {}, {"search": {}, "chosen": {}, "edge": {}}
    total = sum(runs_of(arms, SEARCH, SEEDS) for arms in groups.values())
    with tqdm(total=total, desc=title, unit="run") as bar:
        for shots, arms in groups.items():
            draw, measured = partial(bench.task.few_shot, shots), counted(cells, bar, f"{title}, {shots}-shot, ")
            done = compare(arms, draw, search=SEARCH, final=SEEDS, cells=measured, judge=bench.judge)
            for arm, result in done.items():
                name = f"{title}, {arm}, {shots}-shot"
                for key, values in how.items():
                    values[name] = result.pop(key)
                temperature = result.pop("temperature")
                for condition in bench.conditions:
                    whats = ("accuracy", "error", "tempered")
                    lists = {what: result[f"{condition}: {what}"] for what in whats}
                    found[f"{name}, {condition}"] = lists | {"temperature": temperature}
    return found, how


def digit_arms(bench: Bench, loop) -> dict[int, list[Arm]]:
    groups = {k: [Arm(f"{m}, linear probe", PENALTIES, partial(bench.probe, m, k)) for m in MODELS] for k in SHOTS}
    grid = trials(base_lr=(0.01, 0.03), steps=(50, 200))
    tuned = [Arm(f"{m}, fine-tuned", grid, partial(fine_tuned, m, None, loop)) for m in MODELS]
    scratch = Arm("from scratch", trials(base_lr=(0.03, 0.1), steps=(100, 300)), partial(from_scratch, loop))
    groups[TUNED_SHOTS] = [*groups.get(TUNED_SHOTS, ()), *tuned, scratch]
    return groups


def photo_arms(bench: Bench) -> dict[int, list[Arm]]:
    return {
        k: [Arm(f"{m}, linear probe", PHOTO_PENALTIES, partial(bench.probe, m, k)) for m in PHOTO_MODELS] for k in PHOTO_SHOTS
    }


class Errors:
    """Wrong labels planted among a task's training labels, and a finder for them."""

    def __init__(self, bench: Bench, cells):
        self.bench, self.cells, self.labels = bench, cells, bench.task.train.labels
        self.like, self.classes = likeness(bench.task.train.images, self.labels), bench.task.num_classes
        pixels = bench.task.train.images[:, 0].flatten(1).double() / 255
        self.x = {PIXELS: pixels, **{name: bench.features(name, "train") for name in MODELS}}
        self._chosen: dict[tuple[str, str], dict] = {}

    def planted(self, kind: str, share: float, seed: int) -> tuple[Tensor, Tensor]:
        like = self.like if kind == "confusable" else None
        return mislabelled(self.labels, round(share * len(self.labels)), seed, like)

    def judged(self, name: str, noisy: Tensor, c: float) -> Tensor:
        """Probabilities of the finder; of FITTED by a head that has seen the labels which it judges."""
        if name != FITTED:
            return out_of_fold(self.x[name], noisy, self.classes, c)
        weight, bias = fit_head(self.x[MODELS[-1]], noisy, self.classes, c)
        return (self.x[MODELS[-1]].double() @ weight.T + bias).softmax(1)

    def search(self, name: str, kind: str) -> list[dict]:
        """How often each penalty agrees with the labels that there are, right or wrong; no truth is needed for that."""
        asked, found = MODELS[-1] if name == FITTED else name, []
        for setting in FINDERS:
            agreed = []
            for seed in SEARCH:
                noisy, _ = self.planted(kind, SHARE, seed)
                measure = lambda: self._agreement(asked, noisy, setting)  # noqa: B023, E731
                agreed.append(self.cells(f"{kind}, {asked}, {setting}, {seed}", measure))
            found.append({"setting": setting, "validation": agreed})
        return found

    def _agreement(self, name: str, noisy: Tensor, setting: dict) -> float:
        return (self.judged(name, noisy, **setting).argmax(1) == noisy).double().mean().item()

    def chosen(self, name: str, kind: str) -> dict:
        if (name, kind) not in self._chosen:
            self._chosen[name, kind] = max(self.search(name, kind), key=lambda t: fmean(t["validation"]))["setting"]
        return self._chosen[name, kind]

    def found(self, name: str, kind: str, seed: int, setting: dict) -> dict:
        """Precision and recall of disagreement, and precision at the top of the list of the least credible labels."""
        noisy, wrong = self.planted(kind, SHARE, seed)
        p = self.judged(name, noisy, **setting)
        flagged = p.argmax(1) != noisy
        order, count = p.gather(1, noisy[:, None])[:, 0].argsort(stable=True), int(wrong.sum())
        hits = (flagged & wrong).sum().item()
        at = [wrong[order[: max(1, round(cut * count))]].double().mean().item() for cut in CUTS]
        return {"precision": hits / max(1, flagged.sum().item()), "recall": hits / count, "list": at}

    def treated(self, kind: str, share: float, seed: int, how: str) -> tuple[Tensor, Tensor]:
        """(which images are used, their labels after treatment)."""
        noisy, wrong = self.planted(kind, share, seed)
        every = torch.ones_like(wrong)
        if how in (PLANTED, NEVER):
            return every, self.labels if how == NEVER else noisy
        asked = lambda: self.judged(MODELS[-1], noisy, **self.chosen(MODELS[-1], kind)).argmax(1).tolist()  # noqa: E731
        says = torch.tensor(self.cells(f"says {kind} {share} {seed}", asked))
        flagged = says != noisy
        if how == REMOVED:
            return ~flagged, noisy
        return every, torch.where(flagged, says if how == RELABELLED else self.labels, noisy)

    def probed(self, kind: str, share: float, how: str, setting: dict, seed: int, split: str) -> float:
        used, labels = self.treated(kind, share, seed, how)
        weight, bias = fit_head(self.x[MODELS[-1]][used], labels[used], self.classes, **setting)
        x = self.bench.features(MODELS[-1], "val" if split == "val" else "clean")
        truth = getattr(self.bench.task, split).labels
        return ((x.double() @ weight.T + bias).argmax(1) == truth).double().mean().item()

    def tuned(self, kind: str, share: float, how: str, loop, seed: int) -> float:
        """Test accuracy after fine-tuning by the rule."""
        used, labels = self.treated(kind, share, seed, how)
        task = replace(self.bench.task, train=ArrayImages(self.bench.task.train.images[used], labels[used]))
        model = bitlib.create_model(MODELS[-1], self.classes, pretrained=True)
        run = bitlib.finetune(model, task.closed(), default_rule(model, task), seed, loop)
        return bitlib.evaluate(run.model, self.bench.task.test, run.crop).accuracy


def label_errors(errors: Errors, cells) -> tuple[dict, dict]:
    """({kind and finder: lists over the plantings}, what was searched)."""
    found, how = {}, {}
    # A head that may fit its labels more closely learns the wrong ones by heart; so it is also tried with a weak penalty.
    rows = [(name, name, None) for name in (PIXELS, *MODELS, FITTED)]
    rows += [(f"{FITTED}, C = 1", FITTED, {"c": 1.0}), (f"{MODELS[-1]}, C = 1", MODELS[-1], {"c": 1.0})]
    with tqdm(total=len(KINDS) * len(rows) * len(SEEDS), desc="label errors", unit="run") as bar:
        measured = counted(cells, bar)
        for kind in KINDS:
            for title, name, setting in rows:
                setting = setting or errors.chosen(name, kind)
                key = f"{kind}, {title}"
                lists = [measured(f"{key} {seed}", lambda: errors.found(name, kind, seed, setting)) for seed in SEEDS]  # noqa: B023
                found[key] = {what: [one[what] for one in lists] for what in lists[0]}
                if title == name:
                    how[key] = {"search": errors.search(name, kind), "chosen": setting}
    return found, how


def costs(errors: Errors, loop, cells) -> tuple[dict, dict]:
    """({kind, share, treatment: test accuracies}, what was searched), for a probe and for fine-tuning by the rule."""
    found, how = {}, {}
    grid = [(kind, share, treatment) for kind in KINDS for share in (SHARE, MORE) for treatment in TREATMENTS]
    tuned = [("confusable", share, treatment) for share in (SHARE, MORE) for treatment in (PLANTED, REMOVED, NEVER)]
    total = len(grid) * (len(PENALTIES) * len(SEARCH) + len(SEEDS)) + len(tuned) * len(SEEDS)
    with tqdm(total=total, desc="their cost", unit="run") as bar:
        measured = counted(cells, bar)
        for kind, share, treatment in grid:
            key, scores = f"{kind}, {share}, {treatment}", []
            for setting in PENALTIES:
                ask = lambda seed: errors.probed(kind, share, treatment, setting, seed, "val")  # noqa: B023, E731
                scores.append([measured(f"{key}, {setting}, {seed}", lambda: ask(seed)) for seed in SEARCH])  # noqa: B023
            best = PENALTIES[max(range(len(scores)), key=lambda i: fmean(scores[i]))]
            ask = lambda seed: errors.probed(kind, share, treatment, best, seed, "test")  # noqa: B023, E731
            found[f"linear probe, {key}"] = {"accuracy": [measured(f"{key}, test {seed}", lambda: ask(seed)) for seed in SEEDS]}  # noqa: B023
            how[key] = {"search": [{"setting": s, "validation": v} for s, v in zip(PENALTIES, scores)], "chosen": best}
        for kind, share, treatment in tuned:
            key = f"fine-tuned, {kind}, {share}, {treatment}"
            ask = lambda seed: errors.tuned(kind, share, treatment, loop, seed)  # noqa: B023, E731
            found[key] = {"accuracy": [measured(f"{key} {seed}", lambda: ask(seed)) for seed in SEEDS]}  # noqa: B023
    return found, how


TREATMENTS = (PLANTED, REMOVED, RELABELLED, REVIEWED, NEVER)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    device = pick_device(parser.parse_args().device)
    loop = bitlib.Loop(device=str(device), precision="fp32", progress=False)
    digits, photographs = bitlib.load_task("digits"), bitlib.load_task("cifar10")
    photographs = replace(
        photographs,
        val=photographs.val.subset(torch.arange(0, len(photographs.val), 8)),
        test=photographs.test.subset(torch.arange(0, len(photographs.test), PHOTO_TEST)),
    )
    identity = {"tasks": [digits.fingerprint, photographs.fingerprint], "models": weights_of((*MODELS, *PHOTO_MODELS))}
    identity |= {"shifts": SHIFTS, "cuts": CUTS, "shots": [SHOTS, PHOTO_SHOTS, TUNED_SHOTS], "shares": [SHARE, MORE]}
    cells = Cells("robustness", identity)
    bench = Bench(digits, conditions(SHIFTS, SEVERITIES), device)
    found, how = under_shift("digits", bench, digit_arms(bench, loop), cells)
    errors = Errors(bench, cells)
    finders, searched = label_errors(errors, cells)
    cost, searched_cost = costs(errors, loop, cells)
    only = [kind for kind in SHIFTS if kind != "background"]  # which is for ink on black
    photo_bench = Bench(photographs, conditions(only, PHOTO_SEVERITIES), device)
    photo_found, photo_how = under_shift("CIFAR-10", photo_bench, photo_arms(photo_bench), cells)
    settings = {"tasks": {"digits": digits.fingerprint, "CIFAR-10": photographs.fingerprint}, "shifts": SHIFTS, "cuts": CUTS}
    settings |= {"models": list(MODELS), "photo_models": list(PHOTO_MODELS), "shots": list(SHOTS), "tuned_shots": TUNED_SHOTS}
    settings |= {"photo_shots": list(PHOTO_SHOTS), "planted": round(SHARE * len(digits.train)), "shares": [SHARE, MORE]}
    settings |= {"n_test": {"digits": len(digits.test), "CIFAR-10": len(photographs.test)}, "treatments": list(TREATMENTS)}
    seeds = {"seeds": list(SEEDS), "search_seeds": list(SEARCH)}
    searches = {key: how[key] | photo_how[key] for key in how} | {"finder_search": searched, "cost_search": searched_cost}
    content = {"cells": found | photo_found, "finders": finders, "cost": cost, **searches}
    record("robustness", {**settings, **seeds, **content}, device)
    cells.clear()


if __name__ == "__main__":
    main()
