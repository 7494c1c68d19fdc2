"""Static figures: functions that take numbers or images and return a `Plot`, drawn by matplotlib as SVG.

Each plot is drawn twice, for wide and narrow pages, with text of the same size. All colours come from the palette: on the
website they follow the page, elsewhere the reader's system. The words in a label decide the colour of a series.
"""

from __future__ import annotations

import functools
import hashlib
import html
import io
import itertools
import re
from collections.abc import Callable, Mapping, Sequence

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from .palette import LIGHT, PALETTE, roles
from .show import Html, data_url, images, inline

WIDE, NARROW, SIZE = 680, 343, 13  # widths of the two drawings, and size of their text, in pixels
MARKERS = ("o", "s", "^", "D", "v", "P")
DASHES = ("-", "--", "-.", ":")
STYLE = {
    "svg.fonttype": "none",
    "font.size": SIZE,
    "axes.titlesize": SIZE,
    "axes.labelsize": SIZE,
    "legend.fontsize": SIZE,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.linewidth": 1,
    "xtick.major.width": 1,
    "ytick.major.width": 1,
    "lines.linewidth": 2,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "figure.constrained_layout.use": True,
    "grid.color": LIGHT["line"],
    "axes.edgecolor": LIGHT["muted"],
    **dict.fromkeys(("text.color", "xtick.labelcolor", "ytick.labelcolor"), LIGHT["ink"]),
    **dict.fromkeys(("axes.labelcolor", "xtick.color", "ytick.color"), LIGHT["muted"]),
}
FONT = "system-ui,-apple-system,'Segoe UI',Roboto,'Helvetica Neue',Arial,sans-serif"


class Plot(Html):
    """A figure that can be drawn at any width. draw(width in pixels) -> a matplotlib Figure of that width."""

    def __init__(self, draw: Callable[[int], Figure], name: str):
        super().__init__("", f"<plot: {name}>")
        self._draw, self.name = draw, name

    def figure(self, width: int = WIDE) -> Figure:
        """The matplotlib Figure, `width` pixels wide."""
        with matplotlib.rc_context(STYLE):
            return self._draw(width)

    def svg(self, width: int = WIDE) -> str:
        """The drawing as an SVG element, with the palette's variables as colours."""
        with matplotlib.rc_context(STYLE):
            figure = self._draw(width)
            salt = hashlib.sha256(f"{self.name} {width} {self._caption} {self._alt}".encode()).hexdigest()[:12]
            with matplotlib.rc_context({"svg.hashsalt": salt}):
                buffer = io.StringIO()
                figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
        return themed(buffer.getvalue())

    def html(self) -> str:
        alt = html.escape(self._alt or self._caption or self.name)
        wide, narrow = (data_url(standalone(self.svg(width)).encode(), "image/svg+xml") for width in (WIDE, NARROW))
        picture = (
            f'<picture class="bl-plot"><source media="(max-width:600px)" srcset="{narrow}">'
            f'<img alt="{alt}" style="max-width:100%" src="{wide}"></picture>'
        )
        caption = f"<figcaption>{inline(self._caption)}</figcaption>" if self._caption else ""
        return f'<figure class="bl-figure">{picture}{caption}</figure>'


def themed(svg: str) -> str:
    """Turn matplotlib's SVG file into an element, with the palette's variables as colours and the reader's font.

    Raises ValueError for a colour that is not in the palette.
    """
    svg = svg[svg.index("<svg") :].rstrip()
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.S)
    svg = re.sub(r"<style.*?</style>", "", svg, flags=re.S)  # it would style the whole page; attributes replace it
    view = re.search(r'<svg [^>]*viewBox="([^"]+)"', svg)[1]
    names_of = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    svg = re.sub(r"<svg [^>]*>", f'<svg {names_of} viewBox="{view}" stroke-linejoin="round">', svg, count=1)
    names = {value: name for name, value in LIGHT.items()}

    def variable(match: re.Match) -> str:
        if (name := names.get(match[0].lower())) is None:
            raise ValueError(f"{match[0]} is a colour in a plot, but not in palette.json")
        return f"var(--bl-{name})"

    svg = re.sub(r"(?<=[: ])#[0-9a-fA-F]{6}\b", variable, svg)
    svg = re.sub(r"font: ([\d.]+px) [^;\"]+", rf"font: \1 {FONT}", svg)
    svg = re.sub(r"font-family: [^;\"]+", f"font-family: {FONT}", svg)
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', svg))
    svg = re.sub(r' id="(bl-[\w-]+)"', r' class="\1"', svg)
    svg = re.sub(r' id="([^"]+)"', lambda m: m[0] if m[1] in used else "", svg)
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.S)
    svg = re.sub(r"(\d\.\d\d)\d+", r"\1", svg)  # a hundredth of a pixel is enough
    return re.sub(r">\s+<", "><", re.sub(r"\n\s*", " ", svg))


