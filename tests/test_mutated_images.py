"""Damaged image files, made by chance from good ones: each is read, or is one line of an error; nothing else happens.

As a script: `bitlib predict` for each of the files named, in one process; the exit statuses and outputs as JSON.
"""

import contextlib
import io
import json
import random
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
import torch
from conftest import memory
from PIL import Image

from bitlib import UserError
from bitlib.cli import main
from bitlib.data.folder import read_image

SUFFIXES = ("jpg", "png", "gif", "tif", "bmp", "webp")
SEEDS = range(50)  # for each suffix


def good(suffix: str, seed: int) -> bytes:
    """A small image; some have a palette, transparency, EXIF data, or compression that is not the usual one."""
    pixels = np.random.default_rng(seed).integers(0, 256, (24, 32, 4), np.uint8)
    pixels[6:18] = pixels[6, 0]
    image = Image.fromarray(pixels)
    modes = {"jpg": ("RGB", "L", "CMYK"), "gif": ("P", "L"), "bmp": ("RGB", "P")}.get(suffix, ("RGB", "RGBA", "L"))
    image, options, file = image.convert(modes[seed % len(modes)]), {}, io.BytesIO()
    if suffix in ("jpg", "png", "webp", "tif") and seed % 2:
        exif = Image.Exif()
        exif[0x0112] = 1 + seed % 8
        options["exif"] = exif
    if suffix == "tif":
        options["compression"] = ("raw", "tiff_lzw", "tiff_adobe_deflate", "packbits")[seed % 4]
    image.save(file, {"jpg": "jpeg", "tif": "tiff"}.get(suffix, suffix), **options)
    return file.getvalue()


def enlarged(suffix: str, content: bytes, size: int) -> bytes:
    """The same file, with `size` (or the most that the format knows) for width and height in its header."""
    data = bytearray(content)
    if suffix == "png":
        data[16:24] = struct.pack(">II", size, size)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    elif suffix == "jpg":
        at = data.index(b"\xff\xc0") + 5
        data[at : at + 4] = struct.pack(">HH", *[min(size, 65_500)] * 2)
    elif suffix == "gif":
        for at in (6, data.index(b"\x2c\0\0\0\0", 13) + 5):
            data[at : at + 4] = struct.pack("<HH", *[min(size, 65_535)] * 2)
    elif suffix == "bmp":
        data[18:26] = struct.pack("<ii", size, size)
    elif suffix == "tif":
        start = struct.unpack_from("<I", data, 4)[0] + 2
        for entry in range(start, start + 12 * struct.unpack_from("<H", data, start - 2)[0], 12):
            if struct.unpack_from("<H", data, entry)[0] in (256, 257):
                struct.pack_into("<HII", data, entry + 2, 4, 1, size)
    elif b"VP8X" in data:
        at = data.index(b"VP8X") + 12
        data[at : at + 6] = struct.pack("<I", size - 1)[:3] * 2
    else:
        at = data.index(b"VP8 ") + 14
        data[at : at + 4] = struct.pack("<HH", *[min(size, 16_383)] * 2)
    return bytes(data)


def mutated(suffix: str, seed: int) -> bytes:
    chance = random.Random(f"{suffix} {seed}")
    content = good(suffix, seed)
    kind = ("flip", "flip", "cut", "insert", "enlarge")[seed % 5]
    if kind == "enlarge":
        return enlarged(suffix, content, chance.choice((9_000, 12_000, 60_000, 2**31 - 1)))
    data = bytearray(content)
    for _ in range(chance.choice((1, 3, 20))):
        # Mostly near the start, where the headers are.
        at = chance.randrange(min(len(data), chance.choice((64, 400, 10**6))))
        if kind == "flip":
            data[at] ^= 1 << chance.randrange(8)
        elif kind == "insert":
            data[at:at] = chance.randbytes(chance.choice((1, 4, 100)))
    return bytes(data[:at] if kind == "cut" else data)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_is_read_or_named_in_one_line(tmp_path, suffix):
    path, outcomes = tmp_path / f"image.{suffix}", set()
    for seed in SEEDS:
        path.write_bytes(mutated(suffix, seed))
        try:
            image = read_image(path, 16)
            assert image.shape == (3, 16, 16) and image.dtype == torch.uint8
            outcomes.add("read")
        except UserError as error:
            text = str(error)
            assert text.startswith(f"{path} is not a readable image (") and "\n" not in text and "()" not in text
            outcomes.add("error")
    assert outcomes == ({"error"} if suffix == "png" else {"read", "error"})  # PNG has a checksum for everything
    path.write_bytes(good(suffix, 0))
    assert read_image(path, 16).shape == (3, 16, 16)


def test_predict_in_a_process_of_its_own(tmp_path):
    """So that warnings and memory are seen as a user sees them, without pytest between. libtiff may print lines of its own."""
    paths = []
    for suffix in SUFFIXES:
        for seed in (0, 2, 3, 4, 14, 29):  # every kind, and several of the enlarged ones
            paths.append(tmp_path / f"{seed}.{suffix}")
            paths[-1].write_bytes(mutated(suffix, seed))
    code = [sys.executable, __file__, *map(str, paths)]
    done = subprocess.run(code, capture_output=True, text=True, timeout=1200)
    assert done.returncode == 0 and "Warning" not in done.stderr and "Traceback" not in done.stderr
    found = json.loads(done.stdout)
    assert found["memory"] < 2 << 30
    assert {status for status, _, _ in found["outcomes"]} == {0, 2}
    for path, (status, out, err) in zip(paths, found["outcomes"]):
        err = err.split("\r")[-1]  # after a progress bar, where the machine is slow
        if status == 0:
            assert out.startswith(str(path)) and out.count("\n") == 1 and err == ""
        else:
            assert err.startswith(f"bitlib predict: {path} is not a readable image (") and err.endswith(")\n")
            assert err.count("\n") == 1 and out == ""


def predict(path: str) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main(["predict", "photos-S", path, "--quiet", "--device", "cpu"])
    return status, out.getvalue(), err.getvalue()


if __name__ == "__main__":
    results = [predict(path) for path in sys.argv[1:]]
    json.dump({"outcomes": results, "memory": memory()[1]}, sys.stdout)
