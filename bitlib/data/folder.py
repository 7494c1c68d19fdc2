"""Image files, read with Pillow, and folders of them: DATA/class/image.jpg, or DATA/{train,val,test}/class/image.jpg."""

from __future__ import annotations

import os
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from itertools import chain
from pathlib import Path
from statistics import median

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ..distributed import is_main
from ..files import UserError
from .split import digest, own_contents, place
from .task import ArrayImages, Task, fingerprint

SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp"}
PLUGIN_SUFFIXES = {".heic", ".heif", ".avif"}  # read only if Pillow has a plugin for them
VAL_NAMES = ("val", "valid", "validation", "dev")
SHARES = (0.15, 0.15)  # of every class, for test and validation
MEMORY_BUDGET = 4 << 30  # bytes of decoded images to keep in memory; a larger split is decoded on demand
CHECK_SIDE = 8
DRAFT = 2  # decode a JPEG at 1/2, 1/4 or 1/8 of its size while that is this many times `side`; see results/decoding.json

# Pillow's warnings (odd metadata, large images) do not name the file; our errors about unreadable files do.
warnings.filterwarnings("ignore", module=r"PIL\.")


def read_image(path: Path, side: int | None = None) -> Tensor:
    """One image as uint8 [3, H, W], or resized to [3, side, side]: RGB, upright, transparent parts on white.

    Greys of more than 8 bits are scaled to 0..255: 16-bit values are divided by 257; 32-bit integers and floats are kept if
    all lie in 0..255 (floats in 0..1 are multiplied by 255), divided by 257 if all lie in 0..65535, and otherwise stretched
    from their minimum to their maximum. A JPEG much larger than `side` is decoded at a fraction of its size. Raises
    UserError, naming the file, if it is not a readable image or would take too much memory to decode.
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(path) as image:
            if side is not None:
                image.draft("RGB", (DRAFT * side, DRAFT * side))
            if Image.MAX_IMAGE_PIXELS and image.width * image.height > Image.MAX_IMAGE_PIXELS:
                limit = f"{Image.MAX_IMAGE_PIXELS / 1e6:.0f} million"
                raise ValueError(f"{image.width} x {image.height} pixels, more than the {limit} that are safe to decode")
            image = ImageOps.exif_transpose(image)
            if image.mode in ("P", "LA", "RGBA", "PA"):
                image = image.convert("RGBA")
                image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
            elif image.mode in ("I", "F") or image.mode.startswith("I;16"):
                image = Image.fromarray(_to_8_bits(np.asarray(image), image.mode))
            image = image.convert("RGB")
            if side is not None:
                image = image.resize((side, side), Image.Resampling.BILINEAR)  # antialiased in Pillow
            return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
    # Pillow's decoders raise SyntaxError for some broken PNGs, and ValueError, struct.error and others elsewhere.
    except Exception as error:
        reason = getattr(error, "strerror", None) or str(error).replace(str(path), "").strip(" '")
        raise UserError(f"{path} is not a readable image ({' '.join(reason.split()) or type(error).__name__})") from None


def _to_8_bits(values: np.ndarray, mode: str) -> np.ndarray:
    if not np.isfinite(values).all():
        raise ValueError("it has NaN or infinite values")
    low, high = float(values.min()), float(values.max())
    offset, span = 0.0, 65535.0
    if not mode.startswith("I;16"):
        if low < 0 or high > 65535:
            offset, span = low, high - low or 1.0
        elif high <= 255:
            span = 1.0 if mode == "F" and high <= 1 else 255.0
    levels = np.empty(values.shape, np.uint8)
    for row in range(0, len(values), 256):  # a strip at a time, because doubles take a lot of memory
        strip = slice(row, row + 256)
        levels[strip] = np.rint((values[strip].astype(np.float64) - offset) * 255 / span)
    return levels


def decode(paths: Sequence[Path], side: int, what: str = "", advice: str = "") -> Tensor:
    """Decode files to uint8 [N, 3, side, side], in several threads. what: title of the progress bar; "" shows none.

    Raises UserError, which names the first unreadable file, counts the others and ends with `advice`.
    """
    images = torch.empty((len(paths), 3, side, side), dtype=torch.uint8)

    def one(i: int) -> None:
        images[i] = read_image(paths[i], side)

    _all_or_first_error(_attempt(one, range(len(paths)), what), advice)
    return images


# One pool for the whole process, shared by readers in several threads.
_THREADS = ThreadPoolExecutor(thread_name_prefix="decode")


def _attempt(function: Callable, items: Sequence, what: str) -> list:
    """function(item) for all items, in several threads; where it raised a UserError, that error."""

    def one(item) -> object:
        try:
            return function(item)
        except UserError as error:
            return error

    results = []
    with tqdm(total=len(items), desc=what, leave=False, delay=1, mininterval=1, disable=not what or not is_main()) as bar:
        for start in range(0, len(items), 4096):  # a million futures at once would fill the memory
            for result in _THREADS.map(one, items[start : start + 4096]):
                results.append(result)
                bar.update()
    return results


def _all_or_first_error(results: list, advice: str) -> list:
    if bad := [r for r in results if isinstance(r, UserError)]:
        raise UserError(f"{bad[0]}{f' and {len(bad) - 1} more' * (len(bad) > 1)}{advice}")
    return results


def _check(paths: list[Path]) -> list[UserError | None]:
    """For each file, the error if it is unreadable, else None. Fast, because it decodes to a small size."""

    def one(path: Path) -> None:
        read_image(path, CHECK_SIDE)

    return _attempt(one, paths, "checking images")


def _warn(text: str) -> None:
    if is_main():
        tqdm.write(text, file=sys.stderr)


class FileImages:
    """Images in files. `prepare` decodes them into memory if they fit in MEMORY_BUDGET; otherwise `batch` decodes on demand.

    paths, labels (int64 [N]): one per image. side: side in pixels of the images that `batch` returns. advice: the end of the
    error message for an unreadable file.
    """

    resident = False

    def __init__(self, paths: list[Path], labels: Tensor, side: int | None = None, advice: str = ""):
        self.paths, self.labels, self.side, self.advice = paths, labels, side, advice
        self.checked = False  # whether all files are known to be readable
        self._digests: list[str] | None = None

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def digests(self) -> list[str]:
        """A short hash of every file, computed on first use. Raises UserError if a file cannot be read."""
        if self._digests is None:
            self._digests = _all_or_first_error(_attempt(digest, self.paths, "hashing images"), self.advice)
        return self._digests

    def subset(self, indices: Tensor) -> FileImages:
        part, chosen = copy(self), indices.tolist()
        part.paths, part.labels = [self.paths[i] for i in chosen], self.labels[indices]
        part._digests = self._digests and [self._digests[i] for i in chosen]
        return part

    def check(self) -> FileImages:
        """Check once, fast, that all files can be decoded. Raises UserError, naming the first unreadable file."""
        if not self.checked:
            _all_or_first_error(_check(self.paths), self.advice)
            self.checked = True
        return self

    def readable(self) -> FileImages:
        """The images that can be read; prints the others to stderr."""
        errors = _check(self.paths)
        for error in filter(None, errors):
            _warn(f"left out: {error}")
        good = self.subset(torch.tensor([i for i, error in enumerate(errors) if not error], dtype=torch.long))
        good.checked = True
        return good

    def prepare(self, side: int, device: torch.device | str) -> ArrayImages | FileImages:
        if 3 * side * side * len(self) <= MEMORY_BUDGET:
            return ArrayImages(decode(self.paths, side, "reading images", self.advice).to(device), self.labels)
        prepared = copy(self.check())
        prepared.side = side
        return prepared

    def draw(self, count: int, generator: torch.Generator) -> None:
        """None: nothing about these images is random."""

    def batch(self, indices: Tensor, draws: None = None) -> Tensor:
        """uint8 [B, 3, side, side] on the CPU; may be called from any thread."""
        if self.side is None:
            raise ValueError("image files differ in size; call prepare(side, device) first")
        return decode([self.paths[i] for i in indices.tolist()], self.side, advice=self.advice)


def list_images(folder: Path) -> list[Path]:
    """Image files anywhere under `folder`, sorted; hidden files and folders are skipped."""
    return [p for p in _files(folder) if _readable(p)]


def _readable(path: Path) -> bool:
    """Whether Pillow and its plugins can read files with this suffix."""
    from PIL import Image

    suffix = path.suffix.lower()
    return suffix in SUFFIXES or (suffix in PLUGIN_SUFFIXES and suffix in Image.registered_extensions())


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and "/." not in f"/{p.relative_to(folder).as_posix()}")


def class_folders(folder: Path) -> list[Path]:
    """Sub-folders, sorted; hidden ones are skipped."""
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _lying_in(folder: Path) -> list[Path]:
    """Images directly in the folder."""
    return sorted(p for p in folder.iterdir() if _readable(p) and p.is_file() and not p.name.startswith("."))


def _split_folders(root: Path) -> dict[str, Path]:
    """{"train": ..., "test": ..., perhaps "val": ...}, or empty if the folder is not split."""
    train, test = root / "train", root / "test"
    val = [root / name for name in VAL_NAMES if (root / name).is_dir()]
    if train.is_dir() and test.is_dir():
        if len(val) > 1:
            raise UserError(f"{val[0]} and {val[1]} are both validation folders; keep one of them")
        return {"train": train, "test": test} | ({"val": val[0]} if val else {})
    there = class_folders(root)
    if there and {p.name for p in there} <= {"train", "test", *VAL_NAMES} and class_folders(there[0]):
        if not train.is_dir():
            advice = f"put the training images into {train}"
        elif val:
            advice = f"rename {val[0].name} to test, and a sixth of train will be used for validation"
        else:
            advice = f"give {train} itself, and it will be split into three"
        names = " and ".join(p.name for p in there)
        raise UserError(f"{root} holds {names}, but no {'test' if train.is_dir() else 'train'}; {advice}")
    return {}


def _meant(root: Path) -> str:
    """ "; did you mean PATH?" if a folder one or two levels away looks like a folder of class folders; else "" """
    here, shown = root.absolute(), (lambda p: p if root.is_absolute() else Path(os.path.relpath(p)))

    def is_split(folder: Path) -> bool:
        return all((folder / s).is_dir() and class_folders(folder / s) for s in ("train", "test"))

    def holds_classes(folder: Path) -> bool:
        return is_split(folder) or sum(bool(_lying_in(p)) for p in class_folders(folder)) > 1

    try:
        above = [(here.parent.parent, is_split), (here.parent, holds_classes)] if _lying_in(root) else []
        children = class_folders(here)
        below = chain(children, (p for child in children for p in class_folders(child)))
        for candidate, fits in chain(above, ((p, holds_classes) for p in below)):
            if fits(candidate):
                return f"; did you mean {shown(candidate)}?"
    except OSError:
        pass  # a folder without read permission
    return ""


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


class _Reader:
    """Reads the class folders of one task. base: the folder with all classes. strays: counts of unread files, by suffix."""

    def __init__(self, base: Path, names: list[str], skip_bad: bool):
        self.base, self.names, self.skip_bad, self.strays = base, names, skip_bad, Counter()

    def __call__(self, folder: Path) -> FileImages:
        paths, labels = [], []
        if beside := _lying_in(folder):
            _warn(f"left out {_count(len(beside), 'image')} beside the class folders in {folder}, such as {beside[0].name}")
        for label, name in enumerate(self.names):
            files = _files(folder / name)
            found = [p for p in files if _readable(p)]
            strays = Counter(p.suffix.lower() for p in files if p.suffix.lower() in PLUGIN_SUFFIXES and not _readable(p))
            self.strays += strays
            if not found:
                todo = f"convert its {_listed(strays)} to JPEG" if strays else "add some, or remove the folder"
                kinds = ", ".join(sorted(SUFFIXES))
                raise UserError(f"{folder / name} holds no images ({kinds}); {todo}{_meant(self.base)}")
            paths += found
            labels += [label] * len(found)
        images = FileImages(paths, torch.tensor(labels), advice="; remove it" + " or pass --skip-bad" * (not self.skip_bad))
        if self.skip_bad:
            images = images.readable()
            for label, name in enumerate(self.names):
                if not (images.labels == label).any():
                    raise UserError(f"{folder / name} holds no readable images; add some, or remove the folder")
        return images

    def need(self, images: FileImages, minimum: int, why: str) -> None:
        """Raise UserError, ending with `why`, unless every class has `minimum` different images that are in no other class."""
        for label, own in own_contents(images.digests, images.labels).items():
            if len(own) < minimum:
                files = int((images.labels == label).sum())
                different = f", {len(own)} of them different and in no other class" if files > len(own) else ""
                raise UserError(f"{self.base / self.names[label]} holds {_count(files, 'image')}{different}; {why}")


def _listed(strays: Counter) -> str:
    return " and ".join(f"{count} {suffix}" for suffix, count in sorted(strays.items())) + " files"


def load_folder(path: str | Path, skip_bad: bool = False) -> Task:
    """Load a folder of images as a task; its class folders are the classes, in alphabetical order.

    The folder holds either DATA/train, DATA/val and DATA/test with the same classes in each, or the class folders themselves.
    val may also be called valid, validation or dev; if it is missing, a sixth of train is set aside. Without a split, 15 % of
    every class go to validation and 15 % to test. An image's content decides its split (`split.place`), so adding or removing
    images does not move others, as long as each class has enough. skip_bad: skip unreadable images instead of stopping, at
    the cost of decoding all of them first. Raises UserError for a missing folder, fewer than two classes, or a class with too
    few images.
    """
    root = Path(path)
    if not root.is_dir():
        raise UserError(f"{root} is not a folder")
    splits = _split_folders(root)
    base = splits.get("train", root)
    names = [p.name for p in class_folders(base)]
    if len(names) < 2:
        wrong = f"{base} holds {_count(len(names), 'class folder')}"
        raise UserError(f"{wrong}; classification needs two or more, each with its images inside{_meant(root)}")
    for folder in splits.values():
        if (there := [p.name for p in class_folders(folder)]) != names:
            extra = sorted(set(there) ^ set(names))[0]
            raise UserError(f"{folder} and {base} do not hold the same classes ({extra!r} is in only one)")

    read = _Reader(base, names, skip_bad)
    if splits:
        train, test = read(splits["train"]), read(splits["test"])
        if "val" in splits:
            val = read(splits["val"])
        else:
            read.need(train, 2, "without a val folder each class needs 2 or more in train")
            val, train = (train.subset(i) for i in place(train.digests, train.labels, (1 / 6,)))
        _warn_of_leaks(train, val, test)
    else:
        everything = read(root)
        read.need(everything, len(SHARES) + 1, f"each class needs {len(SHARES) + 1} or more (train, validation, test)")
        test, val, train = (everything.subset(i) for i in place(everything.digests, everything.labels, SHARES))
    if read.strays:
        _warn(f"left out {_listed(read.strays)} in {root}; convert them to JPEG first")
    _warn_of_two_labels(train, val, test)
    marks = [(s.labels.tolist(), s.digests) for s in (train, val, test)]
    name, size = f"folder:{root.resolve().name}", _usual_size(train)
    return Task(name, train, val, test, tuple(names), size, fingerprint=fingerprint(names, marks))


def _warn_of_leaks(train: FileImages, val: FileImages, test: FileImages) -> None:
    seen = {content: p for s in (val, train) for content, p in zip(s.digests, s.paths)}
    if leaks := [(p, seen[content]) for content, p in zip(test.digests, test.paths) if content in seen]:
        number, (image, twin) = _count(len(leaks), "test image"), leaks[0]
        found = f"{number} can also be found in train or val, such as {image} ({twin})"
        _warn(f"{found}; the test accuracy will be too high")


def _warn_of_two_labels(*splits: FileImages) -> None:
    first, twins = {}, []
    for s in splits:
        for content, p, label in zip(s.digests, s.paths, s.labels.tolist()):
            other, known = first.setdefault(content, (p, label))
            if label != known:
                twins.append((other, p))
    if twins:
        more = f" (and {_count(len(twins) - 1, 'other pair')})" * (len(twins) > 1)
        _warn(f"{twins[0][0]} and {twins[0][1]} are the same image in two classes{more}; remove it from one of them")


def _usual_size(images: FileImages, sample: int = 101) -> tuple[int, int]:
    """Median (height, width), read from the headers of about `sample` images spread over the list."""
    from PIL import Image

    sizes = []
    for path in images.paths[:: max(1, len(images) // sample)]:
        try:
            with Image.open(path) as image:
                sizes.append(image.size)
        except Exception:  # noqa: S112 - a broken image is reported, by name, when it is decoded
            continue
    if not sizes:
        images.check()  # raises, naming the first
    return int(median(h for _, h in sizes)), int(median(w for w, _ in sizes))
