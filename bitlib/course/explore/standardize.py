"""Weight standardisation of real filters."""

from __future__ import annotations

import torch
import traitlets as t
from matplotlib.figure import Figure
from torch import Tensor

from .. import plots
from .base import Explorable, rounded


class Standardize(Explorable):
    """Weight standardisation of real filters under any shift and positive scale of the stored weights.

    filters: each the flattened weights [3, k, k] of one output channel. filter: which is shown. shift, scale: what is added
    to, and multiplied with, its stored weights.
    """

    module = "standardize"
    alt = "Histograms of the weights of one filter, stored and standardised."
    filters = t.List(t.List(t.Float())).tag(sync=True)
    filter = t.Int(0).tag(sync=True)
    shift = t.Float(0.5).tag(sync=True)
    scale = t.Float(2.0).tag(sync=True)
    limits = t.Dict().tag(sync=True)

    @classmethod
    def example(cls) -> Standardize:
        """The first filters of photos-L, which look at colours and edges."""
        from ... import create_model

        return cls.of(create_model("photos-L", pretrained=True).root.conv.weight[:12])

    @classmethod
    def of(cls, weight: Tensor, **traits) -> Standardize:
        """From the weights of a convolution of colour pictures, float [out, 3, k, k]."""
        limits = {"filter": [0, len(weight) - 1, 1], "shift": [-2, 2, 0.05], "scale": [0.25, 4, 0.01, "log"]}
        return cls(filters=[rounded(w) for w in weight.detach().flatten(1)], limits=limits, **traits)

    def picture(self) -> Figure:
        from ...norm import standardize_weight

        stored = torch.tensor(self.filters[self.filter]) * self.scale + self.shift
        return plots.dots(
            {"stored": stored.tolist(), "standardised": standardize_weight(stored[None]).flatten().tolist()}, "weight", 1
        )
