"""The BiT-HyperRule as a calculator."""

from __future__ import annotations

import traitlets as t
from matplotlib.figure import Figure

from ...hyperrule import HyperRule
from .. import plots
from .base import Explorable


class Rule(Explorable):
    """The BiT-HyperRule as a calculator.

    examples: training pictures; side: of the square pictures, in pixels; classes: any number, for the rule does not ask.
    variant: "code" or "paper". at: where on the learning-rate curve to look, in per cent of the run.
    """

    module = "hyperrule"
    alt = "Learning rate over the steps of the BiT-HyperRule, as in the released code and as in the paper."
    examples = t.Int(50_000).tag(sync=True)
    side = t.Int(32).tag(sync=True)
    classes = t.Int(10).tag(sync=True)
    variant = t.Unicode("code").tag(sync=True)
    at = t.Int(50).tag(sync=True)
    limits = t.Dict(
        {
            "examples": [10, 20_000_000, 1, "log"],
            "classes": [2, 20_000, 1, "log"],
            "side": [16, 512, 16],
            "variant": {"of": ["code", "paper"]},
            "at": [0, 100, 1],
        }
    ).tag(sync=True)

    @classmethod
    def example(cls) -> Rule:
        """The size of CIFAR-10."""
        return cls()

    def picture(self) -> Figure:
        curves = {}
        for variant in ("code", "paper"):
            rule = HyperRule(self.examples, (self.side, self.side), variant)
            steps = range(1, rule.total_steps, rule.total_steps // 400)
            curves[variant] = (list(steps), [rule.lr(step) for step in steps])
        return plots.learning_curve(curves, "learning rate", log=True)
