"""Folders of images as people have them: odd modes, rotated phones, broken files, empty classes, images added later."""

import hashlib
import pickle
import shutil
import subprocess
import sys
import threading
import warnings
import zlib
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bitlib import UserError, load_task
from bitlib.cli import main
from bitlib.data import folder as folder_module
from bitlib.data.folder import FileImages, read_image
from bitlib.data.split import place


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


def split_of(task) -> dict[str, str]:
    """{class/file: the split it is in}."""
    return {f"{p.parent.name}/{p.name}": s for s in ("train", "val", "test") for p in getattr(task, s).paths}


def position(path: Path) -> float:
    return int(hashlib.blake2b(path.read_bytes(), digest_size=8).hexdigest(), 16) / 2**64


def test_class_folders(tmp_path):
    task = load_task(f"folder:{make_folder(tmp_path / 'photos', 20)}")
    assert task.class_names == ("cats", "dogs") and task.image_size == (16, 20)
    places = split_of(task)
    assert len(places) == 40 and set(Counter((n.split("/")[0], s) for n, s in places.items())) == {
        (c, s) for c in ("cats", "dogs") for s in ("train", "val", "test")
    }
    assert load_task(str(tmp_path / "photos")).fingerprint == task.fingerprint
    photo(tmp_path / "photos" / "cats" / "new.jpg")
    assert load_task(str(tmp_path / "photos")).fingerprint != task.fingerprint


def test_fingerprint_follows_content_not_size_or_place(tmp_path):
    before = load_task(str(make_folder(tmp_path / "photos", 20))).fingerprint
    moved = shutil.copytree(tmp_path / "photos", tmp_path / "elsewhere")
    assert load_task(str(moved)).fingerprint == before
    path = tmp_path / "photos" / "cats" / "0.jpg"
    content = bytearray(path.read_bytes())
    content[-40] ^= 1  # as many bytes as before
    path.write_bytes(content)
    assert load_task(str(tmp_path / "photos")).fingerprint != before


def test_adding_and_removing_images_moves_no_other(tmp_path):
    root = make_folder(tmp_path / "photos", 40)
    before = split_of(load_task(str(root)))
    for name, u in ((name, position(root / name)) for name in before):
        assert before[name] == ("test" if u < 0.15 else "val" if u < 0.3 else "train")
    photo(root / "cats" / "000.jpg")
    (root / "dogs" / "0.jpg").rename(root / "dogs" / "renamed.jpg")
    after = split_of(load_task(str(root)))
    after["dogs/0.jpg"] = after.pop("dogs/renamed.jpg")
    assert {name: split for name, split in after.items() if name in before} == before and len(after) == 81
    for i in range(10, 30):
        (root / "cats" / f"{i}.jpg").unlink()
    fewer = split_of(load_task(str(root)))
    fewer.pop("cats/000.jpg"), fewer.pop("dogs/renamed.jpg")
    assert len(fewer) == 59 and fewer.items() <= before.items()


@pytest.mark.parametrize("seed", range(20))
def test_placing_many_contents_in_many_classes(seed):
    """Against the definition, on random contents that repeat, in classes from tiny to large, some in several classes."""
    random = np.random.default_rng(seed)
    contents = [random.bytes(8).hex() for _ in range(300)]
    labels = np.concatenate([np.repeat(np.arange(12), 4), random.integers(0, 12, 260)])
    own = [contents[i] for i in random.integers(0, 300, 260)]
    digests = [f"{i:02x}" + random.bytes(7).hex() for i in random.permutation(48)] + own  # all of the tiny ones far left
    parts = place(digests, torch.from_numpy(labels), (0.15, 0.15))
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(308))
    part_of = {i: p for p, part in enumerate(parts) for i in part.tolist()}
    assert all(len({part_of[i] for i in range(308) if digests[i] == d}) == 1 for d in digests)
    for label in range(12):
        mine = {d for d, y in zip(digests, labels) if y == label} - {d for d, y in zip(digests, labels) if y != label}
        ordered = [part_of[digests.index(d)] for d in sorted(mine)]
        assert ordered == sorted(ordered) and set(ordered) == {0, 1, 2}
        natural = [sum(int(d, 16) / 2**64 >= edge for edge in (0.15, 0.3)) for d in sorted(mine)]
        if set(natural) == {0, 1, 2}:
            assert ordered == natural


