"""The one training loop: precision, micro-batches, progress, checkpoints, resuming.

It does not know what is being trained or where images come from: the caller passes a loss, and batches as a function of the
step. If that function is pure, a checkpoint holds all the state there is (weights, optimizer, moving average, loss scaler,
micro-batches, history), and a resumed run ends with the same bits as an uninterrupted one. Under `distributed.process_group`,
all processes call `train` with the same arguments.
"""

from __future__ import annotations

import json
import math
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from .data.batches import stream
from .device import autocast, need_compiler, pick_precision
from .distributed import (
    AnyProcess,
    exchange,
    for_all,
    from_main,
    is_main,
    is_sharded,
    ranks,
    spread,
    summed,
    wait_for_all,
    whole_state,
)
from .files import UserError, atomic_path, remove_unfinished
from .loop import Loop
from .norm import StandardizeOnce, batch_norm_statistics, hold_standardized, standardized_convs

LOOK_EVERY = 20  # steps between reads of the loss; each read waits for the device


class Diverged(UserError):
    """The loss or a weight is no longer finite, which a lower learning rate prevents."""


class Interrupted(KeyboardInterrupt):
    """Raised on Ctrl-C or SIGTERM, once the state after `step` is saved to `checkpoint` (None: there is no `out` folder)."""

    def __init__(self, step: int, checkpoint: Path | None):
        where = f"; the state is in {checkpoint}" if checkpoint else "; no checkpoint was requested"
        super().__init__(f"interrupted after step {step}{where}")
        self.step, self.checkpoint = step, checkpoint


@dataclass(frozen=True)
class Sgd:
    """SGD with momentum. steps: number of updates; lr: learning rate as a function of the step, counted from 0."""

    steps: int
    lr: Callable[[int], float]
    momentum: float = 0.9
    weight_decay: float = 0.0
    kept = ("momentum_buffer",)  # what it remembers of every weight

    def optimizer(self, params: Iterable[nn.Parameter], fused: bool) -> torch.optim.Optimizer:
        return torch.optim.SGD(params, lr=0.0, momentum=self.momentum, weight_decay=self.weight_decay, fused=fused)


@dataclass(frozen=True)
class AdamW:
    """AdamW, which transformers need and our ResNets do not. Fields as in Sgd; the decay is not part of the gradient."""

    steps: int
    lr: Callable[[int], float]
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.01
    kept = ("step", "exp_avg", "exp_avg_sq")

    def optimizer(self, params: Iterable[nn.Parameter], fused: bool) -> torch.optim.Optimizer:
        return torch.optim.AdamW(params, lr=0.0, betas=self.betas, weight_decay=self.weight_decay, fused=fused)


@dataclass
class History:
    """One row per step: {"step", "lr", "loss"}, plus whatever `evaluate` returned at that step.

    seconds: wall time of the loop, including that spent before a resumed run was interrupted.
    """

    rows: list[dict] = field(default_factory=list)
    seconds: float = 0.0

    def column(self, name: str) -> tuple[list[int], list[float]]:
        """(steps, values) from the rows that have this column."""
        return tuple(zip(*[(r["step"], r[name]) for r in self.rows if name in r])) or ((), ())


# --- the loop ----------------------------------------------------------------------------------------------------------


