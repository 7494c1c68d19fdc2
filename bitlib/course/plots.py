"""Static figures. Every function takes numbers or pictures, returns a matplotlib Figure, and trains nothing; `png` writes one.

The figures have a light background of their own and colours that colour-blind readers can tell apart (Okabe and Ito);
lines differ in marker as well.
"""

from __future__ import annotations

import io
import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P")


def png(shown: Figure | Tensor, side: int | None = None) -> bytes:
    """A figure, or an image uint8 [3, H, W] on the CPU, as a PNG file. side: of the square that the image is stretched to."""
    buffer = io.BytesIO()
    if isinstance(shown, Figure):
        shown.savefig(buffer, format="png", dpi=80, metadata={"Software": None})
    else:
        image = Image.fromarray(shown.permute(1, 2, 0).numpy())
        (image.resize((side, side), Image.Resampling.NEAREST) if side else image).save(buffer, "PNG")
    return buffer.getvalue()


def _axes(width: float = 6.4, height: float = 3.8):
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    return figure, axes


def image_grid(images: Tensor, titles: Sequence[str] = (), columns: int = 10) -> Figure:
    """Pictures side by side. images: uint8 [N, 3, H, W], all of one size; titles: one a picture, or none."""
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(columns * 0.9, rows * (1.15 if titles else 0.9)), layout="constrained", facecolor="white")
    for i, axes in enumerate(np.atleast_1d(figure.subplots(rows, columns)).flat):
        axes.axis("off")
        if i < len(images):
            axes.imshow(images[i].permute(1, 2, 0).cpu().numpy(), interpolation="nearest")
            if titles:
                axes.set_title(titles[i], fontsize=9)
    return figure


def few_shot_curve(results: Mapping[str, Mapping[int, Sequence[float]]], chance: float | None = None) -> Figure:
    """Accuracy against pictures a class. results: {method: {shots: accuracies of the seeds, 0 to 1}}.

    Lines are means, bars one standard deviation, faint points single seeds. chance: accuracy of guessing, if wanted.
    """
    figure, axes = _axes()
    for (method, by_shots), color, marker in zip(results.items(), COLORS, MARKERS):
        shots = np.array(sorted(by_shots))
        values = [100 * np.asarray(by_shots[k]) for k in shots]
        axes.errorbar(
            shots,
            [v.mean() for v in values],
            [v.std(ddof=1) if len(v) > 1 else 0 for v in values],
            color=color,
            marker=marker,
            capsize=3,
            label=method,
            linewidth=1.8,
        )
        axes.scatter(np.repeat(shots, [len(v) for v in values]), np.concatenate(values), s=8, color=color, alpha=0.35)
    if chance is not None:
        axes.axhline(100 * chance, color="#666666", linestyle=":", linewidth=1.2, label="guessing")
    axes.set_xscale("log")
    axes.set_xticks(shots, [str(k) for k in shots])
    axes.minorticks_off()
    axes.set_xlabel("training pictures a class")
    axes.set_ylabel("test accuracy (%)")
    axes.set_ylim(0, 100)
    axes.legend(frameon=False, loc="lower right")
    return figure


def bars(values: Mapping[str, float], xlabel: str) -> Figure:
    """One horizontal bar a name. values: {name: number}."""
    figure, axes = _axes(height=0.8 + 0.28 * len(values))
    axes.barh(list(values), list(values.values()), color=COLORS[0])
    axes.invert_yaxis()
    axes.set_xlabel(xlabel)
    return figure


def dots(results: Mapping[str, Sequence[float]], xlabel: str = "accuracy (%)", scale: float = 100) -> Figure:
    """One row a method: faint points are single seeds, the bar is mean and one standard deviation.

    results: {method: values}; scale: factor for the axis, 100 for accuracies from 0 to 1.
    """
    return dot_panels({"": results}, xlabel, scale, columns=1)


