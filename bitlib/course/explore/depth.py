"""Coloured digits, arranged by what each stage of a network finds similar, from the pixels to the last stage."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
import traitlets as t
from torch import Tensor

from ..show import Html
from .base import Explorable, data_url, rounded

NEAR = 5  # neighbours of an image
DIGITS, DRAWINGS, SIDE = (0, 1, 4, 6, 7), 4, 32
PAPER = (240, 240, 240)
INKS = {"red": (200, 26, 26), "green": (26, 140, 38), "blue": (31, 64, 204), "brown": (191, 115, 0)}
NETWORKS = {"glyphs-L": "characters", "photos-L": "photographs", "random": "nothing: random weights"}


class Depth(Explorable):
    """Images of digits in coloured ink, and where they lie at each stage of a network: near means similar.

    shapes: how much ink each pixel has, bytes [N, 8, 8] in base64. digits, inks: what each image shows, and the number of its
    ink. names, colours: of the inks. paper: its colour. places: for each network and stage x and y of all images, from -1 to
    1. nearest: for each network and stage the numbers of the five neighbours of all images, bytes in base64. networks: what
    each was trained on. query: the image looked at; network, depth: where; a depth of 2.5 is halfway between two stages.
    """

    module = "depth"
    alt = (
        "Digits in four inks, arranged by similarity, at three depths of a network that has learnt characters. By pixels, they "
        "lie in groups of one ink. At the last stage they lie in groups of one digit, with all inks mixed."
    )
    shapes = t.Unicode().tag(sync=True)
    digits = t.List(t.Int()).tag(sync=True)
    inks = t.List(t.Int()).tag(sync=True)
    names = t.List(t.Unicode()).tag(sync=True)
    colours = t.List(t.List(t.Int())).tag(sync=True)
    paper = t.List(t.Int()).tag(sync=True)
    stages = t.List(t.Unicode()).tag(sync=True)
    places = t.Dict().tag(sync=True)
    nearest = t.Dict().tag(sync=True)
    networks = t.Dict(NETWORKS).tag(sync=True)
    query = t.Int(0).tag(sync=True)
    network = t.Unicode().tag(sync=True)
    depth = t.Float(0).tag(sync=True)
    limits = t.Dict({"query": [0, 0, 1], "network": {"of": []}, "depth": [0, 5, 0.05]}).tag(sync=True)

    @classmethod
    def example(cls) -> Depth:
        """Handwritten digits, new to all three networks: trained on characters, on photographs, and not at all."""
        from ... import create_model

        shapes, digits, inks = drawings()
        images = inked(shapes, torch.tensor([*INKS.values()])[inks], PAPER)
        models = {name: create_model(name, pretrained=True) for name in NETWORKS if name != "random"}
        models["random"] = create_model("glyphs-L", 10, seed=0)
        found = {name: stage_features(model, images) for name, model in models.items()}
        # To begin with: an image whose neighbours all turn from its ink to its digit.
        figure = cls.of(shapes, digits, inks, found)
        first, *_, last = figure.neighbors("glyphs-L")
        of_ink = (inks[first] == inks[:, None]).double().mean(1) - (digits[first] == digits[:, None]).double().mean(1)
        figure.query = int((of_ink * (digits[last] == digits[:, None]).all(1)).argmax())
        return figure

    @classmethod
    def of(cls, shapes: Tensor, digits: Tensor, inks: Tensor, features: Mapping[str, Mapping[str, Tensor]], **traits) -> Depth:
        """From uint8 [N, 8, 8], what each shows and its ink, int [N], and {network: {stage: float [N, F]}}, N at most 256."""
        if len(shapes) > 256:
            raise ValueError(f"{len(shapes)} images; at most 256 are possible")
        stages = list(next(iter(features.values())))
        lists = {
            network: [_base64(nearest(of_stage[s]).to(torch.uint8)) for s in stages] for network, of_stage in features.items()
        }
        places = {
            network: [rounded(p.flatten()) for p in arranged(list(of_stage.values()))] for network, of_stage in features.items()
        }
        limits = {
            "query": [0, len(shapes) - 1, 1],
            "network": {"of": list(features)},
            "depth": [0, len(stages) - 1, 0.05],
        }
        return cls(
            shapes=_base64(shapes),
            digits=digits.tolist(),
            inks=inks.tolist(),
            names=list(INKS),
            colours=[list(colour) for colour in INKS.values()],
            paper=list(PAPER),
            stages=stages,
            places=places,
            nearest=lists,
            limits=limits,
            **{"network": next(iter(features))} | traits,
        )

    def neighbors(self, network: str) -> Tensor:
        """int [stages, N, 5], the nearest first."""
        rows = [torch.frombuffer(bytearray(base64.b64decode(row)), dtype=torch.uint8) for row in self.nearest[network]]
        return torch.stack(rows).view(len(rows), -1, NEAR).long()

    def picture(self) -> Html:
        """Three depths side by side, a digit in its ink for each image."""
        shown, side, gap = [0, len(self.stages) // 2, len(self.stages) - 1], 210, 12
        parts = []
        for column, stage in enumerate(shown):
            left, name = column * (side + gap), html.escape(self.stages[stage].replace("stage", "stage "))
            places = torch.tensor(self.places[self.network][stage]).view(-1, 2) if self.places else torch.zeros(0, 2)
            parts.append(f'<rect x="{left}" width="{side}" height="{side}" rx="6" fill="rgb{tuple(self.paper)}"/>')
            parts += [
                f'<text x="{left + side / 2 + 94 * x:.0f}" y="{side / 2 + 5 - 94 * y:.0f}" '
                f'fill="rgb{tuple(self.colours[ink])}">{digit}</text>'
                for (x, y), digit, ink in zip(places.tolist(), self.digits, self.inks)
            ]
            parts.append(f'<text x="{left + side / 2:.0f}" y="{side + 18}" fill="gray">{name}</text>')
        width, height = len(shown) * (side + gap) - gap, side + 24
        style = 'font-family="sans-serif" font-size="13" text-anchor="middle"'
        box = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
        svg = f'<svg xmlns="http://www.w3.org/2000/svg" {box} {style}>{"".join(parts)}</svg>'
        image = f'<img alt="{html.escape(self.alt)}" style="max-width:100%" src="{data_url(svg.encode(), "image/svg+xml")}">'
        return Html(image, "digits arranged by similarity, at three depths")


def drawings() -> tuple[Tensor, Tensor, Tensor]:
    """Training images of five of the digits: uint8 [80, 8, 8], 0 for paper; what each shows and its ink, int [80]."""
    from ...data import load_task

    train = load_task("digits").train
    chosen = torch.cat([(train.labels == digit).nonzero()[: DRAWINGS * len(INKS), 0] for digit in DIGITS])
    inks = torch.arange(len(INKS)).repeat_interleave(DRAWINGS).repeat(len(DIGITS))
    return train.images[chosen][:, 0], train.labels[chosen], inks


def inked(shapes: Tensor, colours: Tensor, paper: Sequence[int], side: int = SIDE) -> Tensor:
    """Digits in coloured ink. shapes: uint8 [N, 8, 8]; colours: [N, 3]; paper: 0 to 255 -> uint8 [N, 3, side, side]."""
    from ...data import resize

    ink = resize(shapes[:, None].expand(-1, 3, -1, -1), side).double() / 255
    ground = torch.tensor(paper, dtype=torch.float64).view(1, 3, 1, 1)
    return (ground + (colours.double()[:, :, None, None] - ground) * ink).round().to(torch.uint8)


def stage_features(model: torch.nn.Module, images: Tensor) -> dict[str, Tensor]:
    """The pixels, and the features of the root and each stage averaged over the image: float64 [N, F] by name."""
    from ...data import to_input
    from ...resnet import STAGES

    x = to_input(images).double()  # in float64 every machine finds the same neighbours
    model, found = model.eval().double(), {"pixels": x.flatten(1)}
    with torch.no_grad():
        for name in ("root", *STAGES):
            x = getattr(model, name)(x)
            found[name] = x.mean((2, 3))
    return found


def centred(features: Tensor) -> Tensor:
    """What sets each image apart from the average, scaled to length 1. features: float [N, F]."""
    return F.normalize(features - features.mean(0))


def nearest(features: Tensor, count: int = NEAR) -> Tensor:
    """The most similar others of each row by the cosine of what sets them apart, int [N, count]. features: float [N, F]."""
    unit = centred(features)
    return (unit @ unit.T).fill_diagonal_(-2).topk(count).indices


def arranged(stages: Sequence[Tensor]) -> list[Tensor]:
    """The two directions along which each stage's images differ most, float [N, 2] from -1 to 1; no label is used.

    stages: float [N, F] each. Every arrangement is turned, and mirrored if need be, to lie as near to the one before as it can.
    """
    found: list[Tensor] = []
    for features in stages:
        unit = centred(features)
        u, s, _ = torch.linalg.svd(unit - unit.mean(0), full_matrices=False)
        flat = u[:, :2] * s[:2]
        if found:
            left, _, right = torch.linalg.svd(flat.T @ found[-1])
            flat = flat @ (left @ right)
        else:
            flat = flat * flat.gather(0, flat.abs().argmax(0, keepdim=True)).sign()  # an SVD leaves the signs open
        found.append(flat / flat.norm(dim=1).max())
    return found


def _base64(values: Tensor) -> str:
    return base64.b64encode(values.contiguous().numpy().tobytes()).decode()
