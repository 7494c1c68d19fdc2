"""Measuring a model on the suite of bitlib.data.suite: one rule for all tasks, and the same network from scratch beside it.

As in VTAB (arXiv 1910.04867), no task gets settings of its own, and the score is the mean over the tasks. Rate and steps are
chosen once for all tasks, from pre-trained weights and from scratch alike, on validation images of every second task, in a draw
that serves for nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from statistics import fmean, stdev

from tqdm import tqdm

from .data.suite import GROUPS, SUITE, load_suite
from .data.task import Task
from .files import UserError
from .hyperrule import HyperRule
from .loop import Loop
from .resnet import ResNetV2
from .trainer import Diverged
from .transfer import default_rule, finetune, write_json
from .weights import create_model, model_info, weights_digest

WAYS = ("fine-tuned", "from scratch")
RATES, STEPS = (0.03, 0.1), (100, 400)  # every combination is a trial; the rest of the rule stays as it is
SEARCH = (100,)  # draws for the search, far from the seeds, which are draws as well


class Cells:
    """Measured values by name, stored in a file, so that a long measurement can be interrupted and resumed.

    identity: what the values depend on (JSON-able); stored values with a different identity are discarded.
    """

    def __init__(self, path: Path, identity: dict):
        self.path = path
        self.state = {"identity": json.loads(json.dumps(identity)), "values": {}}
        if self.path.exists() and (found := json.loads(self.path.read_text()))["identity"] == self.state["identity"]:
            self.state = found

    def __call__(self, key: str, measure: Callable, *args):
        """The value for `key`, JSON-able; calls measure(*args) if it is not stored yet."""
        if key not in self.state["values"]:
            self.state["values"][key] = measure(*args)
            write_json(self.path, self.state)
        return self.state["values"][key]

    def clear(self) -> None:
        """Delete all values, so that the next run starts afresh."""
        self.path.unlink(missing_ok=True)


@dataclass(frozen=True)
class Plan:
    """What to measure. models: names with weights; tasks: names of the suite; seeds: how many repetitions, each with a draw of
    training images, an order and, from scratch, initial weights of its own.

    Raises UserError for a task that is not in the suite, a model that the suite's rates do not suit, or one of them twice.
    """

    models: Sequence[str] = ("glyphs-L",)
    tasks: Sequence[str] = tuple(SUITE)
    seeds: int = 3

    def __post_init__(self):
        for name in self.tasks:
            if name not in SUITE:
                raise UserError(f"there is no task {name!r} in the suite; its tasks are {', '.join(SUITE)}")
        for name in self.models:
            if not model_info(name).recipe:
                wrong = f"{name} has no recipe for images of 32 pixels"
                raise UserError(f"{wrong}; the suite measures the course's small models, such as glyphs-L and photos-L")
        for what, names in (("model", self.models), ("task", self.tasks)):
            if twice := {name for name in names if names.count(name) > 1}:
                raise UserError(f"the {what} {min(twice)} is given twice; once is enough")

    @property
    def arms(self) -> list[tuple[str, str]]:
        """What is compared: (model, way) for each model and each of WAYS."""
        return [*product(self.models, WAYS)]

    @property
    def searched(self) -> list[str]:
        """The tasks on which settings are chosen: every second one, as a trial costs as much as a seed."""
        return [*self.tasks[::2]]

    @property
    def settings(self) -> list[dict]:
        """The trials of every arm."""
        return [{"base_lr": lr, "steps": steps} for steps, lr in product(STEPS, RATES)]

    @property
    def runs(self) -> int:
        """How many trainings that makes."""
        tried = len(self.searched) * len(self.settings) * len(SEARCH)
        return len(self.arms) * (tried + len(self.tasks) * self.seeds)


def title(model: str, way: str) -> str:
    """What results call an arm: "glyphs-L, fine-tuned"."""
    return f"{model}, {way}"


def measure(plan: Plan, cells: Callable, loop: Loop = Loop()) -> dict:
    """Search the settings of every arm, then train with the best ones on every task and seed; returns a JSON-able record.

    cells(key, function, *args) -> function(*args), perhaps stored, see `Cells`. loop: device, precision and progress.

    The record: "arms", "seeds", "search_seeds"; "tasks" {name: group, classes, images, ...}; "accuracy" {arm: {task: [test
    accuracy per seed]}}; "search" {arm: [{"setting", "validation": [mean over tasks per draw], "tasks": {task: ...}}]} and
    "chosen" {arm: setting}, where the earlier of equal trials wins.
    """
    digests = {name: weights_digest(create_model(name, pretrained=True)) for name in plan.models}
    with tqdm(total=plan.runs, desc="suite", unit="run", disable=not loop.progress) as bar:

        def score(split: str, task: Task, arm: tuple[str, str], setting: dict, seed: int) -> float:
            """The accuracy of one training run on this split."""
            model, way = arm
            key = [*arm, digests[model], task.name, task.fingerprint, *setting.values(), f"seed {seed}", split]
            found = cells(", ".join(map(str, key)), _accuracy, split, task, arm, setting, seed, loop)
            bar.update()
            return found

        # {arm: {task: [[validation accuracy per setting] per draw]}}
        tried = {arm: {name: [] for name in plan.searched} for arm in plan.arms}
        for name, draw, task in _drawn(plan.searched, SEARCH):
            for arm in plan.arms:
                tried[arm][name].append([score("val", task, arm, setting, draw) for setting in plan.settings])
        search = {arm: [_trial(tried[arm], i, setting) for i, setting in enumerate(plan.settings)] for arm in plan.arms}
        chosen = {arm: max(trials, key=lambda t: fmean(t["validation"]))["setting"] for arm, trials in search.items()}
        accuracy = {arm: {name: [] for name in plan.tasks} for arm in plan.arms}
        about = {}
        for name, seed, task in _drawn(plan.tasks, range(plan.seeds)):
            about.setdefault(name, _described(task))  # as it is in the first draw, which `load_task` gives
            for arm in plan.arms:
                accuracy[arm][name].append(score("test", task, arm, chosen[arm], seed))
    by_arm = {"accuracy": accuracy, "search": search, "chosen": chosen}
    return {
        "models": [*plan.models],
        "arms": [title(*arm) for arm in plan.arms],
        "seeds": [*range(plan.seeds)],
        "search_seeds": [*SEARCH],
        "tasks": about,
        **{key: {title(*arm): value for arm, value in found.items()} for key, found in by_arm.items()},
    }


def rule_for(model: ResNetV2, task: Task, setting: dict) -> HyperRule:
    """The rule for a task of the suite: the model's own, with this rate and number of steps.

    Where a random crop would destroy labels, images are only resized, as in the paper (appendix F). Cut from the middle
    instead, they would show everything larger in training than in the test.
    """
    rule = default_rule(model, task).adapted(**setting)
    return rule if task.random_crop else rule.adapted(resolution=(rule.crop, rule.crop))


def _drawn(names: Sequence[str], draws: Sequence[int]) -> Iterator[tuple[str, int, Task]]:
    for name, draw in product(names, draws):
        yield name, draw, load_suite(name, draw)


def _accuracy(split: str, task: Task, arm: tuple[str, str], setting: dict, seed: int, loop: Loop) -> float:
    """Train once, and test on `split`: "val" keeps the test images closed."""
    name, way = arm
    model = create_model(name, task.num_classes, pretrained=way == "fine-tuned", seed=seed)
    rule, loop = rule_for(model, task, setting), replace(loop, progress=False)
    try:
        run = finetune(model, task.closed() if split == "val" else task, rule, seed, loop)
    except Diverged:
        return 1 / task.num_classes  # no better than guessing
    return getattr(run, f"{split}_accuracy")


def _trial(tried: dict[str, list[list[float]]], number: int, setting: dict) -> dict:
    tasks = {name: [scores[number] for scores in draws] for name, draws in tried.items()}
    return {"setting": setting, "validation": [fmean(scores) for scores in zip(*tasks.values())], "tasks": tasks}


def _described(task: Task) -> dict:
    images = {split: len(getattr(task, split)) for split in ("train", "val", "test")}
    flags = {"random_crop": task.random_crop, "random_flip": task.random_flip}
    return {
        "group": SUITE[task.name].group,
        "classes": task.num_classes,
        "images": images,
        **flags,
        "fingerprint": task.fingerprint,
    }


def scores(accuracy: dict[str, Sequence[float]]) -> dict[str, list[float]]:
    """Means over tasks, per seed: {"natural": [...], "specialised": [...], "structured": [...], "all": [...]}.

    accuracy: {task: [per seed]}, one arm of a record. "all" is the score of the suite, the mean over its tasks, not groups. A
    group without a task is left out.
    """
    groups = {group: [values for name, values in accuracy.items() if SUITE[name].group == group] for group in GROUPS}
    groups["all"] = [*accuracy.values()]
    return {name: [fmean(seed) for seed in zip(*tasks)] for name, tasks in groups.items() if tasks}


def mean_and_interval(values: Sequence[float]) -> tuple[float, float]:
    """The mean, and half the width of its 95 % interval by Student's t; NaN for a single value.

    Over the seeds of a record it covers what they vary: training images, their order, initial weights. The tasks are a fixed
    set, and the interval says nothing about others.
    """
    from scipy import stats  # comes with scikit-learn, and takes a while to import

    n = len(values)
    half = float(stats.t.ppf(0.975, n - 1)) * stdev(values) / n**0.5 if n > 1 else float("nan")
    return fmean(values), half


def table(record: dict) -> str:
    """The record as text: a line per task, group and for the suite, for every model; in %, differences in points."""
    lines = []
    for model in record["models"]:
        arms = [record["accuracy"][title(model, way)] for way in WAYS]
        means = [scores(accuracy) for accuracy in arms]
        lines += [f"{model:<22}{WAYS[0]:>16}{WAYS[1]:>16}{'difference':>16}"]
        for group in GROUPS:
            names = [name for name, about in record["tasks"].items() if about["group"] == group]
            lines += [_row(f"  {name.removeprefix('suite/')}", *(accuracy[name] for accuracy in arms)) for name in names]
            lines += [_row(group, *(found[group] for found in means))] if names else []
        lines += [_row(f"mean of {len(record['tasks'])} tasks", *(found["all"] for found in means))]
        told = (
            f"{way}: rate {s['base_lr']:g}, {s['steps']} steps" for way in WAYS for s in [record["chosen"][title(model, way)]]
        )
        lines += [f"chosen on validation images, for all tasks together: {'; '.join(told)}", ""]
    seeds = len(record["seeds"])
    over = f"means of {seeds} seeds ± half of the 95 % interval" if seeds > 1 else "one seed, so no interval"
    return "\n".join([*lines, f"accuracy in %, differences in points: {over}; the tasks are a fixed set"])


def _row(name: str, one: Sequence[float], other: Sequence[float]) -> str:
    difference = [a - b for a, b in zip(one, other)]
    cells = [_with_half(values, sign) for values, sign in ((one, ""), (other, ""), (difference, "+"))]
    return f"{name:<22}" + "".join(f"{cell:>16}" for cell in cells)


def _with_half(values: Sequence[float], sign: str) -> str:
    mean, half = mean_and_interval([100 * value for value in values])
    return f"{mean:{sign}.1f}" + (f" ± {half:.1f}" if len(values) > 1 else "")
