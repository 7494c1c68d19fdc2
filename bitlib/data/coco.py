"""Folders in COCO's format: images, and one JSON file with their boxes.

    DATA/annotations.json and DATA/images/, or the path of any such file, for example annotations/instances_train2017.json with
    its images in train2017/

Nothing in the file is trusted: every id, number and name is checked before anything is trained, and an error names the entry.
"""

from __future__ import annotations

import json
import math
import reprlib
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from ..distributed import is_main
from ..files import UserError
from .boxes import Boxed, BoxTask, categories
from .folder import MEMORY_BUDGET, FileImages, read_image
from .scenes import load_scenes
from .split import digest, position
from .task import fingerprint

OVER = 1.0  # pixels by which a box may reach beyond its image; it is cut off there. COCO's own boxes do, from rounding
VAL_SHARE = 1 / 6
GREY = 128  # what fills up a square: the middle of the range of pixels
LEAST = 1.0  # side in pixels, after an image has been resized, below which a box cannot be learnt


class BoxedFiles(Boxed):
    """Image files with their boxes, each brought to a square of `side` pixels: the longer side fits, the rest is grey.

    sizes: (height, width) of the originals; notes: COCO annotations of each image, in pixels of the original, with the position
    of the class as `category_id`. Boxes that mark a crowd are not trained on; COCO's evaluation ignores what is found there.
    """

    def __init__(self, paths: Sequence[Path], sizes: Sequence[tuple[int, int]], notes: Sequence[list[dict]], names, side: int):
        self.paths, self.sizes, self.notes = list(paths), list(sizes), list(notes)
        self.class_names, self.side, self.names = tuple(names), side, [p.name for p in paths]
        self.scales = [side / max(size) for size in sizes]
        self.boxes, self.labels, self.images, self.resident = [], [], None, False
        for mine, scale, (height, width) in zip(self.notes, self.scales, self.sizes):
            plain = [note for note in mine if not note["iscrowd"]]
            boxes = torch.tensor([note["bbox"] for note in plain], dtype=torch.float64).reshape(-1, 4)
            boxes[:, 2:] += boxes[:, :2]
            boxes[:, 0::2].clamp_(0, width)
            boxes[:, 1::2].clamp_(0, height)
            boxes *= scale
            large = (boxes[:, 2:] - boxes[:, :2]).amin(1) >= LEAST
            self.boxes.append(boxes[large].float())
            self.labels.append(torch.tensor([note["category_id"] for note in plain], dtype=torch.long)[large])

    def prepare(self) -> BoxedFiles:
        """Read all images, into memory if they fit there. Raises UserError, naming the file, if one cannot be read."""
        if 3 * self.side**2 * len(self) > MEMORY_BUDGET:
            FileImages(self.paths, torch.zeros(len(self), dtype=torch.long)).check()
            return self
        shown = tqdm(range(len(self)), "reading images", disable=len(self) < 200 or not is_main(), leave=False, unit="image")
        read = [self._read(i) for i in shown]
        self.images = torch.stack(read) if read else torch.zeros(0, 3, self.side, self.side, dtype=torch.uint8)
        self.resident = True
        return self

    def _read(self, i: int) -> Tensor:
        image, (height, width) = read_image(self.paths[i]), self.sizes[i]
        if image.shape[1:] != (height, width):
            found = f"{image.shape[2]} x {image.shape[1]} pixels"
            raise UserError(f"{self.paths[i]} has {found}, but its entry says {width} x {height}; its boxes would be wrong")
        size = [max(1, min(self.side, round(length * self.scales[i]))) for length in (height, width)]
        if size != [height, width]:
            image = F.interpolate(image[None].float(), size, mode="bilinear", antialias=True, align_corners=False)[0]
            image = image.round_().clamp_(0, 255).to(torch.uint8)
        return F.pad(image, (0, self.side - size[1], 0, self.side - size[0]), value=GREY)

    def pixels(self, indices: Tensor) -> Tensor:
        if self.images is not None:
            return self.images[indices]
        return torch.stack([self._read(i) for i in indices.tolist()])

    def subset(self, indices: Tensor) -> BoxedFiles:
        lists = [[values[i] for i in indices.tolist()] for values in (self.paths, self.sizes, self.notes)]
        part = BoxedFiles(*lists, self.class_names, self.side)
        if self.images is not None:
            part.images, part.resident = self.images[indices], True
        return part

    def truth(self) -> dict:
        images = [
            {"id": i, "file_name": name, "height": height, "width": width}
            for i, (name, (height, width)) in enumerate(zip(self.names, self.sizes))
        ]
        notes = [note | {"image_id": i} for i, mine in enumerate(self.notes) for note in mine]
        notes = [note | {"id": number} for number, note in enumerate(notes, 1)]
        return {"images": images, "annotations": notes, "categories": categories(self.class_names)}


