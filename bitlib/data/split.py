"""Which split an image belongs to. Its content decides, so it stays there when other images are added or removed."""

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
    """Hash of a file's bytes: 16 hex digits. Raises UserError if it cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, partial(hashlib.blake2b, digest_size=8)).hexdigest()
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror})") from None


def position(content: str) -> float:
    """A digest as a number in [0, 1], uniform over different contents."""
    return int(content, 16) / 16 ** len(content)


def own_contents(digests: list[str], labels: Tensor) -> dict[int, list[str]]:
    """{label: digests that occur under this label only, without duplicates, in order of position}."""
    labels_of = defaultdict(set)
    for content, label in zip(digests, labels.tolist()):
        labels_of[content].add(label)
    own = {label: [] for label in labels.unique().tolist()}
    for content in sorted(labels_of):  # all have the same length, so this is the order of positions
        if len(labels_of[content]) == 1:
            own[min(labels_of[content])].append(content)
    return own


def place(digests: list[str], labels: Tensor, shares: tuple[float, ...]) -> tuple[Tensor, ...]:
    """Split images by content: indices of one part per share, and of the rest, each in ascending order.

    Each part takes an interval of positions, and an image goes to the part in whose interval its content falls, whatever the
    other images are; identical files always stay together. There is one exception: no class may be missing from a part or
    from the rest. If chance leaves one empty, the image with the nearest position fills it, and images added later can then
    move it. Each class needs len(shares) + 1 different images that are in no other class (`own_contents`).
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
