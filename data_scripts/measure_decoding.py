"""Decode and resize photo-like JPEGs in four ways; write results/decoding.json.

    python data_scripts/measure_decoding.py
For each way: images per second, and how much its pixels differ from those of Pillow without draft. `draft` asks libjpeg for
1/2, 1/4 or 1/8 of the size, which it decodes from fewer coefficients, as long as both sides are at least `k` times the side
that is needed. You can interrupt it at any time; the same command resumes it.
"""

import argparse
import itertools
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from record import Cells, record
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms.v2.functional import resize
from tqdm import tqdm

from bitlib.course.bench import spread, take_turns

SIZES = {(500, 375): 24, (4000, 3000): 4}  # (width, height): number of images
SIDES, THREADS, ROUNDS = (32, 160, 512), (1, 2), 5
LABELS = {
    "pillow": "Pillow",
    "draft_2": "Pillow, draft of 2 x side",
    "draft_1": "Pillow, draft of 1 x side",
    "torchvision": "torchvision",
    "workers": "Pillow, DataLoader with 2 workers",
}


def photo(width: int, height: int, seed: int) -> Image.Image:
    """Noise with the 1/f spectrum of photographs, slightly different in each channel, with a few hard edges."""
    random = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = np.inf
    layers = [
        np.fft.irfft2(np.fft.rfft2(random.standard_normal((height, width), np.float32)) / frequency, (height, width))
        for _ in range(4)
    ]
    common, *own = (layer / layer.std() for layer in layers)
    pixels = np.stack([128 + 45 * common + 15 * layer for layer in own], 2)
    for _ in range(6):
        x, y, w, h = (random.random(4) * (width, height, width / 3, height / 3)).astype(int)
        pixels[y : y + h, x : x + w] += random.normal(0, 50, 3)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def with_pillow(path: Path, side: int, k: int = 0) -> Tensor:
    """uint8 [3, side, side], decoded by Pillow. k: draft keeps both sides at `k` times `side` or more; 0 is without draft."""
    with Image.open(path) as image:
        if k:
            image.draft("RGB", (k * side, k * side))
        image = image.convert("RGB").resize((side, side), Image.Resampling.BILINEAR)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def with_torchvision(path: Path, side: int) -> Tensor:
    """uint8 [3, side, side], decoded by torchvision's libjpeg and resized by PyTorch."""
    return resize(decode_image(str(path), ImageReadMode.RGB), [side, side], antialias=True)


DECODERS = {
    "pillow": with_pillow,
    "draft_2": lambda path, side: with_pillow(path, side, 2),
    "draft_1": lambda path, side: with_pillow(path, side, 1),
    "torchvision": with_torchvision,
}


def difference(paths: list[Path], side: int, decode) -> dict[str, float]:
    """Mean and largest absolute difference from Pillow without draft, in grey levels from 0 to 255."""
    gaps = torch.stack([(decode(p, side).int() - with_pillow(p, side).int()).abs() for p in paths]).double()
    return {"mean": round(gaps.mean().item(), 3), "max": int(gaps.max())}


def case(paths: list[Path], side: int, threads: int) -> dict[str, tuple[float, ...]]:
    """{way: images per second as (median, lower quartile, upper quartile)}."""
    with ThreadPoolExecutor(threads) as pool:
        runs = {name: lambda d=decode: list(pool.map(lambda p: d(p, side), paths)) for name, decode in DECODERS.items()}
        if threads == 2:

            def collate(batch: list[Path]) -> Tensor:
                return torch.stack([with_pillow(p, side) for p in batch])

            size = -(-len(paths) // 4)
            loader = DataLoader(paths, size, collate_fn=collate, num_workers=2, persistent_workers=True)
            runs["workers"] = lambda: list(loader)
        for run in runs.values():
            run()  # start the workers, and bring the files into the cache
        return {
            name: tuple(round(len(paths) / s, 1) for s in (middle, high, low))
            for name, (middle, low, high) in (
                (name, spread(s)) for name, s in take_turns(runs, ROUNDS, torch.device("cpu")).items()
            )
        }


def main():
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    torch.set_num_threads(1)
    common = {"rounds": ROUNDS, "methods": LABELS}
    cells, cases = Cells("decoding", common), []
    with tempfile.TemporaryDirectory() as folder, tqdm(total=len(SIZES) * len(SIDES) * len(THREADS), unit="case") as bar:
        for (width, height), count in SIZES.items():
            paths = [Path(folder) / f"{width}_{i}.jpg" for i in range(count)]
            for seed, path in enumerate(paths):
                photo(width, height, seed).save(path, quality=90)
            for side, threads in itertools.product(SIDES, THREADS):
                key = f"{width} {side}"
                cases.append(
                    {
                        "width": width,
                        "height": height,
                        "images": count,
                        "side": side,
                        "decoding_threads": threads,
                        "images_per_second": cells(f"{key} {threads}", case, paths, side, threads),
                        "difference": {
                            n: cells(f"{key} {n}", difference, paths, side, d) for n, d in DECODERS.items() if n != "pillow"
                        },
                    }
                )
                bar.update()
    record("decoding", {**common, "cases": cases}, torch.device("cpu"))
    cells.clear()


if __name__ == "__main__":
    main()