def standalone(svg: str) -> str:
    """Turn an SVG element into a file: adds the colours that it uses, for light and dark mode, and a background."""
    used = sorted(set(re.findall(r"--bl-(\w+)", svg)) | {"paper"})
    light, dark = (";".join(f"--bl-{n}:{PALETTE[n][mode]}" for n in used) for mode in ("light", "dark"))
    style = f"<style>svg{{{light};background:var(--bl-paper)}}@media (prefers-color-scheme:dark){{svg{{{dark}}}}}</style>"
    width, height = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg).groups()
    return svg.replace(">", f' width="{width}" height="{height}">{style}', 1)


def plot(draw: Callable[..., Figure]) -> Callable[..., Plot]:
    """Decorator: turns a function whose first argument is the width into one that returns a Plot."""

    @functools.wraps(draw)
    def made(*args, **kwargs) -> Plot:
        return Plot(lambda width: draw(width, *args, **kwargs), draw.__name__)

    return made


def _axes(width: int, height: float, xlabel: str, ylabel: str):
    figure = Figure(figsize=(width / 72, height / 72))
    axes = figure.add_subplot()
    axes.grid(axis="y")
    _name_axes(axes, xlabel, ylabel)
    return figure, axes


def _name_axes(axes, xlabel: str, ylabel: str) -> None:
    """Label the horizontal axis below it and the vertical one above it, where it reads without turning the head."""
    axes.set_xlabel(xlabel).set_gid("bl-x-label")
    axes.set_title(ylabel, loc="left", color=LIGHT["muted"], pad=10).set_gid("bl-y-label")


def _name_lines(figure, axes, lines: Mapping[str, tuple[float, float, str, str]], width: int) -> None:
    """Label lines at their ends if there is room, else above the plot. lines: {label: (x, y, colour, mark)}."""
    if width < 500:
        for label, (_, _, shade, mark) in lines.items():
            axes.plot(
                [],
                [],
                color=shade,
                marker=None if mark in DASHES else mark,
                linestyle=mark if mark in DASHES else "-",
                label=label,
            )
        figure.legend(loc="outside upper left", labelcolor="linecolor", ncols=1, handlelength=1.6, borderpad=0)
        return
    figure.draw_without_rendering()
    places = {label: axes.transData.transform((x, y)) * 72 / figure.dpi for label, (x, y, *_) in lines.items()}
    order = sorted(places, key=lambda label: places[label][1])
    heights = [places[label][1] for label in order]
    for _ in range(200):  # push overlapping labels apart, a little at a time
        for i in range(1, len(heights)):
            if (short := 1.25 * SIZE - (heights[i] - heights[i - 1])) > 0.01:
                heights[i - 1] -= short / 2
                heights[i] += short / 2
    for label, height in zip(order, heights):
        x, y, shade, _ = lines[label]
        axes.annotate(
            label,
            (x, y),
            (10, height - places[label][1]),
            textcoords="offset points",
            color=shade,
            va="center",
            annotation_clip=False,
        )


@plot
def few_shot_curve(
    width: int,
    results: Mapping[str, Mapping[int, Sequence[float]]],
    chance: float | None = None,
    xlabel: str = "training images per class",
    floor: float = 0,
    ylabel: str = "test accuracy (%)",
) -> Figure:
    """Accuracy against images per class. results: {method: {shots: accuracies of the seeds, 0 to 1}}.

    Lines are means, bars one standard deviation, faint points single seeds. chance: accuracy of guessing, 0 to 1; None
    leaves it out. floor: where the vertical axis begins, in per cent.
    """
    figure, axes = _axes(width, 330, xlabel, ylabel)
    ends, names = {}, roles(results)
    for (method, by_shots), name, marker in zip(results.items(), names, itertools.cycle(MARKERS)):
        shots = np.array(sorted(by_shots))
        values = [100 * np.asarray(by_shots[k]) for k in shots]
        means, spread = [v.mean() for v in values], [v.std(ddof=1) if len(v) > 1 else 0 for v in values]
        axes.errorbar(shots, means, spread, color=LIGHT[name], marker=marker, markersize=6, capsize=3)
        axes.scatter(np.repeat(shots, [len(v) for v in values]), np.concatenate(values), s=10, color=LIGHT[name], alpha=0.35)
        ends[method] = (shots[-1], means[-1], LIGHT[name], marker)
    if chance is not None:
        axes.axhline(100 * chance, color=LIGHT["muted"], linestyle=":")
        axes.annotate("guessing", (0, 100 * chance), (4, 4), ("axes fraction", "data"), "offset points", color=LIGHT["muted"])
    axes.set_xscale("log")
    axes.set_xticks(shots, [f"{k:g}" for k in shots])
    axes.minorticks_off()
    axes.set_ylim(floor, 100)
    _name_lines(figure, axes, ends, width)
    return figure


