"""Plots and the palette: right numbers, one meaning for each colour, readable on a phone and in the dark."""

import base64
import json
import re
from pathlib import Path

import pytest
import torch

from bitlib.course import palette, plots

ROOT = Path(__file__).resolve().parent.parent
CURVE = {"fine-tuned": {1: [0.5, 0.7], 5: [0.8, 0.9]}, "from scratch": {1: [0.2], 5: [0.4]}}
BINS = torch.tensor([0.2, 0.9]), torch.tensor([0.1, 0.5]), torch.tensor([0, 4])
PLOTS = {
    "few_shot_curve": plots.few_shot_curve(CURVE, chance=0.1),
    "measured": plots.measured(json.loads((ROOT / "results" / "digits.json").read_text())),
    "bars": plots.bars({"a": 0.3, "b": 0.7}, "probability"),
    "dots": plots.dots({"batch norm, 64 per device": [0.5, 0.7], "group norm": [0.6]}),
    "dot_panels": plots.dot_panels({"left": {"A": [0.5, 0.7], "B": [0.1]}, "right": {"A": [0.2, 0.2], "B": [0.3]}}),
    "histograms": plots.histograms({"a": torch.tensor([0.0, 0.01, 1.0, 1.0])}, "weight", bins=4),
    "reliability": plots.reliability({"with MixUp": BINS}),
    "norm_axes": plots.norm_axes(4, 8, 2),
    "learning_curve": plots.learning_curve({"a": (range(10), [1.0] * 10), "b": (range(10), [2.0] * 10)}, smooth=3),
    "clouds": plots.clouds({"a": torch.tensor([[0.0, 1.0], [2.0, -1.0]]), "b": torch.zeros(2, 2)}, "one pixel", "another"),
    "drift": plots.drift(
        {"batch norm": (range(3), torch.arange(12.0).view(3, 4)), "b": (range(3), torch.zeros(3, 4))}, "input"
    ),
    "confusion": plots.confusion(torch.tensor([[3, 1], [0, 2]]), "ab"),
}


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    low, high = sorted((luminance(a), luminance(b)))
    return (high + 0.05) / (low + 0.05)


def test_every_colour_reads_as_text_on_both_grounds():
    for name in palette.PALETTE.keys() - {"paper", "line"}:
        for mode in ("light", "dark"):
            ground = palette.PALETTE["paper"][mode]
            assert contrast(palette.PALETTE[name][mode], ground) >= 4.5, (name, mode)


def test_no_two_meanings_share_a_colour():
    assert len(set(palette.LIGHT.values())) == len(palette.LIGHT)


@pytest.mark.parametrize(
    "label, name",
    [
        ("from scratch", "scratch"),
        ("frozen, linear probe", "frozen"),
        ("fine-tuned", "finetuned"),
        ("linear probe, then fine-tuned", "probed"),
        ("raw pixels, regression", "pixels"),
        ("group norm", "gn"),
        ("group norm, standardised", "gn_ws"),
        ("batch norm, 2 per device", "bn"),
        ("with MixUp", "mixup"),
        ("without MixUp", "plain"),
        ("fine-tuned without MixUp", "plain"),
        ("something else", None),
    ],
)
def test_the_words_of_a_label_decide_its_colour(label, name):
    assert palette.role(label) == name


def test_labels_without_a_meaning_differ():
    assert len(set(palette.roles(["one", "two", "three"]))) == 3


@pytest.mark.parametrize("width", [plots.WIDE, plots.NARROW])
@pytest.mark.parametrize("name", PLOTS)
def test_plots_name_both_axes_in_the_palette_and_in_readable_text(name, width):
    svg = PLOTS[name].svg(width)
    for axis in ("bl-x-label", "bl-y-label"):
        assert re.search(rf'class="{axis}".*?<text[^>]*>[^<]+</text>', svg), axis
    assert not re.search(r"#[0-9a-f]{6}", svg) and "var(--bl-" in svg
    sizes = [float(s) for s in re.findall(r"(?:font|font-size): ([\d.]+)px", svg)]
    drawn = float(re.search(r'viewBox="0 0 ([\d.]+)', svg)[1])
    # A phone of 375 pixels shows the narrow drawing 343 pixels wide.
    assert sizes and min(sizes) * min(1, (343 if width == plots.NARROW else 680) / drawn) >= 11


def test_a_colour_that_is_not_in_the_palette_is_refused():
    with pytest.raises(ValueError, match="#123456 is a colour in a plot, but not in palette.json"):
        plots.themed('<svg viewBox="0 0 1 1"><path style="fill: #123456"/></svg>')


