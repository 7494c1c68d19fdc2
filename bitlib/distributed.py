"""Several processes that train one model, as `torchrun` starts them: who am I, which share is mine, who writes.

Every process draws the same batch and takes its own part of it, so nothing is seen twice, and the result is that of one
process up to rounding, on any number of them. Knows nothing of models and tasks. Without torchrun, all of it is one rank.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn


def ranks() -> tuple[int, int]:
    """(number of this process, number of processes); (0, 1) where there is only one."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else (0, 1)


def is_main() -> bool:
    """Whether this process is the one that writes files and prints."""
    return ranks()[0] == 0


@contextmanager
def process_group() -> Iterator[None]:
    """Join the other processes for the length of the block, if torchrun started several; else do nothing.

    NCCL where every process has a GPU of its own, gloo otherwise.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) == 1 or dist.is_initialized():
        yield
        return
    local = int(os.environ.get("LOCAL_RANK", 0))
    gpus = torch.cuda.is_available() and int(os.environ.get("LOCAL_WORLD_SIZE", 1)) <= torch.cuda.device_count()
    if gpus:
        torch.cuda.set_device(local)
    dist.init_process_group("nccl" if gpus else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def own_part(tensor: Tensor) -> Tensor:
    """This process's part of a batch, cut along dimension 0; the parts of all processes make up the batch."""
    rank, world = ranks()
    return tensor.tensor_split(world)[rank]


def summed(tensor: Tensor) -> Tensor:
    """The sum over all processes."""
    if ranks()[1] > 1:
        tensor = tensor.clone()
        dist.all_reduce(tensor)
    return tensor


def gathered(part: object) -> list:
    """What every process passed, in the order of their numbers. A barrier, too."""
    world = ranks()[1]
    if world == 1:
        return [part]
    everything: list = [None] * world
    dist.all_gather_object(everything, part)
    return everything


def sharded(model: nn.Module) -> nn.Module:
    """A copy of the model of which every process holds a part (FSDP2), starting from the first process's weights.

    The weights of each block, an element of a child that is a sequence, are gathered while it works and dropped again.
    """
    from torch.distributed.fsdp import fully_shard

    for tensor in model.state_dict().values():
        dist.broadcast(tensor, 0)
    net = copy.deepcopy(model)
    for child in net.children():
        for block in child if isinstance(child, nn.Sequential) else ():
            fully_shard(block)
    return fully_shard(net)


def full(tensor: Tensor) -> Tensor:
    """All of a tensor of which this process holds a part. All processes must ask for it together."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def part_like(tensor: Tensor, like: Tensor) -> Tensor:
    """This process's part of a tensor, cut as `like` is."""
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor, like.device_mesh, like.placements)
