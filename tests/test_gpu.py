"""`make gpu`: its parts on tiny networks, what is skipped, resumed and reported; on a GPU, steps that never wait for it."""

import importlib
import json
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

ROOT = Path(__file__).resolve().parent.parent
CPU = torch.device("cpu")
GOOD = "import json, sys; json.dump({'status': 'done', 'figures': {'summary': 'all well'}}, open(sys.argv[-1], 'w'))"


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "data_scripts")
    return importlib.import_module("gpu")


def test_without_a_gpu_one_line(gpu, capsys, tmp_path):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    assert gpu.main(["--out", str(tmp_path)]) == 2
    err = capsys.readouterr().err
    assert "no NVIDIA GPU" in err and err.count("\n") == 1 and not list(tmp_path.iterdir())


def test_mistakes_and_the_list(gpu, capsys):
    assert gpu.main(["--only", "nothing"]) == 2 and "no part 'nothing'" in capsys.readouterr().err
    assert gpu.main(["--tiny", "--device", "cpu"]) == 2 and "--out" in capsys.readouterr().err
    assert gpu.main(["--list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 32 and len({line.split()[0] for line in lines}) == 32  # eight checks, two modes x sides x ...
    assert all(part.seconds < gpu.LIMIT <= 540 and part.about for part in gpu.all_parts())


def test_from_end_to_end_and_again(gpu, capsys, tmp_path):
    """Two parts on tiny networks, each in its own process; the second time there is nothing left to do."""
    options = ["--device", "cpu", "--tiny", "--out", str(tmp_path), "--only", "kernels", "--only", "train-224-bf16"]
    if not importlib.util.find_spec("triton"):
        options.remove("kernels")
    assert gpu.main(options) == 0, capsys.readouterr().out
    records = {file.stem: json.loads(file.read_text()) for file in tmp_path.iterdir()}
    for name, record in records.items():
        assert record["part"] == name and record["status"] == "done" and record["seconds"] > 0
        assert record["commit"] and record["torch"] and record["device"]
    (case,) = records["train-224-bf16"]["figures"]["cases"]
    assert [row["contestant"] for row in case["rows"]] == ["gn", "gn", "bn", "bn"] and all(
        row["speeds"] for row in case["rows"]
    )
    before = {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    assert gpu.main(options) == 0
    assert capsys.readouterr().out.count("done before") == len(before)
    assert before == {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()}


def test_a_part_that_fails_stops_no_other(gpu, capsys, tmp_path):
    def part(name: str, text: str):
        return gpu.Part(name, 10, command=(sys.executable, "-c", text))

    parts = [part("dies", "import sys; sys.exit('no such kernel')"), part("silent", "pass"), part("good", GOOD)]
    assert gpu.run_parts(parts, tmp_path, "abc", []) == 1
    out = capsys.readouterr().out
    assert "no such kernel" in out and "it wrote no figures" in out and "failed: dies, silent" in out
    assert {file.name for file in tmp_path.iterdir()} == {"dies.log", "silent.log", "good.json"}
    assert json.loads((tmp_path / "good.json").read_text())["commit"] == "abc"
    # Other code: the old result does not count. No time left: nothing is started, and nothing has failed.
    assert gpu.run_parts(parts, tmp_path, "def", [], budget=5) == 0
    assert capsys.readouterr().out.count("left for later") == 3
    assert gpu.run_parts(parts[2:], tmp_path, "def", []) == 0
    assert json.loads((tmp_path / "good.json").read_text())["commit"] == "def"


def test_a_part_that_hangs_is_stopped(gpu, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "LIMIT", 1)
    hang = "import signal, subprocess, sys; subprocess.Popen([sys.executable, '-c', 'input()'], stdin=subprocess.PIPE).wait()"
    assert gpu.run_parts([gpu.Part("hangs", 10, command=(sys.executable, "-c", hang))], tmp_path, "abc", []) == 1
    assert "it was stopped after 1 s" in capsys.readouterr().out


def test_one_model_of_the_course(gpu):
    figures = gpu.courses(CPU, tiny=True)
    (accuracy,) = figures["accuracy"].values()
    assert accuracy["fp32"] == accuracy["cpu fp32"]


def test_other_libraries_networks(gpu):
    assert "nothing frozen moved" in gpu.backbones(CPU, tiny=True)["summary"]


def test_official_architecture_on_a_small_card(gpu):
    assert "1 settings on 15 GB" in gpu.official(CPU, tiny=True)["summary"]


def test_over_the_memory_budget(gpu):
    assert gpu.folder(CPU, tiny=True)["apart"] == 0


def test_which_steps_are_watched(gpu):
    """A CPU has nothing to wait for, but the steps are counted alike."""
    assert "2 steps" in gpu.sync(CPU, tiny=True)["summary"]
    model = nn.Linear(1, 1)
    with gpu.no_waiting(model, 1, 2) as watched:
        for _ in range(5):
            model(torch.ones(1))
    model(torch.ones(1))
    assert watched == [1, 2]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_training_does_not_wait_for_the_gpu(gpu):
    assert "18 steps in fp32" in gpu.sync(torch.device("cuda"), tiny=False)["summary"]


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_waiting_would_be_noticed(gpu):
    model = nn.Linear(1, 1).cuda()
    x = torch.ones(1, device="cuda")
    with pytest.raises(RuntimeError, match="synchroniz"), gpu.no_waiting(model, 1, 2):
        for _ in range(4):
            model(x).item()
    model(x).item()  # afterwards it is allowed again
