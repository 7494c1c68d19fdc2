"""Resizing, random crops and flips of whole batches, on whatever device they are."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Augmentation:
    """How training images are augmented: resized to `resize` x `resize` pixels, cropped to `crop` x `crop`, mirrored, mixed.

    Without `random_crop` the crop is central; without `random_flip` nothing is mirrored. The switches exist because some labels
    do not survive a flip (digits, text) or a crop (counting): paper, appendix F. mixup_alpha: Beta parameter, 0 is off.
    Raises ValueError if `crop` exceeds `resize`.
    """

    resize: int
    crop: int
    random_crop: bool = True
    random_flip: bool = True
    mixup_alpha: float = 0.0

    def __post_init__(self):
        if self.crop > self.resize:
            raise ValueError(f"cannot cut a crop of {self.crop} px out of images of {self.resize}x{self.resize} px")


def resize(images: Tensor, side: int) -> Tensor:
    """uint8 [N, 3, H, W] -> uint8 [N, 3, side, side], bilinear with antialiasing; unchanged if it already has that size."""
    if images.shape[-2:] == (side, side):
        return images
    out = F.interpolate(images.float(), size=(side, side), mode="bilinear", antialias=True, align_corners=False)
    return out.round_().clamp_(0, 255).to(torch.uint8)


def draw_crops(count: int, how: Augmentation, generator: torch.Generator) -> Tensor:
    """Where to crop each of `count` images, and whether to mirror it: int64 [3, count], with rows top, left, mirrored.

    generator: a CPU generator. Always draws everything, so that switching one augmentation off does not change another.
    """
    offsets = (torch.rand(2, count, generator=generator) * (how.resize - how.crop + 1)).long()
    flips = (torch.rand(1, count, generator=generator) < 0.5).long()
    if not how.random_crop:
        offsets.fill_((how.resize - how.crop) // 2)
    return torch.cat([offsets, flips * how.random_flip])


def cut(images: Tensor, crops: Tensor, side: int) -> Tensor:
    """Crop a square of this side out of every image, and mirror it if `crops` says so.

    images: uint8 [N, 3, S, S]; crops: int64 [3, N] from `draw_crops`, on the same device -> uint8 [N, 3, side, side].
    """
    span = torch.arange(side, device=images.device)
    top, left, mirrored = crops[:, :, None]
    rows, cols = top + span, left + torch.where(mirrored > 0, span.flip(0), span)
    which = torch.arange(len(images), device=images.device)
    # Advanced indices around a slice put the batch first and the channels last: [N, side, side, 3].
    return images[which[:, None, None], :, rows[:, :, None], cols[:, None, :]].permute(0, 3, 1, 2)


def to_input(images: Tensor) -> Tensor:
    """uint8 [N, 3, H, W] -> float in [-1, 1], the range that BiT's weights expect (not ImageNet's mean and std)."""
    return images.float() / 127.5 - 1.0
