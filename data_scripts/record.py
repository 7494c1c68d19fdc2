"""Writing results/*.json with their provenance (hardware, versions, commit), and resuming long measurements."""

import hashlib
import subprocess
from collections.abc import Iterable
from pathlib import Path

import torch

import bitlib.suite
from bitlib import model_info
from bitlib.transfer import environment, write_json

RESULTS = Path(__file__).resolve().parent.parent / "results"


def commit() -> str:
    """The commit of the code, with "+" if files in bitlib/ differ from it; "" outside a repository."""

    def git(*args):
        return subprocess.run(["git", *args], cwd=RESULTS.parent, capture_output=True, text=True).stdout.strip()

    return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "--", "bitlib") else "")


def record(name: str, content: dict, device: torch.device) -> None:
    """Write results/NAME.json atomically: `content`, versions, hardware and commit."""
    write_json(RESULTS / f"{name}.json", {**content, **environment(device), "commit": commit()})
    print(f"wrote results/{name}.json")


def weights_of(names: Iterable[str]) -> dict[str, str]:
    """SHA-256 of these models' weight files, on which measured values depend."""
    return {name: hashlib.sha256(model_info(name).path.read_bytes()).hexdigest() for name in names}


class Cells(bitlib.suite.Cells):
    """Measured values by name, stored until the measurement is complete. identity: what the values depend on (JSON-able)."""

    def __init__(self, name: str, identity: dict):
        super().__init__(RESULTS.parent / "_build" / "measure" / f"{name}.json", identity)
