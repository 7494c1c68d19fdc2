"""Two processes under torchrun against one: the same weights, the same logits, the same files."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_trainer import difference, run, sgd
from torch.optim.optimizer import register_optimizer_step_post_hook

from bitlib.cli import main
from bitlib.distributed import from_main, gathered, is_main, own_rows, process_group, ranks, summed

HERE = Path(__file__).resolve().parent


def torchrun(*args, processes: int = 2) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", *map(str, args)]
    path = os.pathsep.join([str(HERE), str(HERE.parent)])
    return subprocess.run(
        command, capture_output=True, text=True, timeout=1200, env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
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
@pytest.mark.parametrize("file", ["end.safetensors", "checkpoint/state.safetensors"])
def test_two_processes_equal_one(ends, kind, file):
    tensors = load_file(ends[2] / kind / file)
    assert "logits" in tensors and tensors["logits"].shape == (700, 3) or any(k.startswith("optimizer.") for k in tensors)
    assert apart(ends[1] / "gn" / file, ends[2] / kind / file) < 1e-6


@pytest.mark.parametrize("file", ["end.safetensors", "checkpoint/state.safetensors"])
def test_shards_of_uneven_size(ends, file):
    """Both processes take as many parts (before: one took three and the other two, and they waited for each other)."""
    assert apart(ends[1] / "gn, sharded, 5 rows" / file, ends[2] / "gn, sharded, 5 rows" / file) < 1e-5


def test_two_processes_do_not_equal_one_with_batch_norm(ends):
    assert apart(ends[1] / "bn" / "end.safetensors", ends[2] / "bn" / "end.safetensors") > 1e-3


def test_another_number_of_processes_resumes(tmp_path):
    died = torchrun(HERE / "in_ranks.py", tmp_path, "die")
    assert died.returncode != 0 and not (tmp_path / "gn" / "end.safetensors").exists()
    resumed, history = run(sgd=sgd(3), out=tmp_path / "gn", resume=True)
    whole, _ = run(sgd=sgd(3))
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
        "--precision",
        "fp32",
        "--out",
    ]
    two = torchrun(*command, tmp_path / "two")
    assert two.returncode == 0, two.stderr
    assert two.stdout.count("test accuracy") == 1  # one of them speaks
    assert main([*command[2:], str(tmp_path / "one")]) == 0
    assert apart(tmp_path / "one" / "model.safetensors", tmp_path / "two" / "model.safetensors") < 1e-5
    results = [json.loads((tmp_path / n / "run.json").read_text())["test_accuracy"] for n in ("one", "two")]
    assert results[0] == pytest.approx(results[1], abs=0.005)


def test_the_command_line_shards(tmp_path):
    """Every layout, and a checkpoint that one process resumes (before: NotImplementedError of FSDP2)."""
    command = ["-m", "bitlib", "finetune", "digits", "--model", "glyphs-S", "--shots", "1", "--batch-size", "8", "--quiet"]
    command += ["--device", "cpu", "--precision", "fp32", "--steps", "3"]
    two = torchrun(*command, "--shard", "--freeze", "stage3", "--evaluate-every", "2", "--out", tmp_path / "two")
    assert two.returncode == 0, two.stderr
    assert main([*command[2:], "--freeze", "stage3", "--evaluate-every", "2", "--out", str(tmp_path / "one")]) == 0
    assert apart(tmp_path / "one" / "model.safetensors", tmp_path / "two" / "model.safetensors") < 1e-6
    assert (tmp_path / "two" / "history.csv").read_text().splitlines()[0] == "step,lr,loss,val_accuracy"
    (tmp_path / "two" / "run.json").unlink()
    assert main([*command[2:], "--freeze", "stage3", "--out", str(tmp_path / "two"), "--resume"]) == 0
    assert apart(tmp_path / "one" / "model.safetensors", tmp_path / "two" / "model.safetensors") < 1e-6


def test_a_stop_under_torchrun_is_seen_at_once(tmp_path):
    """Ctrl-C reaches one process during step 3; all stop together, a step later. They used to look every twenty steps."""
    done = torchrun(HERE / "in_ranks.py", tmp_path, "stop")
    assert done.returncode == 0, done.stderr
    assert [(tmp_path / f"stopped {rank}").read_text() for rank in (0, 1)] == ["5", "5"]
    resumed, _ = run(sgd=sgd(8), out=tmp_path, resume=True)
    assert difference(resumed, run(sgd=sgd(8))[0]) < 1e-6


def test_the_first_process_alone_looks_at_files(tmp_path):
    """Machines without a common disk: the checkpoint lies on the first one's only, and all go on from it.

    Each used to look for itself: the others began anew, and the exchange of gradients broke off.
    """
    command = ["finetune", "digits", "--model", "glyphs-S", "--shots", "1", "--batch-size", "8", "--steps", "6", "--quiet"]
    command += ["--device", "cpu", "--precision", "fp32"]
    assert main([*command, "--out", str(tmp_path / "whole")]) == 0
    ctrl_c = register_optimizer_step_post_hook(lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        assert main([*command, "--out", str(tmp_path / "0")]) == 130
    finally:
        ctrl_c.remove()
    done = torchrun(HERE / "in_ranks.py", tmp_path, "disks", *command)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "1").exists()
    assert apart(tmp_path / "whole" / "model.safetensors", tmp_path / "0" / "model.safetensors") < 1e-5


@pytest.mark.parametrize(
    "gpus, local, device, backend",
    [(4, 4, "auto", "cpu:gloo,cuda:nccl"), (4, 4, "cpu", "gloo"), (1, 2, "cuda", "gloo"), (0, 2, "auto", "gloo")],
)
def test_the_backend_follows_the_device(tmp_path, monkeypatch, gpus, local, device, backend):
    """`--device cpu` on a machine with GPUs used to get NCCL, which has no tensors of the CPU."""
    chosen, seen = [], []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr("torch.distributed.init_process_group", seen.append)
    monkeypatch.setattr("torch.distributed.destroy_process_group", lambda: None)
    for name, value in {"WORLD_SIZE": 4, "LOCAL_WORLD_SIZE": local, "LOCAL_RANK": 1}.items():
        monkeypatch.setenv(name, str(value))
    # Processes meet before a model is looked for, and here there is none.
    assert main(["evaluate", str(tmp_path / "none.safetensors"), "digits", "--device", device]) == 2
    assert seen == [backend] and chosen == ([1 % gpus] if gpus and device != "cpu" else [])


def test_the_first_process_decides_about_the_precision(tmp_path):
    """Each measures its own processor; with different layouts DDP does not even start."""
    done = torchrun(HERE / "in_ranks.py", tmp_path, "processors")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("size, world", [(11, 3), (8, 8), (5, 1)])
def test_rows_are_dealt_out(monkeypatch, size, world):
    dealt = []
    for rank in range(world):
        monkeypatch.setattr("bitlib.distributed.ranks", lambda rank=rank: (rank, world))
        dealt.append(own_rows(size))
    assert [row for rows in dealt for row in rows] == list(range(size))
    assert max(map(len, dealt)) - min(map(len, dealt)) <= 1


def test_one_process_needs_no_group():
    with process_group():
        assert ranks() == (0, 1) and is_main()
    x = torch.arange(5)
    assert own_rows(5) == range(5) and torch.equal(summed(x), x) and gathered("a") == ["a"] and from_main(3) == 3


def test_a_batch_needs_an_image_for_everyone(tmp_path):
    command = ["-m", "bitlib", "finetune", "digits", "--model", "glyphs-S", "--batch-size", "1", "--quiet", "--device", "cpu"]
    done = torchrun(*command, "--out", tmp_path / "out")
    assert done.returncode != 0 and "a batch of 1 cannot be shared among 2 processes" in done.stderr
    assert not (tmp_path / "out").exists()