def test_three_images_per_class_go_to_three_splits_by_position(tmp_path):
    root = tmp_path / "photos"
    for name in "abcdef":
        for i in range(3):
            photo(root / name / f"{name}{i}.jpg")
    places = split_of(load_task(str(root)))
    for name in "abcdef":
        ordered = sorted((root / name).iterdir(), key=position)
        assert [places[f"{name}/{p.name}"] for p in ordered] == ["test", "val", "train"]


def test_identical_images_are_never_parted(tmp_path, capsys):
    root = make_folder(tmp_path / "photos", 30)
    for i in range(30):
        shutil.copy(root / "cats" / f"{i}.jpg", root / "cats" / f"copy of {i}.jpg")
    places = split_of(load_task(str(root)))
    assert all(places[f"cats/{i}.jpg"] == places[f"cats/copy of {i}.jpg"] for i in range(30))
    assert capsys.readouterr().err == ""
    shutil.copy(root / "cats" / "3.jpg", root / "dogs" / "cat 3.jpg")
    shutil.copy(root / "cats" / "5.jpg", root / "dogs" / "cat 5.jpg")
    places = split_of(load_task(str(root)))
    assert all(places[f"cats/{i}.jpg"] == places[f"dogs/cat {i}.jpg"] for i in (3, 5))
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "the same image in two classes" in err and "other pair" in err
    assert str(root / "cats") in err and str(root / "dogs") in err


def test_images_of_a_small_class_that_are_not_different(tmp_path):
    root = make_folder(tmp_path / "photos")
    for p in list((root / "dogs").iterdir())[1:]:
        shutil.copy(root / "dogs" / "0.jpg", p) if p.name != "0.jpg" else None
    with pytest.raises(
        UserError, match="dogs holds 8 images, [12] of them different and in no other class; each class needs 3"
    ):
        load_task(str(root))


def ready_made(root: Path, train=20, test=4) -> Path:
    make_folder(root / "train", train)
    for name in ("cats", "dogs"):
        for i in range(test):
            photo(root / "test" / name / f"t{i}.jpg", upright=name == "dogs")
    return root


def test_ready_made_splits(tmp_path, capsys):
    root = ready_made(tmp_path / "photos")
    task = load_task(str(root))
    places = split_of(task)
    assert len(task.train) + len(task.val) == 40 and len(task.test) == 8
    for name, split in places.items():
        if split != "test":
            assert split == ("val" if position(root / "train" / name) < 1 / 6 else "train")
    assert all("test" in p.parts for p in task.test.paths)
    photo(root / "train" / "cats" / "new.jpg")
    assert places.items() <= split_of(load_task(str(root))).items()
    for name in ("cats", "dogs"):
        for i in range(3):
            photo(root / "val" / name / f"v{i}.jpg", upright=name == "dogs")
    task = load_task(str(root))
    assert [len(s) for s in (task.train, task.val, task.test)] == [41, 6, 8] and capsys.readouterr().err == ""
    shutil.copy(root / "train" / "cats" / "3.jpg", root / "test" / "cats" / "again.jpg")
    load_task(str(root))
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "1 test image can also be found in train or val" in err and "again.jpg" in err
    photo(root / "test" / "birds" / "0.jpg")
    with pytest.raises(UserError, match="'birds' is in only one"):
        load_task(str(root))


@pytest.mark.parametrize("name", ["val", "valid", "validation", "dev"])
def test_names_of_the_validation_folder(tmp_path, name):
    root = ready_made(tmp_path / "photos", 4)
    for c in ("cats", "dogs"):
        photo(root / name / c / "v.jpg", upright=c == "dogs")
    task = load_task(str(root))
    assert {p.parent.parent.name for p in task.val.paths} == {name} and len(task.train) == 8
    other = "val" if name != "val" else "dev"
    shutil.copytree(root / name, root / other)
    with pytest.raises(UserError, match=f"photos/({name}|{other}) and .*photos/({name}|{other}) are both validation folders"):
        load_task(str(root))


