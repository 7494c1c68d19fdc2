"""Tiny-ImageNet: 200 classes of small photographs, the course's upstream data for natural images.

100,000 training images of 64x64 pixels in the official layout (`train/WNID/images`, `val/val_annotations.txt`). Three
nested sizes play the roles of BiT-S, -M and -L. The official validation images serve as the test split, because the
labels of the official test images were never published.
"""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

import torch
from tqdm import tqdm

from ..download import download, one_at_a_time
from ..files import UserError, cache_dir
from .packed import Listing, load_packed, pack
from .task import Task, fingerprint

URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
MD5 = "90528d7ca1a48142e341f4ef8d21d0de"
SIDE = 64
VAL_PER_CLASS = 10  # set aside from the training images
SHARES = {"s": 0.05, "m": 0.3, "l": 1.0}  # of the remaining training images of every class


def load_tiny_imagenet(name: str = "tiny-imagenet") -> Task:
    """ "tiny-imagenet" (the same as "tiny-imagenet-l"), "tiny-imagenet-m" or "tiny-imagenet-s".

    Of the 500 training images per class, 10 are set aside for validation. The training split consists of the others ("l"), or
    of the first 30 % ("m") or 5 % ("s") of them in a fixed random order. Reads the `data` folder of the cache, and raises
    UserError if the images cannot be prepared; see `prepare_tiny_imagenet`.
    """
    everything, test, names = load_packed(prepare_tiny_imagenet())
    share = SHARES[name.removeprefix("tiny-imagenet").removeprefix("-") or "l"]
    generator, train, val = torch.Generator().manual_seed(0), [], []
    for label in range(len(names)):
        members = (everything.labels == label).nonzero()[:, 0]
        members = members[torch.randperm(len(members), generator=generator)]
        held = min(VAL_PER_CLASS, len(members) // 3)
        val.append(members[:held])
        train.append(members[held:][: max(1, round(share * (len(members) - held)))])
    splits = [everything.subset(torch.cat(part).sort().values) for part in (train, val)]
    identity = fingerprint("tiny-imagenet", names, *(s.digest() for s in (*splits, test)))
    return Task(name, *splits, test, names, (SIDE, SIDE), fingerprint=identity)


def prepare_tiny_imagenet(folder: Path | None = None) -> Path:
    """Decode all images into one file in the cache, unless it is already there; returns its path.

    folder: an existing `tiny-imagenet-200`; None looks in the `data` folder of the cache for one, then for the official
    archive, and downloads that if needed. Raises UserError if anything is missing or damaged.
    """
    home = cache_dir() / "data"
    packed = home / "tiny-imagenet.npz"
    if packed.exists():
        return packed
    with one_at_a_time("tiny-imagenet"):
        if not packed.exists():  # another process was faster
            if folder is None and (home / "tiny-imagenet-200").is_dir():
                folder = home / "tiny-imagenet-200"
            if folder is None:
                folder = _unpack(download(URL, home / "tiny-imagenet-200.zip"))
            pack(packed, *_listing(Path(folder)), SIDE)
    return packed


def _unpack(archive: Path) -> Path:
    """Verify the official archive and extract it next to itself; returns the folder."""
    with open(archive, "rb") as file:
        found = hashlib.file_digest(file, "md5").hexdigest()
    if found != MD5:
        raise UserError(f"{archive} has the MD5 {found}, the official archive has {MD5}; delete it and download it again")
    with zipfile.ZipFile(archive) as file:
        # test/ has no labels. Extraction refuses paths outside the folder.
        wanted = [n for n in file.namelist() if not n.startswith("tiny-imagenet-200/test/")]
        file.extractall(archive.parent, tqdm(wanted, "unpacking", leave=False, mininterval=1))
    return archive.parent / "tiny-imagenet-200"


def _listing(root: Path) -> tuple[Listing, Listing, list[str]]:
    """(training images, official validation images, class names)."""

    def lines(name: str) -> list[str]:
        try:
            return (root / name).read_text("utf8").splitlines()
        except OSError:
            raise UserError(f"{root} is not Tiny-ImageNet in its official layout: {name} is missing") from None

    ids = sorted(filter(None, map(str.strip, lines("wnids.txt"))))
    words = dict(line.split("\t", 1) for line in lines("words.txt") if "\t" in line)
    label_of = {wnid: label for label, wnid in enumerate(ids)}
    annotated = [line.split("\t") for line in lines("val/val_annotations.txt") if "\t" in line]
    test = sorted((root / "val" / "images" / row[0], label_of[row[1]]) for row in annotated)
    train = []
    for wnid in ids:
        found = sorted((root / "train" / wnid / "images").glob("*.JPEG"))
        if not found:
            raise UserError(f"{root / 'train' / wnid / 'images'} holds no images; download Tiny-ImageNet again")
        train += [(image, label_of[wnid]) for image in found]
    return train, test, [words.get(wnid, wnid).split(",")[0].strip() for wnid in ids]
