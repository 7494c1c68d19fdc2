"""Choosing a device, a precision that is fast on it, and a memory format for its tensors."""

from __future__ import annotations

import functools
import os
import shutil
import sys
import time

import torch

from .distributed import is_main
from .files import UserError

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def pick_device(device: str | torch.device = "auto") -> torch.device:
    """The device by name. "auto" is a CUDA GPU (under torchrun, this process's own), else an Apple GPU, else the CPU.

    Raises UserError for a device this machine does not have.
    """
    if str(device) == "auto":
        device = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise UserError(f"unknown device {device!r}; choose auto, cpu, cuda or mps") from None
    if chosen.type not in ("cpu", "cuda", "mps"):
        raise UserError(f"unknown device {str(device)!r}; choose auto, cpu, cuda or mps")
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device {str(device)!r} was asked for, but PyTorch sees no GPU here; use --device cpu")
    if chosen.type == "cuda" and chosen.index is not None and chosen.index >= torch.cuda.device_count():
        raise UserError(f"there is no {str(device)!r}: PyTorch sees {torch.cuda.device_count()} GPUs here, counted from 0")
    if chosen.type == "mps" and not torch.backends.mps.is_available():
        raise UserError("device 'mps' was asked for, but PyTorch sees no Apple GPU here; use --device cpu")
    if chosen.type == "cuda" and chosen.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return chosen


def pick_precision(precision: str, device: torch.device) -> str:
    """The precision to use, "fp32", "bf16" or "fp16"; "auto" takes the fast one for this device.

    Prints a note on stderr if the 16 bits asked for are slow here.
    """
    fast = fast_16_bits(device.type if device.index is None else str(device))
    if precision == "auto":
        return fast or "fp32"
    if device.type == "cpu" and precision not in ("fp32", fast) and is_main():
        _say_slow(precision, fast or "fp32")
    return precision


@functools.cache  # so that it is printed only once
def _say_slow(precision: str, better: str) -> None:
    print(f"note: {precision} is slow on this processor; --precision auto would choose {better}", file=sys.stderr)


@functools.cache
def fast_16_bits(device: str) -> str | None:
    """The 16-bit precision that is clearly faster than 32 bits on this device, or None.

    On NVIDIA GPUs it is bf16 if the hardware supports it (compute capability 8 and later), and fp16 on older ones such as the
    T4. On a CPU a small matrix product is timed once: without the right instructions, 16 bits are some fifty times slower
    than 32.
    """
    if device.startswith("cuda"):
        return "bf16" if torch.cuda.get_device_capability(device)[0] >= 8 else "fp16"
    if device != "cpu":
        return None
    best, threads = {}, torch.get_num_threads()
    torch.set_num_threads(1)  # on a busy machine, several would mostly wait for each other
    for dtype in (torch.float32, torch.bfloat16):
        a = torch.ones(256, 256, dtype=dtype)
        times = []
        for _ in range(8):  # the first run also chooses kernels
            start = time.perf_counter()
            a @ a
            times.append(time.perf_counter() - start)
        best[dtype] = min(times)
    torch.set_num_threads(threads)
    return "bf16" if 2 * best[torch.bfloat16] < best[torch.float32] else None


def memory_format(device: torch.device, precision: str) -> torch.memory_format:
    """The memory format for images, activations and filters: channels last, except for 16 bits on a CPU.

    There, PyTorch's group norm is faster on contiguous tensors, and so is a whole training step (`benchmarks/speed.py`).
    """
    slow = device.type == "cpu" and precision != "fp32"
    return torch.contiguous_format if slow else torch.channels_last


def need_compiler() -> None:
    """Raise UserError if torch.compile would find no C++ compiler."""
    if not any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++"))):
        raise UserError("torch.compile needs a C++ compiler, and there is none here; install g++, or leave out --compile")


def autocast(device: torch.device, precision: str):
    """A context in which convolutions and matrix products run in this precision; weights and statistics stay in 32 bits."""
    return torch.autocast(device.type, DTYPES[precision] if precision != "fp32" else None, enabled=precision != "fp32")
