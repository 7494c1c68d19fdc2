"""The one training loop: precision, micro-batches, progress, checkpoints, resume.

Knows nothing of what is being trained: the caller brings `batch(step)` and `loss(model, *batch)`. A batch must be a pure
function of its step; then weights, momentum and the step's number are all the state there is, and a resumed run ends
with the same bits as an uninterrupted one. Under `distributed.process_group` all processes call `train` alike.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from .distributed import full, gathered, is_main, own_part, part_like, ranks, sharded, summed
from .files import UserError, atomic_path, remove_unfinished
from .norm import StandardizeOnce, hold_standardized, standardized_convs

SYNC_EVERY = 20  # steps between two looks at the loss; each look waits for the device


class Interrupted(KeyboardInterrupt):
    """Ctrl-C or a termination signal, after the state of `step` was saved to `checkpoint` (None: nowhere to save)."""

    def __init__(self, step: int, checkpoint: Path | None):
        super().__init__(
            f"interrupted after step {step}"
            + (f"; the state is in {checkpoint}" if checkpoint else "; no checkpoint was asked for")
        )
        self.step, self.checkpoint = step, checkpoint


@dataclass(frozen=True)
class Settings:
    """How to train. lr: learning rate of each step, counted from 0. micro_batches: parts a batch is split into.

    precision: "fp32", or "bf16" for autocast. checkpoint_every, evaluate_every: in steps; 0 means only at the end.
    compile: run the model through torch.compile, which takes a minute and a C++ compiler first. ema: decay per step of an
    exponential moving average of the weights, in [0, 1), which the model ends with; 0 is off. shard: of several
    processes each keeps only its part of gradients and momentum (FSDP2), and gathers weights when they are needed. prefetch:
    batches that are made ahead, in a thread, while the model trains.
    """

    steps: int
    lr: Callable[[int], float]
    momentum: float = 0.9
    weight_decay: float = 0.0
    micro_batches: int = 1
    precision: str = "fp32"
    checkpoint_every: int = 0
    evaluate_every: int = 0
    compile: bool = False
    ema: float = 0.0
    shard: bool = False
    prefetch: int = 0

    def __post_init__(self):
        if self.shard and (self.ema or self.compile):
            raise UserError("a sharded model can neither be compiled nor averaged here; leave out --ema and --compile")
        if not 0 <= self.ema < 1:
            raise UserError(f"ema is {self.ema}; it lies between 0 (off) and 1, for example 0.999")
        if self.precision not in ("fp32", "bf16"):
            raise UserError(f"unknown precision {self.precision!r}; choose fp32 or bf16")
        if self.micro_batches < 1:
            raise UserError(f"micro-batches is {self.micro_batches}; it must be 1 or more")


@dataclass
class History:
    """One row a step: {"step", "lr", "loss"} plus whatever `evaluate` returned at that step.

    seconds: wall time of the loop, interrupted parts of a resumed run included.
    """

    rows: list[dict] = field(default_factory=list)
    seconds: float = 0.0

    def column(self, name: str) -> tuple[list[int], list[float]]:
        """(steps, values) of the rows that have this column."""
        return tuple(zip(*[(r["step"], r[name]) for r in self.rows if name in r])) or ((), ())


def pick_device(device: str | torch.device = "auto") -> torch.device:
    """ "auto" is the GPU where there is one; under torchrun, the process's own.

    Raises UserError for a device that this machine does not have.
    """
    if str(device) == "auto":
        return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise UserError(f"unknown device {device!r}; choose auto, cpu or cuda") from None
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device {str(device)!r} was asked for, but PyTorch sees no GPU here; use --device cpu")
    return chosen


def memory_format(device: torch.device, precision: str) -> torch.memory_format:
    """How pictures, activations and filters should lie in memory: channels last, but for 16 bits on a CPU.

    There, PyTorch's kernels for group norm are faster on contiguous tensors, and so is a step (`benchmarks/speed.py`).
    """
    slow = device.type == "cpu" and precision == "bf16"
    return torch.contiguous_format if slow else torch.channels_last


def need_compiler() -> None:
    """Raises UserError where torch.compile would find no C++ compiler."""
    if not any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++"))):
        raise UserError("torch.compile needs a C++ compiler, and there is no g++ here; install one, or do without --compile")


def train(
    model: nn.Module,
    batch: Callable[[int], tuple],
    loss: Callable[..., Tensor],
    settings: Settings,
    *,
    checkpoint: Path | None = None,
    resume: bool = False,
    identity: dict | None = None,
    evaluate: Callable[[nn.Module], dict] | None = None,
    progress: bool | str = True,
) -> History:
    """Train `model` in place, where it is, by SGD with momentum.

    batch(step) -> tuple; its tensors have the batch in dimension 0, anything else goes to `loss` as it is.
    loss(model, *batch) -> the mean over that batch. A batch is cut into `micro_batches` parts whose gradients are
    weighted by their size, so that the sum is the gradient of the whole (exactly so without batch norm).
    checkpoint: file for the state, written every `checkpoint_every` steps, at the end and on interruption.
    identity: what a checkpoint must agree with to be resumed (JSON). progress: False, or a title for the bar.

    Of several processes each takes its part of every batch, the first one writes, and all end with the same weights; a
    checkpoint can be resumed by another number of them. Batches must have a picture for each process.

    Where the device runs out of memory, the number of micro-batches is doubled and the step done again: the same step up
    to rounding. With several processes, which would have to do so together, it is an error.

    Raises Interrupted; UserError where the loss is not finite, where one picture alone does not fit into memory, or where
    the checkpoint does not fit.
    """
    device = next(model.parameters()).device
    if settings.compile:
        need_compiler()
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(settings.ema)) if settings.ema else None
    history, start, momentum = History(), 0, {}
    if resume and checkpoint and is_main():
        remove_unfinished(checkpoint)
    if resume and checkpoint and checkpoint.exists():
        start, history, momentum = load_checkpoint(checkpoint, model, identity or {}, average)
    world = ranks()[1]
    shard = settings.shard and world > 1
    # `net` is what trains; where it is not `model` itself, `model` gets its weights whenever somebody looks.
    net = model
    if shard:
        net = sharded(model)
        model.cpu()
    params = {name: p for name, p in net.named_parameters() if p.requires_grad}
    optimizer = torch.optim.SGD(
        params.values(),
        lr=0.0,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        fused=device.type in ("cpu", "cuda") and not shard or None,
    )
    for name, value in momentum.items():
        # Same strides as the parameter: channels-last weights keep channels-last momentum.
        optimizer.state[params[name]]["momentum_buffer"] = (
            part_like(value.to(device), params[name]) if shard else torch.empty_like(params[name]).copy_(value)
        )
    began = time.perf_counter() - history.seconds
    pending: list[tuple[int, float, Tensor]] = []  # losses still on the device
    if world > 1 and not shard:
        # Batch-norm statistics stay each process's own, as on as many devices without SyncBatchNorm.
        net = DistributedDataParallel(model, broadcast_buffers=False)
    gradients = Gradients(torch.compile(net) if settings.compile else net, loss, settings, device)

    def collect() -> None:
        values = summed(torch.stack([value for _, _, value in pending])).tolist() if pending else []
        for (step, lr, _), value in zip(pending, values):
            history.rows.append({"step": step, "lr": lr, "loss": value})
            if not math.isfinite(history.rows[-1]["loss"]):
                saved = f"; the last good state is in {checkpoint}" if checkpoint and checkpoint.exists() else ""
                raise UserError(f"the loss is {history.rows[-1]['loss']} at step {step}; lower the learning rate{saved}")
        pending.clear()

    def gather() -> None:
        for whole, part in zip(model.state_dict().values(), net.state_dict().values()):
            whole.copy_(full(part))

    def save(done: int) -> None:
        collect()
        history.seconds = time.perf_counter() - began
        if not checkpoint:
            return
        if shard:
            gather()
        buffers = {
            name: full(optimizer.state[p]["momentum_buffer"])
            for name, p in params.items()
            if "momentum_buffer" in optimizer.state[p]
        }
        if is_main():
            save_checkpoint(checkpoint, model, buffers, done, history, identity or {}, average)

    net.train()
    bar = tqdm(
        total=settings.steps,
        initial=start,
        disable=not progress or not is_main(),
        unit="step",
        leave=False,
        desc=progress if isinstance(progress, str) else None,
    )
    frozen = [c for c in standardized_convs(net) if not c.weight.requires_grad and not shard]
    batches = ahead(batch, range(start, settings.steps), settings.prefetch)
    with bar, hold_standardized(frozen), closing(batches), _catch_signals() as stop:
        for step, made in zip(range(start, settings.steps), batches):
            lr = settings.lr(step)
            for group in optimizer.param_groups:
                group["lr"] = lr
            optimizer.zero_grad(set_to_none=True)
            pending.append((step, lr, gradients(made)))
            optimizer.step()
            if average:
                average.update_parameters(model)
            done = step + 1
            bar.update()
            if len(pending) == SYNC_EVERY:
                collect()
                bar.set_postfix(loss=f"{history.rows[-1]['loss']:.3f}", lr=f"{lr:.2g}", refresh=False)
            if evaluate and (done == settings.steps or _every(settings.evaluate_every, done)):
                collect()
                if shard:
                    gather()
                history.rows[-1] |= evaluate((average.module if average else model).eval())
                net.train()
            # Several processes stop together, so they ask each other, now and then.
            stopping = bool(stop) if world == 1 else done % SYNC_EVERY == 0 and any(gathered(bool(stop)))
            if stopping or done == settings.steps or _every(settings.checkpoint_every, done):
                save(done)
            if stopping and done < settings.steps:
                raise Interrupted(done, checkpoint)
    gathered(None)  # nobody reads a file before it is written
    if average:
        model.load_state_dict(average.module.state_dict())
    if shard:
        gather()
        model.to(device)
    model.eval()
    return history


def _every(interval: int, done: int) -> bool:
    return interval > 0 and done % interval == 0


def ahead(batch: Callable[[int], tuple], steps: Iterable[int], count: int) -> Iterator[tuple]:
    """The batches of these steps in their order, with `count` of them made in advance by a thread; 0: when asked for.

    A batch is a pure function of its step, so it does not matter when it is made.
    """
    if count == 0:
        yield from map(batch, steps)
        return
    steps, waiting = iter(steps), deque()
    with ThreadPoolExecutor(1, "batches") as thread:
        try:
            for step in islice(steps, count):
                waiting.append(thread.submit(batch, step))
            while waiting:
                made = waiting.popleft().result()
                waiting.extend(thread.submit(batch, step) for step in islice(steps, 1))
                yield made
        finally:
            for future in waiting:
                future.cancel()


class Gradients:
    """Gradients of a batch's mean loss, part by part. Remembers how many parts the device's memory asks for."""

    def __init__(self, model: nn.Module, loss: Callable[..., Tensor], settings: Settings, device: torch.device):
        self.model, self.loss, self.device = model, loss, device
        self.precision, self.micro_batches = settings.precision, settings.micro_batches
        self.sharded = hasattr(model, "set_requires_gradient_sync")

    def __call__(self, batch: tuple) -> Tensor:
        """Add them to the parameters; returns this process's share of the loss, still on the device."""
        size, world = next(len(b) for b in batch if isinstance(b, Tensor)), ranks()[1]
        if size < world:
            raise UserError(f"a batch of {size} cannot be shared among {world} processes; use fewer, or a larger batch")
        own = [own_part(b) if isinstance(b, Tensor) else b for b in batch]
        pictures = next(len(b) for b in own if isinstance(b, Tensor))
        while True:
            count = min(self.micro_batches, pictures)
            try:
                return self._in_parts(own, count, size, world)
            except torch.OutOfMemoryError:
                if world > 1 or count == pictures:
                    hint = f"--micro-batches {2 * count}" if count < pictures else "smaller pictures or a smaller model"
                    raise UserError(
                        f"the device is out of memory with {-(-pictures // count)} pictures at a time; use {hint}"
                    ) from None
            # Outside of `except`, where the traceback would keep the activations alive.
            self.model.zero_grad(set_to_none=True)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            self.micro_batches = 2 * count
            tqdm.write(
                f"out of memory: going on with {self.micro_batches} micro-batches, the same steps up to rounding",
                file=sys.stderr,
            )

    def _in_parts(self, own: list, count: int, size: int, world: int) -> Tensor:
        columns = [b.tensor_split(count) if isinstance(b, Tensor) else (b,) * count for b in own]
        total = torch.zeros((), device=self.device)
        # The filters of a sharded network are whole only while their block works.
        with StandardizeOnce(self.model) if count > 1 and not self.sharded else nullcontext() as once:
            for number, part in enumerate(zip(*columns), 1):
                share = next(len(p) for p in part if isinstance(p, Tensor)) / size
                if once and number == count:
                    once.last()
                # Processes exchange gradients once a step, after the last part.
                if self.sharded:
                    self.model.set_requires_gradient_sync(number == count)
                alone = self.model.no_sync() if world > 1 and number < count and not self.sharded else nullcontext()
                with alone:
                    with torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                        value = self.loss(self.model, *part)
                    (value * share * world).backward()  # the exchange takes the mean over processes; the loss is a sum
                total += value.detach() * share
        return total


