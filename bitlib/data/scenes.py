"""Scenes: real handwritten digits, pasted at several sizes on clutter, some half hidden, with a box around each.

The digits are those of the task `digits`, in its own split: no digit of a training scene appears in a validation or test scene.
"""

from __future__ import annotations

import functools

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter

from .boxes import Boxed, BoxTask
from .digits import load_digits
from .drawing import colour
from .task import fingerprint

SIDE = 96  # pixels
SIZES = (24, 56)  # smallest and largest side of a digit in pixels, before its empty margin is cut off
MOST = 4  # digits per scene
INK = 0.35  # share of full ink above which a pixel belongs to the digit and to its box
SEEN = 0.65  # share of a digit's ink that stays visible
CLUTTER = (6, 14)  # lines, arcs and patches per scene
TRIES = 40  # places tried for a digit before it is left out
VAL, TEST = 100, 200  # scenes


@functools.cache
def _digits() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """{split: (uint8 [N, 8, 8], labels int [N])}."""
    task = load_digits()
    return {s: (getattr(task, s).images[:, 0].numpy(), getattr(task, s).labels.numpy()) for s in ("train", "val", "test")}


def draw_scene(split: str, rng: np.random.Generator, side: int = SIDE) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One scene: (uint8 [side, side, 3], boxes float [M, 4] as x1, y1, x2, y2, labels int [M]).

    A digit's box surrounds all of its ink, also where something in front hides it. There is at least one digit.
    """
    pixels, labels = _digits()[split]
    paper = colour(rng)
    image = _clutter(paper, side, rng)
    inks: list[np.ndarray] = []  # masks of the digits so far, with what has been covered taken away
    whole, boxes, found = [], [], []
    for _ in range(rng.integers(1, MOST + 1)):
        for _ in range(TRIES):
            which = int(rng.integers(len(labels)))
            size = int(round(np.exp(rng.uniform(*np.log(SIZES)))))
            small = Image.fromarray(pixels[which]).resize((size, size), Image.Resampling.BICUBIC)
            alpha = np.zeros((side, side))
            x, y = rng.integers(0, side - size + 1, 2)
            alpha[y : y + size, x : x + size] = np.asarray(small) / 255
            mask = alpha > INK
            left = [ink & ~mask for ink in inks]
            if all(now.sum() >= SEEN * ink.sum() for now, ink in zip(left, whole)):
                break
        else:
            continue
        inks, whole = [*left, mask], [*whole, mask]
        ink = colour(rng, paper)
        image = image + alpha[:, :, None] * (255 * ink - image)
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        boxes.append((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
        found.append(labels[which])
    grain = rng.normal(0, rng.uniform(2, 10), (side, side, 1))
    return np.clip(image + grain, 0, 255).astype(np.uint8), np.array(boxes, np.float32), np.array(found)


def _clutter(paper: np.ndarray, side: int, rng: np.random.Generator) -> np.ndarray:
    """A background, float [side, side, 3] from 0 to 255: lines, arcs and patches in tones near that of the paper."""

    def tone() -> tuple[int, ...]:
        return tuple(int(v) for v in 255 * np.clip(paper + rng.uniform(-0.22, 0.22, 3), 0, 1))

    image = Image.new("RGB", (side, side), tuple(int(255 * v) for v in paper))
    pen = ImageDraw.Draw(image)
    for _ in range(rng.integers(*CLUTTER)):
        x, y, w, h = (int(v) for v in (*rng.integers(-side // 8, side, 2), *rng.integers(side // 12, side // 2, 2)))
        kind, width = rng.integers(4), int(rng.integers(2, 5))
        if kind == 0:
            pen.rectangle((x, y, x + w, y + h), fill=tone())
        elif kind == 1:
            pen.ellipse((x, y, x + w, y + h), fill=tone())
        elif kind == 2:
            start = int(rng.integers(360))
            pen.arc((x, y, x + w, y + h), start, start + int(rng.integers(60, 300)), fill=tone(), width=width)
        else:
            pen.line((x, y, x + w * int(rng.choice([-1, 1])), y + h), fill=tone(), width=width)
    return np.asarray(image.filter(ImageFilter.GaussianBlur(rng.uniform(0, 1))), np.float64)


def draw_scenes(split: str, count: int, seed: int, side: int = SIDE) -> Boxed:
    """`count` scenes with digits of one split of `digits`, drawn by `seed`. The first n are the same for every count."""
    number = ("train", "val", "test").index(split)
    drawn = [draw_scene(split, np.random.default_rng([number, seed, i]), side) for i in range(count)]
    images = torch.from_numpy(np.stack([pixels for pixels, *_ in drawn])).permute(0, 3, 1, 2).contiguous()
    boxes = [torch.from_numpy(boxes) for _, boxes, _ in drawn]
    return Boxed(images, boxes, [torch.from_numpy(labels).long() for *_, labels in drawn], tuple("0123456789"))


@functools.cache
def _held_out(split: str, count: int, side: int) -> Boxed:
    return draw_scenes(split, count, 0, side)


def load_scenes(count: int, seed: int = 0, side: int = SIDE, held_out: tuple[int, int] = (VAL, TEST)) -> BoxTask:
    """The task with `count` training scenes, drawn by `seed`. held_out: how many scenes for validation and test, which are the
    same for every seed. Digits do not survive a mirror, so nothing is flipped."""
    val, test = (_held_out(split, count, side) for split, count in zip(("val", "test"), held_out))
    mark = fingerprint("scenes", count, seed, side, SIZES, MOST, SEEN)
    return BoxTask("scenes", draw_scenes("train", count, seed, side), val, test, flip=False, fingerprint=mark)
