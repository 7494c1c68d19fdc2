"""Writing results/*.json with their provenance (hardware, versions, commit), and resuming long measurements."""

import hashlib
import json
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

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


class Cells:
    """Measured values by name, stored in a file, so that a long measurement can be interrupted and resumed.

    identity: what the values depend on (JSON-able); stored values with a different identity are discarded.
    """

    def __init__(self, name: str, identity: dict):
        self.path = RESULTS.parent / "_build" / "measure" / f"{name}.json"
        self.state = {"identity": json.loads(json.dumps(identity)), "values": {}}
        if self.path.exists() and (found := json.loads(self.path.read_text()))["identity"] == self.state["identity"]:
            self.state = found

    def __call__(self, key: str, measure: Callable, *args):
        """The value for `key`, JSON-able; calls measure(*args) if it is not stored yet."""
        if key not in self.state["values"]:
            self.state["values"][key] = measure(*args)
            write_json(self.path, self.state)
        return self.state["values"][key]

    def clear(self) -> None:
        """Delete all values, so that the next run starts afresh."""
        self.path.unlink(missing_ok=True)