def train(
    model: nn.Module,
    batches: Callable[[int], object],
    loss: Callable[..., Tensor],
    sgd: Sgd | AdamW,
    loop: Loop = Loop(),
    identity: dict | None = None,
    evaluate: Callable[[nn.Module], dict] | None = None,
) -> History:
    """Train `model` in place, on its own device.

    batches(step) -> `data.batches.Batch`, or a tuple of tensors with the whole batch in dimension 0.
    loss(model, *part) -> mean loss over a micro-batch. Gradients are weighted by the sizes of the micro-batches, so their sum
    is the gradient of the whole batch (except with batch norm, where each micro-batch has its own statistics).
    identity: settings that must be the same for a checkpoint to be resumed (JSON-able).
    evaluate(model) -> extra columns for the history.

    Each process takes its own rows of every batch, and the first one writes the files. A checkpoint can be resumed on a
    different number of processes. If a single process runs out of memory, it doubles the number of micro-batches and repeats
    the step.

    Raises Interrupted; Diverged if the loss or a weight is not finite; UserError if one image alone does not fit into memory,
    if the checkpoint belongs to a different run, or if there is a checkpoint and `loop.resume` is not set.
    """
    if loop.compile:
        need_compiler()
    loop = settle(loop, next(model.parameters()).device)
    state = State(model, sgd, loop, {"precision": loop.precision, **(identity or {})})
    start = state.start_or_resume()
    anybody = AnyProcess()
    frozen = [c for c in standardized_convs(model) if not c.weight.requires_grad]
    with (
        state.bar(start) as bar,
        hold_standardized(frozen),
        _fastest_kernels(),
        closing(stream(batches, range(start, sgd.steps))) as made,
        _catch_signals() as signals,
    ):
        for step, batch in made:
            lr = state.set_lr(step)
            state.losses.append((step, lr, state.gradients(batch, loss)))
            state.update()
            done = step + 1
            bar.update()
            if done % LOOK_EVERY == 0:
                state.collect_losses()
                bar.set_postfix(state.summary(), refresh=False)
            if evaluate and (done == sgd.steps or _every(loop.evaluate_every, done)):
                state.collect_losses()
                state.history.rows[-1] |= evaluate(state.judged().eval())
                bar.set_postfix(state.summary())
                model.train()
            stopping = anybody(bool(signals))
            if stopping or done == sgd.steps or _every(loop.checkpoint_every, done):
                state.collect_losses()
                state.save(done)
            if stopping and done < sgd.steps:
                raise Interrupted(done, loop.checkpoint)
    anybody.end()
    wait_for_all()  # or another process might read a file before it is written
    state.finish()
    return state.history


def _every(interval: int, done: int) -> bool:
    return interval > 0 and done % interval == 0


