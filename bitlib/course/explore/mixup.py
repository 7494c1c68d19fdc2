"""Two images and their labels, mixed."""

from __future__ import annotations

import base64

import torch
import traitlets as t
from matplotlib.figure import Figure
from torch import Tensor

from .. import plots
from .base import Explorable


class MixUp(Explorable):
    """Two pictures and their labels, mixed; and Beta(alpha, alpha), from which training draws the weight.

    pictures: two uint8 [3, S, S] in base64; labels: their names. weight: of the first, 0 to 1. draws: how many weights were
    drawn so far.
    """

    module = "mixup"
    alt = "Two photographs and their mixture in equal parts."
    pictures = t.List(t.Unicode()).tag(sync=True)
    labels = t.List(t.Unicode()).tag(sync=True)
    weight = t.Float(0.5).tag(sync=True)
    alpha = t.Float(0.1).tag(sync=True)
    draws = t.Int(0).tag(sync=True)
    limits = t.Dict({"weight": [0, 1, 0.005], "alpha": [0.05, 5, 0.01, "log"], "draws": [0, 9999, 1]}).tag(sync=True)

    @classmethod
    def example(cls) -> MixUp:
        """A temple and a flower, photographs that come with scikit-learn."""
        from sklearn.datasets import load_sample_image

        from ...data import resize

        squares = []
        for name in ("china.jpg", "flower.jpg"):
            image = torch.from_numpy(load_sample_image(name).copy()).permute(2, 0, 1)
            left = (image.shape[2] - image.shape[1]) // 2
            squares.append(resize(image[None, :, :, left : left + image.shape[1]], 48)[0])
        return cls.of(*squares, ("temple", "flower"))

    @classmethod
    def of(cls, first: Tensor, second: Tensor, labels: tuple[str, str], **traits) -> MixUp:
        """From two pictures, uint8 [3, S, S]."""
        pictures = [base64.b64encode(x.contiguous().numpy().tobytes()).decode() for x in (first, second)]
        return cls(pictures=pictures, labels=list(labels), **traits)

    def picture(self) -> Figure:
        first, second = (torch.frombuffer(bytearray(base64.b64decode(p)), dtype=torch.uint8) for p in self.pictures)
        side = round((len(first) / 3) ** 0.5)
        mixed = torch.lerp(second.float(), first.float(), self.weight).round().to(torch.uint8)
        return plots.image_grid(
            torch.stack([first, mixed, second]).unflatten(1, (3, side, side)), [self.labels[0], "mixed", self.labels[1]]
        )
