"""What the notebooks share and nothing else needs: set-up, running the command line, live controls.

The only module that knows Jupyter; the others work without it.
"""
from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path
from statistics import fmean, stdev

import torch

from .data.task import few_shot_indices


def setup() -> None:
    """Prepare a notebook: show matplotlib figures as pictures, and say which profile this machine has."""
    from IPython import get_ipython
    from IPython.core.pylabtools import select_figure_formats

    if shell := get_ipython():
        select_figure_formats(shell, {"png"})
    if torch.cuda.is_available():
        print("profile: gpu")
    else:
        print("profile: laptop (no GPU; embedded data, three minutes or less)")


def run_command(line: str, cwd: str | Path) -> None:
    """Run a `bitlib ...` command in the folder `cwd` and print it with what it answers, as a terminal would."""
    print(f"$ {line}")
    program, *arguments = shlex.split(line)
    if program != "bitlib":
        raise ValueError(f"only bitlib commands run here, not {program!r}")
    # The child must find the same bitlib, installed or not, and use as many threads, to give the same numbers.
    paths = [str(Path(__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": str(torch.get_num_threads())}
    done = subprocess.run([sys.executable, "-m", "bitlib", *arguments], cwd=cwd, env=env, text=True, capture_output=True)
    print((done.stdout + (done.stderr if done.returncode else "")).rstrip())


def mean_and_std(values: list[float]) -> str:
    """Accuracies from 0 to 1 as "mean ± sample standard deviation" in per cent."""
    return f"{100 * fmean(values):5.1f} ± {100 * stdev(values):4.1f}"


def table(results: dict[str, dict[int, list[float]]]) -> None:
    """Print mean ± standard deviation: methods down, shots across."""
    shots = list(next(iter(results.values())))
    width = max(map(len, results))
    print(" " * width + "".join(f"{f'{k}-shot':>15}" for k in shots))
    for name, cells in results.items():
        print(name.ljust(width) + "".join(f"{mean_and_std(cells[k]):>15}" for k in shots))


def live_probe(features: dict[str, torch.Tensor], labels: dict[str, torch.Tensor], shots=(1, 2, 5, 10, 25, 50)) -> object:
    """A control that draws a few-shot subset and fits a linear head on it, for real, whenever you move it.

    features, labels: {"train": ..., "val": ...}, float [N, F] and int [N]. Returns an ipywidgets box.
    """
    import ipywidgets as widgets

    choose_shots = widgets.SelectionSlider(options=shots, value=5, description="shots")
    choose_seed = widgets.IntSlider(0, 0, 99, description="draw")
    answer = widgets.Label()

    def refit(_=None) -> None:
        accuracy = probe_accuracy(features, labels, choose_shots.value, choose_seed.value)
        answer.value = f"draw {choose_seed.value}, {choose_shots.value}-shot: {accuracy:.1%} on validation"
    for control in (choose_shots, choose_seed):
        control.observe(refit, "value")
    refit()
    return widgets.VBox([choose_shots, choose_seed, answer])


def probe_accuracy(features: dict[str, torch.Tensor], labels: dict[str, torch.Tensor], shots: int, seed: int,
                   on: str = "val") -> float:
    """Accuracy, on a split, of a linear head fitted on a balanced draw of `shots` training examples a class.

    The draw is that of `Task.few_shot` for the same seed. Features are standardised with the draw's own mean and deviation.
    """
    from sklearn.linear_model import LogisticRegression

    some = few_shot_indices(labels["train"], shots, seed)
    mean, std = features["train"][some].mean(0), features["train"][some].std(0, correction=0).clamp_min(1e-6)
    head = LogisticRegression(max_iter=2000).fit(((features["train"][some] - mean) / std).numpy(), labels["train"][some])
    return float(head.score(((features[on] - mean) / std).numpy(), labels[on]))


def save_folder(images: torch.Tensor, labels: torch.Tensor, names, folder: str | Path) -> Path:
    """Write uint8 [N, 3, H, W] as PNG files into one sub-folder a class, as a user's own pictures would lie."""
    from PIL import Image

    for i, (image, label) in enumerate(zip(images, labels.tolist())):
        path = Path(folder) / names[label] / f"{i:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    return Path(folder)
