"""Small drawings for the suite's tasks: smooth shapes in random colours, and windows cut out of larger images."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

SIDE = 32  # pixels
FINE = 4  # drawn so many times as large, then averaged, so that edges are smooth
CONTRAST = 0.35  # least difference in brightness between background and foreground, of the whole range
SHARES = {"train": 0.6, "val": 0.1, "test": 0.3}  # of the blocks of a large image


def each(draw: Callable) -> Callable:
    """Turn a function that makes one image, (label, split, rng) -> uint8 [32, 32, 3], into one that makes a batch:
    (labels, split, rng) -> uint8 [N, 32, 32, 3]."""

    @functools.wraps(draw)
    def batch(labels: np.ndarray, split: str, rng: np.random.Generator) -> np.ndarray:
        return np.stack([draw(label, split, rng) for label in labels])

    return batch


def colour(rng: np.random.Generator, beside: np.ndarray | None = None) -> np.ndarray:
    """A random colour, float [3] from 0 to 1, whose brightness differs from that of `beside`."""
    while True:
        found = rng.uniform(0, 1, 3)
        if beside is None or abs(found.mean() - beside.mean()) > CONTRAST:
            return found


class Canvas:
    """A drawing of 32x32 pixels on a background of random colour. Coordinates are (x, y) in pixels, from the top left."""

    def __init__(self, rng: np.random.Generator):
        self.rng, self.paper = rng, colour(rng)
        self.image = Image.new("RGB", (SIDE * FINE, SIDE * FINE), _rgb(self.paper))
        self.pen = ImageDraw.Draw(self.image)

    def polygon(self, corners: np.ndarray, ink: np.ndarray | None = None) -> None:
        """Fill a polygon. corners: float [N, 2]; ink: a colour, by default a random one that stands out."""
        ink = colour(self.rng, self.paper) if ink is None else ink
        self.pen.polygon([tuple(point) for point in corners * FINE], fill=_rgb(ink))

    def pixels(self) -> np.ndarray:
        """The drawing with a little noise, uint8 [32, 32, 3]."""
        return noisy(np.asarray(self.image.resize((SIDE, SIDE), Image.Resampling.BOX)) / 255, self.rng)


def _rgb(ink: np.ndarray) -> tuple[int, ...]:
    return tuple(int(round(255 * value)) for value in ink)


def noisy(pixels: np.ndarray, rng: np.random.Generator, most: float = 0.05) -> np.ndarray:
    """Float [32, 32] or [32, 32, 3] from 0 to 1, with grain of a random strength up to `most` -> uint8 [32, 32, 3]."""
    pixels = pixels if pixels.ndim == 3 else np.repeat(pixels[:, :, None], 3, 2)
    grain = rng.normal(0, rng.uniform(0, most), (SIDE, SIDE, 1))
    return (255 * np.clip(pixels + grain, 0, 1)).round().astype(np.uint8)


def regular(corners: int, angle: float = 0.0) -> np.ndarray:
    """Corners of a regular polygon around the origin with radius 1, float [corners, 2]; 40 of them look like a disc."""
    turn = angle + np.arange(corners) * 2 * np.pi / corners
    return np.stack([np.cos(turn), np.sin(turn)], 1)


def turned(points: np.ndarray, angle: float) -> np.ndarray:
    """Points [N, 2] rotated around the origin, by `angle` in radians, clockwise as seen (y points down)."""
    cos, sin = np.cos(angle), np.sin(angle)
    return points @ np.array([[cos, sin], [-sin, cos]])


def blocks(height: int, width: int, side: int, split: str) -> np.ndarray:
    """Top left corners, int [N, 2], of the blocks of a large image that belong to a split.

    The image is cut into blocks of side x side pixels, which are dealt to the splits at random but always alike. A window that
    stays inside its block therefore shares no pixel with a window of another split.
    """
    rows, columns = np.meshgrid(np.arange(height // side), np.arange(width // side), indexing="ij")
    corners = side * np.stack([rows.ravel(), columns.ravel()], 1)
    corners = np.random.default_rng(0).permutation(corners)
    ends = np.round(np.cumsum([0, *SHARES.values()]) * len(corners)).astype(int)
    which = [*SHARES].index(split)
    return corners[ends[which] : ends[which + 1]]


def dihedral(pixels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A square image, turned by a random number of right angles and mirrored or not."""
    pixels = np.rot90(pixels, rng.integers(4))
    return pixels[:, ::-1] if rng.random() < 0.5 else pixels
