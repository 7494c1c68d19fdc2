"""Data sets of small images, decoded once into a single .npz file in the cache, because they are read many times."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from ..files import UserError, atomic_path
from .folder import class_folders, decode, list_images
from .task import ArrayImages

Listing = list[tuple[Path, int]]  # (image, label) pairs


def pack(path: Path, train: Listing, test: Listing, class_names: list[str], side: int) -> None:
    """Decode both splits, resize the images to `side` x `side` pixels if needed, and write them atomically.

    Raises UserError, naming the file, if an image cannot be read.
    """
    arrays = {"class_names": np.array(class_names)}
    for split, listing in {"train": train, "test": test}.items():
        arrays[f"{split}_images"] = decode([image for image, _ in listing], side, f"reading {split} images").numpy()
        arrays[f"{split}_labels"] = np.array([label for _, label in listing])
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)


def pack_folder(path: Path, folder: Path, side: int) -> None:
    """Pack the images in FOLDER/train/CLASS and FOLDER/test/CLASS. Raises UserError if the folder has another layout."""
    names = [p.name for p in class_folders(folder / "train")] if (folder / "train").is_dir() else []
    listings = []
    for split in ("train", "test"):
        listing = [(image, label) for label, name in enumerate(names) for image in list_images(folder / split / name)]
        if not names or len({label for _, label in listing}) != len(names):
            raise UserError(f"{folder} needs images in {split}/CLASS, for the same classes in train and in test")
        listings.append(listing)
    pack(path, *listings, names, side)


def load_packed(path: Path) -> tuple[ArrayImages, ArrayImages, tuple[str, ...]]:
    """(train, test, class names) from a file written by `pack`. Raises UserError if it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:
            parts = [[torch.from_numpy(file[f"{s}_{kind}"]) for kind in ("images", "labels")] for s in ("train", "test")]
            return *(ArrayImages(*part) for part in parts), tuple(str(name) for name in file["class_names"])
    except Exception as error:  # a damaged archive can fail in zipfile, zlib or NumPy
        raise UserError(f"{path} is damaged ({type(error).__name__}); delete it, and it will be created again") from None
