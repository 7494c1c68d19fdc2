"""Digits: real handwriting, shipped with scikit-learn. 1,797 images of 8x8 pixels, 10 classes."""

from __future__ import annotations

import torch

from .task import ArrayImages, Task, fingerprint, split_indices


def load_digits() -> Task:
    """The digits, in a fixed random split, stratified by class: 898 images for training, 300 for validation, 599 for test.

    The source does not say who wrote which digit, so a writer may appear in all three. No flips: a mirrored 3 is not a 3.
    """
    from sklearn.datasets import load_digits as sklearn_digits

    raw = sklearn_digits()
    # 0..16 -> 0..255, and one grey channel -> three equal ones.
    images = torch.from_numpy(raw.images).mul(255 / 16).round().to(torch.uint8)[:, None].expand(-1, 3, -1, -1)
    everything = ArrayImages(images.contiguous(), torch.from_numpy(raw.target))
    splits = [everything.subset(i) for i in split_indices(everything.labels, (300 / 1797, 600 / 1797))]
    names = tuple(str(i) for i in range(10))
    identity = fingerprint("digits", names, *(s.digest() for s in splits))
    return Task("digits", *splits, names, (8, 8), random_flip=False, fingerprint=identity)