def test_splits_without_a_test_folder(tmp_path):
    root = ready_made(tmp_path / "photos", 4)
    (root / "test").rename(root / "valid")
    with pytest.raises(UserError, match="holds train and valid, but no test; rename valid to test"):
        load_task(str(root))
    shutil.rmtree(root / "valid")
    with pytest.raises(UserError, match="holds train, but no test; give .*photos/train itself"):
        load_task(str(root))


def test_the_right_folder_is_named(tmp_path, monkeypatch):
    root = make_folder(tmp_path / "data" / "photos")
    for wrong in (root / "cats", tmp_path / "data", tmp_path):
        with pytest.raises(UserError, match=f"; did you mean {root}\\?$"):
            load_task(str(wrong))
    (tmp_path / "data" / "__MACOSX").mkdir()
    with pytest.raises(UserError, match=f"holds no images.*; did you mean {root}\\?$"):
        load_task(str(tmp_path / "data"))
    ready = ready_made(tmp_path / "ready", 4)
    with pytest.raises(UserError, match=f"; did you mean {ready}\\?$"):
        load_task(str(ready / "train" / "cats"))
    monkeypatch.chdir(root)
    with pytest.raises(UserError, match=r"; did you mean \.\?$"):
        load_task("folder:cats")
    lonely = make_folder(tmp_path / "lonely" / "deep" / "photos", classes=("cats",))
    with pytest.raises(UserError, match="images inside$"):
        load_task(str(lonely))


def test_a_mistyped_folder_or_task(tmp_path, capsys):
    make_folder(tmp_path / "photos")
    for wrong, hint in (
        (tmp_path / "photo", f"did you mean '{tmp_path / 'photos'}'?"),
        ("folder:digit", "did you mean 'digits'?"),
        ("tile/", "did you mean 'tiles'?"),
        (tmp_path / "nowhere", "or a task: digits, tiles"),
    ):
        assert main(["finetune", str(wrong), "--model", "glyphs-S", "--out", str(tmp_path / "out")]) == 2
        err = capsys.readouterr().err
        assert "is not a folder" in err and hint in err and "cifar10" in err and err.count("\n") == 1


def test_what_is_left_out_is_said(tmp_path, capsys):
    root = make_folder(tmp_path / "photos")
    photo(root / "one.jpg")
    for i in range(12):
        (root / "cats" / f"IMG_{i}.HEIC").write_bytes(b"x")
    assert len(split_of(load_task(str(root)))) == 16
    lines = capsys.readouterr().err.splitlines()
    assert lines == [
        f"left out 1 image beside the class folders in {root}, such as one.jpg",
        f"left out 12 .heic files in {root}; convert them to JPEG first",
    ]
    for p in (root / "cats").glob("*.jpg"):
        p.unlink()
    with pytest.raises(UserError, match="cats holds no images .*; convert its 12 .heic files to JPEG"):
        load_task(str(root))


def test_avif(tmp_path):
    if ".avif" not in Image.registered_extensions():
        pytest.skip("this Pillow does not read AVIF")
    root = make_folder(tmp_path / "photos")
    Image.new("RGB", (20, 16), (200, 10, 10)).save(root / "cats" / "a.avif")
    assert "cats/a.avif" in split_of(load_task(str(root)))
    assert (read_image(root / "cats" / "a.avif")[0] > 150).all()


def test_images_of_all_kinds_come_out_rgb_and_upright(tmp_path):
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


