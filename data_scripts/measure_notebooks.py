"""Time every notebook on this machine, at full speed and slowed down; write results/notebook_times.json for their cards.

    python data_scripts/measure_notebooks.py                  all of them
    python data_scripts/measure_notebooks.py 01_quickstart    one; the others stay as they are
"slow" is a single core of this machine, limited to AVX2. The time to work through a chapter is estimated from its words, cells,
exercises and questions, scaled to the two chapters that somebody has worked through with a clock.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nbformat
import torch
from record import RESULTS, record
from tqdm import tqdm

from bitlib.course.show import questions

ROOT = RESULTS.parent
SLOW = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "OMP_NUM_THREADS": "1"}
WORKED_THROUGH = {"04_batchnorm_vs_groupnorm": 75, "11_knowledge_distillation": 90}  # minutes, by one student each


def seconds(path: Path, slow: bool) -> float:
    """Wall time of running a notebook in an empty folder, including the start of the kernel."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "nbconvert", "--to", "notebook", "--execute", "--output-dir", folder, str(path)]
        start = time.perf_counter()
        prefix = ["taskset", "-c", "0"] if slow else []
        subprocess.run(
            prefix + command, cwd=folder, env={**os.environ, **(SLOW if slow else {})}, check=True, capture_output=True
        )
        return time.perf_counter() - start


def effort(path: Path) -> float:
    """Minutes to work through a notebook (text, code, questions, exercises), up to a factor common to all notebooks."""
    cells = nbformat.read(path, 4).cells
    words = sum(len(re.findall(r"\w+", c.source)) for c in cells if c.cell_type == "markdown")
    code = sum(len(c.source.splitlines()) for c in cells if c.cell_type == "code" and not c.source.startswith("# @title"))
    predictions = sum(c.source.count("Predict.") for c in cells)
    exercises = sum("exercise" in c.metadata for c in cells)
    asked = len(questions((ROOT / "bitlib" / "course" / "quizzes" / f"{path.stem[:2]}.md").read_text("utf8")))
    return words / 180 + code / 8 + 1.5 * predictions + 8 * exercises + 1.5 * asked


def main() -> None:
    paths, names = sorted((ROOT / "notebooks").glob("*.ipynb")), sys.argv[1:]
    file = RESULTS / "notebook_times.json"
    found = json.loads(file.read_text()) if file.exists() and names else {"fast": {}, "slow": {}}
    times = {mode: dict(found[mode]) for mode in ("fast", "slow")}
    for path in tqdm([p for p in paths if not names or p.stem in names]):
        for mode in times:
            times[mode][path.stem] = round(seconds(path, mode == "slow"))
    efforts = {path.stem: effort(path) for path in paths}
    scale = sum(WORKED_THROUGH.values()) / sum(efforts[name] for name in WORKED_THROUGH)
    minutes = {name: round(scale * value / 5) * 5 for name, value in efforts.items()}
    content = {**times, "minutes": minutes, "worked_through": WORKED_THROUGH, "cores": {"fast": os.cpu_count(), "slow": 1}}
    record("notebook_times", content, torch.device("cpu"))


if __name__ == "__main__":
    main()