class State:
    """A run in progress: network, optimizer, moving average, loss scaler and history, and how to save and resume them."""

    def __init__(self, model: nn.Module, sgd: Sgd | AdamW, loop: Loop, identity: dict):
        self.sgd, self.loop, self.identity = sgd, loop, identity
        self.device = next(model.parameters()).device
        self.precision = loop.precision
        self.model, self.exchanging = model, for_all(model, loop.shard)
        self.net = torch.compile(self.exchanging) if loop.compile else self.exchanging
        self.params = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        fused = self.device.type in ("cpu", "cuda") and not is_sharded(self.model)
        self.optimizer = sgd.optimizer(self.params.values(), fused)
        self.average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(loop.ema)) if loop.ema else None
        # fp16 covers 6e-8 to 65,504; gradients are scaled up to stay within that range.
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.precision == "fp16")
        if self.scaler.is_enabled() and isinstance(sgd, Sgd) and sgd.momentum:
            # Fused SGD creates these buffers uninitialised, and they stay so if the very first update is skipped.
            for p in self.params.values():
                self.optimizer.state[p]["momentum_buffer"] = torch.zeros_like(p)
        self.statistics = batch_norm_statistics(model.train())
        self.micro_batches, self.history, self.safe = loop.micro_batches, History(), ""
        self.losses: list[tuple[int, float, Tensor]] = []  # (step, learning rate, loss still on the device)
        self.began = time.perf_counter()

    # One step.

    def set_lr(self, step: int) -> float:
        lr = self.sgd.lr(step)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        return lr

    def gradients(self, batch, loss: Callable[..., Tensor]) -> Tensor:
        """Compute the gradients of a batch's mean loss; returns this process's share of the loss, still on the device."""
        before = [tensor.clone() for tensor in self.statistics]
        while True:
            # The same number on every process, because a sharded network runs only when all of them do.
            count = min(self.micro_batches, batch.size // ranks()[1])
            self.optimizer.zero_grad(set_to_none=True)
            try:
                return self._in_parts(batch, count, loss)
            except torch.OutOfMemoryError:
                if ranks()[1] > 1 or count == len(batch):
                    hint = f"--micro-batches {2 * count}" if count < len(batch) else "smaller images or a smaller model"
                    at_once = -(-len(batch) // count)
                    raise UserError(
                        f"the device runs out of memory with {at_once} image{'s' * (at_once != 1)} at a time; use {hint}"
                    ) from None
            # Outside `except`, where the traceback would keep the activations alive.
            for tensor, value in zip(self.statistics, before):
                tensor.copy_(value)
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
            self.micro_batches = 2 * count
            tqdm.write(f"out of memory: continuing with {self.micro_batches} micro-batches", file=sys.stderr)

    def _in_parts(self, batch, count: int, loss: Callable[..., Tensor]) -> Tensor:
        total, world = torch.zeros((), device=self.device), ranks()[1]
        # In a sharded network, filters are whole only while their block runs.
        shared = StandardizeOnce(self.model) if count > 1 and not is_sharded(self.model) else nullcontext()
        with shared as standardized:
            for number, part in enumerate(batch.parts(count), 1):
                if standardized and number == count:
                    standardized.join_gradients()
                share = len(part[0]) / batch.size
                with exchange(self.exchanging, last=number == count):
                    with autocast(self.device, self.precision):
                        value = loss(self.net, *part)
                    # The exchange averages over processes, but the batch's loss is the sum of their shares.
                    self.scaler.scale(value * share * world).backward()
                total += value.detach() * share
        return total

    def update(self) -> None:
        self.scaler.step(self.optimizer)  # skipped if a scaled gradient left the range of fp16
        self.scaler.update()
        if self.average:
            self.average.update_parameters(self.model)

    # Losses and progress.

    def collect_losses(self) -> None:
        """Move the losses from the device to the history. Raises Diverged at the first one that is not finite."""
        values = summed(torch.stack([value for _, _, value in self.losses])).tolist() if self.losses else []
        for (step, lr, _), value in zip(self.losses, values):
            self.history.rows.append({"step": step, "lr": lr, "loss": value})
            if not math.isfinite(value):
                narrow = " or use --precision fp32" if self.precision == "fp16" else ""
                raise Diverged(f"the loss is {value} at step {step}; lower the learning rate{narrow}{self.safe}")
        self.losses.clear()

    def bar(self, start: int) -> tqdm:
        progress = self.loop.progress
        title = progress if isinstance(progress, str) else None
        return tqdm(
            total=self.sgd.steps, initial=start, disable=not progress or not is_main(), unit="step", leave=False, desc=title
        )

    def summary(self) -> dict[str, str]:
        """The last row of the history, with the latest validation accuracy, for the progress bar."""
        shown = {k: f"{v:.3g}" for k, v in self.history.rows[-1].items() if k != "step"}
        for row in reversed(self.history.rows):
            if "val_accuracy" in row:
                return shown | {"val_accuracy": f"{row['val_accuracy']:.3f}"}
        return shown

    # The resulting network, and checkpoints.

    def judged(self) -> nn.Module:
        """The network to evaluate, the same on all processes: the moving average, if there is one."""
        model = self.average.module if self.average else self.model
        if ranks()[1] > 1:  # processes train with different batch-norm statistics; the first one's count
            buffers = dict(model.named_buffers())
            spread(buffers, buffers)
        return model

    def start_or_resume(self) -> int:
        """The step to start from. Only the first process looks for files, since machines need not share a folder."""
        file, found, meta, problem = self.loop.checkpoint, {}, None, ""
        if file and is_main():
            remove_unfinished(file)
            try:
                if file.exists():
                    found, meta = read_checkpoint(file)
                    if self.loop.resume:
                        _check_same(file, meta["identity"], self.identity)
                        self._check_fits(file, found)
                    else:
                        problem = (
                            f"{self.loop.out} holds a run that was saved after step {meta['step']}; add --resume to continue "
                            "it, choose another --out, or delete that folder"
                        )
            except UserError as error:
                problem = str(error)
        meta, problem = from_main((meta, problem))
        if problem:
            raise UserError(problem)
        if meta is None:
            return 0
        spread(_under("model.", found), self.model.state_dict())
        self._spread_optimizer(_under("optimizer.", found), from_main([*_under("optimizer.", found)]))
        if self.average:
            spread(_under("average.", found), self.average.state_dict())
        self.history = History(**meta["history"])
        self.micro_batches = max(self.micro_batches, meta["micro_batches"])
        if meta["scaler"]:
            self.scaler.load_state_dict(meta["scaler"])
        self.began = time.perf_counter() - self.history.seconds
        self.safe = f"; the state of step {meta['step']} is in {file}"
        return meta["step"]

    def _check_fits(self, file: Path, found: dict[str, Tensor]) -> None:
        """Raise UserError, naming the first tensor that only the checkpoint or only this network has, or of another shape."""
        wanted = {f"model.{name}": t.shape for name, t in self.model.state_dict().items()}
        if self.average:
            wanted |= {f"average.{name}": t.shape for name, t in self.average.state_dict().items()}
        for name, p in self.params.items():
            shapes = {key: torch.Size() if key == "step" else p.shape for key in self.sgd.kept}
            kept = {f"optimizer.{name}.{key}": shape for key, shape in shapes.items()}
            wanted |= {key: shape for key, shape in kept.items() if key in found}  # there are none before the first step
        for key in sorted(wanted.keys() | found.keys()):
            if key not in wanted or key not in found or found[key].shape != wanted[key]:
                raise UserError(f"{file} does not fit this network ({key}); use the same model, or another --out")

    def _spread_optimizer(self, found: dict[str, Tensor], names: list[str]) -> None:
        for full_name in names:
            name, key = full_name.rsplit(".", 1)
            # With the strides of the weight, so that momentum stays channels-last too.
            value = torch.zeros((), device=self.device) if key == "step" else torch.empty_like(self.params[name])
            spread({full_name: found.get(full_name)}, {full_name: value})
            self.optimizer.state[self.params[name]][key] = value

    def save(self, done: int) -> None:
        self.history.seconds = time.perf_counter() - self.began
        broken = summed(torch.stack([_first_of(p).isfinite().logical_not().any() for p in self.params.values()]).any().float())
        if broken:
            raise Diverged(f"some weights are not finite after step {done}; lower the learning rate{self.safe}")
        if not self.loop.checkpoint:
            return
        parts = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        for name, p in self.params.items():
            parts |= {f"optimizer.{name}.{key}": v for key, v in self.optimizer.state[p].items() if isinstance(v, Tensor)}
        if self.average:
            parts |= {f"average.{name}": tensor for name, tensor in self.average.state_dict().items()}
        tensors = whole_state(parts)
        if is_main():
            meta = {
                "step": done,
                "history": asdict(self.history),
                "identity": self.identity,
                "precision": self.precision,
                "micro_batches": self.micro_batches,
                "scaler": self.scaler.state_dict(),
            }
            save_checkpoint(self.loop.checkpoint, tensors, meta)
        self.safe = f"; the state of step {done} is in {self.loop.checkpoint}"

    def finish(self) -> None:
        judged = self.judged()
        if self.average:
            self.model.load_state_dict(judged.state_dict())
        self.model.eval()


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _first_of(p: Tensor) -> Tensor:
    """The part of a weight that this process holds."""
    return p.detach().to_local() if hasattr(p, "to_local") else p.detach()


@contextmanager
def _fastest_kernels() -> Iterator[None]:
    """Let cuDNN try its algorithms once per shape, which pays off because batches keep their shape."""
    before, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


@contextmanager
def _catch_signals() -> Iterator[list[int]]:
    """Yield a list to which the first Ctrl-C or SIGTERM is appended; a second one acts as usual."""
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


# --- the checkpoint ----------------------------------------------------------------------------------------------------


def settle(loop: Loop, device: torch.device) -> Loop:
    """The options with "auto" precision resolved, by the first process for all. A resumed run keeps its precision."""
    if loop.precision != "auto":
        return replace(loop, precision=pick_precision(loop.precision, device))
    stored = None
    if loop.resume and loop.checkpoint and is_main() and loop.checkpoint.exists():
        try:
            stored = read_checkpoint(loop.checkpoint)[1]["precision"]
        except UserError:
            pass  # reported later, when the rest of the file is read
    return replace(loop, precision=from_main(pick_precision(stored or "auto", device)))


def save_checkpoint(path: Path, tensors: dict[str, Tensor], meta: dict) -> None:
    """Write a run's tensors and `meta` (JSON-able) to one safetensors file, atomically."""
    from safetensors.torch import save_file

    with atomic_path(path) as temporary:
        save_file(tensors, temporary, {"bitlib": json.dumps(meta)})


def read_checkpoint(path: Path) -> tuple[dict[str, Tensor], dict]:
    """(tensors, meta) from a file written by `save_checkpoint`. Raises UserError if it is damaged."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt", device="cpu") as f:
            meta = json.loads(f.metadata()["bitlib"])
            meta["step"], meta["identity"], meta["precision"], meta["micro_batches"], meta["scaler"], History(**meta["history"])
            return {key: f.get_tensor(key) for key in f.keys()}, meta
    except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a readable checkpoint ({error}); delete it to start over") from None


def _check_same(path: Path, theirs: dict, ours: dict) -> None:
    """Raise UserError, naming the first setting in which the run of a checkpoint differs from this one."""
    ours = json.loads(json.dumps(ours))
    for key in [*ours, *(theirs.keys() - ours.keys())]:
        if theirs.get(key) != ours.get(key):
            raise UserError(
                f"cannot resume {path}: its run had {key.replace('_', ' ')} {_shown(theirs.get(key))}, this one has "
                f"{_shown(ours.get(key))}; use the same settings, or another --out"
            )


def _shown(value: object) -> str:
    return "none" if value is None else value if isinstance(value, str) else json.dumps(value)
