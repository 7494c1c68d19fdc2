"""When to lower the learning rate: SGD on a noisy quadratic, whose expected loss can be written down."""

from __future__ import annotations

import traitlets as t

from ...pretrain import PAPER_MILESTONES
from .. import plots
from ..show import Html
from .base import Explorable

DIRECTIONS, FLATTEST = 40, 1e-3  # curvatures from 1 down to FLATTEST, evenly on a logarithmic scale
CURVATURE = [FLATTEST ** (i / (DIRECTIONS - 1)) for i in range(DIRECTIONS)]
SHARES = [h**0.5 / sum(h**0.5 for h in CURVATURE) for h in CURVATURE]


class Schedule(Explorable):
    """Expected loss of SGD on a quadratic with noisy gradients (arXiv 1907.04164), under the paper's staircase and another.

    first: share of the run after which the rate is lowered for the first time; the other two times follow in the paper's
    proportions. batch, epochs: images per step, length of the run. scaled: "yes" if the rate grows with the batch, else "no".
    curvature, start: of each direction, and its part of the loss at the beginning. rate: for a batch of 256; noise: variance of
    the gradient of one image along a direction of curvature 1; images: in an epoch. milestones: the paper's, as shares.
    """

    module = "schedule"
    alt = "Two loss curves. The one whose learning rate falls early drops first, then stays flat and ends above the other."
    first = t.Float(0.1).tag(sync=True)
    batch = t.Int(256).tag(sync=True)
    epochs = t.Int(90).tag(sync=True)
    scaled = t.Unicode("yes").tag(sync=True)
    curvature = t.List(CURVATURE).tag(sync=True)
    start = t.List(SHARES).tag(sync=True)
    rate = t.Float(0.06).tag(sync=True)
    noise = t.Float(400.0).tag(sync=True)
    images = t.Int(12_800).tag(sync=True)
    milestones = t.List(list(PAPER_MILESTONES)).tag(sync=True)
    limits = t.Dict(
        {
            "first": [0.02, 1, 0.01],
            "batch": {"of": [64, 256, 1024, 4096, 8192, 16_384]},
            "epochs": {"of": [30, 90, 270, 900]},
            "scaled": {"of": ["yes", "no"]},
        }
    ).tag(sync=True)

    @classmethod
    def example(cls) -> Schedule:
        """A first decay after a tenth of the run, where the paper has it after a third."""
        return cls()

    def phases(self, first: float) -> list[tuple[float, float, float]]:
        """(begin, end, rate) of each stretch with one learning rate; begin and end in epochs."""
        peak = self.rate * (self.batch / 256 if self.scaled == "yes" else 1)
        ends = [first * share / self.milestones[0] * self.epochs for share in self.milestones]
        ends = [end for end in ends if end < self.epochs - 1e-9]
        return [(a, b, peak * 0.1**i) for i, (a, b) in enumerate(zip([0.0, *ends], [*ends, float(self.epochs)]))]

    def loss(self, epoch: float, first: float | None = None) -> tuple[float, float]:
        """Expected loss after `epoch`, in two parts: what is left to learn, and what the noise of the gradients keeps up.

        With rate a, curvature h and batch B, a step multiplies a direction's part of both by (1 - ah)², and adds a²ch / 2B to
        the second, where c = noise · h is the variance of its gradient. first: instead of the figure's own.
        """
        left, kept = list(self.start), [0.0] * len(self.start)
        for begin, end, rate in self.phases(self.first if first is None else first):
            steps = max(0.0, min(epoch, end) - begin) * self.images / self.batch
            for i, h in enumerate(self.curvature):
                factor = (1 - rate * h) ** 2
                shrunk = factor**steps
                added = rate**2 * self.noise * h * h / (2 * self.batch)
                left[i] *= shrunk
                kept[i] = kept[i] * shrunk + added * (1 - shrunk) / (1 - factor)
        return sum(left), sum(kept)

    def picture(self) -> Html:
        epochs = [self.epochs * i / 120 for i in range(1, 121)]
        names = {"first decay early": self.first, "the paper's staircase": self.milestones[0]}
        curves = {name: (epochs, [sum(self.loss(epoch, first)) for epoch in epochs]) for name, first in names.items()}
        return plots.learning_curve(curves, "loss", log=True, xlabel="epoch")