@contextmanager
def _catch_signals():
    """Turn the first Ctrl-C or SIGTERM into an entry of the list that is yielded; a second one acts as usual."""
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return
    signals = (signal.SIGINT, signal.SIGTERM)
    before = {s: signal.getsignal(s) for s in signals}

    def restore() -> None:
        for s, handler in before.items():
            signal.signal(s, handler)

    def catch(number, frame) -> None:
        caught.append(number)
        restore()

    for s in signals:
        signal.signal(s, catch)
    try:
        yield caught
    finally:
        restore()


def save_checkpoint(
    path: Path,
    model: nn.Module,
    momentum: dict[str, Tensor],
    step: int,
    history: History,
    identity: dict,
    average: AveragedModel | None = None,
) -> None:
    """Write weights, momentum (by name of the weight), moving average, step and history to one safetensors file, atomically."""
    from safetensors.torch import save_file

    parts = {"model": model.state_dict(), "momentum": momentum, "average": average.state_dict() if average else {}}
    tensors = {f"{part}.{name}": t.detach().contiguous() for part, values in parts.items() for name, t in values.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    meta = {"step": str(step), "history": json.dumps(asdict(history)), "identity": json.dumps(identity, sort_keys=True)}
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, meta)


def load_checkpoint(
    path: Path,
    model: nn.Module,
    identity: dict,
    average: AveragedModel | None = None,
) -> tuple[int, History, dict[str, Tensor]]:
    """Restore what `save_checkpoint` wrote; returns (steps done, history, momentum by name of the weight).

    Raises UserError where the file is damaged, or names the first setting in which its run differed from this one.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt", device="cpu") as f:
            meta, tensors = f.metadata(), {key: f.get_tensor(key) for key in f.keys()}
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a readable checkpoint ({error}); delete it to start over") from None
    theirs, ours = json.loads(meta["identity"]), json.loads(json.dumps(identity))
    for key in sorted(theirs.keys() | ours.keys()):
        if theirs.get(key) != ours.get(key):
            raise UserError(
                f"cannot resume {path}: its run had {key} = {theirs.get(key)!r}, this one has "
                f"{ours.get(key)!r}; use the same settings, or another --out"
            )

    def of(prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}

    model.load_state_dict(of("model."))
    if average:
        average.load_state_dict(of("average."))
    return int(meta["step"]), History(**json.loads(meta["history"])), of("momentum.")
