"""Damage done on purpose: test images as another camera would take them, and labels that are wrong, to see who notices.

The shifts stand for what ObjectNet (Barbu et al., 2019) changes, and for some of the corruptions of arXiv 1903.12261; there are
five severities of each. Everything works on uint8 images, in memory.
"""

from __future__ import annotations

import io
import math

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

# What severities 1 to 5 mean.
SHIFTS: dict[str, tuple[float, ...]] = {
    "background": (0.2, 0.35, 0.5, 0.65, 0.8),  # brightness of the texture, of 1
    "rotation": (10, 20, 30, 40, 50),  # degrees, to either side at random
    "contrast": (0.5, 0.3, 0.2, 0.12, 0.06),  # what is left of it
    "blur": (1.0, 1.75, 2.5, 3.25, 4.0),  # standard deviation in 32nds of the image's side
    "JPEG": (50, 25, 12, 6, 2),  # quality
}


def shifted(images: Tensor, kind: str, severity: int, seed: int = 0) -> Tensor:
    """The same images under one of SHIFTS. images: uint8 [N, 3, H, W], as large as the network takes them -> the same shape.

    severity: 0, which changes nothing, to 5. seed: of textures and directions of rotation. "background" is for bright ink on
    black: it takes the brightness of a pixel for how much of it is ink. Raises ValueError for another kind or severity.
    """
    if kind not in SHIFTS or severity not in range(6):
        raise ValueError(f"no shift {kind!r} of severity {severity}; there are {', '.join(SHIFTS)}, from 0 to 5")
    if not severity:
        return images
    amount, generator = SHIFTS[kind][severity - 1], torch.Generator().manual_seed(seed)
    if kind == "JPEG":
        return torch.stack([_compressed(image, int(amount)) for image in images])
    x = images.float()
    if kind == "background":
        ink = x / 255
        x = ink * x + (1 - ink) * 255 * amount * _textures(x.shape, generator)
    elif kind == "rotation":
        sign = torch.randint(0, 2, (len(x),), generator=generator) * 2 - 1
        x = _rotated(x, sign * math.radians(amount))
    elif kind == "contrast":
        mean = x.mean((1, 2, 3), keepdim=True)
        x = mean + amount * (x - mean)
    else:
        x = _blurred(x, amount * x.shape[-1] / 32)
    return x.round().clamp(0, 255).to(torch.uint8)


def mislabelled(labels: Tensor, count: int, seed: int, likeness: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Give `count` images, chosen at random, a wrong label: (the labels after that, which are wrong as bool [N]).

    labels: int [N]. likeness: float [N, C], and the wrong label is the class that the image is most like besides its own; None
    for any wrong class with the same probability.
    """
    generator = torch.Generator().manual_seed(seed)
    wrong = torch.zeros(len(labels), dtype=torch.bool)
    wrong[torch.randperm(len(labels), generator=generator)[:count]] = True
    if likeness is None:
        classes = int(labels.max()) + 1
        others = (labels + torch.randint(1, classes, labels.shape, generator=generator)) % classes
    else:
        others = likeness.scatter(1, labels[:, None], -math.inf).argmax(1)
    return torch.where(wrong, others, labels), wrong


def likeness(images: Tensor, labels: Tensor) -> Tensor:
    """How near each image is to the mean image of each class, as minus their distance: float64 [N, C]. images: uint8."""
    x = images.double().flatten(1)
    means = torch.stack([x[labels == c].mean(0) for c in range(int(labels.max()) + 1)])
    return -torch.cdist(x, means)


def _textures(shape: torch.Size, generator: torch.Generator) -> Tensor:
    """A random coloured texture for every image, from 0 to 1: coarse patches and finer ones."""
    n, _, *size = shape
    parts = []
    for cells in (3, 8):
        coarse = torch.rand(n, 3, cells, cells, generator=generator)
        parts.append(F.interpolate(coarse, tuple(size), mode="bilinear", align_corners=False))
    return sum(parts) / len(parts)


def _rotated(x: Tensor, angle: Tensor) -> Tensor:
    """Each image turned about its middle by its own angle, in radians; what comes in from outside repeats the border."""
    cos, sin, zero = angle.cos(), angle.sin(), torch.zeros(len(x))
    theta = torch.stack([torch.stack([cos, -sin, zero], 1), torch.stack([sin, cos, zero], 1)], 1)
    grid = F.affine_grid(theta, x.shape, align_corners=False)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


def _blurred(x: Tensor, sigma: float) -> Tensor:
    """Gaussian blur with a standard deviation in pixels; the border is repeated outwards."""
    radius = math.ceil(3 * sigma)
    kernel = torch.exp(-((torch.arange(-radius, radius + 1) / sigma) ** 2) / 2)
    kernel = (kernel / kernel.sum()).view(1, 1, 1, -1)
    flat = F.pad(x.flatten(0, 1)[:, None], (radius,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(flat, kernel), kernel.transpose(2, 3)).view(x.shape)


def _compressed(image: Tensor, quality: int) -> Tensor:
    buffer = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(buffer, "JPEG", quality=quality)
    return torch.from_numpy(np.array(Image.open(buffer))).permute(2, 0, 1)
