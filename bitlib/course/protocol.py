"""One protocol for comparing methods: as many trials for each, chosen on validation images, then tested on other subsets.

A method that was searched for longer looks better than it is (arXiv 1909.03004), so every arm gets the same number of trials.
No run can see a test image: the test split is closed while it trains, and opened once, when the chosen setting is judged.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from statistics import fmean

from ..data.task import Task
from ..transfer import Run


@dataclass(frozen=True)
class Arm:
    """A method in a comparison. settings: its trials; run(task, setting, seed) -> a run, evaluated on validation images."""

    name: str
    settings: tuple[dict, ...]
    run: Callable[[Task, dict, int], Run]


def trials(**values: Iterable) -> tuple[dict, ...]:
    """Every combination of these values: trials(base_lr=(0.01, 0.03), steps=(50, 200)) gives four settings."""
    return tuple(dict(zip(values, chosen)) for chosen in product(*values.values()))


def accuracy_only(run: Run) -> dict[str, float]:
    """The least that a judge returns; run.evaluate("test") is its one look at the test images."""
    return {"accuracy": run.evaluate("test").accuracy}


def once(key: str, measure: Callable[[], object]):
    """Measure now and store nothing."""
    return measure()


def compare(
    arms: Sequence[Arm],
    draw: Callable[[int], Task],
    *,
    search: Collection[int] = (100, 101),
    final: Collection[int] = range(5),
    cells: Callable = once,
    judge: Callable[[Run], dict[str, float]] = accuracy_only,
) -> dict[str, dict]:
    """Search every arm's settings on the `search` draws, then judge the best of each on the `final` draws.

    draw(seed) -> the task with that draw's training images. A trial's score is its mean validation accuracy; of equals, the
    earlier one is chosen. cells(key, measure) -> measure(), perhaps stored, so that a long comparison can be resumed.
    judge(run) -> values to keep, lists over the final draws.

    Returns {arm: {"search": [{"setting", "validation": [per draw]}], "chosen": setting, "edge": names whose chosen value is
    the smallest or largest of more than two, and judge's lists}}. Raises ValueError for an unequal number of trials, two arms
    of one name, or a draw that serves both purposes.
    """
    counts = {arm.name: len(arm.settings) for arm in arms}
    if len(counts) < len(arms):
        raise ValueError(f"two arms have the same name: {', '.join(arm.name for arm in arms)}")
    if len(set(counts.values())) != 1 or 0 in counts.values():
        raise ValueError(f"every arm needs the same number of trials, one or more, not {counts}")
    if both := set(search) & set(final):
        raise ValueError(f"draws {sorted(both)} are for the search and for the test; they must differ")
    return {arm.name: _compared(arm, draw, search, final, cells, judge) for arm in arms}


def _compared(arm: Arm, draw: Callable, search: Collection, final: Collection, cells: Callable, judge: Callable) -> dict:
    """The part of `compare` for one arm."""

    def trained(setting: dict, seed: int) -> tuple[Run, Task]:
        task = draw(seed)
        return arm.run(task.closed(), setting, seed), task

    def judged(setting: dict, seed: int) -> dict[str, float]:
        run, task = trained(setting, seed)
        run.task = replace(run.task, test=task.test)
        return judge(run)

    def key(setting: dict, seed: int) -> str:
        return ", ".join((arm.name, *(f"{name} {value}" for name, value in setting.items()), f"draw {seed}"))

    found = [
        {
            "setting": setting,
            "validation": [cells(key(setting, seed), lambda: trained(setting, seed)[0].val_accuracy) for seed in search],  # noqa: B023
        }
        for setting in arm.settings
    ]
    chosen = max(found, key=lambda trial: fmean(trial["validation"]))["setting"]
    rows = [cells(key(chosen, seed), lambda: judged(chosen, seed)) for seed in final]  # noqa: B023
    lists = {name: [row[name] for row in rows] for name in rows[0]}
    return {"search": found, "chosen": chosen, "edge": edges(chosen, arm.settings), **lists}


# How the name of a setting is written in tables.
SPOKEN = {"base_lr": "rate {:g}", "lr": "rate {:g}", "steps": "{} steps", "c": "C = {:g}", "temperature": "T = {:g}"}


def spoken(setting: dict) -> str:
    """A setting in words: "rate 0.03, 50 steps"."""
    return ", ".join(SPOKEN[name].format(value) for name, value in setting.items())


def edges(chosen: dict, settings: Sequence[dict]) -> list[str]:
    """The names in `chosen` whose value is the smallest or largest of those tried, where more than two were tried."""
    tried = {name: {setting[name] for setting in settings} for name in chosen}
    return [name for name, value in chosen.items() if len(tried[name]) > 2 and value in (min(tried[name]), max(tried[name]))]