def plain_files(paths: Sequence[Path], class_names: Sequence[str], side: int) -> BoxedFiles:
    """Image files without boxes, to find some in. Raises UserError, naming the file, if one cannot be read."""
    sizes = [tuple(read_image(path).shape[1:]) for path in paths]
    return BoxedFiles(paths, sizes, [[] for _ in paths], class_names, side).prepare()


def find_annotations(data: Path) -> tuple[Path, list[Path]]:
    """(annotation file, folders in which its images may lie) for a folder or an annotation file."""
    if data.is_dir():
        file = data / "annotations.json"
        if not file.exists():
            found = sorted(p for p in [*data.glob("*.json"), *data.glob("annotations/*.json")])
            hint = f"; did you mean {found[0]}?" if found else ""
            raise UserError(f"{data} holds no annotations.json{hint}")
        return file, [data / "images", data]
    if not data.exists():
        raise UserError(f"{data} does not exist; DATA is a folder with images/ and annotations.json, or a COCO annotation file")
    split, root = data.stem.removeprefix("instances_"), data.parent
    return data, [root / "images", root.parent / split, root.parent / "images" / split, root.parent / "images", root]


def load_coco(data: str | Path, side: int, folder: str | Path | None = None, skip_bad: bool = False) -> BoxedFiles:
    """A folder or an annotation file in COCO's format, checked, with images of `side` pixels.

    folder: where the images lie, if not beside the file. skip_bad: leave bad boxes and unreadable images out, and say how many,
    instead of stopping at the first. Images without boxes stay: a detector learns from them what is background. Raises
    UserError, naming the entry, for anything missing, of the wrong type, unknown, twice there or out of range.
    """
    file, folders = find_annotations(Path(data))
    content = _parsed(file)
    check = _Checker(file)
    names, places = check.classes(content)
    sizes, files = check.images(content)
    notes, bad = check.boxes(content, sizes, places, skip_bad)
    folders = [Path(folder)] if folder else folders
    paths, kept = [], []
    for key, name in files.items():
        path = next((f / name for f in folders if (f / name).is_file()), None)
        if path is None and not skip_bad:
            raise UserError(f"{file} names the image {name}, which is not in {folders[0]}; add it, or say where with --images")
        if path is not None:
            paths.append(path)
            kept.append(key)
    if not kept:
        raise UserError(f"{file} names no image that is there" if files else f"{file} names no images")
    found = BoxedFiles(paths, [sizes[key] for key in kept], [notes[key] for key in kept], names, side)
    if skip_bad:
        found, unreadable = _readable(found)
        if (count := bad + unreadable + len(files) - len(kept)) and is_main():
            print(f"left out {count} bad box{'es' * (count != 1)} or images of {file}", file=sys.stderr)
    found = found.prepare()
    if not any(map(len, found.boxes)):
        raise UserError(f"{file} holds no usable boxes, so there is nothing to learn")
    return found


def _readable(found: BoxedFiles) -> tuple[BoxedFiles, int]:
    good = []
    for i in range(len(found)):
        try:
            found._read(i)
            good.append(i)
        except UserError:
            continue
    return found.subset(torch.tensor(good, dtype=torch.long)), len(found) - len(good)


def _parsed(file: Path) -> dict:
    try:
        content = json.loads(file.read_text("utf8"))
    except OSError as error:
        raise UserError(f"cannot read {file} ({error.strerror})") from None
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError too
        raise UserError(f"{file} is not JSON ({' '.join(str(error).split())[:120]})") from None
    if not isinstance(content, dict):
        raise UserError(f"{file} holds a {type(content).__name__}; a COCO file is an object of images, annotations, categories")
    for name in ("images", "annotations", "categories"):
        if not isinstance(content.get(name), list) or not all(isinstance(entry, dict) for entry in content[name]):
            raise UserError(f"{file} holds no list of objects called {name!r}; a COCO file has images, annotations, categories")
    return content


def _whole(value) -> bool:
    return type(value) is int


