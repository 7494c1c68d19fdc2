"""Several processes that train one model, as `torchrun` starts them: who am I, which share is mine, who writes.

Every process draws the same batch and takes its own part of it, so nothing is seen twice, and the result is that of one
process up to rounding, on any number of them. Knows nothing of tasks and losses. Without torchrun, all of it is one process.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from .files import UserError


def ranks() -> tuple[int, int]:
    """(number of this process, number of processes); (0, 1) where there is only one."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else (0, 1)


def is_main() -> bool:
    """Whether this process is the one that writes files and prints."""
    return ranks()[0] == 0


@contextmanager
def process_group(device: str = "auto") -> Iterator[None]:
    """Join the other processes for the length of the block, if torchrun started several; else do nothing.

    device: the one that was asked for. Tensors on GPUs travel by NCCL where every process has a GPU of its own, everything else
    by gloo.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) == 1 or dist.is_initialized():
        yield
        return
    if ":" in str(device):
        raise UserError(f"device {str(device)!r} is one GPU for all processes; say cuda, and each takes its own")
    local = int(os.environ.get("LOCAL_RANK", 0))
    gpus = torch.cuda.device_count() if str(device) in ("auto", "cuda") else 0
    if gpus:
        torch.cuda.set_device(local % gpus)
    own_gpu = int(os.environ.get("LOCAL_WORLD_SIZE", 1)) <= gpus
    dist.init_process_group("cpu:gloo,cuda:nccl" if own_gpu else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def own_rows(size: int) -> range:
    """Which rows of a batch are this process's; the rows of all processes make up the batch, sizes differ by one at most."""
    rank, world = ranks()
    share, extra = divmod(size, world)
    start = rank * share + min(rank, extra)
    return range(start, start + share + (rank < extra))


def summed(tensor: Tensor) -> Tensor:
    """The sum over all processes."""
    if ranks()[1] > 1:
        tensor = tensor.clone()
        dist.all_reduce(tensor)
    return tensor


def gathered(part: object) -> list:
    """What every process passed, in the order of their numbers."""
    world = ranks()[1]
    if world == 1:
        return [part]
    everything: list = [None] * world
    dist.all_gather_object(everything, part)
    return everything


def from_main(value: object) -> object:
    """What the first process passed, on every process."""
    return gathered(value)[0]


def wait_for_all() -> None:
    """Go on when every process has come here."""
    if ranks()[1] > 1:
        dist.barrier()


class AnyProcess:
    """Whether any process wants something, asked at every step without waiting: the answer comes one step later."""

    def __init__(self):
        self.asked: tuple[Tensor, dist.Work] | None = None

    def __call__(self, wish: bool) -> bool:
        """Every process calls this alike, and all get the same answer."""
        if ranks()[1] == 1:
            return wish
        answer = False
        if self.asked:
            flag, work = self.asked
            work.wait()
            answer = bool(flag)
        flag = torch.tensor(int(wish))  # on the CPU, so that no GPU is waited for
        self.asked = flag, dist.all_reduce(flag, async_op=True)
        return answer

    def end(self) -> None:
        """Take back the last question."""
        if self.asked:
            self.asked[1].wait()
            self.asked = None


def for_all(model: nn.Module, shard: bool) -> nn.Module:
    """The network to call in training: of several processes each holds all of it, or with `shard` a part of each weight.

    shard: FSDP2; a block's weights are gathered while it works and dropped again. The model is then changed in place, and stays
    in parts after training: all processes must call it together.
    """
    if ranks()[1] == 1:
        return model
    if not shard:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of a new name for the option, which PyTorch 2.11 does not know
            # Batch-norm statistics stay each process's own, as without SyncBatchNorm.
            return DistributedDataParallel(model, broadcast_buffers=False)
    from torch.distributed.fsdp import fully_shard

    model.to(memory_format=torch.contiguous_format)  # FSDP2 cuts no other layout
    spread(model.state_dict(), model.state_dict())
    for child in model.children():
        for block in child if isinstance(child, nn.Sequential) else ():
            fully_shard(block)
    return fully_shard(model)


def exchange(net: nn.Module, last: bool) -> AbstractContextManager:
    """Around the work of `for_all`'s network on a part of a batch: gradients are exchanged after the last part of a step."""
    if is_sharded(net):
        net.set_requires_gradient_sync(last)
    return net.no_sync() if isinstance(net, DistributedDataParallel) and not last else nullcontext()


def is_sharded(model: nn.Module) -> bool:
    """Whether this process holds only parts of the model's weights."""
    return any(hasattr(p, "full_tensor") for p in model.parameters())


# One tensor at a time, and by hand: `torch.distributed.checkpoint` unpickles what it reads, and its broadcast of a state
# (torch 2.15) mixes up weights that lie channels-last.


def whole_state(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """These tensors, joined from all processes where they are sharded, on the CPU of the first process; {} on the others.

    All processes must call it together.
    """
    whole = {}
    for name, tensor in tensors.items():
        joined = (tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor).detach()
        if is_main():
            whole[name] = joined.cpu().contiguous()
    return whole


def spread(source: dict[str, Tensor], target: dict[str, Tensor]) -> None:
    """Fill the tensors of `target`, which may be sharded, with the first process's `source`; the others may pass {}."""
    with torch.no_grad():
        for name, tensor in target.items():
            if is_main():
                value = source[name].to(tensor.device, tensor.dtype).contiguous()
            else:
                value = torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device)
            if hasattr(tensor, "full_tensor"):
                from torch.distributed.tensor import distribute_tensor

                value = distribute_tensor(value, tensor.device_mesh, tensor.placements)
            elif ranks()[1] > 1:
                dist.broadcast(value, 0)
            tensor.copy_(value)
