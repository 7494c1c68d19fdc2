"""Compare five classifiers of sentences, with few labels; write results/beyond_vision.json, for chapter 14.

    python data_scripts/measure_beyond_vision.py
Two tasks on sentences of modules that pre-training never saw: their topic, and whether their words were shuffled. Two bags
of words, and one transformer in three ways: from scratch, frozen, fine-tuned. Compared by the protocol of
bitlib/course/protocol.py, four trials each. You can interrupt it at any time; the same command resumes it. It needs
bitlib/course/text.safetensors.
"""

import argparse
import hashlib
from functools import partial

from measure_digits import SEARCH, SEEDS, counted, runs_of
from record import Cells, record
from tqdm import tqdm

import bitlib
from bitlib.course.protocol import Arm, compare, trials
from bitlib.course.text import HERE, TextRun, bag_of_words, load_text_task, load_transformer, probe_text, tune_text
from bitlib.device import pick_device

TASKS, SHOTS = ("topic", "order"), (1, 5, 10, 25, 100)
ARMS = ("bag of words", "bag of n-grams", "from scratch", "frozen, linear probe", "fine-tuned")
BAGS, PENALTIES = trials(c=(1, 10, 100, 1000)), trials(c=(0.001, 0.01, 0.1, 1.0))
TRAINED = trials(lr=(5e-4, 2e-3), steps=(50, 150))


def train_small(pretrained: bool, task: bitlib.Task, setting: dict, seed: int) -> TextRun:
    """The whole transformer trained on the task, from the shipped weights or from random ones. setting: lr, steps."""
    return tune_text(load_transformer(pretrained, seed), task, seed=seed, **setting)


def probed(task: bitlib.Task, setting: dict, seed: int) -> TextRun:
    """A head fitted to the frozen network. setting: c."""
    return probe_text(load_transformer(), task, **setting)


def bagged(grams: str, task: bitlib.Task, setting: dict, seed: int) -> TextRun:
    """Logistic regression on tf-idf. setting: c."""
    return bag_of_words(task, grams=grams, **setting)


def arms() -> list[Arm]:
    """What is compared, in the order of ARMS."""
    ways = (
        (BAGS, partial(bagged, "words")),
        (BAGS, partial(bagged, "n-grams")),
        (TRAINED, partial(train_small, False)),
        (PENALTIES, probed),
        (TRAINED, partial(train_small, True)),
    )
    return [Arm(name, settings, run) for name, (settings, run) in zip(ARMS, ways)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    device = pick_device(parser.parse_args().device)
    tasks, methods, found = {name: load_text_task(name) for name in TASKS}, arms(), {}
    fingerprints = {name: task.fingerprint for name, task in tasks.items()}
    model = hashlib.sha256((HERE / "text.safetensors").read_bytes()).hexdigest()
    cells = Cells("beyond_vision", {"tasks": fingerprints, "model": model})
    with tqdm(total=len(TASKS) * len(SHOTS) * runs_of(methods, SEARCH, SEEDS), desc="beyond vision", unit="run") as bar:
        for name, task in tasks.items():
            for shots in SHOTS:
                title = f"{name}, {shots}"
                measured = counted(cells, bar, f"{title}, ")
                found[title] = compare(methods, partial(task.few_shot, shots), search=SEARCH, final=SEEDS, cells=measured)
    how = {key: {t: {n: r[key] for n, r in each.items()} for t, each in found.items()} for key in ("search", "chosen", "edge")}
    accuracies = {title: {name: result["accuracy"] for name, result in each.items()} for title, each in found.items()}
    about = {"tasks": fingerprints, "shots": list(SHOTS), "n_test": {name: len(task.test) for name, task in tasks.items()}}
    seeds = {"seeds": list(SEEDS), "search_seeds": list(SEARCH), "model": model}
    record("beyond_vision", {**about, **seeds, "cells": accuracies, **how}, device)
    cells.clear()


if __name__ == "__main__":
    main()
