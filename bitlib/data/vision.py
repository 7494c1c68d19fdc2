"""The data sets of the paper's benchmark that torchvision provides: CIFAR-10/100, Flowers-102, Oxford-IIIT Pet.

torchvision downloads and verifies them (MD5 of every archive). Test splits are the published ones; for data sets without a
validation split, a sixth of the training images is set aside.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from ..download import one_at_a_time
from ..files import UserError, cache_dir
from .folder import FileImages, class_folders
from .packed import load_packed, pack_folder
from .task import ArrayImages, Images, Task, fingerprint, split_indices

VAL_FRACTION = 1 / 6


def _fetch(make: Callable, what: str, root: Path, **kwargs):
    """A torchvision data set, downloaded if needed, by one process at a time. On failure, UserError says what to put where."""
    try:
        # Look for it under the lock too: torchvision takes an archive half unpacked by another process for complete.
        with one_at_a_time(make.__name__):
            try:
                return make(root, download=False, **kwargs)
            except RuntimeError:  # missing or incomplete
                root.mkdir(parents=True, exist_ok=True)
                return make(root, download=True, **kwargs)
    except (OSError, RuntimeError) as error:
        wrong = f"{what} is not in {root} and cannot be downloaded ({error})"
        call = f"torchvision.datasets.{make.__name__}({str(root)!r}, download=True)"
        raise UserError(f"{wrong}; on a machine with a network run {call} and copy that folder here") from None


def _without_val(train: Images) -> tuple[Images, Images]:
    """(train, val), with a sixth of the images set aside for val."""
    train_part, val_part, test_part = split_indices(train.labels, (VAL_FRACTION, 0.0))
    # `split_indices` puts at least one image of every class into test; there is a published test split, so they go back.
    return train.subset(torch.cat([train_part, test_part]).sort().values), train.subset(val_part)


def _cifar(name: str, root: Path) -> Task:
    from torchvision import datasets

    if (packed := root / f"{name}.npz").exists():  # made by prepare_cifar
        train, test, names = load_packed(packed)
    else:
        make = datasets.CIFAR10 if name == "cifar10" else datasets.CIFAR100
        parts = [_fetch(make, name, root, train=train) for train in (True, False)]
        pixels = [torch.from_numpy(p.data).permute(0, 3, 1, 2).contiguous() for p in parts]
        train, test = (ArrayImages(x, torch.tensor(p.targets)) for x, p in zip(pixels, parts))
        names = tuple(parts[0].classes)
    train, val = _without_val(train)
    identity = fingerprint(name, names, *(s.digest() for s in (train, val, test)))
    return Task(name, train, val, test, names, (32, 32), fingerprint=identity)


def cifar10_test() -> ArrayImages:
    """The test images of CIFAR-10 as published, from torchvision, which verifies them; never a copy that somebody packed."""
    from torchvision import datasets

    found = _fetch(datasets.CIFAR10, "cifar10", cache_dir() / "data", train=False)
    return ArrayImages(torch.from_numpy(found.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(found.targets))


def prepare_cifar(name: str, folder: Path | None = None) -> None:
    """Put "cifar10" or "cifar100" into the cache: from torchvision, or from a folder with train/CLASS and test/CLASS.

    Raises UserError if that fails, or if the folder has a different number of classes.
    """
    root = cache_dir() / "data"
    if folder is not None:
        train, wanted = Path(folder) / "train", int(name.removeprefix("cifar"))
        found = len(class_folders(train)) if train.is_dir() else 0
        if found != wanted:
            raise UserError(f"{folder} holds {found} classes in train, {name} has {wanted}")
        pack_folder(root / f"{name}.npz", Path(folder), 32)
    _cifar(name, root)


def _files(paths: list, labels: list | Tensor) -> FileImages:
    return FileImages([Path(p) for p in paths], torch.as_tensor(labels).long())


def _flowers(name: str, root: Path) -> Task:
    from torchvision import datasets

    sets = [_fetch(datasets.Flowers102, name, root, split=s) for s in ("train", "val", "test")]
    splits = [_files(d._image_files, d._labels) for d in sets]
    names = tuple(getattr(sets[0], "classes", None) or (f"flower {i + 1}" for i in range(102)))
    return _file_task(name, splits, names)


def _pets(name: str, root: Path) -> Task:
    from torchvision import datasets

    kinds = "binary-category" if name == "cats-vs-dogs" else "category"
    sets = [_fetch(datasets.OxfordIIITPet, name, root, split=s, target_types=kinds) for s in ("trainval", "test")]
    labels = [d._bin_labels if name == "cats-vs-dogs" else d._labels for d in sets]
    train, test = (_files(d._images, y) for d, y in zip(sets, labels))
    train, val = _without_val(train)
    names = ("cat", "dog") if name == "cats-vs-dogs" else tuple(sets[0].classes)
    return _file_task(name, [train, val, test], names)


def _file_task(name: str, splits: list[FileImages], names: tuple[str, ...]) -> Task:
    marks = [(p.name, p.stat().st_size, int(y)) for s in splits for p, y in zip(s.paths, s.labels)]
    return Task(name, *splits, class_names=names, image_size=(500, 500), fingerprint=fingerprint(name, names, marks))


VISION_TASKS: dict[str, Callable[[str, Path], Task]] = dict.fromkeys(("cifar10", "cifar100"), _cifar)
VISION_TASKS |= {"flowers102": _flowers, "pets": _pets, "cats-vs-dogs": _pets}


def load_vision(name: str) -> Task:
    """One of VISION_TASKS, from the `data` folder of the cache. Raises UserError if it can neither be found nor downloaded."""
    return VISION_TASKS[name](name, cache_dir() / "data")
