"""Several processes, started by `torchrun`, that train one model: which one this is, its share of a batch, who writes files.

Every process draws the same batch and takes its own rows of it, so no image is seen twice, and any number of processes gives
the result of a single one up to rounding. Knows nothing about tasks and losses. Without torchrun there is one process.
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
    """(rank of this process, number of processes); (0, 1) if there is only one."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else (0, 1)


def is_main() -> bool:
    """Whether this process is the one that writes files and prints."""
    return ranks()[0] == 0


@contextmanager
def process_group(device: str = "auto") -> Iterator[None]:
    """Join the other processes for the duration of the block, if torchrun started several; otherwise do nothing.

    device: the one the user asked for. GPU tensors travel over NCCL if every process has its own GPU, everything else over
    gloo. Raises UserError for a single numbered GPU.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) == 1 or dist.is_initialized():
        yield
        return
    if ":" in str(device):
        raise UserError(f"device {str(device)!r} is one GPU for all processes; use cuda, and each takes its own")
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
    """This process's rows of a batch. Together the processes cover every row once; their shares differ by one row at most."""
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
    """The values passed by all processes, in order of rank."""
    world = ranks()[1]
    if world == 1:
        return [part]
    everything: list = [None] * world
    dist.all_gather_object(everything, part)
    return everything


def from_main(value: object) -> object:
    """The value passed by the first process, on every process."""
    return gathered(value)[0]


def wait_for_all() -> None:
    """A barrier: return once every process has arrived here."""
    if ranks()[1] > 1:
        dist.barrier()


class AnyProcess:
    """Whether any process has a wish, asked at every step without waiting: the answer arrives one step later."""

    def __init__(self):
        self.asked: tuple[Tensor, dist.Work] | None = None

    def __call__(self, wish: bool) -> bool:
        """All processes must call this, and all get the same answer: whether any of them passed True one call earlier."""
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
        """Wait for the last exchange, whose answer nobody needs."""
        if self.asked:
            self.asked[1].wait()
            self.asked = None


def for_all(model: nn.Module, shard: bool) -> nn.Module:
    """The network to call in training: each process holds a full copy, or with `shard` only a part of each weight.

    shard: use FSDP2, which gathers a block's weights while the block runs and then frees them. It changes the model in place
    and leaves it sharded after training: from then on, all processes must call it together.
    """
    if ranks()[1] == 1:
        return model
    if not shard:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # the option has a new name, which PyTorch 2.11 does not know
            # Without SyncBatchNorm, each process keeps its own batch-norm statistics.
            return DistributedDataParallel(model, broadcast_buffers=False)
    from torch.distributed.fsdp import fully_shard

    model.to(memory_format=torch.contiguous_format)  # FSDP2 shards no other layout
    spread(model.state_dict(), model.state_dict())
    for child in model.children():
        for block in child if isinstance(child, nn.Sequential) else ():
            fully_shard(block)
    return fully_shard(model)


def exchange(net: nn.Module, last: bool) -> AbstractContextManager:
    """A context for one micro-batch of `for_all`'s network: processes exchange gradients only after the `last` of a step."""
    if is_sharded(net):
        net.set_requires_gradient_sync(last)
    return net.no_sync() if isinstance(net, DistributedDataParallel) and not last else nullcontext()


def is_sharded(model: nn.Module) -> bool:
    """Whether this process holds only a part of each weight."""
    return any(hasattr(p, "full_tensor") for p in model.parameters())


# One tensor at a time, and by hand: `torch.distributed.checkpoint` unpickles what it reads, and its broadcast of a state dict
# (torch 2.15) mixes up channels-last weights.


def whole_state(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, with shards joined, on the CPU of the first process; {} on the others.

    All processes must call this together.
    """
    whole = {}
    for name, tensor in tensors.items():
        joined = (tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor).detach()
        if is_main():
            whole[name] = joined.cpu().contiguous()
    return whole


def spread(source: dict[str, Tensor], target: dict[str, Tensor]) -> None:
    """Copy the first process's `source` into every process's `target`, which may be sharded; the others may pass {}."""
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
