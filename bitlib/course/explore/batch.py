"""Batch norm of five numbers, forward and backward."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
import traitlets as t
from torch import Tensor

from ..show import Html, png, table
from .base import Explorable, data_url

COUNT = 5
SIDES = {"x": [-4, 4, 0.01], "push": [-3, 3, 0.01], "gamma": [-2, 2, 0.05], "beta": [-2, 2, 0.05]}


class Batch(Explorable):
    """One unit's values for a batch of five images, normalised; and the gradient on its way back through the norm.

    x1 to x5: before the norm. push1 to push5: what the loss asks of each output, which is minus its gradient there. gamma,
    beta: scale and shift. images: of the five, each as a PNG.
    """

    module = "batch"
    alt = (
        "Five images, a lane for each. On the left their values before batch norm, on the right after it. The loss asks to "
        "raise one of the outputs; on the left all five inputs are pushed, that one up and the others down."
    )
    images = t.List(t.Unicode()).tag(sync=True)
    x1, x2, x3, x4, x5 = (t.Float(value).tag(sync=True) for value in (-1.5, -0.5, 0.0, 0.5, 2.5))
    push1, push2, push3, push4, push5 = (t.Float(value).tag(sync=True) for value in (0.0, 1.5, 0.0, 0.0, 0.0))
    gamma = t.Float(1.0).tag(sync=True)
    beta = t.Float(0.0).tag(sync=True)
    limits = t.Dict().tag(sync=True)

    @classmethod
    def example(cls) -> Batch:
        """Five digits, and a unit that compares the ink in the upper half of an image with the ink in its lower half."""
        from ... import load_task

        images = load_task("digits").train.images[:COUNT]
        ink = images[:, 0].float() / 255
        return cls.of(15 * (ink[:, :4].mean((1, 2)) - ink[:, 4:].mean((1, 2))), images)

    @classmethod
    def of(cls, x: Tensor | Sequence[float], images: Tensor | None = None, **traits) -> Batch:
        """From five values, float [5], and the images that they belong to, uint8 [5, 3, S, S]. Values beyond 4 are cut off.

        Raises ValueError unless there are five.
        """
        values = torch.as_tensor(x, dtype=torch.float64)
        if values.shape != (COUNT,):
            raise ValueError(f"values are {tuple(values.shape)}; five numbers are needed")
        values = {f"x{i + 1}": round(v, 2) for i, v in enumerate(values.clamp(-4, 4).tolist())}
        limits = {f"{name}{i + 1}": SIDES[name] for name in ("x", "push") for i in range(COUNT)}
        limits |= {name: SIDES[name] for name in ("gamma", "beta")}
        shown = [] if images is None else [data_url(png(image)) for image in images]
        return cls(images=shown, limits=limits, **values | traits)

    def values(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """(x, y, what the loss asks of y, what arrives at x), each float64 [5], by PyTorch's batch norm."""
        x, push = (
            torch.tensor([getattr(self, f"{name}{i + 1}") for i in range(COUNT)], dtype=torch.float64) for name in ("x", "push")
        )
        x.requires_grad_()
        scale, shift = (torch.tensor([v], dtype=torch.float64) for v in (self.gamma, self.beta))
        y = F.batch_norm(x[:, None], None, None, scale, shift, training=True)[:, 0]
        (arrives,) = torch.autograd.grad(y, x, push)
        return x.detach(), y.detach(), push, arrives

    def picture(self) -> Html:
        heads = ["image", "x", "y", "the loss asks of y", "reaches x"]
        columns = ([f"{v:.2f}".replace("-", "−") for v in values.tolist()] for values in self.values())
        return table(heads, [(i + 1, *row) for i, row in enumerate(zip(*columns))])