def dot_panels(
    panels: Mapping[str, Mapping[str, Sequence[float]]], xlabel: str = "accuracy (%)", scale: float = 100, columns: int = 2
) -> Figure:
    """Several of `dots` side by side on one scale. panels: {title: {method: values}}, the same methods in each."""
    rows, count = -(-len(panels) // columns), len(next(iter(panels.values())))
    size = (6.4 if columns == 1 else 7.2, rows * (0.75 + 0.4 * count))
    figure = Figure(figsize=size, layout="constrained", facecolor="white")
    grid = np.atleast_1d(figure.subplots(rows, columns, sharex=True, sharey=True)).flat
    for axes, (title, results) in zip(grid, panels.items()):
        for row, (values, color, marker) in enumerate(zip(results.values(), itertools.cycle(COLORS), itertools.cycle(MARKERS))):
            values = scale * np.asarray(values)
            axes.scatter(values, np.full(len(values), row), s=14, color=color, alpha=0.4)
            axes.errorbar(
                values.mean(),
                row,
                xerr=values.std(ddof=1) if len(values) > 1 else 0,
                color=color,
                marker=marker,
                capsize=4,
                linewidth=1.8,
            )
        axes.set_yticks(range(count), results)
        axes.set_ylim(count - 0.4, -0.6)
        axes.set_title(title, fontsize=10)
        axes.grid(axis="x", color="#dddddd", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    figure.supxlabel(xlabel, fontsize=10)
    return figure


def histograms(values: Mapping[str, Tensor], xlabel: str, bins: int = 20) -> Figure:
    """Shares of values from 0 to 1 in equal bins, one panel each. values: {title: float [N]}."""
    figure = Figure(figsize=(7.2, 2.4), layout="constrained", facecolor="white")
    for axes, (title, v), color in zip(figure.subplots(1, len(values), sharey=True, squeeze=False)[0], values.items(), COLORS):
        share = np.histogram(v.numpy(), bins, (0, 1))[0] / len(v)
        axes.bar((np.arange(bins) + 0.5) / bins, 100 * share, 0.9 / bins, color=color)
        axes.set_title(title, fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("draws (%)")
    figure.supxlabel(xlabel, fontsize=10)
    return figure


def reliability(curves: Mapping[str, tuple[Tensor, Tensor, Tensor]]) -> Figure:
    """Share right against confidence, empty bins left out. curves: {name: (mean confidence, accuracy, count) of each bin}."""
    figure, axes = _axes(height=4.4)
    axes.plot([0, 100], [0, 100], color="#666666", linestyle=":", linewidth=1.2, label="as sure as right")
    for (name, (confidence, accuracy, count)), color, marker in zip(curves.items(), COLORS, MARKERS):
        filled = count > 0
        axes.plot(100 * confidence[filled], 100 * accuracy[filled], color=color, marker=marker, linewidth=1.8, label=name)
    axes.set_xlabel("confidence (%)")
    axes.set_ylabel("share right (%)")
    axes.legend(frameon=False, loc="upper left")
    return figure


def norm_axes(pictures: int = 4, channels: int = 8, groups: int = 2) -> Figure:
    """Which numbers share a mean under batch, layer, instance and group norm: cells of one colour do.

    A cell is one channel of one picture, with all its pixels.
    """
    n, c = np.mgrid[:pictures, :channels]
    panels = {
        "batch norm": c,
        "layer norm": n,
        "instance norm": n * channels + c,
        f"group norm, {groups} groups": n * groups + c * groups // channels,
    }
    figure = Figure(figsize=(7.2, 2.2), layout="constrained", facecolor="white")
    for axes, (name, shared) in zip(figure.subplots(1, len(panels)), panels.items()):
        # Neighbouring numbers get distant colours, so that borders show.
        shades = (shared * 7 % 37) / 37
        axes.imshow(shades, cmap="viridis", vmin=-0.15, vmax=1.0)
        axes.set_xticks(np.arange(channels + 1) - 0.5, [])
        axes.set_yticks(np.arange(pictures + 1) - 0.5, [])
        axes.grid(color="white", linewidth=1.5)
        axes.tick_params(length=0)
        axes.set_title(name, fontsize=9)
        axes.set_xlabel("channels", fontsize=8)
    figure.axes[0].set_ylabel("pictures", fontsize=8)
    return figure


def learning_curve(
    curves: Mapping[str, tuple[Sequence[int], Sequence[float]]],
    ylabel: str = "training loss",
    smooth: int = 1,
    log: bool = False,
    xlabel: str = "step",
) -> Figure:
    """Lines over steps, or over `xlabel`. curves: {name: (steps, values)}; smooth: width in steps of a moving average."""
    figure, axes = _axes()
    for (name, (steps, values)), color, style in zip(curves.items(), COLORS, itertools.cycle(("-", "--", "-.", ":"))):
        values = np.convolve(values, np.ones(smooth) / smooth, "valid") if smooth > 1 else values
        axes.plot(list(steps)[-len(values) :], values, color=color, linestyle=style, linewidth=1.8, label=name)
    if log:
        axes.set_yscale("log")
    axes.set_xlabel(xlabel)
    axes.set_ylabel(ylabel)
    if len(curves) > 1:
        axes.legend(frameon=False)
    return figure


def confusion(matrix: Tensor, names: Sequence[str], columns: str = "predicted") -> Figure:
    """Rows are true classes, columns predictions. matrix: int [C, C]. Shades are shares of a row."""
    shares = (matrix / matrix.sum(1, keepdim=True).clamp_min(1)).numpy()
    figure = Figure(figsize=(4.6, 4.2), layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in matrix.nonzero().tolist():
        axes.text(
            column,
            row,
            int(matrix[row, column]),
            ha="center",
            va="center",
            fontsize=8,
            color="white" if shares[row, column] > 0.5 else "#222222",
        )
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel(columns)
    axes.set_ylabel("true")
    return figure


def mistakes(images: Tensor, labels: Tensor, logits: Tensor, names: Sequence[str], columns: int = 8) -> Figure:
    """Pictures with what they are, what they were taken for, and how surely. images: uint8 [N, 3, H, W]."""
    confidence, predicted = torch.softmax(logits, 1).max(1)
    titles = [f"{names[y]} as {names[p]}\n{c:.0%}" for y, p, c in zip(labels, predicted, confidence)]
    return image_grid(images, titles, columns)
