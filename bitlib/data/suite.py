"""A suite of twelve small tasks in the manner of VTAB-1k (arXiv 1910.04867): natural, specialised and structured.

Each has 1,000 training images, whose classes are as even as the number allows, 200 for validation and about 600 for testing,
and needs no download. A draw gives other training and validation images; the test images are always the same.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from . import natural, specialised, structured
from .drawing import SIDE
from .sampling import generator_for
from .task import ArrayImages, Task, fingerprint

GROUPS = ("natural", "specialised", "structured")
SIZES = {"train": 1000, "val": 200, "test": 600}


@dataclass(frozen=True)
class Entry:
    """A task of the suite. make: (labels, split, rng) -> uint8 [N, 32, 32, 3]; None for the digits, which exist already.

    random_crop, random_flip: whether labels survive these; where they do not, the paper leaves them out (appendix F).
    """

    group: str
    make: Callable | None
    class_names: tuple[str, ...]
    random_crop: bool = True
    random_flip: bool = True


def _numbered(low: int, high: int) -> tuple[str, ...]:
    return tuple(map(str, range(low, high + 1)))


# Where it is the reading direction, the way a pitch moves or a direction that makes the class, nothing is mirrored. A random
# crop enlarges, and may cut off what has to be counted or measured.
SUITE = {
    "suite/digits": Entry("natural", None, _numbered(0, 9), random_flip=False),
    "suite/letters": Entry("natural", natural.letters, natural.LETTERS, random_flip=False),
    "suite/fonts": Entry("natural", natural.fonts, (*natural.TYPEFACES,), random_flip=False),
    "suite/photographs": Entry("natural", natural.photographs, (*natural.MATERIALS,)),
    "suite/terrain": Entry("specialised", specialised.terrain, specialised.STEEPNESS, random_crop=False),
    "suite/scan": Entry("specialised", specialised.scan, specialised.FINDINGS),
    "suite/sounds": Entry("specialised", specialised.sounds, specialised.SOUNDS, random_flip=False),
    "suite/fabric": Entry("specialised", specialised.fabric, specialised.FAULTS),
    "suite/counting": Entry("structured", structured.counting, _numbered(1, 8), random_crop=False),
    "suite/distance": Entry("structured", structured.distance, _numbered(1, 5), random_crop=False),
    "suite/orientation": Entry("structured", structured.orientation, structured.DIRECTIONS, random_flip=False),
    "suite/matching": Entry("structured", structured.matching, ("the same", "different")),
}


def load_suite(name: str, draw: int = 0) -> Task:
    """A task of the suite by name, such as "suite/counting". draw: which training and validation images; see the module."""
    entry = SUITE[name]
    if entry.make is None:
        made, size = natural.digits_of(draw), (8, 8)
    else:
        made, size = {split: _made(name, split, draw) for split in SIZES}, (SIDE, SIDE)
    splits = {split: ArrayImages(*pair) for split, pair in made.items()}
    identity = fingerprint(name, entry.class_names, [images.digest() for images in splits.values()])
    flags = {"random_crop": entry.random_crop, "random_flip": entry.random_flip}
    return Task(name, **splits, class_names=entry.class_names, image_size=size, **flags, fingerprint=identity)


def _made(name: str, split: str, draw: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(images uint8 [N, 3, 32, 32], labels int [N]) of a generated split."""
    entry = SUITE[name]
    seed = generator_for(0 if split == "test" else draw, name, split).initial_seed()
    rng = np.random.default_rng(seed)
    labels = np.arange(SIZES[split]) % len(entry.class_names)
    return torch.from_numpy(entry.make(labels, split, rng)).permute(0, 3, 1, 2).contiguous(), torch.from_numpy(labels)
