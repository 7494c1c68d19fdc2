"""Collect the text that ships with Python, pre-train the small transformer of chapter 14, and write both into the package.

    python data_scripts/pretrain_text.py              the sentences, then the network: about 10 minutes of one core
    python data_scripts/pretrain_text.py optimizers   SGD beside AdamW, results/text_optimizers.json: about 4 minutes
The corpus is built from the interpreter that runs this and is not stored; its fingerprint and the version are on the card. The
downstream sentences and the vocabulary are stored, so that the chapter does not change from one Python to the next. You can
interrupt it at any time; the same command resumes it.
"""

import argparse
import ast
import codecs
import contextlib
import io
import json
import platform
import random
import re
import sysconfig
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import torch
from measure_digits import SEARCH, SEEDS, counted, runs_of
from record import Cells, record
from safetensors.torch import save_file
from tqdm import tqdm

import bitlib
from bitlib.course.protocol import Arm, compare, trials
from bitlib.course.text import (
    HERE,
    PAD,
    SPECIAL,
    UNKNOWN,
    Sentences,
    Shape,
    Transformer,
    Vocabulary,
    cosine,
    hide,
    masked_batches,
    masked_loss,
    trimmed,
    words_of,
)
from bitlib.data.sampling import generator_for
from bitlib.data.task import Task, fingerprint
from bitlib.device import pick_device
from bitlib.files import atomic_path
from bitlib.trainer import AdamW, Diverged, Sgd, train
from bitlib.transfer import environment, write_json

PACKAGE = HERE
STATE = Path(__file__).resolve().parent.parent / "_build" / "pretrain" / "text"
SKIPPED = {"site-packages", "dist-packages", "idlelib", "lib2to3", "ensurepip", "turtledemo", "__pycache__", "pydoc_data"}
# No sentence of these is in the corpus. The first five are the classes of "topic"; "order" takes sentences from all of them.
HELD_OUT = {
    "mail": ("email",),
    "windows and widgets": ("tkinter",),
    "mathematics": ("_pydecimal.py", "statistics.py", "fractions.py", "random.py", "numbers.py", "heapq.py", "colorsys.py"),
    "files": (
        "zipfile.py",
        "shutil.py",
        "pathlib.py",
        "tempfile.py",
        "posixpath.py",
        "ntpath.py",
        "gzip.py",
        "bz2.py",
        "glob.py",
    ),
    "concurrency": ("threading.py", "concurrent", "multiprocessing", "queue.py", "sched.py"),
    "": (
        "argparse.py",
        "inspect.py",
        "unittest",
        "json",
        "functools.py",
        "contextlib.py",
        "typing.py",
        "enum.py",
        "pdb.py",
        "bdb.py",
    ),
}
TRAIN, VAL, TEST = 120, 60, 100  # sentences per class of "topic"
PAIRS = {"train": 200, "val": 200, "test": 400}  # sentences per class of "order"
WORDS, STEPS, BATCH, LR, WARMUP, SHAPE = 4092, 8000, 64, 2e-3, 400, Shape()
HELD_BACK, SHORT = 1000, 150  # sentences to test on; steps of the comparison of optimizers
OPTIMIZERS = (("AdamW", AdamW, (1e-3, 2e-3, 4e-3, 8e-3)), ("SGD", Sgd, (0.03, 0.1, 0.2, 0.4)))
NOTICE = (
    "These sentences are taken from the docstrings and comments of the standard library of Python {version}, Copyright (c) "
    "2001-2023 Python Software Foundation; All Rights Reserved. They are used and redistributed under the PSF License "
    "Agreement, https://docs.python.org/3/license.html. Changed: cut into sentences, in lower case; in the task 'order', the "
    "words of half of them shuffled."
)

CARD = """# text

A small bidirectional transformer, trained for chapter 14 by guessing masked words. It shows BERT's idea at toy size: it is not
BERT, and it knows only the English of programmers.

| | |
|---|---|
| architecture | {shape[layers]} layers, width {shape[width]}, {shape[heads]} heads, layer norm first, no dropout |
| parameters | {parameters:,} |
| vocabulary | {words:,} tokens, in lower case; {unknown:.1%} of the corpus is [UNK] |
| corpus | {sentences:,} sentences, {tokens:,} tokens from Python {python}, fingerprint {corpus} |
| training | {steps:,} steps of {batch} sentences, 15 % of the words hidden, seed 0 |
| optimizer | AdamW, weight decay 0.01, peak rate {lr} after a warm-up, then half a cosine |
| guessed | {accuracy:.1%} of {guessed:,} hidden words in sentences held back |
| guessed by counting | {neighbours:.1%} from the two neighbours, {most_frequent:.1%} by the most frequent word |
| hardware | {device}, threads: {threads}, PyTorch {torch}, {minutes:.0f} minutes of wall time, including pauses |
| storage | 16-bit floats, loaded as 32-bit |

**The sentences beside it.** {notice}

**Limits.** Its corpus is a few hundred thousand words by a few hundred authors. Do not use it for anything but this course.

**The corpus.** Docstrings, comments, the texts behind help(), the licence. It is built from the interpreter, and not stored.

**To reproduce it**: `python data_scripts/pretrain_text.py`, with the same version of Python: another has other docstrings.
"""


