"""Tiny-ImageNet: 200 classes of small photographs, the course's upstream data for natural pictures.

100,000 training pictures of 64x64 pixels in the official layout (`train/WNID/images`, `val/val_annotations.txt`). Three
nested sizes play the part of BiT-S, -M and -L. The official validation pictures are the test split here, because the
official test labels were never published.
"""
from __future__ import annotations

import hashlib
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from ..download import download
from ..files import UserError, atomic_path, cache_dir
from .folder import read_image
from .task import ArrayImages, Task, fingerprint

URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
MD5 = "90528d7ca1a48142e341f4ef8d21d0de"
SIDE = 64
VAL_PER_CLASS = 10  # set aside from the training pictures
SHARES = {"s": 0.05, "m": 0.3, "l": 1.0}  # of the other training pictures of every class


def load_tiny_imagenet(name: str = "tiny-imagenet") -> Task:
    """"tiny-imagenet" (the same as "tiny-imagenet-l"), "tiny-imagenet-m" or "tiny-imagenet-s".

    Of the 500 training pictures of a class, 10 are the validation split and the rest, or the first 30 % or 5 % of them in
    one fixed order, train. Reads the folder `data` of the cache; what is not there is prepared by `prepare`.
    """
    packed = prepare()
    try:
        with np.load(packed, allow_pickle=False) as file:
            images, labels = torch.from_numpy(file["train_images"]), torch.from_numpy(file["train_labels"])
            test = ArrayImages(torch.from_numpy(file["test_images"]), torch.from_numpy(file["test_labels"]))
            names = tuple(str(n) for n in file["class_names"])
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        raise UserError(f"{packed} is damaged; delete it, and it will be made again") from None
    share = SHARES[name.removeprefix("tiny-imagenet").removeprefix("-") or "l"]
    generator, train, val = torch.Generator().manual_seed(0), [], []
    for label in range(len(names)):
        members = (labels == label).nonzero()[:, 0]
        members = members[torch.randperm(len(members), generator=generator)]
        held = min(VAL_PER_CLASS, len(members) // 3)
        val.append(members[:held])
        train.append(members[held:][:max(1, round(share * (len(members) - held)))])
    splits = [ArrayImages(images[chosen], labels[chosen])
              for chosen in (torch.cat(part).sort().values for part in (train, val))]
    mark = fingerprint("tiny-imagenet", names, *(s.digest() for s in (*splits, test)))
    return Task(name, *splits, test, names, (SIDE, SIDE), fingerprint=mark)


def prepare(folder: Path | None = None) -> Path:
    """Decode all pictures into one file in the cache, unless it is there; returns its path.

    folder: an existing `tiny-imagenet-200`; None looks for one in `data` of the cache, then for the official archive
    there, and downloads that if need be. Raises UserError where a part is missing or damaged.
    """
    home = cache_dir() / "data"
    packed = home / "tiny-imagenet.npz"
    if packed.exists():
        return packed
    if folder is None and (home / "tiny-imagenet-200").is_dir():
        folder = home / "tiny-imagenet-200"
    if folder is None:
        folder = _unpack(download(URL, home / "tiny-imagenet-200.zip"))
    train, test, names = _listing(Path(folder))
    arrays = {"class_names": np.array(names)}
    for split, entries in {"train": train, "test": test}.items():
        arrays[f"{split}_images"] = _decode([path for path, _ in entries], split)
        arrays[f"{split}_labels"] = np.array([label for _, label in entries])
    with atomic_path(packed) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)
    return packed


def _unpack(archive: Path) -> Path:
    """The official archive, verified and extracted beside itself."""
    with open(archive, "rb") as file:
        found = hashlib.file_digest(file, "md5").hexdigest()
    if found != MD5:
        raise UserError(f"{archive} has the MD5 {found}, the official archive has {MD5}; delete it and get it again")
    with zipfile.ZipFile(archive) as file:
        # test/ has no labels. Extraction refuses paths that lead out of the folder.
        wanted = [n for n in file.namelist() if not n.startswith("tiny-imagenet-200/test/")]
        file.extractall(archive.parent, tqdm(wanted, "unpacking", leave=False))
    return archive.parent / "tiny-imagenet-200"


def _listing(root: Path) -> tuple[list, list, list[str]]:
    """(training entries, official validation entries, class names); an entry is (path, label)."""
    def lines(name: str) -> list[str]:
        try:
            return (root / name).read_text("utf8").split("\n")
        except OSError:
            raise UserError(f"{root} is not Tiny-ImageNet in its official layout: {name} is missing") from None

    ids = sorted(filter(None, map(str.strip, lines("wnids.txt"))))
    words = dict(line.split("\t", 1) for line in lines("words.txt") if "\t" in line)
    label_of = {wnid: label for label, wnid in enumerate(ids)}
    train = [(path, label_of[wnid]) for wnid in ids for path in sorted((root / "train" / wnid / "images").glob("*.JPEG"))]
    annotated = [line.split("\t") for line in lines("val/val_annotations.txt") if "\t" in line]
    test = sorted((root / "val" / "images" / row[0], label_of[row[1]]) for row in annotated)
    for wnid, count in zip(ids, np.bincount([label for _, label in train], minlength=len(ids))):
        if not count:
            raise UserError(f"{root / 'train' / wnid / 'images'} holds no pictures; get Tiny-ImageNet again")
    return train, test, [words.get(wnid, wnid).split(",")[0].strip() for wnid in ids]


def _decode(paths: list[Path], split: str) -> np.ndarray:
    """uint8 [N, 3, 64, 64]."""
    images = np.empty((len(paths), 3, SIDE, SIDE), np.uint8)
    with ThreadPoolExecutor() as pool:
        decoded = pool.map(lambda path: read_image(path, SIDE), paths)
        for i, picture in enumerate(tqdm(decoded, f"reading {split} pictures", len(paths), leave=False, delay=1)):
            images[i] = picture.numpy()
    return images
