"""Folders of pictures as people have them: odd modes, rotated phones, broken files, empty classes."""

import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bitlib import UserError, load_task
from bitlib.data import folder as folder_module
from bitlib.data.folder import FileImages, read_image


def photo(path: Path, upright: bool = False, size=(20, 16), **save) -> Path:
    """Stripes, lying or upright, of a random phase under noise: the same file for the same path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(zlib.crc32(str(path.name).encode()))
    rows, cols = np.mgrid[: size[1], : size[0]]
    stripes = 200 * (((cols if upright else rows) + random.integers(8)) // 4 % 2)
    pixels = stripes[..., None] + random.integers(0, 40, (size[1], size[0], 3))
    Image.fromarray(pixels.astype(np.uint8)).save(path, **save)
    return path


def make_folder(root: Path, per_class: int = 8, classes=("cats", "dogs")) -> Path:
    for c, name in enumerate(classes):
        for i in range(per_class):
            photo(root / name / f"{i}.jpg", upright=bool(c))
    return root


def test_class_folders(tmp_path):
    task = load_task(f"folder:{make_folder(tmp_path / 'photos', 20)}")
    assert task.class_names == ("cats", "dogs") and task.image_size == (16, 20)
    assert (len(task.train), len(task.val), len(task.test)) == (28, 6, 6)
    assert len({p for s in (task.train, task.val, task.test) for p in s.paths}) == 40
    assert load_task(str(tmp_path / "photos")).fingerprint == task.fingerprint
    photo(tmp_path / "photos" / "cats" / "new.jpg")
    assert load_task(str(tmp_path / "photos")).fingerprint != task.fingerprint


def test_ready_made_splits(tmp_path):
    for split, n in (("train", 6), ("test", 4)):
        make_folder(tmp_path / split, n)
    task = load_task(str(tmp_path))
    assert (len(task.train), len(task.val), len(task.test)) == (10, 2, 8)
    assert all("test" in p.parts for p in task.test.paths)
    make_folder(tmp_path / "val", 3)
    assert [len(s) for s in (load_task(str(tmp_path)).train, load_task(str(tmp_path)).val)] == [12, 6]
    photo(tmp_path / "test" / "birds" / "0.jpg")
    with pytest.raises(UserError, match="'birds' is in only one"):
        load_task(str(tmp_path))


def test_pictures_of_all_kinds_come_out_rgb_and_upright(tmp_path):
    grey = tmp_path / "grey.png"
    Image.new("L", (4, 6), 100).save(grey)
    assert read_image(grey).shape == (3, 6, 4) and (read_image(grey) == 100).all()
    clear = tmp_path / "clear.png"
    Image.new("RGBA", (4, 6), (10, 20, 30, 0)).save(clear)
    assert (read_image(clear) == 255).all()  # transparent reads as white, not as whatever lies beneath
    turned, exif = tmp_path / "turned.jpg", Image.Exif()
    exif[0x0112] = 6  # a phone held upright
    photo(turned, size=(20, 10), exif=exif)
    assert read_image(turned).shape == (3, 20, 10)
    assert read_image(turned, 7).shape == (3, 7, 7)


@pytest.mark.parametrize("kind", ["truncated", "text", "empty"])
def test_broken_picture_is_named_before_training(tmp_path, kind):
    root = make_folder(tmp_path / "photos")
    bad = root / "cats" / "0.jpg"
    bad.write_bytes({"truncated": bad.read_bytes()[:400], "text": b"not a picture", "empty": b""}[kind])
    task = load_task(str(root))
    with pytest.raises(UserError, match="0.jpg is not a readable image .*--skip-bad"):
        for split in (task.train, task.val, task.test):
            split.prepare(8, "cpu")
    left = load_task(str(root), skip_bad=True)
    assert sum(len(s) for s in (left.train, left.val, left.test)) == 15


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda root: (root / "empty").mkdir(), "empty holds no pictures"),
        (lambda root: [p.unlink() for p in (root / "dogs").iterdir()] and (root / "dogs").rmdir(), "holds 1 class folder;"),
        (lambda root: [p.unlink() for p in sorted((root / "dogs").iterdir())[2:]], "dogs holds 2 pictures; each class needs 3"),
    ],
)
def test_unusable_folders(tmp_path, spoil, message):
    root = make_folder(tmp_path / "photos")
    spoil(root)
    with pytest.raises(UserError, match=message):
        load_task(str(root))


def test_missing_folder(tmp_path):
    with pytest.raises(UserError, match="nowhere is not a folder"):
        load_task(str(tmp_path / "nowhere"))


def test_pictures_that_do_not_fit_in_memory_are_decoded_on_demand(tmp_path, monkeypatch):
    task = load_task(str(make_folder(tmp_path / "photos")))
    held = task.train.prepare(9, "cpu")
    monkeypatch.setattr(folder_module, "MEMORY_BUDGET", 1)
    on_demand = task.train.prepare(9, "cpu")
    assert isinstance(on_demand, FileImages)
    some = torch.tensor([4, 0, 4])
    assert torch.equal(on_demand.batch(some), held.batch(some))
