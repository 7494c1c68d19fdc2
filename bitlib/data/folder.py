"""A folder of class folders, read with Pillow: DATA/class/picture.jpg, or DATA/{train,val,test}/class/picture.jpg."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ..files import UserError
from .task import ArrayImages, Task, fingerprint, split_indices

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp"}
MEMORY_BUDGET = 4 << 30  # bytes of decoded pictures that are kept; above it they are decoded when they are needed
MIN_PER_CLASS = 3  # one each for train, val and test


def read_image(path: Path, side: int | None = None) -> Tensor:
    """One picture as uint8 [3, H, W] or, resized, [3, side, side]; RGB, upright, transparent parts on white.

    Raises UserError that names the file where it is not a readable picture.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as picture:
            picture = ImageOps.exif_transpose(picture)
            if picture.mode in ("P", "LA", "RGBA", "PA"):
                picture = picture.convert("RGBA")
                picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
            picture = picture.convert("RGB")
            if side is not None:
                picture = picture.resize((side, side), Image.Resampling.BILINEAR)  # antialiased in Pillow
            return torch.from_numpy(np.array(picture)).permute(2, 0, 1).contiguous()
    # Pillow's decoders raise SyntaxError for some broken PNGs, and ValueError, struct.error and others elsewhere.
    except Exception as error:
        reason = str(error).replace(str(path), "").strip(" '") or type(error).__name__
        raise UserError(f"{path} is not a readable image ({reason}); remove it or pass --skip-bad") from None


class FileImages:
    """Pictures in files. `prepare` decodes each once, all in memory where they fit in MEMORY_BUDGET."""

    resident = False

    def __init__(self, paths: list[Path], labels: Tensor, side: int | None = None):
        self.paths, self.labels, self.side = paths, labels, side

    def __len__(self) -> int:
        return len(self.paths)

    def subset(self, indices: Tensor) -> FileImages:
        return FileImages([self.paths[i] for i in indices.tolist()], self.labels[indices], self.side)

    def prepare(self, side: int, device: torch.device | str) -> ArrayImages | FileImages:
        fits = 3 * side * side * len(self) <= MEMORY_BUDGET
        images = torch.empty((len(self), 3, side, side) if fits else (0,), dtype=torch.uint8)
        with ThreadPoolExecutor() as pool:
            decoded = pool.map(lambda path: read_image(path, side), self.paths)
            for i, picture in enumerate(tqdm(decoded, "reading pictures", len(self), leave=False, delay=1)):
                if fits:
                    images[i] = picture
        return ArrayImages(images.to(device), self.labels) if fits else FileImages(self.paths, self.labels, side)

    def draw(self, count: int, generator: torch.Generator) -> None:
        return None

    def batch(self, indices: Tensor, draws: Tensor | None = None) -> Tensor:
        if self.side is None:
            raise ValueError("pictures from files have no common size; call prepare(side, device) first")
        with ThreadPoolExecutor() as pool:
            return torch.stack(list(pool.map(lambda i: read_image(self.paths[i], self.side), indices.tolist())))


def list_images(folder: Path) -> list[Path]:
    """Picture files anywhere under `folder`, sorted; hidden files and folders are passed over."""
    return sorted(
        p
        for p in folder.rglob("*")
        if p.suffix.lower() in SUFFIXES
        and p.is_file()
        and not any(part.startswith(".") for part in p.relative_to(folder).parts)
    )


def class_folders(folder: Path) -> list[Path]:
    """Sub-folders, sorted; hidden ones are passed over."""
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _read_split(folder: Path, names: list[str]) -> tuple[list[Path], Tensor]:
    paths, labels = [], []
    for label, name in enumerate(names):
        found = list_images(folder / name)
        if not found:
            raise UserError(
                f"{folder / name} holds no pictures ({', '.join(sorted(SUFFIXES))}); add some, or remove the folder"
            )
        paths += found
        labels += [label] * len(found)
    return paths, torch.tensor(labels)


