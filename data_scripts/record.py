"""Where and with what a figure was measured: every results/*.json ends with this."""
import subprocess
from pathlib import Path

import torch

from bitlib.transfer import environment, write_json

RESULTS = Path(__file__).resolve().parent.parent / "results"


def commit() -> str:
    """The commit of the code, with "+" where files differ from it; "" outside a repository."""
    def git(*args):
        return subprocess.run(["git", *args], cwd=RESULTS.parent, capture_output=True, text=True).stdout.strip()
    return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "--", "bitlib") else "")


def record(name: str, content: dict, device: torch.device) -> None:
    """Write results/NAME.json atomically."""
    write_json(RESULTS / f"{name}.json", {**content, **environment(device), "commit": commit()})
    print(f"wrote results/{name}.json")
