"""Softmax with a temperature, and why Hinton's loss carries the factor T^2."""

from __future__ import annotations

import torch
import traitlets as t
from matplotlib.figure import Figure
from torch import Tensor

from .. import plots
from ..palette import LIGHT
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
    limits = t.Dict({"temperature": [0.5, 20, 0.01, "log"]}).tag(sync=True)

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
        shown = {} if image is None else {"image": data_url(plots.png(image)), "image_alt": "the image that the teacher sees"}
        return cls(logits=rounded(logits), student=[0.0] * len(logits), labels=list(labels), **shown, **traits)

    def picture(self) -> Figure:
        teacher, student = (torch.tensor(z, dtype=torch.float64) for z in (self.logits, self.student))
        T = self.temperature
        figure = Figure(figsize=(7.2, 3.6), layout="constrained", facecolor="white")
        left, right = figure.subplots(1, 2, width_ratios=(3, 2))
        left.barh(self.labels, (teacher / T).softmax(0).tolist(), color=LIGHT["teacher"], label=f"T = {T:g}")
        left.barh(self.labels, teacher.softmax(0).tolist(), fill=False, edgecolor=LIGHT["ink"], linestyle=":", label="T = 1")
        left.invert_yaxis()
        left.set(xlabel="probability", ylabel="class")
        left.legend(frameon=False, loc="lower right")
        temperatures = torch.logspace(-0.3, 1.3, 60, dtype=torch.float64)[:, None]
        norm = ((teacher / temperatures).softmax(1) - (student / temperatures).softmax(1)).norm(dim=1)
        at, temperatures = LIGHT["student"], temperatures[:, 0]
        right.plot(temperatures, norm * temperatures, color=at, label="with T²")
        right.plot(temperatures, norm / temperatures, color=at, linestyle="--", label="without")
        right.set_xscale("log")
        right.set_xticks((0.5, 1, 2, 5, 10, 20), ("0.5", "1", "2", "5", "10", "20"))
        right.minorticks_off()
        right.set(xlabel="temperature T", ylabel="gradient norm", ylim=(0, None))
        right.legend(frameon=False)
        for axes in (left, right):
            axes.spines[["top", "right"]].set_visible(False)
        return figure
