"""Which activations share statistics under four norms."""

from __future__ import annotations

import torch
import traitlets as t
from matplotlib.figure import Figure
from torch import Tensor

from .. import plots
from .base import Explorable, rounded


class Norms(Explorable):
    """Which activations share statistics under four norms, and how much companions move a picture.

    means, squares: averages over the pixels of x and of x squared, [pictures][channels]; picture 0 is watched. kind: "bn",
    "ln", "in" or "gn". batch: pictures in a batch. groups: of group norm. draw: number of the draw of companions.
    """

    module = "norms"
    alt = "Four grids of pictures and channels; cells of one colour share their mean under batch, layer, instance, group norm."
    means = t.List(t.List(t.Float())).tag(sync=True)
    squares = t.List(t.List(t.Float())).tag(sync=True)
    kind = t.Unicode("bn").tag(sync=True)
    batch = t.Int(2).tag(sync=True)
    groups = t.Int(4).tag(sync=True)
    draw = t.Int(0).tag(sync=True)
    limits = t.Dict(
        {
            "kind": {"of": ["bn", "ln", "in", "gn"]},
            "batch": {"of": [1, 2, 4, 8, 16, 32, 64]},
            "groups": {"of": [1, 2, 4, 8]},
            "draw": [0, 999, 1],
        }
    ).tag(sync=True)

    @classmethod
    def example(cls) -> Norms:
        """64 digits after the last stage of glyphs-L: what its last norm gets to see."""
        from ... import create_model, load_task
        from ...data import resize, to_input

        model = create_model("glyphs-L", pretrained=True).eval()
        with torch.no_grad():
            return cls.of(model.stage_features(to_input(resize(load_task("digits").val.images[:64], 32)))["stage4"][:, ::64])

    @classmethod
    def of(cls, x: Tensor, **traits) -> Norms:
        """From activations, float [N, C, H, W], of which it takes the first 64 pictures and 8 channels.

        Raises ValueError for fewer of them.
        """
        if len(x) < 64 or x.shape[1] < 8:
            raise ValueError(f"activations are {tuple(x.shape)}; 64 pictures and 8 channels are needed")
        x = x[:64, :8].double()
        return cls(
            means=[rounded(row, 9) for row in x.mean((2, 3))],
            squares=[rounded(row, 9) for row in x.square().mean((2, 3))],
            **traits,
        )

    def picture(self) -> Figure:
        return plots.norm_axes()
