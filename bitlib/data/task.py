"""What a task is: three splits of images with labels, class names and a fingerprint; few-shot subsets of it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from ..files import UserError
from .augment import resize


class Images(Protocol):
    """Where the images of a split come from.

    labels: int64 [N], on the CPU. resident: whether all pixels are in memory, so that taking some of them costs nothing.
    """

    labels: Tensor
    resident: bool

    def __len__(self) -> int: ...

    def subset(self, indices: Tensor) -> Images:
        """Only these images, in this order."""
        ...

    def prepare(self, side: int, device: torch.device | str) -> Images:
        """Do the work that need not be done at every step: check, decode, resize to `side` x `side`, move to `device`.

        Raises UserError where an image cannot be read.
        """
        ...

    def draw(self, count: int, generator: torch.Generator) -> Tensor | None:
        """The random numbers behind `count` images, one row each, for sources that draw their images; else None."""
        ...

    def batch(self, indices: Tensor, draws: Tensor | None = None) -> Tensor:
        """uint8 [B, 3, side, side] after `prepare`; draws: the rows of `draw` that belong to these images."""
        ...


class ArrayImages:
    """Images held in memory. images: uint8 [N, 3, H, W]; labels: int [N]."""

    resident = True

    def __init__(self, images: Tensor, labels: Tensor):
        self.images, self.labels = images, labels.long()

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: Tensor) -> ArrayImages:
        return ArrayImages(self.images[indices], self.labels[indices])

    def prepare(self, side: int, device: torch.device | str) -> ArrayImages:
        parts = [resize(part.to(device), side) for part in self.images.split(1024)]
        return ArrayImages(torch.cat(parts) if parts else self.images, self.labels)

    def draw(self, count: int, generator: torch.Generator) -> None:
        return None

    def batch(self, indices: Tensor, draws: Tensor | None = None) -> Tensor:
        return self.images[indices.to(self.images.device)]

    def digest(self) -> str:
        """Hash of every pixel and label."""
        h = hashlib.sha256(self.labels.numpy().tobytes())
        h.update(self.images.contiguous().numpy().tobytes())
        return h.hexdigest()


@dataclass(frozen=True)
class Task:
    """A classification task.

    train, val, test: images with labels. class_names: one per label. image_size: usual (height, width) of the
    original images in pixels; the HyperRule asks for it. random_crop, random_flip: whether labels survive them.
    fingerprint: changes whenever a image, a label, a class name or a split changes.
    """

    name: str
    train: Images
    val: Images
    test: Images
    class_names: tuple[str, ...]
    image_size: tuple[int, int]
    random_crop: bool = True
    random_flip: bool = True
    fingerprint: str = ""

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def few_shot(self, shots: int, seed: int = 0) -> Task:
        """The same task with `shots` training images of every class, drawn by `seed`; val and test as they were.

        The paper takes five such draws of a task (section 4.1); use seeds 0 to 4. Raises UserError where a class
        has fewer images than that.
        """
        if shots < 1:
            raise UserError(f"shots is {shots}; it must be 1 or more")
        for name, count in zip(self.class_names, torch.bincount(self.train.labels, minlength=self.num_classes).tolist()):
            if count < shots:
                wrong = f"{self.name}: class {name!r} has {count} training images, fewer than the {shots} shots asked for"
                raise UserError(f"{wrong}; ask for {count} at most")
        indices = few_shot_indices(self.train.labels, shots, seed)
        mark = fingerprint(self.fingerprint, shots, seed, indices.tolist())
        return replace(self, train=self.train.subset(indices), fingerprint=mark)


def few_shot_indices(labels: Tensor, shots: int, seed: int) -> Tensor:
    """Indices of `shots` examples of every class (fewer where a class has fewer), drawn by `seed`, class after class."""
    generator, chosen = torch.Generator().manual_seed(seed), []
    for label in labels.unique():
        members = (labels == label).nonzero()[:, 0]
        chosen.append(members[torch.randperm(len(members), generator=generator)[:shots]])
    return torch.cat(chosen)


def fingerprint(*parts) -> str:
    """A short hash of anything that prints the same every time."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def split_indices(labels: Tensor, fractions: tuple[float, float], seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Stratified train, val and test indices. fractions: share of every class that goes to val and to test.

    Every class keeps at least one image in each of the three, which takes three of them or more.
    """
    generator = torch.Generator().manual_seed(seed)
    train, val, test = [], [], []
    for label in labels.unique().tolist():
        members = (labels == label).nonzero()[:, 0]
        members = members[torch.randperm(len(members), generator=generator)]
        n_val, n_test = (max(1, round(len(members) * f)) for f in fractions)
        val.append(members[:n_val])
        test.append(members[n_val : n_val + n_test])
        train.append(members[n_val + n_test :])
    return tuple(torch.cat(part).sort().values for part in (train, val, test))
