"""Which split an image belongs to: its content decides, so that it stays there when other images come or go."""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections import defaultdict
from functools import partial
from itertools import accumulate
from pathlib import Path

import torch
from torch import Tensor

from ..files import UserError


def digest(path: Path) -> str:
    """Hash of the file's bytes: 16 hex digits. Raises UserError where it cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, partial(hashlib.blake2b, digest_size=8)).hexdigest()
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror})") from None


def position(content: str) -> float:
    """A digest as a number in [0, 1], uniform over different contents."""
    return int(content, 16) / 16 ** len(content)


def own_contents(digests: list[str], labels: Tensor) -> dict[int, list[str]]:
    """{label: the different contents that stand under no other label, in the order of their positions}."""
    labels_of = defaultdict(set)
    for content, label in zip(digests, labels.tolist()):
        labels_of[content].add(label)
    own = {label: [] for label in labels.unique().tolist()}
    for content in sorted(labels_of):  # all are as long, so this is the order of their positions
        if len(labels_of[content]) == 1:
            own[min(labels_of[content])].append(content)
    return own


def place(digests: list[str], labels: Tensor, shares: tuple[float, ...]) -> tuple[Tensor, ...]:
    """Indices of one part for each share, and of the rest, each in ascending order.

    A content belongs to the part in whose interval its position lies, whatever else there is; identical files are never
    parted. The one exception: every class has at least one content of its own in every part and in the rest, where chance
    leaves one empty the nearest position fills it, and there a later addition can move an image. Each class needs
    len(shares) + 1 different contents of its own (`own_contents`).
    """
    edges = list(accumulate(shares))
    part_of = {content: sum(position(content) >= edge for edge in edges) for content in set(digests)}
    for own in own_contents(digests, labels).values():
        start = 0
        for part, edge in enumerate(edges):
            end = bisect_left(own, edge, key=position)
            end = min(max(end, start + 1), len(own) - (len(edges) - part))
            part_of |= dict.fromkeys(own[start:end], part)
            start = end
        part_of |= dict.fromkeys(own[start:], len(edges))
    parts = torch.tensor([part_of[content] for content in digests])
    return tuple((parts == part).nonzero()[:, 0] for part in range(len(edges) + 1))
