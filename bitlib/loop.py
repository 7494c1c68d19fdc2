"""How a run is carried out: device, precision, memory, files. Plain Python, so that the command line answers at once.

What is learnt is said elsewhere (task, rule, loss). These options change how fast that happens, in how much memory, and what
is written down; the command line makes its flags from the fields below.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from .files import UserError

PRECISIONS = ("auto", "fp32", "bf16", "fp16")


def _option(default, text: str, metavar: str | None = None):
    return field(default=default, metadata={"help": text, "metavar": metavar})


@dataclass(frozen=True)
class Loop:
    """Options that fine-tuning, distillation and pre-training share. Raises UserError for values out of range.

    Each field's `help` says what it does; `bitlib finetune --help` prints them. progress: False, True, or a title for the bar.
    """

    device: str = _option("auto", "auto, cpu, cuda or mps; auto takes a GPU where there is one")
    precision: str = _option("auto", "auto, fp32, bf16 or fp16; auto takes 16 bits where they are fast on this device")
    micro_batches: int = _option(1, "cut every batch into M parts to save memory; the same result up to rounding", "M")
    grad_checkpointing: bool = _option(False, "compute activations twice instead of keeping them: slower, in less memory")
    compile: bool = _option(False, "use torch.compile, which takes a minute to start and a C++ compiler")
    triton: bool = _option(False, "on a GPU, compute group norm and ReLU in a kernel of bitlib's own; not with --compile")
    ema: float = _option(0.0, "end with a moving average of the weights of this decay, for example 0.999; 0 is off", "D")
    shard: bool = _option(False, "under torchrun, give each process only a part of weights, gradients and momentum (FSDP2)")
    out: str | Path | None = _option(None, "folder for the model, run.json, history.csv and the checkpoint", "DIR")
    resume: bool = _option(False, "go on from the checkpoint in DIR, if there is one")
    checkpoint_every: int = _option(500, "save the state every N steps, besides at the end; 0 is off", "N")
    evaluate_every: int = _option(0, "measure validation accuracy every N steps, for history.csv and the bar; 0 is off", "N")
    progress: bool | str = True

    def __post_init__(self):
        if self.precision not in PRECISIONS:
            raise UserError(f"unknown precision {self.precision!r}; choose {', '.join(PRECISIONS)}")
        if self.micro_batches < 1:
            raise UserError(f"micro-batches is {self.micro_batches}; it must be 1 or more")
        if not 0 <= self.ema < 1:
            raise UserError(f"ema is {self.ema}; it lies between 0 (off) and 1, for example 0.999")
        for name in ("checkpoint_every", "evaluate_every"):
            if getattr(self, name) < 0:
                raise UserError(f"{name.replace('_', '-')} is {getattr(self, name)}; it must be 0 (off) or more")
        if self.triton and self.compile:
            raise UserError("--triton and --compile both replace group norm by kernels of their own; choose one")
        if self.shard and (self.ema or self.compile or self.precision == "fp16"):
            raise UserError("a sharded model takes neither --ema, --compile nor fp16 here; leave them out")

    @property
    def checkpoint(self) -> Path | None:
        """The file that holds the state of the run, or will."""
        return Path(self.out) / "checkpoint" / "state.safetensors" if self.out else None
