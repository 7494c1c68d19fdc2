"""What test_distributed.py starts with torchrun: training by as many processes as there are.

in_ranks.py FOLDER [die | stop | processors | disks COMMAND ...]
"""

import os
import signal
import sys
from pathlib import Path

import torch
from conftest import TINY, TINY_BN, quiet
from safetensors.torch import save_file
from test_trainer import batch, loss, sgd

from bitlib import device
from bitlib.cli import main
from bitlib.data.task import ArrayImages
from bitlib.distributed import gathered, is_main, process_group, ranks, whole_state
from bitlib.evaluate import predict_logits
from bitlib.resnet import ResNetV2
from bitlib.trainer import Interrupted, settle, train

folder, mode = Path(sys.argv[1]), "".join(sys.argv[2:3])
torch.set_num_threads(1)


def dying(step):
    if step == 2:
        sys.exit(7)
    return batch(step)


def stopping(step):
    if step == 3 and ranks()[0] == 1:
        os.kill(os.getpid(), signal.SIGINT)
    return batch(step)


def five_rows(step):
    """Which two processes cannot share evenly."""
    return tuple(column[:5] for column in batch(step))


def three_steps_of_each_kind():
    for name, arch, micro_batches in (
        ("gn", TINY, 1),
        ("gn, 8 parts", TINY, 8),
        ("gn, sharded", TINY, 1),
        ("gn, sharded, 8 parts", TINY, 8),
        ("gn, sharded, 5 rows", TINY, 3),
        ("bn", TINY_BN, 1),
    ):
        # The first process's weights count. They lie as in training on a GPU.
        model = ResNetV2(arch, 3, seed=ranks()[0]).to(memory_format=torch.channels_last)
        out, shard = folder / name, "sharded" in name
        options = quiet(micro_batches=micro_batches, checkpoint_every=1, shard=shard, out=out)
        batches = dying if mode == "die" else five_rows if "5 rows" in name else batch
        history = train(model, batches, loss, sgd(3), options)
        pixels = torch.arange(700 * 3 * 16 * 16).view(700, 3, 16, 16).remainder(251).to(torch.uint8)
        logits = predict_logits(model, ArrayImages(pixels, torch.zeros(700).long()), 16)
        if not shard:
            # Batch-norm statistics as well: the first process's are saved, so all are judged by them.
            weights = gathered(torch.cat([tensor.flatten() for tensor in model.state_dict().values()]))
            assert all(torch.equal(weights[0], other) for other in weights)
        state = whole_state(model.state_dict())
        if is_main():
            losses = torch.tensor(history.column("loss")[1])
            save_file({**state, "loss": losses, "logits": logits}, out / "end.safetensors")


with process_group("cpu"):
    if mode == "stop":  # one process gets Ctrl-C
        try:
            train(ResNetV2(TINY, 3), stopping, loss, sgd(8), quiet(out=folder))
        except Interrupted as error:
            (folder / f"stopped {ranks()[0]}").write_text(str(error.step))
    elif mode == "processors":  # every process measures another one
        device.fast_16_bits = lambda _: "bf16" if ranks()[0] == 0 else None
        assert gathered(settle(quiet(precision="auto"), torch.device("cpu")).precision) == ["bf16", "bf16"]
    elif mode == "disks":  # every process has a disk of its own
        assert main([*sys.argv[3:], "--resume", "--out", str(folder / str(ranks()[0]))]) == 0
    else:
        three_steps_of_each_kind()
