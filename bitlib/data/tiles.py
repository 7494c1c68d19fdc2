"""Tiles: small squares cut from three photographs; the class is the part of the photograph that a square comes from.

A task that looks like nothing upstream: colour and texture, but no strokes. The photographs ship with scikit-learn (a
temple, a flower) and matplotlib (a portrait), so nothing is downloaded. The squares do not overlap.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch

from .task import ArrayImages, Task, fingerprint, split_indices

SIDE = 24  # pixels
PARTS = ("top left", "top right", "bottom left", "bottom right")


def load_tiles() -> Task:
    """12 classes, the four quarters of each of three photographs, with about 100 squares of 24x24 pixels per class."""
    import matplotlib.cbook
    from PIL import Image
    from sklearn.datasets import load_sample_image

    photographs = {"temple": load_sample_image("china.jpg"), "flower": load_sample_image("flower.jpg")}
    with matplotlib.cbook.get_sample_data("grace_hopper.jpg") as file:
        photographs["portrait"] = np.asarray(Image.open(file).convert("RGB"))
    tiles, labels, names = [], [], []
    for name, pixels in photographs.items():
        # An even number of rows and columns, so that no square crosses the border between two quarters.
        rows, columns = (n // (2 * SIDE) * 2 for n in pixels.shape[:2])
        squares = torch.from_numpy(pixels[: rows * SIDE, : columns * SIDE].copy()).unflatten(0, (rows, SIDE))
        squares = squares.unflatten(2, (columns, SIDE)).permute(0, 2, 4, 1, 3).flatten(0, 1)
        row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
        quarter = 2 * (row >= rows // 2).long() + (column >= columns // 2).long()
        tiles.append(squares)
        labels.append(quarter.flatten() + len(names))
        names += [f"{name}, {part}" for part in PARTS]
    images, labels = torch.cat(tiles), torch.cat(labels)
    parts = split_indices(labels, (0.15, 0.35))
    splits = [ArrayImages(images[i], labels[i]) for i in parts]
    identity = fingerprint(names, hashlib.sha256(images.numpy().tobytes()).hexdigest(), [p.tolist() for p in parts])
    return Task("tiles", *splits, class_names=tuple(names), image_size=(SIDE, SIDE), fingerprint=identity)