class _Checker:
    """Checks the entries of one annotation file."""

    def __init__(self, file: Path):
        self.file = file

    def need(self, ok: bool, what: str, wrong: str) -> None:
        if not ok:
            raise UserError(f"{self.file}: {what} {wrong}")

    def ids(self, entries: list[dict], what: str) -> None:
        for number, entry in enumerate(entries):
            self.need(_whole(entry.get("id")), f"{what} number {number + 1}", "has no whole number as its id")
        twice = [key for key, count in Counter(entry["id"] for entry in entries).items() if count > 1]
        several = {"category": "categories"}.get(what, f"{what}s")
        self.need(not twice, f"two of its {several}", f"have the id {twice[0] if twice else ''}; ids must differ")

    def classes(self, content: dict) -> tuple[list[str], dict[int, int]]:
        """(names in the order of their ids, {id: position})."""
        entries = content["categories"]
        self.need(bool(entries), "there", "are no categories")
        self.ids(entries, "category")
        entries = sorted(entries, key=lambda entry: entry["id"])
        for entry in entries:
            self.need(isinstance(entry.get("name"), str), f"category {entry['id']}", "has no name")
        return [entry["name"] for entry in entries], {entry["id"]: i for i, entry in enumerate(entries)}

    def images(self, content: dict) -> tuple[dict[int, tuple[int, int]], dict[int, str]]:
        """({id: (height, width)}, {id: file name})."""
        self.ids(content["images"], "image")
        sizes, files = {}, {}
        for entry in content["images"]:
            name, size = entry.get("file_name"), (entry.get("height"), entry.get("width"))
            this = f"image {entry['id']}"
            self.need(isinstance(name, str) and name != "", this, "has no file_name")
            outside = Path(name).is_absolute() or ".." in Path(name).parts
            self.need(not outside, this, f"is called {name!r}, which leads out of the folder")
            self.need(all(_whole(v) and v > 0 for v in size), this, f"has height and width {size}; both must be above 0")
            sizes[entry["id"]], files[entry["id"]] = size, name
        return sizes, files

    def boxes(self, content: dict, sizes: dict, places: dict, skip_bad: bool) -> tuple[dict[int, list[dict]], int]:
        """({image id: its annotations, with positions of classes}, how many bad ones were left out)."""
        notes, bad = {key: [] for key in sizes}, 0
        self.ids(content["annotations"], "annotation")
        for entry in content["annotations"]:
            try:
                self.box(entry, sizes, places)
            except UserError:
                if not skip_bad:
                    raise
                bad += 1
                continue
            x, y, w, h = map(float, entry["bbox"])
            area = entry.get("area")
            area = float(area) if type(area) in (int, float) and area >= 0 else w * h
            note = {"bbox": [x, y, w, h], "area": area, "iscrowd": int(bool(entry.get("iscrowd", 0)))}
            notes[entry["image_id"]].append(note | {"category_id": places[entry["category_id"]]})
        return notes, bad

    def box(self, entry: dict, sizes: dict, places: dict) -> None:
        this, box = f"annotation {entry['id']}", entry.get("bbox")
        for key, known, what in (("image_id", sizes, "image"), ("category_id", places, "category")):
            value = entry.get(key)
            self.need(_whole(value) and value in known, this, f"has {key} {reprlib.repr(value)}, but there is no such {what}")
        is_box = isinstance(box, list) and len(box) == 4 and all(type(v) in (int, float) for v in box)
        self.need(is_box, this, f"has the bbox {reprlib.repr(box)}; a box is a list of four numbers, [x, y, width, height]")
        self.need(all(map(math.isfinite, box)), this, f"has the bbox {box}, which is not finite")
        x, y, w, h = box
        self.need(w > 0 and h > 0, this, f"has the bbox {box}, whose width and height must be above 0")
        height, width = sizes[entry["image_id"]]
        inside = x >= -OVER and y >= -OVER and x + w <= width + OVER and y + h <= height + OVER
        hint = "; a box is [x, y, width, height], not two corners"
        self.need(inside, this, f"has the bbox {box}, which reaches out of its image of {width} x {height} pixels{hint}")


def load_boxes(
    data: str, side: int, val: str | None = None, *, folder: str | None = None, skip_bad: bool = False, flip: bool = True
) -> BoxTask:
    """A detection task by the name "scenes", or from COCO's format.

    val: a second folder or file for validation. Without it, DATA/train and DATA/val are used if they are there, and otherwise a
    sixth of the images is set aside, chosen by their content. Raises UserError as `load_coco` does, and if the classes differ.
    """
    if data == "scenes" and not Path(data).exists():
        return load_scenes(200, side=side)
    root = Path(data)
    if val is None and (root / "train" / "annotations.json").exists() and (root / "val" / "annotations.json").exists():
        root, val = root / "train", str(root / "val")
    train = load_coco(root, side, folder, skip_bad)
    if val:
        held = load_coco(val, side, None, skip_bad)
        if held.class_names != train.class_names:
            different = sorted({*held.class_names} ^ {*train.class_names}) or ["their order"]
            raise UserError(f"{root} and {val} do not have the same categories (first difference: {different[0]!r})")
    else:
        apart = [position(digest(path)) < VAL_SHARE for path in train.paths]
        if not any(apart) or all(apart):  # with a handful of images, chance may give all to one side
            apart = [i == 0 for i in range(len(train))]
        if len(train) < 2:
            raise UserError(f"{root} holds one image; without --val, at least two are needed")
        held = train.subset(torch.tensor([i for i, out in enumerate(apart) if out]))
        train = train.subset(torch.tensor([i for i, out in enumerate(apart) if not out]))
    if not any(map(len, train.boxes)):
        raise UserError(f"the training images of {root} have no boxes")
    marks = [(part.names, part.sizes, part.notes) for part in (train, held)]
    name = f"coco:{root.resolve().name}"
    return BoxTask(name, train, held, None, flip, fingerprint(train.class_names, side, flip, marks))
