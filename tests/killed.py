"""What test_killed.py runs: training in a child that is killed at random moments and started again until it is done.

    killed.py FOLDER KILLS      prints, as JSON, how many steps were saved after each kill
The children are forked before any work was done, so that each starts at once.
"""

import json
import math
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch
from conftest import TINY, quiet
from safetensors import safe_open
from test_trainer import batch, loss, sgd

from bitlib.resnet import ResNetV2
from bitlib.trainer import train

file, kills = Path(sys.argv[1]) / "checkpoint" / "state.safetensors", int(sys.argv[2])
torch.set_num_threads(1)
chance, after = random.Random(0), []


def saved() -> int:
    """Steps in the checkpoint, which must be whole whenever one looks."""
    if not file.exists():
        return 0
    with safe_open(file, "pt") as f:
        return json.loads(f.metadata()["bitlib"])["step"]


while True:
    child = os.fork()
    if child == 0:
        options = quiet(out=file.parent.parent, checkpoint_every=1, resume=True)
        train(ResNetV2(TINY, 3), batch, loss, sgd(120), options)
        os._exit(0)
    # Let it save a few steps, or none, and then kill it anywhere within the next one.
    goal, status = (saved() + chance.randint(0, 4), None) if len(after) < kills else (math.inf, None)
    while status is None and saved() < goal:
        time.sleep(0.002)
        pid, code = os.waitpid(child, os.WNOHANG)
        status = code if pid else None
    if status is None:
        time.sleep(chance.uniform(0, 0.05))
        os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
    if status == signal.SIGKILL:
        after.append(saved())
    elif status == 0:
        break
    else:
        sys.exit(f"the child failed with status {status}")
print(json.dumps(after))
