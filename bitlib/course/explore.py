"""Explorables: figures that recompute while you move them, in a live notebook and on the website without a kernel.

Owns the Python side: one anywidget class a figure, its traits, their limits, and an example from the course's own models.
The figure itself is one ES module under `explorables/`. On the website the same module is mounted from the static HTML
that `_repr_mimebundle_` puts beside the live widget. Needs ipywidgets and anywidget, which the `course` extra brings.
"""

from __future__ import annotations

import base64
import html
import json
from pathlib import Path

import anywidget
import torch
import traitlets as t
from matplotlib.figure import Figure
from torch import Tensor

from ..hyperrule import HyperRule
from . import plots

FOLDER = Path(__file__).parent / "explorables"
KIT = (FOLDER / "kit.mjs").read_text("utf8")


class Explorable(anywidget.AnyWidget):
    """A figure that is the same module everywhere.

    A subclass names its module and an `alt` text, declares its traits, and says which of them a reader may move: `limits`
    maps each to [lowest, highest, step], with "log" as fourth for a logarithmic slider, or to {"of": [values]}. These
    traits are kept in the page's address. `picture` draws what is shown where no script runs.
    """

    module = ""
    alt = ""
    limits = t.Dict().tag(sync=True)
    _css = FOLDER / "explorables.css"

    def __init_subclass__(cls, **kwargs):
        if "module" in cls.__dict__:  # not in the classes that traitlets derives to add traits
            cls._esm = KIT + (FOLDER / f"{cls.module}.mjs").read_text("utf8")
        super().__init_subclass__(**kwargs)

    def state(self) -> dict:
        """The traits that the figure reads, JSON-able."""
        own = {name for cls in type(self).__mro__ if issubclass(cls, Explorable) for name in cls.__dict__}
        return {name: getattr(self, name) for name in sorted(self.traits(sync=True)) if name in own and name[0] != "_"}

    def picture(self) -> Figure:
        """The default state as a static figure."""
        raise NotImplementedError

    def static_html(self) -> str:
        """A div with the state as JSON and a picture: what the website's runtime turns into the live figure."""
        # "<" is escaped, so that no text in the state can end the script element.
        state = json.dumps(self.state(), sort_keys=True, separators=(",", ":")).replace("<", "\\u003c")
        source = _data_url(plots.png(self.picture()))
        return (
            f'<div class="bl-explorable" data-explorable="{self.module}"><script type="application/json">{state}</script>'
            f'<img class="bl-fallback" loading="lazy" alt="{html.escape(self.alt)}" src="{source}"></div>'
        )

    def _repr_mimebundle_(self, **kwargs):
        bundle = super()._repr_mimebundle_(**kwargs)
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle or {}, {})
        return {**data, "text/html": self.static_html(), "text/plain": f"<{type(self).__name__}>"}, metadata


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
        from .. import create_model, linear_probe, load_task

        task = load_task("digits")
        seen = linear_probe(create_model("glyphs-L", task.num_classes, pretrained=True), task.few_shot(10)).evaluate("val")
        sure = seen.logits.softmax(1).amax(1).masked_fill(seen.logits.argmax(1) != seen.labels, 2)
        return cls.of(seen.logits[sure.argmin()], task.class_names, task.val.images[sure.argmin()])

    @classmethod
    def of(cls, logits: Tensor, labels, image: Tensor | None = None, **traits) -> Softmax:
        """From a teacher's logits [C]. image: the picture that they are about, uint8 [3, H, W]. The student knows nothing."""
        shown = {} if image is None else {"image": _data_url(plots.png(image, 96)), "image_alt": "the picture in question"}
        return cls(logits=_rounded(logits), student=[0.0] * len(logits), labels=list(labels), **shown, **traits)

    def picture(self) -> Figure:
        return plots.bars(dict(zip(self.labels, torch.tensor(self.logits).softmax(0).tolist())), "probability")


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
        from .. import create_model, load_task
        from ..data import resize, to_input

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
            means=[_rounded(row, 9) for row in x.mean((2, 3))],
            squares=[_rounded(row, 9) for row in x.square().mean((2, 3))],
            **traits,
        )

    def picture(self) -> Figure:
        return plots.norm_axes()


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
        from .. import create_model

        return cls.of(create_model("photos-L", pretrained=True).root.conv.weight[:12])

    @classmethod
    def of(cls, weight: Tensor, **traits) -> Standardize:
        """From the weights of a convolution of colour pictures, float [out, 3, k, k]."""
        limits = {"filter": [0, len(weight) - 1, 1], "shift": [-2, 2, 0.05], "scale": [0.25, 4, 0.01, "log"]}
        return cls(filters=[_rounded(w) for w in weight.detach().flatten(1)], limits=limits, **traits)

    def picture(self) -> Figure:
        from ..norm import standardize_weight

        stored = torch.tensor(self.filters[self.filter]) * self.scale + self.shift
        return plots.dots(
            {"stored": stored.tolist(), "standardised": standardize_weight(stored[None]).flatten().tolist()}, "weight", 1
        )


class MixUp(Explorable):
    """Two pictures and their labels, mixed; and Beta(alpha, alpha), from which training draws the weight.

    pictures: two uint8 [3, S, S] in base64; labels: their names. weight: of the first, 0 to 1. draws: how many weights were
    drawn so far.
    """

    module = "mixup"
    alt = "Two photographs and their mixture in equal parts."
    pictures = t.List(t.Unicode()).tag(sync=True)
    labels = t.List(t.Unicode()).tag(sync=True)
    weight = t.Float(0.5).tag(sync=True)
    alpha = t.Float(0.1).tag(sync=True)
    draws = t.Int(0).tag(sync=True)
    limits = t.Dict({"weight": [0, 1, 0.005], "alpha": [0.05, 5, 0.01, "log"], "draws": [0, 9999, 1]}).tag(sync=True)

    @classmethod
    def example(cls) -> MixUp:
        """A temple and a flower, photographs that come with scikit-learn."""
        from sklearn.datasets import load_sample_image

        from ..data import resize

        squares = []
        for name in ("china.jpg", "flower.jpg"):
            image = torch.from_numpy(load_sample_image(name).copy()).permute(2, 0, 1)
            left = (image.shape[2] - image.shape[1]) // 2
            squares.append(resize(image[None, :, :, left : left + image.shape[1]], 48)[0])
        return cls.of(*squares, ("temple", "flower"))

    @classmethod
    def of(cls, first: Tensor, second: Tensor, labels: tuple[str, str], **traits) -> MixUp:
        """From two pictures, uint8 [3, S, S]."""
        pictures = [base64.b64encode(x.contiguous().numpy().tobytes()).decode() for x in (first, second)]
        return cls(pictures=pictures, labels=list(labels), **traits)

    def picture(self) -> Figure:
        first, second = (torch.frombuffer(bytearray(base64.b64decode(p)), dtype=torch.uint8) for p in self.pictures)
        side = round((len(first) / 3) ** 0.5)
        mixed = torch.lerp(second.float(), first.float(), self.weight).round().to(torch.uint8)
        return plots.image_grid(
            torch.stack([first, mixed, second]).unflatten(1, (3, side, side)), [self.labels[0], "mixed", self.labels[1]]
        )


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


def _rounded(values: Tensor, digits: int = 5) -> list[float]:
    """Short numbers for JSON; six significant digits are more than a page shows."""
    return [float(f"{v:.{digits}g}") for v in values.tolist()]


def _data_url(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()
