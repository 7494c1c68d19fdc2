"""Images in files, read with Pillow, and folders of them: DATA/class/image.jpg, or DATA/{train,val,test}/class/image.jpg."""

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
PLUGIN_SUFFIXES = {".heic", ".heif", ".avif"}  # read only where Pillow has a plugin for them
VAL_NAMES = ("val", "valid", "validation", "dev")
SHARES = (0.15, 0.15)  # of every class, for test and val
MEMORY_BUDGET = 4 << 30  # bytes of decoded images that are kept; above it they are decoded when they are needed
CHECK_SIDE = 8
DRAFT = 2  # a JPEG may be decoded at 1/2, 1/4 or 1/8 of its size where that is this many times `side`; results/decoding.json

# Pillow's warnings (odd metadata, large images) name no file; what cannot be read is named in an error instead.
warnings.filterwarnings("ignore", module=r"PIL\.")


def read_image(path: Path, side: int | None = None) -> Tensor:
    """One image as uint8 [3, H, W] or, resized, [3, side, side]; RGB, upright, transparent parts on white.

    Deeper greys become 0 to 255: 16-bit ones are divided by 257; whole numbers and floats of 32 bits stay as they are
    where all lie in 0..255, floats in 0..1 are multiplied by 255, values in 0..65535 are divided by 257, and all others
    are stretched from their minimum to their maximum. A JPEG much larger than `side` is decoded at a fraction of its size.
    Raises UserError that names the file where it is not a readable image, or takes too much memory to decode.
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
    for row in range(0, len(values), 256):  # a strip at a time, because doubles take much memory
        strip = slice(row, row + 256)
        levels[strip] = np.rint((values[strip].astype(np.float64) - offset) * 255 / span)
    return levels


def decode(paths: Sequence[Path], side: int, what: str = "", advice: str = "") -> Tensor:
    """All these files as uint8 [N, 3, side, side], decoded by several threads. what: the title of a progress bar.

    Raises UserError that names the first unreadable one, counts the others and ends with `advice`.
    """
    images = torch.empty((len(paths), 3, side, side), dtype=torch.uint8)

    def one(i: int) -> None:
        images[i] = read_image(paths[i], side)

    _all_or_first_error(_attempt(one, range(len(paths)), what), advice)
    return images


# One for the whole process: readers in several threads share it.
_THREADS = ThreadPoolExecutor(thread_name_prefix="decode")


def _attempt(function: Callable, items: Sequence, what: str) -> list:
    """Call it for all items, in several threads; for each, what it returned or the UserError that it raised."""

    def one(item) -> object:
        try:
            return function(item)
        except UserError as error:
            return error

    results = []
    with tqdm(total=len(items), desc=what, leave=False, delay=1, mininterval=1, disable=not what or not is_main()) as bar:
        for start in range(0, len(items), 4096):  # a future for each of a million files would fill the memory
            for result in _THREADS.map(one, items[start : start + 4096]):
                results.append(result)
                bar.update()
    return results


def _all_or_first_error(results: list, advice: str) -> list:
    if bad := [r for r in results if isinstance(r, UserError)]:
        raise UserError(f"{bad[0]}{f' and {len(bad) - 1} more' * (len(bad) > 1)}{advice}")
    return results


def _check(paths: list[Path]) -> list[UserError | None]:
    """For each file, what is wrong with it; takes little time."""

    def one(path: Path) -> None:
        read_image(path, CHECK_SIDE)

    return _attempt(one, paths, "checking images")


def _warn(text: str) -> None:
    if is_main():
        tqdm.write(text, file=sys.stderr)


class FileImages:
    """Images in files. `prepare` decodes each once into memory where they fit in MEMORY_BUDGET; else `batch` does.

    paths, labels (int64 [N]): one per image. side: of the images of `batch`. advice: what an error about an unreadable
    file ends with.
    """

    resident = False

    def __init__(self, paths: list[Path], labels: Tensor, side: int | None = None, advice: str = ""):
        self.paths, self.labels, self.side, self.advice = paths, labels, side, advice
        self.checked = False  # whether all are known to be readable
        self._digests: list[str] | None = None

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def digests(self) -> list[str]:
        """A short hash of every file, read when first asked for. Raises UserError where a file cannot be read."""
        if self._digests is None:
            self._digests = _all_or_first_error(_attempt(digest, self.paths, "hashing images"), self.advice)
        return self._digests

    def subset(self, indices: Tensor) -> FileImages:
        part, chosen = copy(self), indices.tolist()
        part.paths, part.labels = [self.paths[i] for i in chosen], self.labels[indices]
        part._digests = self._digests and [self._digests[i] for i in chosen]
        return part

    def check(self) -> FileImages:
        """Decode each in little time, unless that was done. Raises UserError that names the first unreadable file."""
        if not self.checked:
            _all_or_first_error(_check(self.paths), self.advice)
            self.checked = True
        return self

    def readable(self) -> FileImages:
        """Those that can be read; names the others on stderr."""
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
        """Nothing about these images is random."""

    def batch(self, indices: Tensor, draws: None = None) -> Tensor:
        """uint8 [B, 3, side, side] on the CPU; may be called from any thread."""
        if self.side is None:
            raise ValueError("images from files have no common size; call prepare(side, device) first")
        return decode([self.paths[i] for i in indices.tolist()], self.side, advice=self.advice)


def list_images(folder: Path) -> list[Path]:
    """Image files anywhere under `folder`, sorted; hidden files and folders are passed over."""
    return [p for p in _files(folder) if _readable(p)]


def _readable(path: Path) -> bool:
    """Whether Pillow, with its plugins, knows the suffix."""
    from PIL import Image

    suffix = path.suffix.lower()
    return suffix in SUFFIXES or (suffix in PLUGIN_SUFFIXES and suffix in Image.registered_extensions())


def _files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and "/." not in f"/{p.relative_to(folder).as_posix()}")


def class_folders(folder: Path) -> list[Path]:
    """Sub-folders, sorted; hidden ones are passed over."""
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _lying_in(folder: Path) -> list[Path]:
    """Images in the folder itself."""
    return sorted(p for p in folder.iterdir() if _readable(p) and p.is_file() and not p.name.startswith("."))


def _split_folders(root: Path) -> dict[str, Path]:
    """{"train": ..., "test": ... and perhaps "val": ...}, or empty where the folder is not split."""
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
            advice = f"rename {val[0].name} to test, and a sixth of train becomes validation"
        else:
            advice = f"give {train} itself, and it is split into three"
        names = " and ".join(p.name for p in there)
        raise UserError(f"{root} holds {names}, but no {'test' if train.is_dir() else 'train'}; {advice}")
    return {}


def _meant(root: Path) -> str:
    """ "; did you mean PATH?" where that lies one or two levels away, and looks like a folder of class folders."""
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
        pass  # a folder that may not be read
    return ""


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


class _Reader:
    """Reads the class folders of one task. base: the folder with all classes. strays: what was not read, by suffix."""

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
        """Each class needs so many different images, which stand in no other class."""
        for label, own in own_contents(images.digests, images.labels).items():
            if len(own) < minimum:
                files = int((images.labels == label).sum())
                odd = f", {len(own)} of them different and in no other class" if files > len(own) else ""
                raise UserError(f"{self.base / self.names[label]} holds {_count(files, 'image')}{odd}; {why}")


def _listed(strays: Counter) -> str:
    return " and ".join(f"{count} {suffix}" for suffix, count in sorted(strays.items())) + " files"


def load_folder(path: str | Path, skip_bad: bool = False) -> Task:
    """The task that a folder holds; its class folders are the classes, in alphabetical order.

    Either DATA/train, DATA/val and DATA/test with the same classes in each (val may be called valid, validation or dev; or
    be missing: a sixth of train is then set aside), or class folders right in DATA, of which 15 % each go to validation and
    test. Content decides where an image goes (`split.place`), so images that are added or removed move no others, as long
    as each class has enough. skip_bad: leave unreadable images out instead of stopping; costs a decoding of all of them.
    Raises UserError for a missing folder, fewer than two classes, or a class with no or too few images.
    """
    root = Path(path)
    if not root.is_dir():
        raise UserError(f"{root} is not a folder")
    splits = _split_folders(root)
    base = splits.get("train", root)
    names = [p.name for p in class_folders(base)]
    if len(names) < 2:
        wrong = f"{base} holds {_count(len(names), 'class folder')}"
        raise UserError(f"{wrong}; classification takes two or more, each with its images inside{_meant(root)}")
    for folder in splits.values():
        if (there := [p.name for p in class_folders(folder)]) != names:
            odd = sorted(set(there) ^ set(names))[0]
            raise UserError(f"{folder} and {base} do not hold the same classes ({odd!r} is in only one)")

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
        found = f"{number} can be found in train or val as well, such as {image} ({twin})"
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
    """Median (height, width) of up to `sample` of them spread over the list, read from their headers."""
    from PIL import Image

    sizes = []
    for path in images.paths[:: max(1, len(images) // sample)]:
        try:
            with Image.open(path) as image:
                sizes.append(image.size)
        except Exception:  # noqa: S112 - a broken image is reported, by name, where it is decoded
            continue
    if not sizes:
        images.check()  # raises, naming one
    return int(median(h for _, h in sizes)), int(median(w for w, _ in sizes))
