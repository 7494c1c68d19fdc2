"""Two processes under torchrun against one: the same weights, the same logits, the same files."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import TINY
from safetensors.torch import load_file
from test_trainer import batch, difference, loss, run, settings

from bitlib import UserError
from bitlib.cli import main
from bitlib.distributed import gathered, is_main, own_part, process_group, ranks, summed
from bitlib.resnet import ResNetV2
from bitlib.trainer import Gradients

HERE = Path(__file__).resolve().parent


def torchrun(*args, processes: int = 2) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", *map(str, args)]
    path = os.pathsep.join([str(HERE), str(HERE.parent)])
    return subprocess.run(
        command, capture_output=True, text=True, timeout=300, env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    )


def apart(a: Path, b: Path) -> float:
    """The largest difference between two files of tensors."""
    a, b = load_file(a), load_file(b)
    assert a.keys() == b.keys()
    return max((a[k].double() - b[k].double()).abs().max().item() for k in a)


@pytest.fixture(scope="module")
def ends(tmp_path_factory) -> dict[int, Path]:
    """Folders with what one process made, and what two did."""
    folders = {n: tmp_path_factory.mktemp(f"processes{n}") for n in (1, 2)}
    for n, folder in folders.items():
        done = torchrun(HERE / "in_ranks.py", folder, processes=n)
        assert done.returncode == 0, done.stderr
    return folders


@pytest.mark.parametrize("kind", ["gn", "gn, 8 parts", "gn, sharded", "gn, sharded, 8 parts"])
@pytest.mark.parametrize("file", ["end.safetensors", "state.safetensors"])
def test_two_processes_equal_one(ends, kind, file):
    tensors = load_file(ends[2] / kind / file)
    assert "logits" in tensors and tensors["logits"].shape == (700, 3) or any(k.startswith("momentum") for k in tensors)
    assert apart(ends[1] / "gn" / file, ends[2] / kind / file) < 1e-6


def test_two_processes_do_not_equal_one_with_batch_norm(ends):
    assert apart(ends[1] / "bn" / "end.safetensors", ends[2] / "bn" / "end.safetensors") > 1e-3


def test_another_number_of_processes_resumes(tmp_path):
    died = torchrun(HERE / "in_ranks.py", tmp_path, "die")
    assert died.returncode != 0 and not (tmp_path / "gn" / "end.safetensors").exists()
    resumed, history = run(settings=settings(3), checkpoint=tmp_path / "gn" / "state.safetensors", resume=True)
    whole, _ = run(settings=settings(3))
    assert [r["step"] for r in history.rows] == [0, 1, 2] and difference(resumed, whole) < 1e-6


def test_the_command_line_under_torchrun(tmp_path):
    command = [
        "-m",
        "bitlib",
        "finetune",
        "digits",
        "--model",
        "glyphs-S",
        "--shots",
        "1",
        "--steps",
        "3",
        "--batch-size",
        "8",
        "--quiet",
        "--device",
        "cpu",
        "--out",
    ]
    two = torchrun(*command, tmp_path / "two")
    assert two.returncode == 0, two.stderr
    assert two.stdout.count("test accuracy") == 1  # one of them speaks
    assert main([*command[2:], str(tmp_path / "one")]) == 0
    assert apart(tmp_path / "one" / "model.safetensors", tmp_path / "two" / "model.safetensors") < 1e-5
    results = [json.loads((tmp_path / n / "run.json").read_text())["test_accuracy"] for n in ("one", "two")]
    assert results[0] == pytest.approx(results[1], abs=0.005)


def test_one_process_needs_no_group():
    with process_group():
        assert ranks() == (0, 1) and is_main()
    x = torch.arange(5)
    assert torch.equal(own_part(x), x) and torch.equal(summed(x), x) and gathered("a") == ["a"]


def test_a_batch_needs_a_picture_for_everyone(monkeypatch):
    monkeypatch.setattr("bitlib.trainer.ranks", lambda: (0, 13))
    model = ResNetV2(TINY, 3)
    with pytest.raises(UserError, match="a batch of 12 cannot be shared among 13 processes"):
        Gradients(model, loss, settings(), torch.device("cpu"))(batch(0))
