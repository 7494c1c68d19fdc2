"""What each stage of a network finds similar: nearest neighbours of images it never saw."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
import traitlets as t
from PIL import Image
from torch import Tensor

from ..show import Html, images
from .base import Explorable, data_url

NEAR = 6  # neighbours in a row
LETTERS, DRAWINGS, SIDE = 20, 10, 32
COLORS = 64  # of the sheet of thumbnails, which keeps it small


class Neighbors(Explorable):
    """For one image, the six images whose features are most similar, at each stage of a network.

    sheet: all images as one PNG, a column for each class. classes: their names; copies: images of each; image i is number
    i % copies of class i // copies. stages: names of the rows. nearest: for each network and stage the numbers of the
    neighbours of all images, bytes in base64. query: the image looked at. network, stage: what is chosen.
    """

    module = "neighbors"
    alt = "An Armenian letter and the images nearest to it: at the pixels those of its colour, at stage 4 those of its letter."
    sheet = t.Unicode().tag(sync=True)
    classes = t.List(t.Unicode()).tag(sync=True)
    copies = t.Int(1).tag(sync=True)
    stages = t.List(t.Unicode()).tag(sync=True)
    nearest = t.Dict().tag(sync=True)
    query = t.Int(0).tag(sync=True)
    network = t.Unicode().tag(sync=True)
    stage = t.Unicode().tag(sync=True)
    limits = t.Dict({"query": [0, 0, 1], "network": {"of": []}, "stage": {"of": []}}).tag(sync=True)

    @classmethod
    def example(cls) -> Neighbors:
        """Armenian letters, new to both networks: one was trained on other scripts, one on photographs."""
        from ... import create_model

        images, names = letters()
        networks = [create_model(name, pretrained=True) for name in ("glyphs-L", "photos-L")]
        found = {model.info.name: stage_features(model, images) for model in networks}
        figure = cls.of(images, names, found)
        # To begin with: of the images whose neighbours all change from other letters to its own, the most colourful one.
        first, *_, last = figure.same("glyphs-L").double().mean(2)
        turned = (first == 0) & (last == 1)
        figure.query = int((images.double().mean((2, 3)).std(1) * turned).argmax())
        return figure

    @classmethod
    def of(cls, images: Tensor, names: Sequence[str], features: Mapping[str, Mapping[str, Tensor]], **traits) -> Neighbors:
        """From uint8 [N, 3, S, S], the same number of each class, one class after the other, and {network: {stage: [N, F]}}.

        Raises ValueError for more than 256 images, or where the classes do not share them evenly.
        """
        count, copies = len(images), len(images) // len(names)
        if count > 256 or count != copies * len(names):
            raise ValueError(f"{count} images of {len(names)} classes; at most 256 are possible, the same number of each class")
        rows = {network: list(stages) for network, stages in features.items()}
        stages = next(iter(rows.values()))
        lists = {
            network: [base64.b64encode(nearest(f[s]).to(torch.uint8).numpy().tobytes()).decode() for s in stages]
            for network, f in features.items()
        }
        limits = {"query": [0, count - 1, 1], "network": {"of": list(rows)}, "stage": {"of": stages}}
        return cls(
            sheet=data_url(sheet(images, copies)),
            classes=list(names),
            copies=copies,
            stages=stages,
            nearest=lists,
            limits=limits,
            **{"network": next(iter(rows)), "stage": stages[-1]} | traits,
        )

    def neighbors(self, network: str) -> Tensor:
        """int [stages, N, 6], the nearest first."""
        rows = [torch.frombuffer(bytearray(base64.b64decode(row)), dtype=torch.uint8) for row in self.nearest[network]]
        return torch.stack(rows).view(len(rows), -1, NEAR).long()

    def same(self, network: str) -> Tensor:
        """Whether a neighbour is of the image's own class, bool [stages, N, 6]."""
        found = self.neighbors(network)
        return found // self.copies == (torch.arange(found.shape[1]) // self.copies)[:, None]

    def picture(self) -> Html:
        whole = Image.open(io.BytesIO(base64.b64decode(self.sheet.partition(",")[2]))).convert("RGB")
        sheet, side = torch.from_numpy(np.array(whole)).permute(2, 0, 1), whole.width // len(self.classes)
        thumbnails = sheet.unfold(1, side, side).unfold(2, side, side).permute(2, 1, 0, 3, 4).flatten(0, 1)
        found, same = self.neighbors(self.network)[:, self.query], self.same(self.network)
        rows = []
        for row, stage in enumerate(self.stages):
            titles = ["image", *("same" if own else "other" for own in same[row, self.query].tolist())]
            share = f"<p>{stage}: {100 * same[row].double().mean():.0f} % of all neighbours are of the same class</p>"
            rows.append(share + images(thumbnails[[self.query, *found[row].tolist()]], titles, 40).html())
        return Html("".join(rows), "nearest neighbours by stage")


def letters() -> tuple[Tensor, list[str]]:
    """Ten drawings of each of twenty Armenian letters, uint8 [200, 3, 32, 32], and the letters."""
    from ...data import load_task
    from ...data.glyphs import draw_glyphs, draw_numbers

    task = load_task("glyphs-armenian")
    of_letter = task.train.labels == torch.arange(LETTERS)[:, None]
    chosen = torch.cat([row.nonzero()[:DRAWINGS, 0] for row in of_letter])
    draws = draw_numbers(len(chosen), SIDE, torch.Generator().manual_seed(0))
    draws[:, -SIDE * SIDE :] = 0  # no noise, of which the sheet would have to store every pixel
    return draw_glyphs(task.train.masks[chosen], SIDE, draws), list(task.class_names[:LETTERS])


def stage_features(model: torch.nn.Module, images: Tensor) -> dict[str, Tensor]:
    """The pixels, and each stage's features averaged over the image: float64 [N, F] by name. images: uint8 [N, 3, S, S]."""
    from ...data import to_input

    x = to_input(images).double()  # in float64 every machine finds the same neighbours
    with torch.no_grad():
        maps = model.eval().double().stage_features(x)
    return {"pixels": x.flatten(1)} | {name: v.mean((2, 3)) for name, v in maps.items()}


def nearest(features: Tensor, count: int = NEAR) -> Tensor:
    """The most similar others of each row by the cosine, int [N, count]. features: float [N, F]."""
    unit = F.normalize(features)
    return (unit @ unit.T).fill_diagonal_(-2).topk(count).indices


def sheet(images: Tensor, copies: int) -> bytes:
    """All images as one PNG with few colours, a column for each class."""
    columns = images.unflatten(0, (-1, copies))  # [classes, copies, 3, S, S]
    whole = columns.permute(1, 3, 0, 4, 2).flatten(2, 3).flatten(0, 1)
    buffer = io.BytesIO()
    Image.fromarray(whole.numpy()).quantize(COLORS, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
