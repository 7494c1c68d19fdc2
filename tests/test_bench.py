"""How things are timed: turns, pairs, what is kept, what does not fit. Not how fast they are."""

import json
import os
import subprocess
import sys
from itertools import product
from math import comb
from pathlib import Path

import pytest
import torch
from conftest import TINY, TINY_BN
from torch import nn

from bitlib.cli import main
from bitlib.course import bench
from bitlib.course.bench import (
    FORMATS,
    Case,
    Contestant,
    best_batch,
    best_rows,
    contestants,
    interval,
    kept_for_backward,
    paired,
    run_case,
    spread,
    steps_of_a_window,
    table,
    take_turns,
)
from bitlib.norm import standardized_convs
from bitlib.resnet import ResNetV2

CPU, ROOT = torch.device("cpu"), Path(__file__).resolve().parent.parent
SMALL = [Contestant("gn", lambda: ResNetV2(TINY, 1000)), Contestant("bn", lambda: ResNetV2(TINY_BN, 1000))]


@pytest.fixture(autouse=True)
def _short(monkeypatch):
    """A window of one step: what is measured does not matter here."""
    monkeypatch.setattr(bench, "WINDOW", 0.0)


def test_they_take_turns():
    calls, now = [], [0.0]

    def run(name, seconds):
        calls.append(name)
        now[0] += seconds

    runs = {"a": lambda: run("a", 1.0), "b": lambda: run("b", 0.25)}
    assert take_turns(runs, 3, CPU, clock=lambda: now[0]) == {"a": [1.0] * 3, "b": [0.25] * 3}
    assert calls == ["a", "b"] * 3


def test_a_window_holds_enough_steps(monkeypatch):
    monkeypatch.setattr(bench, "WINDOW", 0.3)
    gpu = torch.device("cuda")
    assert [steps_of_a_window(s, CPU) for s in (0.7, 0.3, 0.2, 0.01)] == [1, 1, 2, 30]
    assert [steps_of_a_window(s, gpu) for s in (0.7, 0.01, 0.001)] == [20, 30, 300]


@pytest.mark.parametrize("n", [1, 5, 6, 8, 9, 15])
def test_the_interval_holds_the_median_in_95_of_100(n):
    """Every way in which n values can lie below (0) or above (1) the true median, all equally likely."""
    middle, low, high = interval([float(i) for i in range(n)])
    assert middle == (n - 1) / 2
    if low is None:
        assert n < 6 and high is None
        return
    below = [n - sum(sides) for sides in product((0, 1), repeat=n)]  # the true median lies between values below-1 and below
    inside = sum(low < b <= high for b in below) / 2**n
    narrower = sum(low + 1 < b <= high - 1 for b in below) / 2**n
    assert inside >= 0.95 > narrower and low == n - 1 - high
    assert inside == sum(comb(n, k) for k in range(int(low) + 1, int(high) + 1)) / 2**n


def test_ratios_are_of_the_same_round():
    """A machine that is four times slower in one round: the ratio of medians of unpaired speeds would be 1 or 4."""
    slow, ours, theirs = [1, 4, 1, 1, 4, 4], 12.0, 8.0
    assert paired([ours / s for s in slow], [theirs / s for s in slow]) == (1.5, 1.5, 1.5)
    with pytest.raises(ValueError):
        paired([1.0], [1.0, 2.0])


def test_the_faster_format_counts():
    rows = [
        {"contestant": "a", "layout": "channels last", "speeds": [2.0, 9.0, 2.0]},
        {"contestant": "a", "layout": "contiguous", "speeds": [3.0, 3.0, 3.0]},
        {"contestant": "b", "layout": "contiguous", "speeds": None},
    ]
    assert best_rows(rows) == {"a": rows[1]}


def test_batches_grow_while_that_pays_and_fits():
    speeds = {32: 100, 64: 150, 128: 156, 256: 400}
    assert best_batch(lambda size: size / speeds[size]) == 64  # 4 % more is not worth it
    assert best_batch(lambda size: size / (100 + size), largest=256) == 256

    def full(size):
        if size > 100:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return 1.0

    assert best_batch(full) == 64 and best_batch(full, first=128) is None


def test_median_and_quartiles():
    assert spread([5.0, 1.0, 2.0, 4.0, 3.0]) == (3.0, 2.0, 4.0) and spread([2.0]) == (2.0, 2.0, 2.0)


# fp16 in inference alone: a convolution's gradient in fp16 takes minutes on some processors, even of tiny networks.
@pytest.mark.parametrize(
    "mode, precision", [("train", "fp32"), ("train", "bf16"), ("infer", "fp32"), ("infer", "bf16"), ("infer", "fp16")]
)
def test_a_case(mode, precision):
    rows = run_case(Case(mode, 32, 2, precision), CPU, 3, SMALL, progress=False)
    assert [(r.contestant, r.layout) for r in rows] == list(product(["gn", "bn"], FORMATS))
    for row in rows:
        assert len(row.speeds) == 3 and min(row.speeds) > 0 and row.batch_size == 2 and row.tflops > 0
        assert (row.memory is not None and row.memory > 0) == (mode == "train")