def prose(source: str) -> Iterator[str]:
    """The docstrings and the blocks of comment lines of a module's source."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            yield ast.get_docstring(node) or ""
    for block in re.findall(r"(?:^[ \t]*#.*\n)+", source, re.MULTILINE):
        yield "\n".join(line.strip().lstrip("# ") for line in block.splitlines())


def sentences(text: str) -> Iterator[str]:
    """The sentences of a text that are language rather than code: 5 to 38 tokens, three quarters of them words."""
    for paragraph in re.split(r"\n\s*\n|\n(?=\s*(?:>>>|\.\.\.))", text.expandtabs()):
        for sentence in re.split(r"(?<=[.!?:;])\s+(?=[A-Z`'\"(*])", " ".join(paragraph.split())):
            tokens = words_of(sentence)
            if 5 <= len(tokens) <= 38 and sum(t.isalpha() for t in tokens) >= 0.75 * len(tokens) and ">>>" not in sentence:
                yield sentence


def collected() -> tuple[list[str], dict[str, list[str]]]:
    """(corpus, {group: its held-out sentences}), sorted, and without what occurs on both sides, whatever its case."""
    library, groups = Path(sysconfig.get_path("stdlib")), {name: {} for name in HELD_OUT}
    corpus: dict[tuple, str] = {}
    where = {part: name for name, parts in HELD_OUT.items() for part in parts}
    for path in sorted(library.rglob("*.py")):
        parts = path.relative_to(library).parts
        if SKIPPED & set(parts):
            continue
        try:
            source = path.read_text("utf8")
            found = [s for text in prose(source) for s in sentences(text)]
        except (SyntaxError, UnicodeDecodeError, ValueError):
            continue  # files that test the compiler
        if parts[0] not in where:
            # The tests of a held-out module quote it.
            quoted = any(p.removesuffix(".py") in "/".join(parts) for p in where) and parts[0] == "test"
            target = {} if quoted else corpus
        else:
            # Some modules were given to Python under terms of their own; only the foundation's are copied.
            theirs = re.search(r"(?i)copyright(?!.*python software foundation)|licensed to psf|all rights reserved", source)
            target = {} if theirs else groups[where[parts[0]]]
        target |= {tuple(words_of(s)): s for s in found}
    import pydoc_data.topics

    for text in (*(pydoc_data.topics.topics[key] for key in sorted(pydoc_data.topics.topics)), license_text()):
        corpus |= {tuple(words_of(s)): s for s in sentences(text)}
    counts = Counter(key for found in groups.values() for key in found)
    held = {name: sorted(s for k, s in found.items() if counts[k] == 1 and len(k) >= 6) for name, found in groups.items()}
    return sorted(s for key, s in corpus.items() if key not in counts), held


def license_text() -> str:
    """The licence and The Zen of Python."""
    with contextlib.redirect_stdout(io.StringIO()):
        import this
    found = Path(sysconfig.get_path("stdlib"), "LICENSE.txt")
    return codecs.decode(this.s, "rot13") + "\n\n" + (found.read_text("utf8") if found.exists() else "")


def shuffled(sentence: str, chance: random.Random) -> str:
    """The sentence, in lower case and with single spaces between its tokens, its words in another order."""
    tokens = words_of(sentence)
    places = [i for i, t in enumerate(tokens) if t.isalpha()]
    while True:
        mixed = list(tokens)
        for i, j in zip(places, chance.sample(places, len(places))):
            mixed[i] = tokens[j]
        if mixed != tokens:
            return " ".join(mixed)


def tasks(held: dict[str, list[str]]) -> dict[str, dict]:
    """The two downstream tasks: {name: {"classes": [...], split: [[sentence, label], ...]}}. No sentence is in two splits."""
    chance = random.Random(0)
    topics = [name for name in held if name]
    topic = {"classes": topics, "train": [], "val": [], "test": []}
    for label, name in enumerate(topics):
        chosen = chance.sample(held[name], TRAIN + VAL + TEST)
        for split, part in zip(("train", "val", "test"), (chosen[:TRAIN], chosen[TRAIN : TRAIN + VAL], chosen[TRAIN + VAL :])):
            topic[split] += [[" ".join(words_of(s)), label] for s in part]
    order = {"classes": ["intact", "shuffled"]}
    everything = [s for found in held.values() for s in found if 8 <= sum(t.isalpha() for t in words_of(s)) <= 20]
    chance.shuffle(everything)
    start = 0
    for split, count in PAIRS.items():
        chosen = everything[start : start + 2 * count]
        start += 2 * count
        if len(chosen) < 2 * count:
            raise SystemExit(f"only {len(everything)} sentences for the task 'order'")
        order[split] = [[" ".join(words_of(s)), 0] for s in chosen[:count]] + [[shuffled(s, chance), 1] for s in chosen[count:]]
    return {"topic": topic, "order": order}


def known_words(corpus: list[str]) -> Vocabulary:
    """The vocabulary of a corpus: its WORDS most frequent tokens, of equals the first in the alphabet."""
    counts = Counter(word for sentence in corpus for word in words_of(sentence))
    return Vocabulary(sorted(counts, key=lambda word: (-counts[word], word))[:WORDS])


def split(corpus: list[str]) -> tuple[list[str], list[str], list[str]]:
    """(train, val, test) for guessing words: HELD_BACK sentences each for the last two, chosen at random."""
    order = torch.randperm(len(corpus), generator=generator_for("corpus")).tolist()
    val, test, train = order[:HELD_BACK], order[HELD_BACK : 2 * HELD_BACK], order[2 * HELD_BACK :]
    return tuple([corpus[i] for i in sorted(part)] for part in (train, val, test))


@torch.no_grad()
def guessed(model: Transformer, ids: torch.Tensor) -> torch.Tensor:
    """Which of the words that were hidden, always the same ones, the network guesses; bool, in the order of the text."""
    seen, chosen = hide(ids, len(model.vocabulary), generator_for("held back"))
    chosen &= ids != UNKNOWN
    parts = zip(*(tensor.split(100) for tensor in (seen, ids, chosen)))
    return torch.cat([model.scores(model(trimmed(x))[c[:, : trimmed(x).shape[1]]]).argmax(1) == y[c] for x, y, c in parts])


def counted_guess(train_ids: torch.Tensor, ids: torch.Tensor, size: int) -> tuple[float, float]:
    """Accuracies on the same words of two who only count: always the most frequent word; and the word most often seen between
    these two neighbours, or else after the left one."""
    between, after, alone = {}, {}, Counter()
    for row in train_ids.tolist():
        for left, word, right in zip(row, row[1:], [*row[2:], PAD]):
            if word not in (PAD, UNKNOWN):
                between.setdefault((left, right), Counter())[word] += 1
                after.setdefault(left, Counter())[word] += 1
                alone[word] += 1
    (most, _), *_ = alone.most_common(1)
    seen, chosen = hide(ids, size, generator_for("held back"))
    chosen &= ids != UNKNOWN
    always, neighbours = [], []
    for row, shown, at in zip(ids.tolist(), seen.tolist(), chosen.tolist()):
        for i, word in enumerate(row):
            if at[i]:
                right = shown[i + 1] if i + 1 < len(row) else PAD
                found = between.get((shown[i - 1], right)) or after.get(shown[i - 1]) or alone
                neighbours.append(found.most_common(1)[0][0] == word)
                always.append(most == word)
    return sum(always) / len(always), sum(neighbours) / len(neighbours)


def train_small(train_ids, words: Vocabulary, optimizer, seed: int, loop: bitlib.Loop, identity=None, watch=None):
    """(network, history) after training on masked words."""
    model = Transformer(words, SHAPE, seed)
    batches = masked_batches(train_ids, len(words), BATCH, seed)
    return model, train(model, batches, masked_loss, optimizer, loop, identity, watch)


def pretrain(device: torch.device) -> None:
    """Write bitlib/course/sentences.json, text.safetensors and its card, and results/text_network.json."""
    corpus, held = collected()
    content = tasks(held)
    notice = NOTICE.format(version=platform.python_version())
    write_json(PACKAGE / "sentences.json", {"notice": notice, "tasks": content})
    parts = split(corpus)
    words = known_words(parts[0])
    train_ids, val_ids, test_ids = (words.encode(part) for part in parts)
    optimizer = AdamW(STEPS, cosine(LR, STEPS, WARMUP))
    identity = {"corpus": fingerprint(corpus), "steps": STEPS, "batch": BATCH, "lr": LR, "shape": asdict(SHAPE)}
    loop = bitlib.Loop(str(device), "fp32", out=STATE, resume=True, evaluate_every=max(1, STEPS // 16), progress="text")

    def watch(model) -> dict[str, float]:
        return {"val_accuracy": guessed(model, val_ids).double().mean().item()}

    model, history = train_small(train_ids, words, optimizer, 0, loop, identity, watch)
    right = guessed(model, test_ids)
    always, neighbours = counted_guess(train_ids, test_ids, len(words))
    about = {
        "python": platform.python_version(),
        "corpus": identity["corpus"],
        "sentences": len(corpus),
        "tokens": sum(len(words_of(sentence)) for sentence in corpus),
        "words": len(words),
        "unknown": (train_ids == UNKNOWN).sum().item() / (train_ids != PAD).sum().item(),
        "parameters": sum(p.numel() for p in model.parameters()),
        **{key: identity[key] for key in ("steps", "batch", "lr", "shape")},
        "val_accuracy": [history.column("val_accuracy")[i] for i in (0, 1)],
        "guessed": len(right),
        "accuracy": right.double().mean().item(),
        "most_frequent": always,
        "neighbours": neighbours,
        "minutes": round(history.seconds / 60, 1),
    }
    with atomic_path(PACKAGE / "text.safetensors") as temporary:
        meta = {"words": words.tokens[len(SPECIAL) :], "shape": asdict(SHAPE)}
        meta |= {key: about[key] for key in ("python", "corpus")}
        save_file({k: v.half().contiguous() for k, v in model.state_dict().items()}, temporary, {"bitlib": json.dumps(meta)})
    (PACKAGE / "text.md").write_text(CARD.format(**environment(device) | about | {"notice": notice}), "utf8")
    record("text_network", about, device)


class Guesses:
    """A network in the shape that the protocol asks for. Its accuracy is the share of hidden words that it guesses.

    model: None for one that diverged, which guesses nothing.
    """

    def __init__(self, model: Transformer | None, task: Task):
        self.model, self.task = model, task
        self.val_accuracy = self.evaluate("val").accuracy

    def evaluate(self, split: str) -> SimpleNamespace:
        if self.model is None:
            return SimpleNamespace(accuracy=0.0)
        ids = self.model.vocabulary.encode(getattr(self.task, split).texts)
        return SimpleNamespace(accuracy=guessed(self.model, ids).double().mean().item())


def optimizers(device: torch.device) -> None:
    """Write results/text_optimizers.json: AdamW and SGD with momentum at the start of pre-training, four rates each."""
    corpus = collected()[0]
    parts = split(corpus)
    words = known_words(parts[0])
    train_ids = words.encode(parts[0])
    sentences_of = [Sentences(part, torch.zeros(len(part))) for part in parts]
    task = Task("masked words", *sentences_of, ("word",), (0, 0), fingerprint=fingerprint(corpus))
    loop = bitlib.Loop(str(device), "fp32", progress=False)

    def run(make, task, setting, seed):
        optimizer = make(SHORT, cosine(setting["lr"], SHORT, SHORT // 10))
        try:
            return Guesses(train_small(train_ids, words, optimizer, seed, loop)[0], task)
        except Diverged:
            return Guesses(None, task)

    arms = [Arm(name, trials(lr=rates), partial(run, make)) for name, make, rates in OPTIMIZERS]
    cells = Cells("text_optimizers", {"corpus": task.fingerprint, "steps": SHORT, "shape": asdict(SHAPE)})
    with tqdm(total=runs_of(arms, SEARCH, SEEDS), desc="optimizers", unit="run") as bar:
        found = compare(arms, lambda seed: task, search=SEARCH, final=SEEDS, cells=counted(cells, bar))
    how = {key: {name: result.pop(key) for name, result in found.items()} for key in ("search", "chosen", "edge")}
    about = {"corpus": task.fingerprint, "python": platform.python_version(), "steps": SHORT, "batch": BATCH}
    seeds = {"seeds": list(SEEDS), "search_seeds": list(SEARCH)}
    record("text_optimizers", {**about, **seeds, "cells": {k: v["accuracy"] for k, v in found.items()}, **how}, device)
    cells.clear()


JOBS = {"network": pretrain, "optimizers": optimizers}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", nargs="?", default="network", choices=JOBS)
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    JOBS[args.job](pick_device(args.device))


if __name__ == "__main__":
    main()
