"""A pre-activation bottleneck block of BiT, with the activations of one photograph in it."""

from __future__ import annotations

import base64

import torch
import traitlets as t
from torch import Tensor

from ..show import Html, images, png
from .base import Explorable, data_url, rounded

SHOWN = 4  # channels
STEPS = ("input", "norm", "relu", "conv", "norm", "relu", "conv", "norm", "relu", "conv", "shortcut")


class Block(Explorable):
    """Two residual blocks, the first and the second of a stage, step by step: output = shortcut + branch * (the branch).

    photo: the image as a PNG. blocks: for each its name and its steps. A step has its op, its shape [C, H, W], its number of
    parameters, the numbers of the channels shown, and what the figure needs to compute them: `values`, float32 [4, H, W] in
    base64, or for a norm the scale and the offset that it applies to each channel of this image. A block without an input of
    its own continues from the output of the one before. step: of the steps, the one explained. channel: of the four, the one
    in the sum; row, column: its pixel.
    """

    module = "block"
    alt = (
        "Four channels after each step of a residual block, for a photograph of a temple; the last row is shortcut plus branch."
    )
    photo = t.Unicode().tag(sync=True)
    blocks = t.List(t.Dict()).tag(sync=True)
    block = t.Int(0).tag(sync=True)
    step = t.Int(6).tag(sync=True)
    branch = t.Float(1.0).tag(sync=True)
    channel = t.Int(1).tag(sync=True)
    row = t.Int(0).tag(sync=True)
    column = t.Int(0).tag(sync=True)
    limits = t.Dict().tag(sync=True)

    @classmethod
    def example(cls) -> Block:
        """The second stage of photos-L and the temple that comes with scikit-learn, at 48 by 48 pixels."""
        from sklearn.datasets import load_sample_image

        from ... import create_model
        from ...data import resize

        image = torch.from_numpy(load_sample_image("china.jpg").copy()).permute(2, 0, 1)
        left = (image.shape[2] - image.shape[1]) // 2
        square = resize(image[None, :, :, left : left + image.shape[1]], 48)
        return cls.of(create_model("photos-L", pretrained=True), square)

    @classmethod
    def of(cls, model: torch.nn.Module, image: Tensor, stage: str = "stage2", **traits) -> Block:
        """From a network of standardised convolutions and group norms whose stage has two units, and uint8 [1, 3, S, S]."""
        from ...data import to_input
        from ...resnet import STAGES

        model = model.eval().double()
        with torch.no_grad():
            x = model.root(to_input(image).double())
            for name in STAGES[: STAGES.index(stage)]:
                x = getattr(model, name)(x)
            units = [getattr(model, stage)[i] for i in range(2)]
            out = distinct(units[0](x))  # both blocks show the same channels of the stream
            blocks = [
                steps(units[0], x, distinct(x), out),
                steps(units[1], units[0](x), out, out),
            ]
        del blocks[1][0]["values"]  # the output of the first block
        height, width = blocks[1][0]["shape"][1:]
        middle = {"row": height // 2, "column": width // 2}
        limits = {"block": [0, 1, 1], "step": [0, len(STEPS) - 1, 1], "branch": [0, 1, 0.01], "channel": [0, SHOWN - 1, 1]}
        return cls(
            photo=data_url(png(image[0])),
            blocks=[{"name": f"{stage}.unit0{i + 1}", "steps": s} for i, s in enumerate(blocks)],
            limits=limits | {"row": [0, height - 1, 1], "column": [0, width - 1, 1]},
            **middle | traits,
        )

    def maps(self, block: int) -> list[Tensor]:
        """The shown channels after each step, float64 [4, H, W], and last the output, as the figure computes them."""
        found = []
        for step in self.blocks[block]["steps"]:
            if "values" in step:
                raw = torch.frombuffer(bytearray(base64.b64decode(step["values"])), dtype=torch.float32)
                found.append(raw.double().view(SHOWN, *step["shape"][1:]))
            elif step["op"] == "norm":
                scale, offset = (torch.tensor(step[k], dtype=torch.float64)[:, None, None] for k in ("scale", "offset"))
                found.append(found[-1] * scale + offset)
            elif step["op"] == "relu":
                found.append(found[-1].relu())
            elif step["op"] == "input":  # what the block before puts out, its branch not scaled
                *_, branch, shortcut, _ = self.maps(block - 1)
                found.append(shortcut + branch)
            else:
                found.append(found[0])  # the shortcut of a block that keeps the shape
        return [*found, found[-1] + self.branch * found[-2]]

    def picture(self) -> Html:
        shown = [*zip(STEPS, self.maps(self.block)), ("output", self.maps(self.block)[-1])]
        side = max(maps.shape[-1] for _, maps in shown)
        grey = []
        for _, maps in shown:
            tile = (127.5 + 127.5 * maps[0] / maps.abs().max()).round().to(torch.uint8)
            grey.append(tile.repeat_interleave(side // len(tile), 0).repeat_interleave(side // len(tile), 1).expand(3, -1, -1))
        return images(torch.stack(grey), [name for name, _ in shown], 72)


def distinct(x: Tensor, count: int = SHOWN) -> Tensor:
    """Channels of x [1, C, H, W] worth a look: the one that varies most, then always the one least like those taken."""
    flat = x[0].flatten(1)
    lively = flat.var(1).topk(min(24, len(flat))).indices
    likeness = flat[lively].corrcoef().abs()
    taken = [0]
    while len(taken) < count:
        taken.append(int(likeness[:, taken].amax(1).argmin()))
    return lively[taken].sort().values


def steps(unit: torch.nn.Module, x: Tensor, inside: Tensor, outside: Tensor) -> list[dict]:
    """The steps of a unit, with the channels `inside` of its input x [1, C, H, W] and `outside` of its output."""
    found = []

    def add(op: str, y: Tensor, channels: Tensor, parameters: int = 0, **more) -> None:
        found.append({"op": op, "shape": list(y.shape[1:]), "parameters": parameters, "channels": channels.tolist()} | more)

    def values(y: Tensor, channels: Tensor) -> dict:
        return {"values": base64.b64encode(y[0, channels].float().numpy().tobytes()).decode()}

    def conv(op: str, module: torch.nn.Conv2d, y: Tensor, channels: Tensor) -> None:
        kernel, stride = module.kernel_size[0], module.stride[0]
        add(op, y, channels, module.weight.numel(), kernel=kernel, stride=stride, **values(y, channels))

    add("input", x, inside, **values(x, inside))
    y, channels = x, inside
    for part in (unit.a, unit.b, unit.c):
        scale, offset = affine(part.norm, y)
        add("norm", y, channels, 2 * len(scale), scale=rounded(scale[channels], 12), offset=rounded(offset[channels], 12),
            groups=part.norm.num_groups)  # fmt: skip
        act = part.activate(y)
        add("relu", y, channels)
        if part is unit.a:
            first = act
        y = part.conv(act)
        channels = outside if part is unit.c else distinct(y)
        conv("conv", part.conv, y, channels)
    if unit.a.proj is None:
        add("shortcut", x, outside)
    else:
        conv("shortcut", unit.a.proj, unit.a.proj(first), outside)
    return found


def affine(norm: torch.nn.GroupNorm, x: Tensor) -> tuple[Tensor, Tensor]:
    """What a group norm does to one image x [1, C, H, W] as a scale and an offset for each channel."""
    groups = x[0].unflatten(0, (norm.num_groups, -1)).flatten(1)
    size = len(norm.weight) // norm.num_groups
    deviation = (groups.var(1, correction=0) + norm.eps).sqrt().repeat_interleave(size)
    scale = norm.weight / deviation
    return scale, norm.bias - groups.mean(1).repeat_interleave(size) * scale
