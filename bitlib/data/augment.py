"""Random crop and flip, drawn for each picture of a batch, on whatever device holds the batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def resize(images: Tensor, side: int) -> Tensor:
    """uint8 [N, 3, H, W] -> uint8 [N, 3, side, side], bilinear with antialiasing; unchanged where it fits already."""
    if images.shape[-2:] == (side, side):
        return images
    out = F.interpolate(images.float(), size=(side, side), mode="bilinear", antialias=True, align_corners=False)
    return out.round_().clamp_(0, 255).to(torch.uint8)


def augment(
    images: Tensor, crop: int, generator: torch.Generator, random_crop: bool = True, random_flip: bool = True
) -> Tensor:
    """Cut a square of side `crop` out of every picture and mirror every second one on average.

    images: uint8 [N, 3, S, S] with S >= crop. generator: a CPU generator; each picture has draws of its own.
    With `random_crop` off the square is the centre; with `random_flip` off nothing is mirrored. Some labels
    do not survive a flip (digits, text) or a crop (counting), hence the switches: paper, appendix F.
    """
    n, _, h, w = images.shape
    if crop > min(h, w):
        raise ValueError(f"cannot cut a crop of {crop} px out of pictures of {h}x{w} px")
    # Both are always drawn, so that switching one off does not change the draws of the other.
    offsets = (torch.rand(2, n, generator=generator) * torch.tensor([[h - crop + 1], [w - crop + 1]])).long()
    flips = torch.rand(n, generator=generator) < 0.5
    if not random_crop:
        offsets = torch.tensor([[(h - crop) // 2], [(w - crop) // 2]]).expand(2, n)
    span = torch.arange(crop)
    rows, cols = offsets[0, :, None] + span, offsets[1, :, None] + span
    if random_flip:
        cols = torch.where(flips[:, None], cols.flip(1), cols)
    rows, cols = rows.to(images.device), cols.to(images.device)
    which = torch.arange(n, device=images.device)
    # Advanced indices around a slice put the batch first and the channels last: [N, crop, crop, 3].
    return images[which[:, None, None], :, rows[:, :, None], cols[:, None, :]].permute(0, 3, 1, 2)


def to_input(images: Tensor) -> Tensor:
    """uint8 [N, 3, H, W] -> float in [-1, 1], the range that BiT's weights expect (not ImageNet's mean and std)."""
    return images.float() / 127.5 - 1.0
