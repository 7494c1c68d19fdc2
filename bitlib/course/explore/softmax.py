"""Softmax with a temperature, and why Hinton's loss carries the factor T^2."""

from __future__ import annotations

import torch
import traitlets as t
from torch import Tensor

from .. import plots
from ..show import Html, png
from .base import Explorable, data_url, rounded


class Softmax(Explorable):
    """Softmax with a temperature; and apart, how strong the gradient of Hinton's loss is at each temperature.

    logits, student: of teacher and student for one image, float [C]; labels: names of the classes. image: a data URL.
    temperature: 0.5 to 20. The gradient is that of T^2 KL(teacher || student) at the student's logits.
    """

    module = "softmax"
    alt = (
        "Bars: the teacher's probability of each class for one image at temperature 2, and at temperature 1. Lines: the "
        "norm of the gradient against the temperature. It vanishes without the factor T squared and stays with it."
    )
    logits = t.List(t.Float()).tag(sync=True)
    student = t.List(t.Float()).tag(sync=True)
    labels = t.List(t.Unicode()).tag(sync=True)
    image = t.Unicode().tag(sync=True)
    image_alt = t.Unicode().tag(sync=True)
    temperature = t.Float(2.0).tag(sync=True)
    limits = t.Dict({"temperature": [0.5, 20, 0.01]}).tag(sync=True)

    @classmethod
    def example(cls) -> Softmax:
        """The validation digit that a linear head on glyphs-L, fitted on ten digits a class, gets right least surely."""
        from ... import create_model, linear_probe, load_task
        from ...data import resize

        task = load_task("digits")
        seen = linear_probe(create_model("glyphs-L", task.num_classes, pretrained=True), task.few_shot(10)).evaluate("val")
        sure = seen.logits.softmax(1).amax(1).masked_fill(seen.logits.argmax(1) != seen.labels, 2)
        image = resize(task.val.images[sure.argmin()][None], 32)[0]
        # A margin, because these digits touch the edges of their images.
        return cls.of(seen.logits[sure.argmin()], task.class_names, torch.nn.functional.pad(image, (5, 5, 5, 5)))

    @classmethod
    def of(cls, logits: Tensor, labels, image: Tensor | None = None, **traits) -> Softmax:
        """From a teacher's logits [C]. image: the one that they are about, uint8 [3, H, W]. The student knows nothing."""
        shown = {} if image is None else {"image": data_url(png(image)), "image_alt": "the image that the teacher sees"}
        return cls(logits=rounded(logits), student=[0.0] * len(logits), labels=list(labels), **shown, **traits)

    def picture(self) -> Html:
        p = (torch.tensor(self.logits) / self.temperature).softmax(0)
        return plots.bars(dict(zip(self.labels, p.tolist())), f"probability at T = {self.temperature:g}")