def measured(stored: Mapping) -> Plot:
    """All methods of a file in results/ as a `few_shot_curve`. stored: its content, with accuracies under the methods' keys."""
    results = {
        label: {int(k): v for k, v in stored[key].items() if int(k) in map(int, stored["shots"])}
        for key, label in stored["methods"].items()
    }
    lowest = min(100 * (np.mean(v) - np.std(v)) for by_shots in results.values() for v in by_shots.values())
    axis = stored.get("axis", "training images per class")
    return few_shot_curve(results, xlabel=axis, floor=max(0, 20 * np.floor(lowest / 20)))


@plot
def bars(width: int, values: Mapping[str, float], xlabel: str, ylabel: str = "class") -> Figure:
    """A horizontal bar for each name. values: {name: number}."""
    figure = Figure(figsize=(width / 72, (60 + 24 * len(values)) / 72))
    axes = figure.add_subplot()
    axes.barh(list(values), list(values.values()), color=LIGHT["accent"])
    axes.invert_yaxis()
    axes.grid(axis="x")
    _name_axes(axes, xlabel, ylabel)
    return figure


def dots(results: Mapping[str, Sequence[float]], xlabel: str = "test accuracy (%)", scale: float = 100) -> Plot:
    """A row for each method: faint points are single seeds, the bar is mean and one standard deviation.

    results: {method: values}; scale: factor for the axis, 100 for accuracies from 0 to 1.
    """
    return dot_panels({"": results}, xlabel, scale, columns=1)


