"""The torchvision sets, on small folders written in their official layouts."""

import hashlib
import multiprocessing
import pickle
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from PIL import Image
from torchvision import datasets

from bitlib import UserError, load_task
from bitlib.data.vision import _fetch


def jpeg(path: Path, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (24, 20), (value % 256, 60, 90)).save(path)


def cifar_batch(path: Path, n: int, label_key: str, classes: int, start: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = np.random.default_rng(start).integers(0, 256, (n, 3072), dtype=np.uint8)
    path.write_bytes(pickle.dumps({"data": data, label_key: [i % classes for i in range(n)]}))


def approve(monkeypatch, cls, folder: Path) -> None:
    """Give torchvision the checksums of our small files, so that its verification runs, and passes, on them."""

    def rows(listed):
        return [[name, hashlib.md5((folder / name).read_bytes()).hexdigest()] for name, _ in listed]

    monkeypatch.setattr(cls, "train_list", rows(cls.train_list))
    monkeypatch.setattr(cls, "test_list", rows(cls.test_list))
    monkeypatch.setattr(cls, "meta", {**cls.meta, "md5": rows([[cls.meta["filename"], ""]])[0][1]})


@pytest.mark.parametrize(
    "name, cls, key, classes",
    [("cifar10", datasets.CIFAR10, "labels", 10), ("cifar100", datasets.CIFAR100, "fine_labels", 100)],
)
def test_cifar(tmp_path, monkeypatch, name, cls, key, classes):
    monkeypatch.setenv("BITLIB_HOME", str(tmp_path))
    base = tmp_path / "data" / cls.base_folder
    per_file = 600 // len(cls.train_list)
    for i, (file, _) in enumerate(cls.train_list):
        cifar_batch(base / file, per_file, key, classes, i)
    for file, _ in cls.test_list:
        cifar_batch(base / file, 200, key, classes, 99)
    names = [f"class {i}" for i in range(classes)]
    (base / cls.meta["filename"]).write_bytes(pickle.dumps({cls.meta["key"]: names}))
    approve(monkeypatch, cls, base)
    task = load_task(name)
    assert task.num_classes == classes and task.class_names[0] == "class 0" and task.image_size == (32, 32)
    assert len(task.test) == 200 and len(task.train) + len(task.val) == 600 and len(task.val) == 100
    # The first test picture, laid out by hand: the file holds 1,024 red, 1,024 green, 1,024 blue values.
    raw = np.random.default_rng(99).integers(0, 256, (200, 3072), dtype=np.uint8)[0]
    assert np.array_equal(task.test.images[0].numpy().reshape(-1), raw)


def test_pets_and_cats_vs_dogs(tmp_path, monkeypatch):
    monkeypatch.setenv("BITLIB_HOME", str(tmp_path))
    base = tmp_path / "data" / "oxford-iiit-pet"
    breeds = [("Abyssinian", 1, 1), ("beagle", 2, 2), ("Bengal", 3, 1)]  # name, class, species (1 cat, 2 dog)
    for split, numbers in (("trainval", range(6)), ("test", range(6, 9))):
        rows = [f"{b}_{i} {c} {s} 1" for i in numbers for b, c, s in breeds]
        (base / "annotations").mkdir(parents=True, exist_ok=True)
        (base / "annotations" / f"{split}.txt").write_text("\n".join(rows) + "\n")
    for i in range(9):
        for b, c, _ in breeds:
            jpeg(base / "images" / f"{b}_{i}.jpg", 40 * c + i)
    pets, species = load_task("pets"), load_task("cats-vs-dogs")
    assert pets.class_names == ("Abyssinian", "Beagle", "Bengal") and len(pets.test) == 9
    assert species.class_names == ("cat", "dog")
    assert sorted(species.test.labels.tolist()) == [0] * 6 + [1] * 3
    for path, label in zip(species.test.paths, species.test.labels.tolist()):
        assert path.name.startswith("beagle") == (label == 1)
    assert set(pets.train.paths).isdisjoint(pets.val.paths) and len(pets.train) + len(pets.val) == 18


def test_flowers(tmp_path, monkeypatch):
    monkeypatch.setenv("BITLIB_HOME", str(tmp_path))
    base = tmp_path / "data" / "flowers-102"
    for i in range(1, 307):
        jpeg(base / "jpg" / f"image_{i:05d}.jpg", i)
    labels = np.array([[(i % 102) + 1 for i in range(306)]])
    scipy.io.savemat(base / "imagelabels.mat", {"labels": labels})
    splits = {key: np.arange(a, b)[None] for key, a, b in (("trnid", 1, 103), ("valid", 103, 205), ("tstid", 205, 307))}
    scipy.io.savemat(base / "setid.mat", splits)
    monkeypatch.setattr(
        datasets.Flowers102,
        "_file_dict",
        {
            k: (name, hashlib.md5((base / name).read_bytes()).hexdigest() if (base / name).exists() else md5)
            for k, (name, md5) in datasets.Flowers102._file_dict.items()
        },
    )
    task = load_task("flowers102")
    assert (len(task.train), len(task.val), len(task.test), task.num_classes) == (102, 102, 102, 102)
    assert task.test.paths[0].name == "image_00205.jpg" and int(task.test.labels[0]) == 0


@pytest.mark.parametrize("name", ["cifar10", "pets", "flowers102"])
def test_without_a_network_the_line_says_what_to_put_where(tmp_path, monkeypatch, name):
    monkeypatch.setenv("BITLIB_HOME", str(tmp_path))
    import urllib.request

    def refuse(*args, **kwargs):
        raise OSError("Network is unreachable")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    with pytest.raises(UserError, match=f"{name} is not in {tmp_path / 'data'} and cannot be downloaded .*copy that folder"):
        load_task(name)


def test_a_damaged_archive_is_not_unpickled(tmp_path, monkeypatch):
    """torchvision's files are pickles; only what passes its checksums may be opened."""
    monkeypatch.setenv("BITLIB_HOME", str(tmp_path))
    base = tmp_path / "data" / "cifar-10-batches-py"
    base.mkdir(parents=True)

    class Bomb:
        def __reduce__(self):
            return Path.touch, (tmp_path / "exploded",)

    for file, _ in [*datasets.CIFAR10.train_list, *datasets.CIFAR10.test_list, ["batches.meta", ""]]:
        (base / file).write_bytes(pickle.dumps(Bomb()))
    import urllib.request

    def refuse(*args, **kwargs):
        raise OSError("no network")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    with pytest.raises(UserError):
        load_task("cifar10")
    assert not (tmp_path / "exploded").exists()


class SlowSet:
    """A data set as torchvision makes them: it counts as there as soon as its folder exists, whole or not."""

    def __init__(self, root: Path, download: bool):
        folder = root / "slow"
        if not folder.is_dir():
            if not download:
                raise RuntimeError("Dataset not found. You can use download=True to download it")
            with open(root / "downloads.txt", "a") as file:
                file.write("one\n")
            folder.mkdir(exist_ok=True)
            for i in range(500):
                (folder / str(i)).write_text("image")
        self.images = sorted(folder.iterdir())


def _fetch_at_once(root: Path, barrier, counts) -> None:
    barrier.wait()
    counts.put(len(_fetch(SlowSet, "slow", root).images))


def test_two_processes_download_once(tmp_path, monkeypatch):
    monkeypatch.setenv("BITLIB_HOME", str(tmp_path))
    spawn = multiprocessing.get_context("spawn")
    barrier, counts = spawn.Barrier(2), spawn.Queue()
    workers = [spawn.Process(target=_fetch_at_once, args=(tmp_path / "data", barrier, counts)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
        assert worker.exitcode == 0
    assert [counts.get(), counts.get()] == [500, 500]
    assert (tmp_path / "data" / "downloads.txt").read_text() == "one\n"


def test_a_cache_that_only_others_may_write_to(tmp_path, monkeypatch):
    monkeypatch.setenv("BITLIB_HOME", str(tmp_path / "file" / "home"))
    (tmp_path / "file").write_text("")  # whoever runs this, no lock can be put below it
    (tmp_path / "slow").mkdir()
    (tmp_path / "slow" / "0").write_text("image")
    assert len(_fetch(SlowSet, "slow", tmp_path).images) == 1
