"""How a run is carried out: device, precision, memory, files. Plain Python, so that the command line starts at once.

Task, rule and loss decide what is learnt; these options decide how fast, in how much memory, and which files are written. The
command line makes its flags from the fields below.
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
    """Options shared by fine-tuning, distillation and pre-training. Raises UserError for values out of range.

    `bitlib finetune --help` explains each field. progress: False, True, or a title for the progress bar.
    """

    device: str = _option("auto", "auto, cpu, cuda or mps; auto uses a GPU if there is one")
    precision: str = _option("auto", "auto, fp32, bf16 or fp16; auto uses 16 bits if they are fast on this device")
    micro_batches: int = _option(
        1, "split every batch into M parts to save memory; same result up to rounding, except with batch norm", "M"
    )
    grad_checkpointing: bool = _option(False, "recompute activations instead of storing them: slower, but less memory")
    compile: bool = _option(False, "use torch.compile, which needs a C++ compiler and a minute to start")
    triton: bool = _option(False, "on a GPU, run group norm and ReLU as one Triton kernel; not with --compile")
    ema: float = _option(0.0, "return a moving average of the weights, with decay D such as 0.999; 0 is off", "D")
    shard: bool = _option(False, "under torchrun, split weights, gradients and momentum among the processes (FSDP2)")
    out: str | Path | None = _option(None, "folder for the model, run.json, history.csv and the checkpoint", "DIR")
    resume: bool = _option(False, "continue from the checkpoint in DIR, if there is one")
    checkpoint_every: int = _option(500, "save a checkpoint every N steps, as well as at the end; 0 is off", "N")
    evaluate_every: int = _option(0, "measure validation accuracy every N steps, for history.csv; 0 is off", "N")
    progress: bool | str = True

    def __post_init__(self):
        if self.precision not in PRECISIONS:
            raise UserError(f"unknown precision {self.precision!r}; choose {', '.join(PRECISIONS)}")
        if self.micro_batches < 1:
            raise UserError(f"micro-batches is {self.micro_batches}; it must be 1 or more")
        if not 0 <= self.ema < 1:
            raise UserError(f"ema is {self.ema}; it must be 0 (off) or more and below 1, for example 0.999")
        for name in ("checkpoint_every", "evaluate_every"):
            if getattr(self, name) < 0:
                raise UserError(f"{name.replace('_', '-')} is {getattr(self, name)}; it must be 0 (off) or more")
        if self.triton and self.compile:
            raise UserError("--triton and --compile each replace group norm with their own kernels; choose one")
        if self.shard and (self.ema or self.compile or self.precision == "fp16"):
            raise UserError("--shard does not work with --ema, --compile or fp16; leave them out")

    @property
    def checkpoint(self) -> Path | None:
        """Path of the checkpoint file, whether or not it exists yet; None without `out`."""
        return Path(self.out) / "checkpoint" / "state.safetensors" if self.out else None
