"""Tiny-ImageNet and packed sets, on small folders written in the official layouts."""

import hashlib
import multiprocessing
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bitlib import UserError, load_task
from bitlib.data import tiny_imagenet
from bitlib.data.tiny_imagenet import prepare_tiny_imagenet
from bitlib.data.vision import prepare_cifar

IDS = ("n02", "n01", "n03")  # not in order, as in the official file


def official(root: Path, per_class: int = 40, val: int = 6) -> Path:
    """tiny-imagenet-200 with three classes; a picture's red channel tells its class, one picture is grey."""
    for wnid in IDS:
        folder = root / "train" / wnid / "images"
        folder.mkdir(parents=True)
        for i in range(per_class):
            color = (80 * IDS.index(wnid), 10, i) if i else 77
            Image.new("RGB" if i else "L", (64, 64), color).save(folder / f"{wnid}_{i}.JPEG")
    (root / "val" / "images").mkdir(parents=True)
    rows = []
    for i in range(val):
        Image.new("RGB", (64, 64), (80 * (i % 3), 10, 0)).save(root / "val" / "images" / f"val_{i}.JPEG")
        rows.append(f"val_{i}.JPEG\t{IDS[i % 3]}\t0\t0\t63\t63\n")
    (root / "val" / "val_annotations.txt").write_text("".join(rows))
    (root / "wnids.txt").write_text("\n".join(IDS) + "\n")
    (root / "words.txt").write_text("n01\tgoldfish, Carassius auratus\nn02\tbullfrog\nn03\ttarantula\nn99\tunused\n")
    return root


@pytest.fixture
def home(tmp_path, monkeypatch):
    monkeypatch.setenv("BITLIB_HOME", str(tmp_path))
    return tmp_path / "data"


def test_splits_labels_and_scales(home):
    official(home / "tiny-imagenet-200")
    task = load_task("tiny-imagenet")
    assert task.class_names == ("goldfish", "bullfrog", "tarantula") and task.image_size == (64, 64)
    assert [len(s) for s in (task.train, task.val, task.test)] == [90, 30, 6]
    for split in (task.train, task.val, task.test):
        red = split.images[:, 0].float().mean((1, 2))
        expected = torch.tensor([80.0, 0.0, 160.0])[split.labels]
        assert ((red - expected).abs() < 6).sum() >= len(split) - 3  # all but the grey ones
    # Nested: every picture of s is in m, and every one of m in l; validation and test are the same.
    sizes = {}
    for name in "sml":
        scaled = load_task(f"tiny-imagenet-{name}")
        sizes[name] = {picture.numpy().tobytes() for picture in scaled.train.images}
        assert torch.equal(scaled.val.images, task.val.images) and torch.equal(scaled.test.labels, task.test.labels)
        assert torch.bincount(scaled.train.labels).unique().numel() == 1
    assert sizes["s"] < sizes["m"] < sizes["l"]
    assert load_task("tiny-imagenet-l").fingerprint == task.fingerprint != load_task("tiny-imagenet-s").fingerprint


def archived(home: Path, tmp_path: Path) -> Path:
    """The archive of a small data set, where the download would put it."""
    official(tmp_path / "made" / "tiny-imagenet-200", per_class=6, val=3)
    home.mkdir()
    archive = home / "tiny-imagenet-200.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted((tmp_path / "made").rglob("*")):
            file.write(path, path.relative_to(tmp_path / "made"))
    return archive


def _prepare_at_once(md5: str, barrier, written) -> None:
    tiny_imagenet.MD5 = md5
    barrier.wait()
    written.put(prepare_tiny_imagenet().stat().st_ino)


def test_two_processes_unpack_once(home, tmp_path):
    md5 = hashlib.md5(archived(home, tmp_path).read_bytes()).hexdigest()
    spawn = multiprocessing.get_context("spawn")
    barrier, written = spawn.Barrier(2), spawn.Queue()
    workers = [spawn.Process(target=_prepare_at_once, args=(md5, barrier, written)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
        assert worker.exitcode == 0
    assert written.get() == written.get()  # one and the same file: the second process found what the first one made


def test_from_the_archive_verified(home, tmp_path, monkeypatch):
    archive = archived(home, tmp_path)
    with pytest.raises(UserError, match="the official archive has 90528d7"):
        load_task("tiny-imagenet")
    assert not (home / "tiny-imagenet.npz").exists()
    monkeypatch.setattr(tiny_imagenet, "MD5", hashlib.md5(archive.read_bytes()).hexdigest())
    assert len(load_task("tiny-imagenet").train) == 12
    archive.unlink()  # prepared is prepared
    assert len(load_task("tiny-imagenet").train) == 12


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda root: (root / "wnids.txt").unlink(), "wnids.txt is missing"),
        (lambda root: [p.unlink() for p in (root / "train" / "n01" / "images").iterdir()], "n01/images holds no images"),
        (lambda root: (root / "val" / "images" / "val_0.JPEG").write_bytes(b"no"), "val_0.JPEG is not a readable image"),
    ],
)
def test_a_damaged_folder_is_named_and_nothing_is_kept(home, tmp_path, damage, message):
    root = official(tmp_path / "copy", per_class=4, val=3)
    damage(root)
    with pytest.raises(UserError, match=message):
        prepare_tiny_imagenet(root)
    assert not home.exists() or not any(home.iterdir())


def test_a_damaged_packed_file(home):
    official(home / "tiny-imagenet-200", per_class=4, val=3)
    packed = prepare_tiny_imagenet()
    packed.write_bytes(packed.read_bytes()[:2000])
    with pytest.raises(UserError, match="delete it"):
        load_task("tiny-imagenet")
    np.savez(packed, train_images=np.array([{"a": 1}], dtype=object))
    with pytest.raises(UserError, match="delete it"):  # and nothing is unpickled
        load_task("tiny-imagenet")


def test_cifar_from_a_folder(home, tmp_path):
    folder, names = tmp_path / "pictures", [f"class{i}" for i in range(10)]
    for split, count in (("train", 12), ("test", 2)):
        for label, name in enumerate(names):
            (folder / split / name).mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (32, 32), (20 * label, i, 0)).save(folder / split / name / f"{i}.png")
    prepare_cifar("cifar10", folder)
    task = load_task("cifar10")
    assert task.class_names == tuple(names) and [len(s) for s in (task.train, task.val, task.test)] == [100, 20, 20]
    assert torch.equal(task.test.images[:, 0, 0, 0].long(), 20 * task.test.labels)
    with pytest.raises(UserError, match="holds 10 classes in train, cifar100 has 100"):
        prepare_cifar("cifar100", folder)
