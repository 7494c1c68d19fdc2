"""How things are timed: turns, medians, what is kept, what does not fit. Not how fast they are."""

import json

import pytest
import torch
from conftest import TINY, TINY_BN
from torch import nn

from bitlib.cli import main
from bitlib.course import bench
from bitlib.course.bench import Case, Contestant, contestants, kept_for_backward, run_case, spread, table, take_turns
from bitlib.norm import standardized_convs
from bitlib.resnet import ResNetV2

CPU = torch.device("cpu")
SMALL = [Contestant("gn", lambda: ResNetV2(TINY, 1000)), Contestant("bn", lambda: ResNetV2(TINY_BN, 1000))]


def test_they_take_turns():
    calls, now = [], [0.0]

    def run(name, seconds):
        calls.append(name)
        now[0] += seconds

    runs = {"a": lambda: run("a", 1.0), "b": lambda: run("b", 0.25)}
    assert take_turns(runs, 3, CPU, clock=lambda: now[0]) == {"a": [1.0] * 3, "b": [0.25] * 3}
    assert calls == ["a", "b"] * 3


def test_median_and_quartiles():
    assert spread([5.0, 1.0, 2.0, 4.0, 3.0]) == (3.0, 2.0, 4.0) and spread([2.0]) == (2.0, 2.0, 2.0)


@pytest.mark.parametrize("mode", ["train", "infer"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_case(mode, precision):
    rows = run_case(Case(mode, 32, 2, precision), CPU, 3, SMALL, progress=False)
    assert [r.contestant for r in rows] == ["gn", "bn"]
    for row in rows:
        middle, low, high = row.seconds
        assert 0 < low <= middle <= high and row.images_per_second == pytest.approx(2 / middle)
        assert row.ratio == pytest.approx(rows[0].seconds[0] / middle)
        assert (row.memory is not None and row.memory > 0) == (mode == "train")


def test_operations_of_a_known_network():
    class One(nn.Conv2d):
        def forward(self, x):
            return super().forward(x).mean((2, 3))

    who = Contestant("conv", lambda: One(3, 1000, 1))
    runner = bench._Runner(who, Case("infer", 8, 2), CPU)
    assert runner.count() == 2 * 2 * 8 * 8 * 3 * 1000  # a multiplication and an addition a weight and pixel
    assert bench._Runner(who, Case("train", 8, 2), CPU).count() == 2 * runner.count()  # no gradient for the pictures


def test_what_is_kept():
    x, layer = torch.randn(4, 8), nn.Linear(8, 8, bias=False)
    assert kept_for_backward(layer, lambda: layer(x)) == x.nbytes  # its input; the weight is a parameter
    assert kept_for_backward(layer, lambda: layer(x).relu()) == 2 * x.nbytes


def test_our_16_bit_activations_take_no_more_than_batch_norms():
    """What a step keeps in bf16, at a batch where activations outweigh the weights."""
    kept, filters = [], []
    for who in SMALL:
        runner = bench._Runner(who, Case("train", 64, 4, "bf16"), CPU)
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
    rows = run_case(case, CPU, 2, [Contestant("huge", Huge), *SMALL], progress=False)
    assert rows[0].seconds is None and rows[1].seconds and rows[1].ratio is None
    text = table([{**case.__dict__, "rows": [r.__dict__ for r in rows[:1]]}])
    assert "inference, 32 px, batch 2, fp32" in text and "out of memory" in text


def test_who_takes_part():
    names = [c.name for c in contestants()]
    assert names[0] == "bitlib R50x1" and any("BN" in n for n in names) and any("timm" in n for n in names)
    extra = [c for c in contestants(compiled=True) if c.name not in names]
    assert len(extra) == 1 and extra[0].compiled and extra[0].modes == ("infer",)


def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench, "contestants", lambda: SMALL)
    file = tmp_path / "bench.json"
    assert (
        main(
            [
                "bench",
                "--device",
                "cpu",
                "--side",
                "32",
                "--batch-size",
                "2",
                "3",
                "--precision",
                "fp32",
                "--rounds",
                "2",
                "--quiet",
                "--json",
                str(file),
            ]
        )
        == 0
    )
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
