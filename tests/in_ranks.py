"""What test_distributed.py starts with torchrun: three training steps of each kind, by as many processes as there are.

in_ranks.py FOLDER [die]
"""

import sys
from pathlib import Path

import torch
from conftest import TINY, TINY_BN
from safetensors.torch import save_file
from test_trainer import batch, loss, settings

from bitlib.data.task import ArrayImages
from bitlib.distributed import gathered, is_main, process_group, ranks
from bitlib.evaluate import predict_logits
from bitlib.resnet import ResNetV2
from bitlib.trainer import train

folder = Path(sys.argv[1])
torch.set_num_threads(1)


def dying(step):
    if step == 2:
        sys.exit(7)
    return batch(step)


with process_group():
    for name, arch, micro_batches in (
        ("gn", TINY, 1),
        ("gn, 8 parts", TINY, 8),
        ("gn, sharded", TINY, 1),
        ("gn, sharded, 8 parts", TINY, 8),
        ("bn", TINY_BN, 1),
    ):
        model = ResNetV2(arch, 3, seed=ranks()[0])  # the first process's weights count
        history = train(
            model,
            dying if sys.argv[2:] else batch,
            loss,
            settings(3, micro_batches=micro_batches, checkpoint_every=1, shard="sharded" in name),
            checkpoint=folder / name / "state.safetensors",
            progress=False,
        )
        pixels = torch.arange(700 * 3 * 16 * 16).view(700, 3, 16, 16).remainder(251).to(torch.uint8)
        logits = predict_logits(model, ArrayImages(pixels, torch.zeros(700).long()), 16)
        weights = gathered(torch.cat([p.flatten() for p in model.parameters()]))
        assert all(torch.equal(weights[0], other) for other in weights)
        if is_main():
            save_file(
                {**model.state_dict(), "loss": torch.tensor(history.column("loss")[1]), "logits": logits},
                folder / name / "end.safetensors",
            )