@pytest.mark.parametrize(
    "values, suffix, expected",
    [
        (np.array([[0, 257, 32896, 65535, 128, 129]], np.uint16), "png", [0, 1, 128, 255, 0, 1]),
        (np.array([[0, 7, 255]], np.uint16), "tif", [0, 0, 1]),
        (np.array([[0, 7, 255]], np.int32), "tif", [0, 7, 255]),
        (np.array([[0, 514, 65535]], np.int32), "tif", [0, 2, 255]),
        (np.array([[-100, 0, 100]], np.int32), "tif", [0, 128, 255]),
        (np.array([[10, 65546, 131082]], np.int32), "tif", [0, 128, 255]),
        (np.array([[0, 0.5, 1]], np.float32), "tif", [0, 128, 255]),
        (np.array([[0, 1.5, 254.6]], np.float32), "tif", [0, 2, 255]),
        (np.array([[0, 2570, 60000]], np.float32), "tif", [0, 10, 233]),
        (np.array([[-3e38, 0, 3e38]], np.float32), "tif", [0, 128, 255]),
        (np.array([[7e4, 7e4, 7e4]], np.float32), "tif", [0, 0, 0]),
    ],
)
def test_deep_greys_keep_their_contrast(tmp_path, values, suffix, expected):
    path = tmp_path / f"deep.{suffix}"
    Image.fromarray(values).save(path)
    image = read_image(path)
    assert image[0, 0].tolist() == expected and (image == image[0]).all()


def test_deep_greys_are_turned_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.array([[0, 65535]], np.uint16)).save(tmp_path / "deep.png", exif=exif)
    assert read_image(tmp_path / "deep.png")[0].tolist() == [[0], [255]]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_floats_that_are_no_numbers(tmp_path, value):
    Image.fromarray(np.array([[0, value]], np.float32)).save(tmp_path / "f.tif")
    with pytest.raises(UserError, match="f.tif is not a readable image .*NaN or infinite"):
        read_image(tmp_path / "f.tif")