def load_folder(path: str | Path, skip_bad: bool = False) -> Task:
    """The task that a folder holds; its class folders are the classes, in alphabetical order.

    Either DATA/train, DATA/val and DATA/test with the same classes in each (val may be missing: a sixth of train is
    then set aside), or class folders right in DATA, of which 15 % each go to validation and test, stratified and
    always the same way. skip_bad: leave unreadable pictures out instead of stopping; costs a decoding of all of them.
    Raises UserError for a missing folder, fewer than two classes, or a class with no or too few pictures.
    """
    root = Path(path)
    if not root.is_dir():
        raise UserError(f"{root} is not a folder; DATA is a folder with one sub-folder a class, or the name of a task")
    ready_split = (root / "train").is_dir() and (root / "test").is_dir()
    base = root / "train" if ready_split else root
    names = [p.name for p in class_folders(base)]
    if len(names) < 2:
        raise UserError(
            f"{base} holds {len(names)} class folder{'s' * (len(names) != 1)}; "
            "classification takes two or more, each with its pictures inside"
        )

    def read(folder: Path) -> FileImages:
        paths, labels = _read_split(folder, names)
        if skip_bad:
            good = [i for i, p in enumerate(tqdm(paths, "checking pictures", leave=False, delay=1)) if _readable(p)]
            paths, labels = [paths[i] for i in good], labels[good]
            for label, name in enumerate(names):
                if not (labels == label).any():
                    raise UserError(f"{folder / name} holds no readable pictures; add some, or remove the folder")
        return FileImages(paths, labels)

    def need(images: FileImages, minimum: int, why: str) -> None:
        for label, count in enumerate(torch.bincount(images.labels, minlength=len(names)).tolist()):
            if count < minimum:
                raise UserError(f"{base / names[label]} holds {count} picture{'s' * (count != 1)}; {why}")

    if ready_split:
        for split in ("val", "test"):
            there = [p.name for p in class_folders(root / split)] if (root / split).is_dir() else names
            if there != names:
                odd = sorted(set(there) ^ set(names))[0]
                raise UserError(f"{root / split} and {base} do not hold the same classes ({odd!r} is in only one)")
        train, test = read(base), read(root / "test")
        if (root / "val").is_dir():
            val = read(root / "val")
        else:
            need(train, 2, "without a val folder each class needs 2 or more in train")
            kept, held, rest = split_indices(train.labels, (1 / 6, 0.0))
            # split_indices keeps at least one for a third part; here that one stays in train.
            train, val = train.subset(torch.cat([kept, rest]).sort().values), train.subset(held)
    else:
        everything = read(root)
        need(everything, MIN_PER_CLASS, f"each class needs {MIN_PER_CLASS} or more (train, validation, test)")
        train, val, test = (everything.subset(i) for i in split_indices(everything.labels, (0.15, 0.15)))
    marks = [(str(p.relative_to(root)), p.stat().st_size) for s in (train, val, test) for p in s.paths]
    return Task(
        f"folder:{root.name}",
        train,
        val,
        test,
        tuple(names),
        _usual_size(train.paths),
        fingerprint=fingerprint(names, [len(s) for s in (train, val, test)], marks),
    )


def _readable(path: Path) -> bool:
    try:
        read_image(path, 8)
    except UserError as error:
        tqdm.write(f"left out: {error}")
        return False
    return True


def _usual_size(paths: list[Path], sample: int = 101) -> tuple[int, int]:
    """Median (height, width) of up to `sample` pictures spread over the list, read from their headers."""
    from PIL import Image

    sizes = []
    for path in paths[:: max(1, len(paths) // sample)]:
        try:
            with Image.open(path) as picture:
                sizes.append(picture.size)
        except Exception:  # noqa: S112 - a broken picture is reported, by name, where it is decoded
            continue
    if not sizes:
        read_image(paths[0])  # raises, naming it
    return int(median(h for _, h in sizes)), int(median(w for w, _ in sizes))
