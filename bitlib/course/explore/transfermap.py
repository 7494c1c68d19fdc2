"""Measured accuracies over shots, trained part and upstream set."""

from __future__ import annotations

import traitlets as t
from matplotlib.figure import Figure

from .. import plots
from .base import Explorable


class TransferMap(Explorable):
    """Measured accuracies over pictures a class, trained part and pre-training data, with their spread.

    results: {"scales": [names], "depths": [names], "shots": [numbers], "accuracy": [scale][depth][shots] lists over seeds,
    0 to 1, "scratch": None or [shots] lists over seeds}. scale, depth, shot: positions of the chosen cell.
    """

    module = "transfermap"
    alt = "Test accuracy against training pictures a class, one line for each trained part of the network."
    results = t.Dict().tag(sync=True)
    scale = t.Int(0).tag(sync=True)
    depth = t.Int(0).tag(sync=True)
    shot = t.Int(0).tag(sync=True)

    @classmethod
    def of(cls, results: dict, **traits) -> TransferMap:
        """From measured results, as in results/transfer_map.json."""
        results = {key: results[key] for key in ("scales", "depths", "shots", "accuracy", "scratch") if key in results}
        limits = {
            name: {"of": list(range(len(results[key])))}
            for name, key in (("scale", "scales"), ("depth", "depths"), ("shot", "shots"))
        }
        return cls(
            **{
                "results": results,
                "limits": limits,
                "scale": len(results["scales"]) - 1,
                "shot": min(1, len(results["shots"]) - 1),
            }
            | traits
        )

    def picture(self) -> Figure:
        cells, shots = self.results["accuracy"][self.scale], self.results["shots"]
        return plots.few_shot_curve({name: dict(zip(shots, row)) for name, row in zip(self.results["depths"], cells)})
