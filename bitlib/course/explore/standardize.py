"""Weight standardisation of real filters, seen in what they do to an image."""

from __future__ import annotations

import base64

import torch
import torch.nn.functional as F
import traitlets as t
from torch import Tensor

from ..show import Html, images
from .base import Explorable, rounded


class Standardize(Explorable):
    """An image filtered with stored and with standardised weights, under any shift and positive scale of the stored ones.

    pixels: of the image, uint8 [3, S, S] in base64. filters: each the flattened weights [3, k, k] of one output channel.
    filter: which is shown. shift, scale: what is added to, and multiplied with, its stored weights.
    """

    module = "standardize"
    alt = (
        "A photograph of a temple, filtered twice. With stored weights that were shifted and scaled, the edges drown in black "
        "and white. With the same weights standardised, they are clear."
    )
    pixels = t.Unicode().tag(sync=True)
    filters = t.List(t.List(t.Float())).tag(sync=True)
    filter = t.Int(0).tag(sync=True)
    shift = t.Float(0.5).tag(sync=True)
    scale = t.Float(2.0).tag(sync=True)
    limits = t.Dict().tag(sync=True)

    @classmethod
    def example(cls) -> Standardize:
        """Every second filter of the first convolution of photos-L, and a temple, a photograph that comes with scikit-learn."""
        from sklearn.datasets import load_sample_image

        from ... import create_model
        from ...data import resize

        image = torch.from_numpy(load_sample_image("china.jpg")[60:320, 200:460].copy()).permute(2, 0, 1)
        return cls.of(create_model("photos-L", pretrained=True).root.conv.weight[::2], resize(image[None], 112)[0])

    @classmethod
    def of(cls, weight: Tensor, image: Tensor, **traits) -> Standardize:
        """From the weights of a convolution, float [out, 3, k, k] with k odd, and an image, uint8 [3, S, S]."""
        limits = {"filter": [0, len(weight) - 1, 1], "shift": [-1.5, 1.5, 0.01], "scale": [0.2, 3, 0.01]}
        return cls(
            pixels=base64.b64encode(image.contiguous().numpy().tobytes()).decode(),
            filters=[rounded(w) for w in weight.detach().flatten(1)],
            limits=limits,
            **traits,
        )

    def image(self) -> Tensor:
        """uint8 [3, S, S]."""
        pixels = torch.frombuffer(bytearray(base64.b64decode(self.pixels)), dtype=torch.uint8)
        return pixels.view(3, round((len(pixels) / 3) ** 0.5), -1)

    def picture(self) -> Html:
        from ...data import to_input
        from ...norm import standardize_weight

        image = self.image()
        stored = torch.tensor(self.filters[self.filter]).view(1, 3, round((len(self.filters[0]) / 3) ** 0.5), -1)
        stored = stored * self.scale + self.shift
        found = [F.conv2d(to_input(image[None]), w, padding="same")[0, 0] for w in (stored, standardize_weight(stored))]
        limit = found[1].abs().quantile(0.98)
        grey = [(127.5 + 127.5 * (y / limit).clamp(-1, 1)).round().to(torch.uint8).expand(3, -1, -1) for y in found]
        return images(torch.stack([image, *grey]), ["image", "filtered, as stored", "filtered, standardised"], 104)
