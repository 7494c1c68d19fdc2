"""Shared by the notebooks only: set-up, stored measurements, the command line, live controls.

The only module that knows about Jupyter; the others work without it.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from statistics import fmean, stdev

import torch

from ..data.task import Task, few_shot_indices
from ..features import cache_features, fit_head
from ..files import results_dir
from ..resnet import ResNetV2
from .protocol import spoken
from .show import Html, images, inline, png, quiz, scenes, show, table  # noqa: F401  (notebooks take these from here)


def setup() -> None:
    """Print the profile of this machine: gpu or laptop."""
    if torch.cuda.is_available():
        print("profile: gpu")
    else:
        print("profile: laptop (no GPU; embedded data, three minutes or less)")


def run_command(line: str, cwd: str | Path, processes: int = 1) -> None:
    """Run a `bitlib ...` command in the folder `cwd`, and print the command and its output as a terminal would.

    processes: how many torchrun should start. Raises ValueError for any other program.
    """
    program, *arguments = shlex.split(line)
    if program != "bitlib":
        raise ValueError(f"only bitlib commands run here, not {program!r}")
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    print(f"$ torchrun --nproc-per-node {processes} -m {line}" if launcher else f"$ {line}")
    # To give the same numbers, the child must find the same bitlib, installed or not, and use the same number of threads.
    paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
    threads = max(1, torch.get_num_threads() // processes)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, *launcher, "-m", "bitlib", *arguments]
    done = subprocess.run(command, cwd=cwd, env=env, text=True, capture_output=True)
    print((done.stdout + (done.stderr if done.returncode else "")).rstrip())


def stored(name: str) -> dict:
    """The measurements of a script in data_scripts: results/NAME.json, with numeric keys as int.

    Also shows on which machine and with which versions it was measured. Raises FileNotFoundError if there is no such file.
    """
    text = (results_dir() / f"{name}.json").read_text("utf8")
    found = json.loads(text, object_hook=lambda d: {int(k) if k.isdigit() else k: v for k, v in d.items()})
    where = f"{found['device']}, PyTorch {found['torch']}, commit {found['commit'][:7]}"
    seeds = len(found.get("seeds", [0]))  # the record of a shipped model has only "seed"
    told = f"Measured by a script: {where}, {seeds} seed{'s' * (seeds != 1)}"
    show(Html(f'<p class="bl-source">{inline(told)} (results/{name}.json).</p>', f"results/{name}.json. {told}."))
    return found


def mean_and_std(values: list[float]) -> str:
    """Accuracies from 0 to 1 as "mean ± sample standard deviation" in per cent."""
    return f"{100 * fmean(values):.1f} ± {100 * stdev(values):.1f}"


def accuracies(results: dict[str, dict[int, list[float]]], column: str = "{}-shot") -> Html:
    """A table of mean ± standard deviation in per cent: a row per method, a column per number of shots.

    results: {method: {shots: accuracies of the seeds, 0 to 1}}; column: format of the column titles.
    """
    shots = list(next(iter(results.values())))
    return table(
        ["test accuracy (%)", *(column.format(k) for k in shots)],
        ([name, *(mean_and_std(cells[k]) for k in shots)] for name, cells in results.items()),
    )


def searched(arms: dict[str, tuple[list[dict], dict, list[str]]], note: str = "") -> Html:
    """A folded table of the trials behind a comparison: a row per arm with the mean validation accuracy of each of its trials.

    arms: {name: (search, chosen, edge)}, as `protocol.compare` returns them. note: more for the caption.
    """
    settings = {name: [spoken(trial["setting"]) for trial in search] for name, (search, *_) in arms.items()}
    alike = len(set(map(tuple, settings.values()))) == 1  # then the settings are heads of columns
    rows, ends = [], []
    for name, (search, chosen, edge) in arms.items():
        scores = [f"{100 * fmean(trial['validation']):.1f}" for trial in search]
        cells = scores if alike else [f"{setting}: {score}" for setting, score in zip(settings[name], scores)]
        rows.append([name, *(f"**{c}**" if trial["setting"] == chosen else c for c, trial in zip(cells, search))])
        ends += [f"{name} ({spoken({key: chosen[key] for key in edge})})"] if edge else []
    heads = settings[name] if alike else [f"trial {i}" for i in range(1, len(search) + 1)]
    shown = table(["validation accuracy (%)", *heads], rows).caption(
        f"Means over {len(search[0]['validation'])} runs that serve only for the search; the trial in bold was chosen. "
        f"Chosen at an end of three or more values: {'; '.join(ends) or 'nowhere'}. {note}".strip()
    )
    return Html(f"<details><summary>The search: every trial of every row</summary>{shown.html()}</details>", shown.text)


def probes(
    model: ResNetV2, task: Task, shots: Iterable[int], side: int = 32, penalties: Iterable[float] = (0.001, 0.01, 0.1, 1.0)
) -> dict[int, list[float]]:
    """Test accuracies of linear probes on five random subsets, {images per class: [accuracies, 0 to 1]}.

    The penalty is the one that does best on the validation images after training on two other subsets.
    """
    x = {split: cache_features(model, getattr(task, split), side) for split in ("train", "val", "test")}

    def accuracy(k: int, c: float, seed: int, split: str) -> float:
        on = few_shot_indices(task.train.labels, k, seed)
        weight, bias = fit_head(x["train"][on], task.train.labels[on], task.num_classes, c)
        return ((x[split].double() @ weight.T + bias).argmax(1) == getattr(task, split).labels).double().mean().item()

    best = {k: max(penalties, key=lambda c: fmean(accuracy(k, c, seed, "val") for seed in (100, 101))) for k in shots}
    return {k: [accuracy(k, c, seed, "test") for seed in range(5)] for k, c in best.items()}


def live_probe(features: dict[str, torch.Tensor], labels: dict[str, torch.Tensor], shots=(1, 2, 5, 10, 25, 50)) -> object:
    """Sliders that pick a random few-shot subset and fit a linear head on it, live, whenever you move them.

    features, labels: {"train": ..., "val": ...}, float [N, F] and int [N]. Returns an ipywidgets box.
    """
    import ipywidgets as widgets

    choose_shots = widgets.SelectionSlider(options=shots, value=5, description="shots")
    choose_seed = widgets.IntSlider(0, 0, 99, description="seed")
    answer = widgets.Label()

    def refit(_=None) -> None:
        accuracy = probe_accuracy(features, labels, choose_shots.value, choose_seed.value)
        answer.value = f"seed {choose_seed.value}, {choose_shots.value}-shot: {accuracy:.1%} on validation"

    for control in (choose_shots, choose_seed):
        control.observe(refit, "value")
    refit()
    return widgets.VBox([choose_shots, choose_seed, answer])


def live_mixup(model, first: torch.Tensor, second: torch.Tensor, names, titles: tuple[str, str]) -> object:
    """A slider that mixes two images and shows what `model` predicts for the mixture.

    first, second: uint8 [3, S, S], with S the side of the model's training images. names: class names; titles: of the two
    images. Returns an ipywidgets box.
    """
    import ipywidgets as widgets

    from ..data import to_input

    weight = widgets.FloatSlider(0.5, min=0, max=1, step=0.05, description="weight")
    picture, answer = widgets.Image(format="png", width=144), widgets.HTML()

    def ask(_=None) -> None:
        mixed = torch.lerp(second.float(), first.float(), weight.value)
        picture.value = png(mixed.round().to(torch.uint8), 144)
        with torch.no_grad():
            p = model.eval()(to_input(mixed[None]))[0].softmax(0)
        rows = "".join(f"<tr><td>{names[i]}</td><td>{p[i]:.2f}</td></tr>" for i in p.argsort(descending=True)[:3].tolist())
        answer.value = f"{weight.value:.0%} {titles[0]}, {1 - weight.value:.0%} {titles[1]}<table>{rows}</table>"

    weight.observe(ask, "value")
    ask()
    return widgets.VBox([weight, widgets.HBox([picture, answer])])


def live_freezing(name: str, task, steps: int = 25) -> object:
    """Sliders that fine-tune the model called `name`, live, with as much of it frozen as you choose.

    A run of `steps` steps takes a second or two. Shows training and validation accuracy. Returns an ipywidgets box.
    """
    import ipywidgets as widgets

    from .. import Loop, create_model, finetune, freeze
    from ..transfer import default_rule

    shots = widgets.SelectionSlider(options=(1, 5, 25), value=5, description="shots", continuous_update=False)
    # A slider cannot hold None, which tells `freeze` to train everything.
    depth = widgets.SelectionSlider(
        options=("head", "stage4", "stage3", "everything"), description="train from", continuous_update=False
    )
    answer, quiet = widgets.Label(), Loop(device="cpu", precision="fp32", progress=False)

    def run(_=None) -> None:
        few = task.few_shot(shots.value, 0)
        model = freeze(
            create_model(name, task.num_classes, pretrained=True), None if depth.value == "everything" else depth.value
        )
        done = finetune(model, few, default_rule(model, few).adapted(steps=steps), loop=quiet)
        share = sum(p.numel() for p in model.parameters() if p.requires_grad) / sum(p.numel() for p in model.parameters())
        answer.value = (
            f"{share:.1%} of the weights trained: {done.evaluate('train').accuracy:.0%} of the training "
            f"images right, {done.val_accuracy:.1%} of the validation images"
        )

    for control in (shots, depth):
        control.observe(run, "value")
    run()
    return widgets.VBox([shots, depth, answer])


def live_parts(models: dict, change) -> object:
    """A control that splits a batch into parts, live, and shows by how much that changes the gradient.

    models: {name of the norm: network}. change(model, parts) -> the relative change. Returns an ipywidgets box.
    """
    import ipywidgets as widgets

    norm = widgets.ToggleButtons(options=list(models), description="norm")
    parts = widgets.SelectionSlider(options=(1, 2, 4, 8, 16), value=8, description="parts", continuous_update=False)
    answer = widgets.Label()

    def run(_=None) -> None:
        answer.value = f"the gradient moves by {change(models[norm.value], parts.value):.2g} of its length"

    for control in (norm, parts):
        control.observe(run, "value")
    run()
    return widgets.VBox([norm, parts, answer])


def companions_matter(x: torch.Tensor, batch: int, groups: int | None = None, trials: int = 50) -> float:
    """How much the normalised values of image 0 change when the other images in its batch are replaced at random.

    x: float [N, C, H, W]; groups: None for batch norm. Returns the root mean square distance from the average over `trials`
    batches; the normalised values themselves have a standard deviation of about 1.
    """
    import torch.nn.functional as F

    generator, seen = torch.Generator().manual_seed(0), []
    for _ in range(trials):
        others = 1 + torch.randperm(len(x) - 1, generator=generator)[: batch - 1]
        part = torch.cat([x[:1], x[others]])
        normed = F.batch_norm(part, None, None, training=True) if groups is None else F.group_norm(part, groups)
        seen.append(normed[0])
    return torch.stack(seen).std(0, correction=0).square().mean().sqrt().item()


def probe_accuracy(
    features: dict[str, torch.Tensor], labels: dict[str, torch.Tensor], shots: int, seed: int, on: str = "val"
) -> float:
    """Accuracy, on a split, of a linear head fitted to `shots` random training examples per class.

    features, labels: by split, float [N, F] and int [N]. `seed` picks the same subset as in `Task.few_shot`. Features are
    standardised with the mean and standard deviation of that subset.
    """
    from sklearn.linear_model import LogisticRegression

    some = few_shot_indices(labels["train"], shots, seed)
    mean, std = features["train"][some].mean(0), features["train"][some].std(0, correction=0).clamp_min(1e-6)
    head = LogisticRegression(max_iter=2000).fit(((features["train"][some] - mean) / std).numpy(), labels["train"][some])
    return float(head.score(((features[on] - mean) / std).numpy(), labels[on]))


@torch.no_grad()
def positive(net: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Which values the ReLUs of a course network let through, bool [all of them]; each of its ReLUs follows a group norm."""
    found: list[torch.Tensor] = []
    norms = [m for m in net.modules() if isinstance(m, torch.nn.GroupNorm)]
    hooks = [norm.register_forward_hook(lambda _, x, out: found.append(out.flatten() > 0)) for norm in norms]
    net(x)
    for hook in hooks:
        hook.remove()
    return torch.cat(found)


def save_folder(shown: torch.Tensor, labels: torch.Tensor, names, folder: str | Path) -> Path:
    """Write images, uint8 [N, 3, H, W], as PNG files, with one sub-folder per class, like a user's own folder; returns it."""
    for i, (image, label) in enumerate(zip(shown, labels.tolist())):
        path = Path(folder) / names[label] / f"{i:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(image))
    return Path(folder)
