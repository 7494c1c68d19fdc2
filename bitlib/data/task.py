"""What a task is: three splits of labelled images, class names and a fingerprint; and few-shot subsets of it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from ..files import UserError
from .augment import resize


class Images(Protocol):
    """The interface of a split: labelled images from memory, from files, or generated.

    labels: int64 [N], on the CPU. resident: whether `batch` needs no decoding.
    """

    labels: Tensor
    resident: bool

    def __len__(self) -> int: ...

    def subset(self, indices: Tensor) -> Images:
        """Only these images, in this order."""
        ...

    def prepare(self, side: int, device: torch.device | str) -> Images:
        """Do the work that need not be repeated at every step: check, decode, resize to `side` x `side`, move to `device`.

        Raises UserError if an image cannot be read.
        """
        ...

    def draw(self, count: int, generator: torch.Generator) -> Tensor | None:
        """Random numbers for `count` images, one row each, if the images are generated; else None."""
        ...

    def batch(self, indices: Tensor, draws: Tensor | None = None) -> Tensor:
        """Images uint8 [B, 3, side, side], after `prepare`. draws: the rows of `draw` for these images."""
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
        """Hash of all pixels and labels."""
        h = hashlib.sha256(self.labels.numpy().tobytes())
        h.update(self.images.contiguous().numpy().tobytes())
        return h.hexdigest()


class Closed:
    """A test split that nobody can look at; its length is all that it tells."""

    def __init__(self, count: int):
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getattr__(self, name: str):
        raise UserError(f"the test split is closed while settings are chosen; use the task itself for its {name}")


@dataclass(frozen=True)
class Task:
    """A classification task.

    train, val, test: images with labels. class_names: one per label. image_size: typical (height, width) of the
    original images in pixels, for the HyperRule. random_crop, random_flip: whether the labels survive these augmentations.
    fingerprint: changes whenever an image, a label, a class name or a split changes.
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

    def closed(self) -> Task:
        """The same task without access to its test images, for choosing settings: any use of them raises UserError."""
        return replace(self, test=Closed(len(self.test)))

    @property
    def open_splits(self) -> tuple[str, ...]:
        """The splits besides train that may be looked at: val, and test unless it is closed."""
        return ("val",) if isinstance(self.test, Closed) else ("val", "test")

    def some_classes(self, count: int, seed: int = 0) -> Task:
        """The same task with only `count` of its classes in all three splits, chosen at random by `seed`.

        Fewer classes with the same seed are part of these. Raises UserError if there are not as many, or for `count` below 1.
        """
        if not 1 <= count <= self.num_classes:
            raise UserError(f"{self.name} has {self.num_classes} classes; {count} cannot be chosen")
        order = torch.randperm(self.num_classes, generator=torch.Generator().manual_seed(seed))
        chosen = order[:count].sort().values
        renumber = torch.full((self.num_classes,), -1)
        renumber[chosen] = torch.arange(count)

        def part(split: Images) -> Images:
            if isinstance(split, Closed):
                return split
            kept = split.subset((renumber[split.labels] >= 0).nonzero()[:, 0])
            kept.labels = renumber[kept.labels]
            return kept

        names = tuple(self.class_names[i] for i in chosen.tolist())
        identity = fingerprint(self.fingerprint, "classes", count, seed)
        splits = {name: part(getattr(self, name)) for name in ("train", "val", "test")}
        return replace(self, **splits, class_names=names, fingerprint=identity)

    def few_shot(self, shots: int, seed: int = 0) -> Task:
        """The same task with only `shots` training images per class, chosen at random by `seed`; val and test do not change.

        The paper uses five such subsets per task (section 4.1): take seeds 0 to 4. Raises UserError if a class has fewer
        images, or for `shots` below 1.
        """
        if shots < 1:
            raise UserError(f"shots is {shots}; it must be 1 or more")
        for name, count in zip(self.class_names, torch.bincount(self.train.labels, minlength=self.num_classes).tolist()):
            if count < shots:
                wrong = f"{self.name}: class {name!r} has {count} training images, fewer than the {shots} shots asked for"
                raise UserError(f"{wrong}; ask for {count} at most")
        indices = few_shot_indices(self.train.labels, shots, seed)
        identity = fingerprint(self.fingerprint, shots, seed, indices.tolist())
        return replace(self, train=self.train.subset(indices), fingerprint=identity)


def few_shot_indices(labels: Tensor, shots: int, seed: int) -> Tensor:
    """Indices of `shots` examples per class (all of a class that has fewer), chosen by `seed` and ordered by class."""
    generator, chosen = torch.Generator().manual_seed(seed), []
    for label in labels.unique():
        members = (labels == label).nonzero()[:, 0]
        chosen.append(members[torch.randperm(len(members), generator=generator)[:shots]])
    return torch.cat(chosen)


def fingerprint(*parts) -> str:
    """A short hash, 16 hex digits, of any objects whose `repr` is always the same."""
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def split_indices(labels: Tensor, fractions: tuple[float, float], seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Random train, val and test indices, stratified by class. fractions: share of every class for val and for test.

    Validation and test get at least one image of every class, so a class needs three or more images.
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