def test_each_contestant_has_its_own_best_batch():
    class Picky(ResNetV2):
        def forward(self, x):
            if len(x) > 32:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().forward(x)

    case, who = Case("infer", 32, None), Contestant("picky", lambda: Picky(TINY, 1000), layouts=("contiguous",))
    (row,) = run_case(case, CPU, 1, [who], progress=False)
    assert row.batch_size == 32
    text = table([{**case.__dict__, "rows": [row.__dict__]}])
    assert "best batch" in text and "batch 32" in text


def test_operations_of_a_known_network():
    class One(nn.Conv2d):
        def forward(self, x):
            return super().forward(x).mean((2, 3))

    who = Contestant("conv", lambda: One(3, 1000, 1))
    runner = bench._Runner(who, "contiguous", Case("infer", 8, 2), CPU)
    assert runner.count() == 2 * 2 * 8 * 8 * 3 * 1000  # a multiplication and an addition a weight and pixel
    assert (
        bench._Runner(who, "contiguous", Case("train", 8, 2), CPU).count() == 2 * runner.count()
    )  # no gradient for the pictures


def test_what_is_kept():
    x, layer = torch.randn(4, 8), nn.Linear(8, 8, bias=False)
    assert kept_for_backward(layer, lambda: layer(x)) == x.nbytes  # its input; the weight is a parameter
    assert kept_for_backward(layer, lambda: layer(x).relu()) == 2 * x.nbytes


def test_our_16_bit_activations_take_no_more_than_batch_norms():
    """What a step keeps in bf16, at a batch where activations outweigh the weights."""
    kept, filters = [], []
    for who in SMALL:
        runner = bench._Runner(who, "contiguous", Case("train", 64, 4, "bf16"), CPU)
        kept.append(kept_for_backward(runner.model, lambda runner=runner: runner.loss(runner.model)))
        filters.append(sum(conv.weight.numel() for conv in standardized_convs(runner.model)))
    copies = 2 * filters[0]  # the standardised weights, in 16 bits
    assert copies > 0 and kept[0] - copies < 1.05 * kept[1]


def test_out_of_memory_leaves_a_row_without_figures():
    class Huge(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(1))

        def forward(self, x):
            raise torch.OutOfMemoryError("CUDA out of memory")

    case = Case("infer", 32, 2)
    rows = [r.__dict__ for r in run_case(case, CPU, 2, [Contestant("huge", Huge), *SMALL], progress=False)]
    assert [r["speeds"] is None for r in rows] == [True, True, False, False, False, False]
    text = table([{**case.__dict__, "rows": rows}])
    assert "inference, 32 px, batch 2, fp32" in text and text.count("out of memory") == 2
    assert text.count("x") - text.count("px") == 1  # of gn and bn, one is the first and the other has its ratio


def test_who_takes_part():
    names = [c.name for c in contestants()]
    assert names[0] == "bitlib R50x1" and any("BN" in n for n in names) and any("timm" in n for n in names)
    extra = [c for c in contestants(compiled=True) if c.name not in names]
    assert len(extra) == 2 and all(c.compiled and c.modes == ("infer",) for c in extra)  # ours and batch norm


def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench, "contestants", lambda: SMALL)
    file = tmp_path / "bench.json"
    options = "--side 32 --batch-size 2 3 --precision fp32 --rounds 2 --quiet --json".split()
    assert main(["bench", "--device", "cpu", *options, str(file)]) == 0
    data = json.loads(file.read_text())
    assert [(c["mode"], c["batch_size"]) for c in data["cases"]] == [("train", 2), ("train", 3), ("infer", 2), ("infer", 3)]
    assert data["torch"] == torch.__version__.split("+")[0] and "images/s" in capsys.readouterr().out
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert main(["bench", "--compile"]) == 2
    assert "needs a C++ compiler" in capsys.readouterr().err
    assert main(["bench", "--side", "8"]) == 2
    assert "it must be 32 or more" in capsys.readouterr().err


def test_every_part_of_a_run_is_timed():
    parts = bench.time_parts(CPU, 1)
    assert len(parts) == 4 and all(part["seconds"][0] > 0 for part in parts.values())


def test_figures_are_only_written_from_a_clean_commit(tmp_path):
    """benchmarks/speed.py in a repository of its own, before and after a file of the library was changed."""
    for name in ("benchmarks/speed.py", "data_scripts/record.py", "bitlib/__init__.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())

    def run(*command) -> subprocess.CompletedProcess:
        env = os.environ | {"PYTHONPATH": str(ROOT)}  # the library itself is the real one
        return subprocess.run([*map(str, command)], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=1200)

    def refused() -> str:
        done = run(sys.executable, tmp_path / "benchmarks" / "speed.py")
        assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1, done.stderr
        return done.stderr

    assert "commit" in refused()  # no repository
    run("git", "init", "-q")
    run("git", "add", ".")
    run("git", "-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "all")
    (tmp_path / "bitlib" / "__init__.py").write_text("changed = True\n")
    assert "--allow-dirty" in refused() and not (tmp_path / "results").exists()
