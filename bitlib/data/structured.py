"""The suite's structured tasks: not what is shown but how many, how far apart, which way, and whether two are alike.

They play the parts of VTAB's counting, distance and orientation tasks (arXiv 1910.04867, section 3). Colours, sizes, shapes and
positions are random and say nothing about the class. They all have the form that `drawing.each` describes.
"""

from __future__ import annotations

import numpy as np

from .drawing import SIDE, Canvas, each, regular, turned

DISC = regular(40)
SQUARE = regular(4, np.pi / 4)
TRIANGLE = regular(3)
STAR = regular(10) * np.where(np.arange(10) % 2, 0.42, 1.0)[:, None]
PLUS = (
    np.array([[1, 3], [1, 1], [3, 1], [3, -1], [1, -1], [1, -3], [-1, -3], [-1, -1], [-3, -1], [-3, 1], [-1, 1], [-1, 3]]) / 3
)
ARROW = np.array([[1, 0], [0.1, 0.85], [0.1, 0.3], [-0.95, 0.3], [-0.95, -0.3], [0.1, -0.3], [0.1, -0.85]])
DART = np.array([[1, 0], [-0.9, 0.65], [-0.45, 0], [-0.9, -0.65]])
WEDGE = np.array([[1, 0], [-0.8, 0.55], [-0.8, -0.55]])

COUNTS = tuple(range(1, 9))
DISTANCES = (7, 11, 15, 19, 23, 27)  # pixels: borders of the classes
DIRECTIONS = ("right", "down right", "down", "down left", "left", "up left", "up", "up right")


@each
def counting(label: int, split: str, rng: np.random.Generator) -> np.ndarray:
    """1 to 8 objects that do not touch. In half of the images their total area, in the others their size, ignores the count."""
    count = COUNTS[label]
    area, size = rng.uniform(60, 150), rng.uniform(1.7, 3)
    radii = (np.sqrt(area / np.pi / count) if rng.random() < 0.5 else size) * rng.uniform(0.85, 1.15, count)
    radii = radii.clip(1.5, 5.5)
    canvas = Canvas(rng)
    for centre, radius in zip(_apart(radii, rng), radii):
        shape = (DISC, SQUARE, TRIANGLE)[rng.integers(3)]
        canvas.polygon(centre + radius * turned(shape, rng.uniform(0, 2 * np.pi)))
    return canvas.pixels()


def _apart(radii: np.ndarray, rng: np.random.Generator, gap: float = 1.5) -> np.ndarray:
    """Random centres [N, 2] for discs of these radii that keep this many pixels from each other and stay inside."""
    centres = np.empty((0, 2))
    while len(centres) < len(radii):
        radius = radii[len(centres)]
        here = rng.uniform(radius + 0.5, SIDE - 0.5 - radius, 2)
        if (np.linalg.norm(centres - here, axis=1) - radii[: len(centres)] - radius > gap).all():
            centres = np.vstack([centres, here])
    return centres


@each
def distance(label: int, split: str, rng: np.random.Generator) -> np.ndarray:
    """A disc and a square, from 7 to 27 pixels apart from centre to centre, in five classes."""
    while True:  # the longest do not fit everywhere
        apart = rng.uniform(*DISTANCES[label : label + 2]) * turned(np.array([[1.0, 0.0]]), rng.uniform(0, 2 * np.pi))[0]
        one = rng.uniform(3.5, SIDE - 3.5, 2)
        if (np.abs(one + apart - SIDE / 2) < SIDE / 2 - 3.5).all():
            break
    canvas = Canvas(rng)
    for centre, shape in ((one, DISC), (one + apart, SQUARE)):
        canvas.polygon(centre + rng.uniform(2.2, 3.2) * turned(shape, rng.uniform(0, 2 * np.pi)))
    return canvas.pixels()


@each
def orientation(label: int, split: str, rng: np.random.Generator) -> np.ndarray:
    """An arrow, a dart or a wedge that points in one of eight directions, give or take 18 degrees."""
    angle = np.pi / 4 * label + np.radians(rng.uniform(-18, 18))
    radius = rng.uniform(6, 11)
    shape = (ARROW, DART, WEDGE)[rng.integers(3)] * np.array([1, rng.uniform(0.7, 1.0)])
    canvas = Canvas(rng)
    canvas.polygon(rng.uniform(radius + 1, SIDE - radius - 1, 2) + radius * turned(shape, angle))
    return canvas.pixels()


@each
def matching(label: int, split: str, rng: np.random.Generator) -> np.ndarray:
    """Two shapes of different colour, size and rotation: the same shape (label 0) or two different ones (label 1)."""
    shapes = (DISC, SQUARE, TRIANGLE, STAR, PLUS, DART)
    first, second = rng.choice(len(shapes), 2, replace=False)
    canvas = Canvas(rng)
    for x, which in zip((8, 24), (first, second if label else first)):
        centre = np.array([x + rng.uniform(-0.7, 0.7), rng.uniform(8, SIDE - 8)])
        canvas.polygon(centre + rng.uniform(5, 6.7) * turned(shapes[which], rng.uniform(0, 2 * np.pi)))
    return canvas.pixels()
