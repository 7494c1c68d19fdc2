"""Shared by all tests: one thread of work where numbers are compared, and small networks and tasks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from browser import browser, new_page, site, visit  # noqa: F401  fixtures

from bitlib import Loop
from bitlib.data.task import ArrayImages, Task
from bitlib.resnet import Arch

QUIET = Loop(device="cpu", precision="fp32", progress=False)
TINY = Arch((1, 1, 1, 1), root_width=8, groups=4, stem="small")
TINY_BN = Arch((1, 1, 1, 1), root_width=8, groups=4, stem="small", norm="bn", standardize=False)


@pytest.fixture(autouse=True)
def _home(tmp_path_factory, monkeypatch):
    """No test sees, or writes to, the cache of whoever runs it."""
    monkeypatch.setenv("BITLIB_HOME", str(tmp_path_factory.mktemp("home")))
    # Nor what another version of PyTorch compiled, which can crash this one.
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "compiled"))


def toy_task(train: int = 24, classes: int = 3, side: int = 12, seed: int = 0) -> Task:
    """Pictures of one bright colour channel each, under noise: learnable in a few steps."""
    generator = torch.Generator().manual_seed(seed)

    def split(n: int) -> ArrayImages:
        labels = torch.arange(n) % classes
        images = torch.randint(0, 120, (n, 3, side, side), generator=generator)
        images[torch.arange(n), labels % 3] += 100
        return ArrayImages(images.to(torch.uint8), labels)

    return Task(
        "toy",
        split(train),
        split(12),
        split(12),
        tuple("abcdefgh"[:classes]),
        (side, side),
        fingerprint=f"toy-{train}-{classes}-{side}-{seed}",
    )


def quiet(**options) -> Loop:
    """QUIET with some options changed."""
    return replace(QUIET, **options)


def memory() -> tuple[int, int]:
    """(bytes that this process holds, the most that it ever held or since the last call); zeros where nobody counts them."""
    try:
        lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        Path("/proc/self/clear_refs").write_text("5")  # forget the peak
    except OSError:
        return 0, 0
    return tuple(1024 * int(lines[name].split()[0]) for name in ("VmRSS", "VmHWM"))
