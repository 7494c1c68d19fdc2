"""Which activations share statistics under four norms."""

from __future__ import annotations

import base64

import torch
import traitlets as t
from torch import Tensor

from .. import plots
from ..show import Html, png
from .base import Explorable, data_url

POOL, CHANNELS = 512, 8
NAMES = {"bn": "batch norm", "ln": "layer norm", "in": "instance norm", "gn": "group norm"}


class Norms(Explorable):
    """Which activations share statistics under four norms, and how much its companions in the batch move an image.

    means, deviations: over the pixels of each channel of each image, float16 [N, 8] in base64. thumbnails: of the images, 32
    to a row, a PNG as a data URL; or "". batch: images in a batch. groups: of group norm. image: the watched one. channel:
    the watched one. draw: number of the draw of companions.
    """

    module = "norms"
    alt = (
        "Four grids of images and channels. Cells that share a mean are coloured: under batch norm those of all images in the "
        "batch, under layer, instance and group norm those of one image. Below, the image among 40 random subsets of "
        "companions: its value moves under batch norm alone."
    )
    means = t.Unicode().tag(sync=True)
    deviations = t.Unicode().tag(sync=True)
    thumbnails = t.Unicode().tag(sync=True)
    batch = t.Int(8).tag(sync=True)
    groups = t.Int(4).tag(sync=True)
    image = t.Int(0).tag(sync=True)
    channel = t.Int(3).tag(sync=True)
    draw = t.Int(0).tag(sync=True)
    limits = t.Dict().tag(sync=True)

    @classmethod
    def example(cls) -> Norms:
        """512 digits after the last stage of glyphs-L: what its last norm gets to see."""
        from ... import create_model, load_task
        from ...data import resize, to_input

        model, images = create_model("glyphs-L", pretrained=True).eval(), load_task("digits").train.images[:POOL]
        with torch.no_grad():
            x = [model.stage_features(to_input(resize(part, 32)))["stage4"][:, ::64] for part in images.split(64)]
        return cls.of(torch.cat(x), images)

    @classmethod
    def of(cls, x: Tensor, images: Tensor | None = None, **traits) -> Norms:
        """From activations, float [N, C, H, W], of which it takes the first 512 images and 8 channels.

        images: uint8 [N, 3, S, S], what the activations are of; without them the thumbnails stay blank. A batch is at most an
        eighth of the images: larger subsets resemble each other, and the spread would look too small. Raises ValueError for
        fewer than 64 images or 8 channels.
        """
        if len(x) < 64 or x.shape[1] < CHANNELS:
            raise ValueError(f"activations are {tuple(x.shape)}; 64 images and {CHANNELS} channels are needed")
        variances, means = torch.var_mean(x[:POOL, :CHANNELS].double(), (2, 3), correction=0)
        limits = {
            "batch": {"of": [b for b in (1, 2, 4, 8, 16, 32, 64) if b <= len(means) // 8]},
            "groups": {"of": [1, 2, 4, 8]},
            "image": [0, len(means) - 1, 1],
            "channel": [0, CHANNELS - 1, 1],
            "draw": [0, 999, 1],
        }
        thumbnails = "" if images is None else sheet(images[:POOL])
        return cls(means=half(means), deviations=half(variances.sqrt()), thumbnails=thumbnails, limits=limits, **traits)

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Means and deviations as stored, float64 [N, 8]."""
        stored = (torch.frombuffer(bytearray(base64.b64decode(s)), dtype=torch.float16) for s in (self.means, self.deviations))
        means, deviations = (s.double().view(-1, CHANNELS) for s in stored)
        return means, deviations

    def picture(self) -> Html:
        return plots.norm_axes(images=4, channels=CHANNELS, groups=self.groups)


def half(values: Tensor) -> str:
    """In half precision, which is more than a figure shows, and half as long."""
    return base64.b64encode(values.half().contiguous().numpy().tobytes()).decode()


def sheet(images: Tensor) -> str:
    """All images on one, 32 to a row, as a data URL. images: uint8 [N, 3, S, S]."""
    from ...data import resize

    small = resize(images, min(16, images.shape[-1]))
    rows = -(-len(small) // 32)
    small = torch.cat([small, small.new_zeros(32 * rows - len(small), *small.shape[1:])])
    return data_url(png(small.unflatten(0, (rows, 32)).permute(2, 0, 3, 1, 4).flatten(3).flatten(1, 2)))
