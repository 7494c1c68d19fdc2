"""Two images and their labels, mixed, and the distribution that the weight comes from."""

from __future__ import annotations

import base64

import torch
import traitlets as t
from torch import Tensor

from ..show import Html, images
from .base import Explorable


class MixUp(Explorable):
    """Two images and their labels, mixed; and a hundred weights from Beta(alpha, alpha), as training would draw them.

    images: two uint8 [3, S, S] in base64; labels: their names. weight: of the first, 0 to 1. draws: which hundred. A reader's
    own two images stay in the page: no trait holds them.
    """

    module = "mixup"
    alt = (
        "A temple, a flower and their mixture. Below, the weights of a hundred training steps with alpha 0.1: most lie near "
        "0 or 1, where one image is almost alone."
    )
    images = t.List(t.Unicode()).tag(sync=True)
    labels = t.List(t.Unicode()).tag(sync=True)
    weight = t.Float(0.75).tag(sync=True)
    alpha = t.Float(0.1).tag(sync=True)
    draws = t.Int(4).tag(sync=True)
    limits = t.Dict({"weight": [0, 1, 0.001], "alpha": {"of": [0.05, 0.1, 0.2, 0.4, 0.7, 1, 2, 5]}, "draws": [1, 9999, 1]}).tag(
        sync=True
    )

    @classmethod
    def example(cls) -> MixUp:
        """A temple and a flower, photographs that come with scikit-learn."""
        from sklearn.datasets import load_sample_image

        from ...data import resize

        squares = []
        for name in ("china.jpg", "flower.jpg"):
            image = torch.from_numpy(load_sample_image(name).copy()).permute(2, 0, 1)
            left = (image.shape[2] - image.shape[1]) // 2
            squares.append(resize(image[None, :, :, left : left + image.shape[1]], 80)[0])
        return cls.of(*squares, ("temple", "flower"))

    @classmethod
    def of(cls, first: Tensor, second: Tensor, labels: tuple[str, str], **traits) -> MixUp:
        """From two images, uint8 [3, S, S]."""
        images = [base64.b64encode(x.contiguous().numpy().tobytes()).decode() for x in (first, second)]
        return cls(images=images, labels=list(labels), **traits)

    def picture(self) -> Html:
        first, second = (torch.frombuffer(bytearray(base64.b64decode(x)), dtype=torch.uint8) for x in self.images)
        side = round((len(first) / 3) ** 0.5)
        mixed = torch.lerp(second.float(), first.float(), self.weight).round().to(torch.uint8)
        titles = [*self.labels, f"{self.weight:g} {self.labels[0]}, {1 - self.weight:g} {self.labels[1]}"]
        return images(torch.stack([first, second, mixed]).unflatten(1, (3, side, side)), titles, 104)