def smooth(path: Path, width: int, height: int, **save) -> Path:
    """Blurred noise: compresses like a photograph."""
    random = np.random.default_rng(0)
    small = Image.fromarray(random.integers(0, 256, (height // 16, width // 16, 3), np.uint8))
    small.resize((width, height), Image.Resampling.BICUBIC).save(path, **save)
    return path


@pytest.mark.parametrize("orientation", [1, 6])
def test_large_jpegs_decoded_at_a_fraction_look_the_same(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = smooth(tmp_path / "large.jpg", 1600, 1200, quality=92, exif=exif)
    whole = read_image(path)
    assert whole.shape == ((3, 1200, 1600) if orientation == 1 else (3, 1600, 1200))
    resized = np.array(Image.fromarray(whole.permute(1, 2, 0).numpy()).resize((90, 90), Image.Resampling.BILINEAR))
    gap = (read_image(path, 90).permute(1, 2, 0).int() - torch.from_numpy(resized).int()).abs().double()
    assert gap.mean() < 1


def bomb(path: Path) -> Path:
    """A small PNG whose header promises 12,000 x 12,000 pixels: above Pillow's limit for warnings, below that for errors."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = (12_000).to_bytes(4, "big") * 2 + bytes((8, 0, 0, 0, 0))
    rows = zlib.compress(bytes(12_001 * 12_000))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b""))
    return path


def test_an_image_too_large_to_decode_is_an_error_not_a_warning(tmp_path):
    with pytest.raises(UserError, match="bomb.png is not a readable image .*12000 x 12000 pixels, more than the 89 million"):
        read_image(bomb(tmp_path / "bomb.png"))


def spoil(path: Path, kind: str) -> None:
    path.write_bytes({"truncated": path.read_bytes()[:400], "text": b"not an image", "empty": b""}[kind])


@pytest.mark.parametrize("kind", ["truncated", "text", "empty"])
def test_broken_images_are_named_and_counted(tmp_path, kind, capsys, monkeypatch):
    root = make_folder(tmp_path / "photos", 40)
    whole = split_of(load_task(str(root)))
    bad = sorted(name for name, split in whole.items() if split == "train")[:4]
    for name in bad:
        spoil(root / name, kind)
    task = load_task(str(root))
    for budget in (folder_module.MEMORY_BUDGET, 1):
        monkeypatch.setattr(folder_module, "MEMORY_BUDGET", budget)
        with pytest.raises(UserError, match=r"0.jpg is not a readable image .* and \d more; remove it or pass --skip-bad$"):
            for split in (task.train, task.val, task.test):
                split.prepare(8, "cpu")
    left = load_task(str(root), skip_bad=True)
    assert split_of(left).items() < whole.items() and len(split_of(left)) == 76
    captured = capsys.readouterr()
    assert captured.out == "" and "--skip-bad" not in captured.err
    assert [line.split(" is not")[0] for line in captured.err.splitlines()] == [f"left out: {root / name}" for name in bad]
    assert load_task(str(root), skip_bad=True).fingerprint == left.fingerprint


def test_predict_does_not_advise_what_it_does_not_know(tmp_path, capsys):
    root, out = make_folder(tmp_path / "photos"), tmp_path / "out"
    assert main(["finetune", str(root), "--model", "glyphs-S", "--linear-probe", "--out", str(out), "--device", "cpu"]) == 0
    capsys.readouterr()
    for name in ("bad.jpg", "worse.jpg"):
        (tmp_path / name).write_bytes(b"no")
    assert main(["predict", str(out), str(tmp_path / "bad.jpg"), str(tmp_path / "worse.jpg")]) == 2
    err = capsys.readouterr().err
    assert err.endswith("bad.jpg is not a readable image (cannot identify image file) and 1 more\n")


def test_warnings_of_pillow_stay_off_the_screen(tmp_path):
    """In a process of its own, because pytest collects warnings."""
    root = make_folder(tmp_path / "photos")
    path = photo(root / "cats" / "odd.jpg", exif=b"Exif\0\0II*\0\x08\0\0\0\x09\0")  # nine entries, of which none is there
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        Image.open(path).getexif()
    assert seen  # or this tests nothing
    code = f"import bitlib; t = bitlib.load_task({str(root)!r}); [s.prepare(8, 'cpu') for s in (t.train, t.val, t.test)]"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0 and done.stderr == ""


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda root: (root / "empty").mkdir(), "empty holds no images"),
        (lambda root: [p.unlink() for p in (root / "dogs").iterdir()] and (root / "dogs").rmdir(), "holds 1 class folder;"),
        (lambda root: [p.unlink() for p in sorted((root / "dogs").iterdir())[2:]], "dogs holds 2 images; each class needs 3"),
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


def test_images_that_do_not_fit_in_memory_are_decoded_on_demand(tmp_path, monkeypatch):
    task = load_task(str(make_folder(tmp_path / "photos")))
    held = task.train.prepare(9, "cpu")
    monkeypatch.setattr(folder_module, "MEMORY_BUDGET", 1)
    on_demand = task.train.prepare(9, "cpu")
    assert isinstance(on_demand, FileImages)
    some = torch.tensor([4, 0, 4])
    assert torch.equal(on_demand.batch(some), held.batch(some, torch.Generator()))
    assert not on_demand.resident and on_demand.draw(3, torch.Generator()) is None
    half = on_demand.subset(torch.tensor([1, 4]))
    assert torch.equal(half.batch(torch.tensor([1])), on_demand.batch(some[:1])) and half.digests == [
        on_demand.digests[i] for i in (1, 4)
    ]
    assert torch.equal(pickle.loads(pickle.dumps(on_demand)).batch(some), on_demand.batch(some))


def test_batches_from_many_threads_with_one_pool(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_module, "MEMORY_BUDGET", 1)
    images = load_task(str(make_folder(tmp_path / "photos", 12))).train.prepare(9, "cpu")
    found = {}

    def work(number: int) -> None:
        found[number] = images.batch((torch.arange(4) + number) % len(images))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    for _ in range(5):
        images.batch(torch.arange(4))
    workers = [t.name for t in threading.enumerate() if t.name.startswith("decode")]
    assert workers and len(set(workers)) == len(workers)  # a second pool would give the same names again
    for number, batch in found.items():
        assert torch.equal(batch, images.batch((torch.arange(4) + number) % len(images)))
