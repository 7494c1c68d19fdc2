"""The BiT-HyperRule, drawn over the size of the data set."""

from __future__ import annotations

import traitlets as t

from ...hyperrule import HyperRule
from .. import plots
from ..show import Html
from .base import Explorable

# Labelled training images of data sets that the paper fine-tunes on; ten images of each of ten classes are a hundred.
NAMED = [
    ["CIFAR-10, 10-shot", 10 * 10],
    ["VTAB-1k", 1000],
    ["Flowers", 1020],
    ["Pets", 3680],
    ["CIFAR", 50_000],
    ["ImageNet", 1_280_000],
]


class Rule(Explorable):
    """The BiT-HyperRule: what follows from the number of labelled images and from their size.

    examples: labelled training images; side: of the square images, in pixels. variant: "code" or "paper".
    step: where on the learning-rate schedule to look. named: [name, images] of the data sets on the axis.
    """

    module = "hyperrule"
    alt = "Learning rate against the step by the BiT-HyperRule: the released code warms up linearly, the paper does not."
    examples = t.Int(50_000).tag(sync=True)
    side = t.Int(32).tag(sync=True)
    variant = t.Unicode("code").tag(sync=True)
    step = t.Int(250).tag(sync=True)
    named = t.List(NAMED).tag(sync=True)
    limits = t.Dict(
        {
            "examples": [10, 20_000_000, 1],
            "side": [16, 512, 1],
            "variant": {"of": ["code", "paper"]},
            "step": [0, 19_999, 1],
        }
    ).tag(sync=True)

    @classmethod
    def example(cls) -> Rule:
        """The size of CIFAR-10."""
        return cls()

    def picture(self) -> Html:
        curves = {}
        for variant, name in (("code", "released code"), ("paper", "paper")):
            rule = HyperRule(self.examples, (self.side, self.side), variant)
            steps = range(0, rule.total_steps, rule.total_steps // 500)
            curves[name] = (list(steps), [rule.lr(step) for step in steps])
        return plots.learning_curve(curves, "learning rate")