def test_a_plot_is_an_image_with_both_drawings_and_the_colours_of_both_modes():
    shown = plots.bars({"a": 0.3}, "share").caption("What `it` shows.", alt='a "bar"')._repr_mimebundle_()
    assert set(shown) == {"text/html", "text/plain"} and shown == PLOTS["bars"].__class__._repr_mimebundle_(
        plots.bars({"a": 0.3}, "share").caption("What `it` shows.", alt='a "bar"')
    )  # the same every time
    html = shown["text/html"]
    assert 'alt="a &quot;bar&quot;"' in html and "<figcaption>What <code>it</code> shows.</figcaption>" in html
    wide, narrow = (base64.b64decode(m).decode() for m in re.findall(r"svg\+xml;base64,([^\"]+)", html)[::-1])
    for svg in (wide, narrow):
        assert "prefers-color-scheme:dark" in svg and palette.PALETTE["accent"]["dark"] in svg
        assert set(re.findall(r"var\(--bl-(\w+)", svg)) <= set(re.findall(r"--bl-(\w+):", svg))
    ids = [set(re.findall(r' id="([^"]+)"', svg)) for svg in (wide, narrow)]
    assert not ids[0] & ids[1]  # both stand on one page


def test_plots_draw_what_they_are_given():
    curve = PLOTS["few_shot_curve"].figure()
    line = curve.axes[0].lines[0]
    assert list(line.get_xdata()) == [1, 5] and list(line.get_ydata()) == pytest.approx([60, 85])
    assert len(PLOTS["learning_curve"].figure().axes[0].lines[0].get_xdata()) == 8
    assert {t.get_text() for t in PLOTS["confusion"].figure().axes[0].texts} == {"3", "1", "2"}
    bars = PLOTS["histograms"].figure().axes[0].patches
    assert [b.get_height() for b in bars] == [50, 0, 0, 50]
    _, line = PLOTS["reliability"].figure().axes[0].lines[:2]
    assert line.get_xdata().tolist() == pytest.approx([90]) and line.get_ydata().tolist() == [50]


def test_panels_stand_side_by_side_only_where_there_is_room():
    wide, narrow = (PLOTS["dot_panels"].figure(width) for width in (plots.WIDE, plots.NARROW))
    for figure in (wide, narrow):
        assert [a.get_title(loc="left") for a in figure.axes] == ["left", "right"]
        assert figure.axes[0].collections[0].get_offsets()[:, 0].tolist() == pytest.approx([50, 70])
    assert [a.get_subplotspec().colspan.start for a in wide.axes] == [0, 1]
    assert [a.get_subplotspec().colspan.start for a in narrow.axes] == [0, 0]


def test_names_at_the_ends_of_lines_do_not_overlap():
    close = {f"method {i}": {1: [0.5], 5: [0.9 + i / 1000]} for i in range(4)}
    figure = plots.few_shot_curve(close).figure()
    figure.draw_without_rendering()
    boxes = sorted((t.get_window_extent() for t in figure.axes[0].texts), key=lambda b: b.y0)
    assert len(boxes) == 4 and all(a.y1 <= b.y0 + 1 for a, b in zip(boxes, boxes[1:]))


def test_norm_axes_colours_what_shares_a_mean():
    panels = []
    for axes in PLOTS["norm_axes"].figure().axes:
        cells = {(int(p.get_y()), int(p.get_x())): (p.get_facecolor()) for p in axes.patches}
        panels.append([[cells[row, column] for column in range(8)] for row in range(4)])
    batch, layer, _, group = panels
    assert len({c for row in batch for c in row}) == 8 and all(row == batch[0] for row in batch)
    assert len({row[0] for row in layer}) == 4 and all(len(set(row)) == 1 for row in layer)
    assert all(row[0] == row[3] != row[4] for row in group)


def test_rules_of_one_figure_do_not_touch_another():
    """All figures share a page: a rule in NAME.css holds inside its own figure only."""
    for path in (ROOT / "bitlib" / "course" / "explorables").glob("*.css"):
        if path.stem == "explorables":
            continue
        text = re.sub(r"/\*.*?\*/", "", path.read_text("utf8"), flags=re.S)
        selectors = [s.strip() for s in re.findall(r"([^{}]+)\{[^{}]*\}", text) if s.strip() not in ("from", "to")]
        root = ".bl-x-map" if path.stem == "transfermap" else f".bl-x-{path.stem}"
        for selector in selectors:
            assert all(root in part for part in re.split(r",(?![^(]*\))", selector)), (path.name, selector)


def test_figures_take_their_colours_from_the_palette():
    for path in (ROOT / "bitlib" / "course" / "explorables").iterdir():
        found = re.findall(r"#[0-9a-fA-F]{3,8}\b(?![^<]*id)", re.sub(r"url\(#[^)]*\)", "", path.read_text("utf8")))
        assert not found, (path.name, found)
