"""Tasks: where images and labels come from, and how batches are augmented. Knows nothing about models."""

from __future__ import annotations

import difflib
from pathlib import Path

from ..files import UserError
from .augment import Augmentation, resize, to_input
from .digits import load_digits
from .folder import class_folders, load_folder, read_image
from .glyphs import HELD_OUT_SCRIPTS, SCALES, load_glyphs
from .suite import SUITE, load_suite
from .task import ArrayImages, Images, Task
from .tiles import load_tiles
from .tiny_imagenet import SHARES, load_tiny_imagenet
from .vision import VISION_TASKS, load_vision

TINY_IMAGENET_TASKS = ("tiny-imagenet", *(f"tiny-imagenet-{x}" for x in SHARES))
GLYPH_TASKS = ("glyphs", *(f"glyphs-{x}" for x in (*SCALES, *map(str.lower, HELD_OUT_SCRIPTS))))
LOADERS = {"digits": lambda _: load_digits(), "tiles": lambda _: load_tiles(), **dict.fromkeys(GLYPH_TASKS, load_glyphs)}
LOADERS |= dict.fromkeys(TINY_IMAGENET_TASKS, load_tiny_imagenet) | dict.fromkeys(VISION_TASKS, load_vision)
LOADERS |= dict.fromkeys(SUITE, load_suite)


def list_tasks() -> list[str]:
    """The task names that `load_task` accepts, besides folders."""
    return [*LOADERS]


def load_task(name: str, shots: int | None = None, seed: int = 0, skip_bad: bool = False) -> Task:
    """Load a task by name ("digits", "glyphs", "cifar10", ...), or from a folder, given by its path or as "folder:PATH".

    shots: keep only this many training images per class, chosen at random by `seed`. skip_bad: skip unreadable files in a
    folder. Raises UserError for an unknown name, or for data that are missing, damaged or too few.
    """
    if name in LOADERS:
        task = LOADERS[name](name)
    elif (folder := Path(name.removeprefix("folder:"))).is_dir():
        task = load_folder(folder, skip_bad)
    else:
        raise UserError(_unknown(name))
    return task if shots is None else task.few_shot(shots, seed)


def _unknown(name: str) -> str:
    """The error message for a name that is neither a task nor a folder; suggests the closest of both."""
    folder = Path(name.removeprefix("folder:"))
    if folder.exists() or name.startswith("folder:") or "/" in name or "\\" in name:
        wrong = f"{folder} is not a folder"
    else:
        wrong = f"there is no folder and no task {name!r}"
    beside = [p.name for p in class_folders(folder.parent)] if folder.parent.is_dir() else []
    close = difflib.get_close_matches(folder.name, list_tasks(), 1) or [
        str(folder.parent / found) for found in difflib.get_close_matches(folder.name, beside, 1)
    ]
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{wrong}; {hint}DATA is a folder with one sub-folder per class, or a task: {', '.join(list_tasks())}"


__all__ = ["ArrayImages", "Augmentation", "Images", "Task", "list_tasks", "load_task", "read_image", "resize", "to_input"]