@plot
def dot_panels(
    width: int,
    panels: Mapping[str, Mapping[str, Sequence[float]]],
    xlabel: str = "test accuracy (%)",
    scale: float = 100,
    columns: int = 2,
) -> Figure:
    """Panels with a row for each method, on one scale, side by side if there is room. Points and bars as in `dots`.

    panels: {title: {method: values}}, with the same methods in each; scale: factor for the axis; columns: panels per row.
    """
    columns = columns if width >= 500 else 1
    rows, methods = -(-len(panels) // columns), list(next(iter(panels.values())))
    step = 44 if columns == 1 else 30
    figure = Figure(figsize=(width / 72, rows * (44 + step * len(methods)) / 72 + 30 / 72))
    grid = np.atleast_1d(figure.subplots(rows, columns, sharex=True, sharey=True)).flat
    for axes, (title, results) in zip(grid, panels.items()):
        for row, (method, values, name, marker) in enumerate(
            zip(results, results.values(), roles(results), itertools.cycle(MARKERS))
        ):
            values = scale * np.asarray(values)
            axes.scatter(values, np.full(len(values), row), s=18, color=LIGHT[name], alpha=0.4)
            spread = values.std(ddof=1) if len(values) > 1 else 0
            axes.errorbar(values.mean(), row, xerr=spread, color=LIGHT[name], marker=marker, markersize=7, capsize=4)
            if columns == 1:  # the name goes above its row: beside it, it would take half of a phone screen
                axes.annotate(method, (0, row), (2, 9), ("axes fraction", "data"), "offset points", color=LIGHT[name])
        axes.set_yticks(range(len(methods)), [""] * len(methods) if columns == 1 else methods)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.set_ylim(len(methods) - 0.5, -0.8)
        axes.grid(axis="both")
        axes.set_title(title or "method", loc="left", color=LIGHT["ink" if title else "muted"]).set_gid("bl-y-label")
    figure.supxlabel(xlabel, fontsize=SIZE, color=LIGHT["muted"]).set_gid("bl-x-label")
    return figure


@plot
def histograms(
    width: int, values: Mapping[str, Tensor], xlabel: str, bins: int = 20, ylabel: str = "share of the draws (%)"
) -> Figure:
    """Histograms of values from 0 to 1, in per cent, a panel each. values: {title: float [N]}; bins: number of equal bins."""
    across = len(values) if width >= 500 else 1
    figure = Figure(figsize=(width / 72, (200 if across > 1 else 60 + 130 * len(values)) / 72))
    panels = np.atleast_1d(figure.subplots(len(values) // across, across, sharey=True, sharex=True)).flat
    for axes, (title, v) in zip(panels, values.items()):
        share = np.histogram(v.numpy(), bins, (0, 1))[0] / len(v)
        axes.bar((np.arange(bins) + 0.5) / bins, 100 * share, 0.9 / bins, color=LIGHT["accent"])
        axes.set_title(title, loc="left")
    figure.supylabel(ylabel, fontsize=SIZE, color=LIGHT["muted"]).set_gid("bl-y-label")
    figure.supxlabel(xlabel, fontsize=SIZE, color=LIGHT["muted"]).set_gid("bl-x-label")
    return figure


@plot
def reliability(width: int, curves: Mapping[str, tuple[Tensor, Tensor, Tensor]]) -> Figure:
    """Accuracy against confidence, without empty bins. curves: {name: (mean confidence, accuracy, count), each [bins]}."""
    figure, axes = _axes(width, 360, "confidence (%)", "share right (%)")
    axes.plot([0, 100], [0, 100], color=LIGHT["muted"], linestyle=":")
    axes.annotate("as sure as right", (8, 8), (6, -14), textcoords="offset points", color=LIGHT["muted"])
    ends = {}
    for (label, (confidence, accuracy, count)), name, marker in zip(curves.items(), roles(curves), MARKERS):
        filled = count > 0
        x, y = 100 * confidence[filled], 100 * accuracy[filled]
        axes.plot(x, y, color=LIGHT[name], marker=marker)
        ends[label] = (float(x[-1]), float(y[-1]), LIGHT[name], marker)
    _name_lines(figure, axes, ends, width)
    return figure


@plot
def norm_axes(width: int, images: int = 4, channels: int = 8, groups: int = 2) -> Figure:
    """Which values share a mean under batch, layer, instance and group norm: those in cells of the same colour.

    A cell is one channel of one image, with all its pixels.
    """
    n, c = np.mgrid[:images, :channels]
    panels = {
        "batch norm": c,
        "layer norm": n,
        "instance norm": n * channels + c,
        f"group norm, {groups} groups": n * groups + c * groups // channels,
    }
    shape = (1, 4) if width >= 500 else (2, 2)
    figure = Figure(figsize=(width / 72, shape[0] * (48 + width / shape[1] * images / channels) / 72))
    hues = ("finetuned", "scratch", "frozen", "teacher", "partly", "bn", "gn", "mixup")
    for axes, (title, shared) in zip(figure.subplots(*shape).flat, panels.items()):
        for row, column in np.ndindex(images, channels):
            pool = int(shared[row, column])
            shade = dict(facecolor=LIGHT[hues[pool * 3 % len(hues)]], alpha=0.85 if pool // len(hues) % 2 == 0 else 0.45)
            axes.add_patch(matplotlib.patches.Rectangle((column + 0.04, row + 0.04), 0.92, 0.92, linewidth=0, **shade))
        axes.set(xlim=(0, channels), ylim=(images, 0), xticks=[], yticks=[], aspect="equal")
        axes.spines[:].set_visible(False)
        axes.set_title(title, loc="left")
    figure.supxlabel("channels", fontsize=SIZE, color=LIGHT["muted"]).set_gid("bl-x-label")
    figure.supylabel("images", fontsize=SIZE, color=LIGHT["muted"]).set_gid("bl-y-label")
    return figure


@plot
def learning_curve(
    width: int,
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    ylabel: str = "training loss",
    smooth: int = 1,
    log: bool = False,
    xlabel: str = "step",
    places: Sequence[str] = (),
) -> Figure:
    """Lines over steps. curves: {name: (steps, values)}; smooth: width of a moving average, in steps; log: logarithmic axis.

    places: what the steps 0, 1, ... are called, where they are not steps but, for example, stages of a network.
    """
    figure, axes = _axes(width, 300, xlabel, ylabel)
    ends = {}
    for (label, (steps, values)), name, style in zip(curves.items(), roles(curves), itertools.cycle(DASHES)):
        values = np.convolve(values, np.ones(smooth) / smooth, "valid") if smooth > 1 else np.asarray(values)
        steps = list(steps)[-len(values) :]
        axes.plot(steps, values, color=LIGHT[name], linestyle=style)
        ends[label] = (steps[-1], values[-1], LIGHT[name], style)
    if log:
        axes.set_yscale("log")
    if places:
        axes.set_xticks(range(len(places)), places)
    if len(curves) > 1:
        _name_lines(figure, axes, ends, width)
    return figure


@plot
def clouds(width: int, panels: Mapping[str, Tensor], xlabel: str, ylabel: str, limit: float = 3) -> Figure:
    """Points in square panels side by side, from -limit to limit both ways. panels: {title: float [N, 2]}."""
    figure = Figure(figsize=(width / 72, (width / len(panels) + 54) / 72))
    grid = np.atleast_1d(figure.subplots(1, len(panels), sharex=True, sharey=True))
    for axes, (title, points) in zip(grid, panels.items()):
        axes.scatter(*points.clamp(-limit, limit).T.numpy(), s=9, color=LIGHT["accent"], alpha=0.4, linewidth=0)
        axes.set(xlim=(-1.05 * limit, 1.05 * limit), ylim=(-1.05 * limit, 1.05 * limit), aspect="equal")
        axes.set_xticks([-2, 0, 2])
        axes.set_yticks([-2, 0, 2])
        axes.grid()
        axes.set_title(title, loc="left")
    figure.supxlabel(xlabel, fontsize=SIZE, color=LIGHT["muted"]).set_gid("bl-x-label")
    figure.supylabel(ylabel, fontsize=SIZE, color=LIGHT["muted"]).set_gid("bl-y-label")
    return figure


@plot
def drift(
    width: int, panels: Mapping[str, tuple[Sequence[float], Tensor]], ylabel: str, xlabel: str = "step", limit: float = 4
) -> Figure:
    """How a distribution moves: its 15th, 50th and 85th percentile. panels: {title: (steps, float [steps, values])}.

    limit: the vertical axis ends at plus and minus this.
    """
    across = len(panels) if width >= 500 else 1
    figure = Figure(figsize=(width / 72, (230 if across > 1 else 60 + 130 * len(panels)) / 72))
    grid = np.atleast_1d(figure.subplots(len(panels) // across, across, sharex=True, sharey=True)).flat
    for axes, (title, (steps, values)), name in zip(grid, panels.items(), roles(panels)):
        low, middle, high = np.quantile(values.numpy(), (0.15, 0.5, 0.85), axis=1)
        axes.fill_between(steps, low, high, color=LIGHT[name], alpha=0.25, linewidth=0)
        axes.plot(steps, middle, color=LIGHT[name])
        axes.grid(axis="y")
        axes.set_ylim(-limit, limit)
        axes.set_title(title, loc="left", color=LIGHT[name])
    figure.supxlabel(xlabel, fontsize=SIZE, color=LIGHT["muted"]).set_gid("bl-x-label")
    figure.supylabel(ylabel, fontsize=SIZE, color=LIGHT["muted"]).set_gid("bl-y-label")
    return figure


@plot
def confusion(
    width: int, matrix: Tensor, names: Sequence[str], columns: str = "predicted class", rows: str = "true class"
) -> Figure:
    """Confusion matrix. matrix: int [C, C], true classes in rows, predictions in columns. Shades show shares of a row."""
    shares = (matrix / matrix.sum(1, keepdim=True).clamp_min(1)).tolist()
    side = min(width, 460)
    figure = Figure(figsize=(side / 72, side / 72))
    axes = figure.add_subplot()
    for row, column in matrix.nonzero().tolist():
        cell = dict(facecolor=LIGHT["accent"], alpha=0.15 + 0.5 * shares[row][column], linewidth=0)
        axes.add_patch(matplotlib.patches.Rectangle((column - 0.48, row - 0.48), 0.96, 0.96, **cell))
        axes.text(column, row, int(matrix[row, column]), ha="center", va="center", fontsize=SIZE - 1)
    axes.set(xlim=(-0.5, len(names) - 0.5), ylim=(len(names) - 0.5, -0.5), aspect="equal")
    axes.set_xticks(range(len(names)), names)
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(length=0)
    _name_axes(axes, columns, rows)
    return figure


def mistakes(shown: Tensor, labels: Tensor, logits: Tensor, names: Sequence[str]) -> Html:
    """Images with their true class, predicted class and confidence. shown: uint8 [N, 3, H, W]; logits: float [N, C]."""
    confidence, predicted = torch.softmax(logits, 1).max(1)
    titles = [f"{names[y]} as {names[p]}\n{c:.0%} sure" for y, p, c in zip(labels, predicted, confidence)]
    return images(shown, titles, 72)
