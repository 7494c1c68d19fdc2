"""kill -9 at random moments, and memory over many steps."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

HERE = Path(__file__).resolve().parent


def run(script: str, *args) -> str:
    path = os.pathsep.join([str(HERE), str(HERE.parent)])
    command = [sys.executable, *([script] if script.endswith(".py") else ["-c", script]), *map(str, args)]
    done = subprocess.run(
        command,
        cwd=HERE,
        capture_output=True,
        text=True,
        timeout=1200,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_killed_twenty_times_ends_with_the_same_bits(tmp_path):
    for kills in (0, 20):
        (tmp_path / str(kills)).mkdir()
        steps = json.loads(run("killed.py", tmp_path / str(kills), kills))
        assert len(steps) == kills
    assert len(set(steps)) > 5 and steps == sorted(steps)  # it was killed at many places, and never lost ground
    whole, resumed = (load_file(tmp_path / n / "checkpoint" / "state.safetensors") for n in ("0", "20"))
    assert whole.keys() == resumed.keys() and any(k.startswith("optimizer.") for k in whole)
    assert all(torch.equal(whole[k], resumed[k]) for k in whole)
    left = [p.name for p in (tmp_path / "20" / "checkpoint").iterdir()]
    assert left == ["state.safetensors"]  # nothing half-written is left behind


MEMORY = """
import resource, torch
from conftest import QUIET, TINY
from test_trainer import loss, sgd
from bitlib.resnet import ResNetV2
from bitlib.trainer import train

def now():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize() / 1e6

torch.set_num_threads(1)
seen, x, y = {}, torch.randn(2, 3, 8, 8), torch.tensor([0, 1])

def batch(step):
    if step in (500, 1999):
        seen[step] = now()
    return x, y

train(ResNetV2(TINY, 3), batch, loss, sgd(2000), QUIET)
print(seen[1999] - seen[500])
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="counts by /proc")
def test_memory_stays_flat_over_two_thousand_steps():
    assert float(run(MEMORY)) < 5  # megabytes; the history of 1,500 steps takes less than one
