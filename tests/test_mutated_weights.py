"""Damaged and hostile weight files: whatever is in one, a command ends with a usable result or with one clear line."""

import io
import json
import random
import struct
import zipfile

import pytest
import torch
from conftest import TINY, TINY_BN, memory, toy_task
from PIL import Image

from bitlib import UserError, create_model, save_npz, save_weights
from bitlib.cli import main
from bitlib.resnet import ResNetV2
from bitlib.transfer import default_rule

META = {
    "name": "tiny",
    "class_names": ["a", "b", "c"],
    "crop": 12,
    "task": "toy",
    "fingerprint": "0123",
    "recipe": {"shrink": 10, "batch_size": 4, "base_lr": 0.03, "resolution": [14, 12], "alpha": 0.1, "steps": 5},
}
JUNK = [None, True, "", "x", "\ud800", 0, -1, 3, 1e9, 10**9, 10**40, -(10**9), 0.5, float("nan"), float("inf"), [], {}]
JUNK += [[0], [1, 1, 1, 1], [4, 8], [[[[]]]], {"a": {"b": [None]}}, ["a"] * 1000, "x" * 100_000]


def split(raw: bytes) -> tuple[dict, bytes]:
    """(header, data) of a .safetensors file."""
    length = struct.unpack("<Q", raw[:8])[0]
    return json.loads(raw[8 : 8 + length]), raw[8 + length :]


def join(header: dict, data: bytes) -> bytes:
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def of_bytes(raw: bytes, chance: random.Random) -> bytes:
    """Bytes flipped, cut out or inserted; every second time near one of the ends, where the formats keep their structure."""
    raw = bytearray(raw)
    for _ in range(chance.choice([1, 1, 2, 8])):
        at = chance.choice([chance.randrange(len(raw)), chance.randrange(3000), len(raw) - 1 - chance.randrange(3000)])
        kind = chance.randrange(4)
        if kind < 2:
            raw[at] ^= 1 << chance.randrange(8)
        elif kind == 2:
            del raw[at : at + chance.choice([1, 4, 1000])]
        else:
            raw[at:at] = chance.randbytes(chance.choice([1, 4, 1000]))
    return bytes(raw)


def spoil(tree: dict | list, chance: random.Random) -> None:
    """Drop, replace, repeat or shorten something anywhere in a tree of JSON."""
    keys = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
    if not keys:
        return
    key = chance.choice(keys)
    if isinstance(tree[key], dict | list) and chance.random() < 0.6:
        return spoil(tree[key], chance)
    kind = chance.randrange(6)
    if kind == 0:
        del tree[key]
    elif kind == 1 and isinstance(tree, list):
        tree *= chance.choice([2, 100])
    elif kind == 2 and isinstance(tree, dict):
        tree[chance.choice(["resize", "num_examples", "extra"])] = chance.choice(JUNK)
    elif kind == 3 and type(tree[key]) in (int, float):
        tree[key] *= chance.choice([-1, 0, 2, 1000, 10**6])
    else:
        tree[key] = chance.choice(JUNK)


def of_meta(raw: bytes, chance: random.Random) -> bytes:
    header, data = split(raw)
    meta = json.loads(header["__metadata__"]["bitlib"])
    spoil(meta, chance)
    text = json.dumps(meta) if chance.random() < 0.97 else chance.choice(["[" * 100_000, "null", "[]", '{"arch":'])
    header["__metadata__"]["bitlib"] = text
    return join(header, data)


def of_header(raw: bytes, chance: random.Random) -> bytes:
    header, data = split(raw)
    key = chance.choice([k for k in header if k != "__metadata__"])
    kind = chance.randrange(5)
    if kind == 0:
        header[key]["dtype"] = chance.choice(["F16", "F64", "I64", "BOOL", "F8_E4M3", "what"])
    elif kind == 1:
        header[key]["shape"] = chance.choice([[], [0], [10**9, 10**9], [2**40, 2**40], header[key]["shape"][::-1]])
    elif kind == 2:
        header[key]["data_offsets"][chance.randrange(2)] = chance.choice([0, -1, 7, 2**33, 2**63, 2**64])
    elif kind == 3:
        header[chance.choice(["extra", "head.scale", ""])] = header.pop(key)
    else:
        spoil(header[key], chance)
    return join(header, data)


@pytest.fixture
def files(tmp_path):
    """Raw bytes of intact files, whose last layer is not zero."""
    raws = {}
    for name, arch in {"gn": TINY, "bn": TINY_BN}.items():
        model = ResNetV2(arch, 3)
        torch.nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(0))
        save_weights(model, tmp_path / "w.safetensors", META)
        raws[name] = (tmp_path / "w.safetensors").read_bytes()
        if name == "gn":
            save_npz(model, tmp_path / "w.npz")
            raws["npz"] = (tmp_path / "w.npz").read_bytes()
            with zipfile.ZipFile(tmp_path / "w.npz") as stored, zipfile.ZipFile(packed := io.BytesIO(), "w", 8) as squeezed:
                for entry in stored.namelist():
                    squeezed.writestr(entry, stored.read(entry))
            raws["packed npz"] = packed.getvalue()
    Image.new("RGB", (12, 12), (200, 30, 30)).save(tmp_path / "red.png")
    return raws


def usable(model: ResNetV2) -> bool:
    """It classifies, its classes have names, and fine-tuning finds settings for it."""
    x = torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        logits = model.eval()(x)
    default_rule(model, toy_task())
    return logits.shape == (1, 3) and bool(logits.isfinite().all()) and len(model.info.class_names) in (0, 3)


@pytest.mark.parametrize(
    "mutate, kinds, count",
    [
        (of_bytes, ("gn", "bn"), 150),
        (of_bytes, ("npz", "packed npz"), 150),
        (of_meta, ("gn", "bn"), 200),
        (of_header, ("bn",), 100),
    ],
)
def test_mutated_files_are_used_or_refused_in_one_line(files, tmp_path, capsys, mutate, kinds, count):
    chance, before = random.Random(f"{mutate.__name__} {kinds}"), memory()[0]
    outcomes = []
    for i in range(count):
        kind = chance.choice(kinds)
        npz = "npz" in kind
        path = tmp_path / f"{i}.{'npz' if npz else 'safetensors'}"
        path.write_bytes(mutate(files[kind], chance))
        try:
            model = create_model("tiny" if npz else str(path), 3 if npz else None, pretrained=path if npz else True)
            assert usable(model)
            outcomes.append(0)
        except UserError as error:
            assert path.name in str(error) and "\n" not in str(error) and len(str(error)) < 600
            outcomes.append(2)
        # A whole prediction for what was accepted, and for some of what was refused.
        if not npz and (outcomes[-1] == 0 or i % 8 == 0):
            status = main(["predict", str(path), str(tmp_path / "red.png"), "--json"])
            seen = capsys.readouterr()
            assert status == 2 or status == outcomes[-1] == 0
            assert seen.err.count("\n") == bool(status) and "Traceback" not in seen.err
            assert status or len(json.loads(seen.out)["classes"]) and "NaN" not in seen.out
        path.unlink()
    assert 0 in outcomes and outcomes.count(2) > count / 4  # both sides were seen
    assert memory()[1] - before < 1 << 30
