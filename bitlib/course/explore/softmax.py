"""Softmax with a temperature, entropy, and the pull on a student."""

from __future__ import annotations

import torch
import traitlets as t
from matplotlib.figure import Figure
from torch import Tensor

from .. import plots
from .base import Explorable, data_url, rounded


class Softmax(Explorable):
    """Softmax with a temperature, its entropy, and the pull of Hinton's loss on a student.

    logits, student: of teacher and student for one picture, float [C]; labels: names of the classes. temperature: 0.25 to
    20. scaled: whether the gradient carries the factor T^2. Pull is minus the gradient at the student's logits.
    """

    module = "softmax"
    alt = "Bars: the probability of each class for one picture, at temperature 1."
    logits = t.List(t.Float()).tag(sync=True)
    student = t.List(t.Float()).tag(sync=True)
    labels = t.List(t.Unicode()).tag(sync=True)
    image = t.Unicode().tag(sync=True)
    image_alt = t.Unicode().tag(sync=True)
    temperature = t.Float(1.0).tag(sync=True)
    scaled = t.Bool(True).tag(sync=True)
    limits = t.Dict({"temperature": [0.25, 20, 0.01, "log"], "scaled": {"of": [False, True]}}).tag(sync=True)

    @classmethod
    def example(cls) -> Softmax:
        """The validation digit that a linear head on glyphs-L, fitted on ten digits a class, gets right least surely."""
        from ... import create_model, linear_probe, load_task

        task = load_task("digits")
        seen = linear_probe(create_model("glyphs-L", task.num_classes, pretrained=True), task.few_shot(10)).evaluate("val")
        sure = seen.logits.softmax(1).amax(1).masked_fill(seen.logits.argmax(1) != seen.labels, 2)
        return cls.of(seen.logits[sure.argmin()], task.class_names, task.val.images[sure.argmin()])

    @classmethod
    def of(cls, logits: Tensor, labels, image: Tensor | None = None, **traits) -> Softmax:
        """From a teacher's logits [C]. image: the picture that they are about, uint8 [3, H, W]. The student knows nothing."""
        shown = {} if image is None else {"image": data_url(plots.png(image, 96)), "image_alt": "the picture in question"}
        return cls(logits=rounded(logits), student=[0.0] * len(logits), labels=list(labels), **shown, **traits)

    def picture(self) -> Figure:
        return plots.bars(dict(zip(self.labels, torch.tensor(self.logits).softmax(0).tolist())), "probability")
