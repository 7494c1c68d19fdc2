"""ResNet-v2 (pre-activation bottleneck): the official BiT sizes and the course's small ones.

Holds the network and its architectures, and nothing about weight files or training.
Follows paper section 3.3 and the official PyTorch code. Submodules are named after the entries of the weight files
(stageN.unitMM.{a,b,c} hold a norm and the convolution that follows it), so loading is a walk over names.
"""

from __future__ import annotations

import reprlib
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .norm import make_conv, make_norm, norm_relu, still_statistics

STAGES = ("stage1", "stage2", "stage3", "stage4")


@dataclass(frozen=True)
class Arch:
    """Everything that defines a network except its head.

    units: residual units in each of the four stages. root_width: channels after the stem; stage s has
    4 * root_width * 2**s output channels. groups: number of groups in every group norm. stem: "imagenet" (7x7/2 and a max
    pool) or "small" (3x3/2, for images of about 32x32). norm: "gn" or "bn". standardize: weight standardisation in every
    convolution. Raises ValueError, naming the field, for any other value, or if `groups` does not divide the widths.
    """

    units: tuple[int, int, int, int]
    root_width: int = 64
    groups: int = 32
    stem: str = "imagenet"
    norm: str = "gn"
    standardize: bool = True

    def __post_init__(self):
        # These fields may come from an untrusted weight file, so check types as well as ranges.
        def need(ok: bool, field: str, wanted: str) -> None:
            if not ok:
                raise ValueError(f"{field} is {reprlib.repr(getattr(self, field))}; it must be {wanted}")

        units = self.units if type(self.units) is tuple and len(self.units) == 4 else (0,)
        need(all(type(u) is int and 1 <= u <= 64 for u in units), "units", "four whole numbers from 1 to 64")
        for field in ("root_width", "groups"):
            need(type(value := getattr(self, field)) is int and 1 <= value <= 4096, field, "a whole number from 1 to 4096")
        need(self.stem in ("imagenet", "small"), "stem", "'imagenet' or 'small'")
        need(self.norm in ("gn", "bn"), "norm", "'gn' or 'bn'")
        need(type(self.standardize) is bool, "standardize", "True or False")
        # Every other width is a multiple of this one.
        need(self.norm != "gn" or self.root_width % self.groups == 0, "groups", f"a divisor of root_width, {self.root_width}")

    recipe = None  # BiT's HyperRule is meant for it

    @property
    def sides(self) -> tuple[int, int | None]:
        """Smallest and largest side of the images that it takes, in pixels; None for no limit."""
        # On a 1x1 feature map, a group of one channel is a single number, which has no variance.
        return (8 if self.norm == "gn" and self.groups == self.root_width else 1), None

    def build(self, num_classes: int, seed: int | None = 0) -> ResNetV2:
        """A network with random weights, drawn by `seed`; None leaves them undefined, for a file to fill."""
        if seed is not None:
            return ResNetV2(self, num_classes, seed)
        with torch.device("meta"):  # neither draws nor stores random weights that would be overwritten at once
            return ResNetV2(self, num_classes).to_empty(device="cpu")


# Official sizes: name -> (units, width factor). Table of sizes: paper section 4.1, official `models.py`.
_OFFICIAL = {
    "R50x1": ((3, 4, 6, 3), 1),
    "R50x3": ((3, 4, 6, 3), 3),
    "R101x1": ((3, 4, 23, 3), 1),
    "R101x3": ((3, 4, 23, 3), 3),
    "R152x2": ((3, 8, 36, 3), 2),
    "R152x4": ((3, 8, 36, 3), 4),
}
ARCHS: dict[str, Arch] = {name: Arch(units, 64 * width) for name, (units, width) in _OFFICIAL.items()}
# The course's own: 8 groups, because the narrowest norm has 16 channels, too few for 32 groups.
_SMALL = dict(units=(2, 2, 2, 2), root_width=16, groups=8, stem="small")
_TINY = dict(units=(1, 1, 1, 1), root_width=8, groups=4, stem="small")
ARCHS |= {
    "small": Arch(**_SMALL),
    "small-gn": Arch(**_SMALL, standardize=False),
    "small-bn": Arch(**_SMALL, norm="bn", standardize=False),
    # For notebooks that train many networks.
    "tiny": Arch(**_TINY),
    "tiny-gn": Arch(**_TINY, standardize=False),
    "tiny-bn": Arch(**_TINY, norm="bn", standardize=False),
    "medium": Arch(**_SMALL | {"root_width": 24}),
    "medium-bn": Arch(**_SMALL | {"root_width": 24}, norm="bn", standardize=False),
}


class PreActConv(nn.Module):
    """Norm, ReLU, convolution: one of the three steps of a bottleneck. x: [N, cin, H, W] -> [N, cout, H', W']."""

    def __init__(self, arch: Arch, cin: int, cout: int, kernel: int, stride: int = 1):
        super().__init__()
        self.norm = make_norm(arch.norm, cin, arch.groups)
        self.conv = make_conv(cin, cout, kernel, stride, arch.standardize)

    def activate(self, x: Tensor) -> Tensor:
        return norm_relu(self.norm, x)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.activate(x))


class Unit(nn.Module):
    """Pre-activation bottleneck. x: [N, cin, H, W] -> [N, cout, H/stride, W/stride].

    The stride is in the 3x3 convolution. Where the shape changes, the shortcut is a 1x1 convolution of the
    pre-activated input, without a norm.
    """

    def __init__(self, arch: Arch, cin: int, cout: int, stride: int):
        super().__init__()
        mid = cout // 4
        self.a = PreActConv(arch, cin, mid, 1)
        self.b = PreActConv(arch, mid, mid, 3, stride)
        self.c = PreActConv(arch, mid, cout, 1)
        # It belongs to the unit, but is a child of `a` because the weight file calls it unitMM/a/proj.
        self.a.proj = make_conv(cin, cout, 1, stride, arch.standardize) if stride != 1 or cin != cout else None

    def forward(self, x: Tensor) -> Tensor:
        act = self.a.activate(x)
        shortcut = x if self.a.proj is None else self.a.proj(act)
        # Safe in place: a convolution's backward does not need its output.
        return self.c(self.b(self.a.conv(act))).add_(shortcut)


class Root(nn.Module):
    """The stem. x: [N, 3, H, W] -> [N, root_width, H/4, W/4] ("imagenet") or [N, root_width, H/2, W/2] ("small")."""

    def __init__(self, arch: Arch):
        super().__init__()
        self.pool = arch.stem == "imagenet"
        self.conv = make_conv(3, arch.root_width, 7 if self.pool else 3, 2, arch.standardize)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        # Pad with zeros, not with -inf as MaxPool's own padding does: the weights were trained this way, and the stem's
        # output has no ReLU that would keep it above zero.
        return F.max_pool2d(F.pad(x, (1, 1, 1, 1)), 3, 2) if self.pool else x


def _first_and_second_run(unit: Unit):
    """Contexts for the first forward pass of a checkpointed unit and for its recomputation."""
    return nullcontext(), still_statistics(unit)


class ResNetV2(nn.Module):
    """A pre-activation ResNet with a linear head of `num_classes` outputs.

    forward: float [N, 3, H, W] in [-1, 1] -> logits [N, num_classes]. The head starts at zero, as in the
    paper's fine-tuning; the other weights are random (He initialisation, fan-out; drawn by `seed`). With `grad_checkpointing`
    set, training recomputes each unit's activations in the backward pass instead of storing them.

    parts: names of its children, in order; freeze_points: those before which freezing can stop.
    """

    parts = ("root", *STAGES, "norm", "head")
    freeze_points = (*STAGES, "head")

    def __init__(self, arch: Arch, num_classes: int, seed: int = 0):
        super().__init__()
        self.arch, self.num_classes, self.grad_checkpointing = arch, num_classes, False
        self.info = None  # `create_model` puts a ModelInfo here; read it with `weights.info_of`
        self.frozen: tuple[str, ...] = ()  # names of the children that `set_frozen` froze
        self.root = Root(arch)
        cin = arch.root_width
        for s, (name, units) in enumerate(zip(STAGES, arch.units)):
            cout, stage = 4 * arch.root_width * 2**s, nn.Sequential()
            for u in range(units):
                # The first stage keeps the resolution, which the stem has already reduced.
                stage.add_module(f"unit{u + 1:02d}", Unit(arch, cin, cout, 2 if u == 0 and s > 0 else 1))
                cin = cout
            self.add_module(name, stage)
        self.num_features = cin
        self.norm = make_norm(arch.norm, cin, arch.groups)
        self.head = nn.Linear(cin, num_classes)
        if self.head.weight.device.type != "meta":
            self._init_weights(torch.Generator().manual_seed(seed))

    def _init_weights(self, generator: torch.Generator) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu", generator=generator)
        self.reset_head(self.num_classes)

    def reset_head(self, num_classes: int) -> None:
        """Replace the head by a new one of `num_classes` outputs, all zeros (official code: `zero_head=True`)."""
        old = self.head.weight
        self.head = nn.Linear(self.num_features, num_classes, device=old.device, dtype=old.dtype)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.num_classes = num_classes

    def _run_stage(self, name: str, x: Tensor) -> Tensor:
        stage = getattr(self, name)
        if not (self.grad_checkpointing and self.training and torch.is_grad_enabled()):
            return stage(x)
        for unit in stage:
            # The recomputation must not update the running statistics of batch norm a second time.
            x = checkpoint(unit, x, use_reentrant=False, context_fn=partial(_first_and_second_run, unit))
        return x

    def stage_features(self, x: Tensor) -> dict[str, Tensor]:
        """The output of each stage, before any norm: {"stage1": [N, 4r, h, w], "stage2": [N, 8r, h/2, w/2], ...}.

        r is root_width; [h, w] is the size of the stem's output, [H/4, W/4] for "imagenet" and [H/2, W/2] for "small".
        """
        features, x = {}, self.root(x)
        for name in STAGES:
            x = features[name] = self._run_stage(name, x)
        return features

    def forward_features(self, x: Tensor) -> Tensor:
        """x: float [N, 3, H, W] in [-1, 1] -> last feature map after norm and ReLU, [N, num_features, h, w]."""
        return norm_relu(self.norm, self.stage_features(x)["stage4"])

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Feature map [N, F, h, w] -> logits [N, num_classes], or with `pre_logits` the pooled features [N, F]."""
        pooled = features.mean(dim=(2, 3))
        return pooled if pre_logits else self.head(pooled)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def set_frozen(self, names: tuple[str, ...]) -> None:
        """Freeze the children of these names (no gradients, fixed statistics even in train mode) and unfreeze all others."""
        self.frozen = tuple(names)
        for name, child in self.named_children():
            child.requires_grad_(name not in names)
        self.train(self.training)

    def train(self, mode: bool = True) -> ResNetV2:
        super().train(mode)
        for name in self.frozen:
            # Batch norm updates its running statistics whenever it is in train mode, gradient or not.
            getattr(self, name).eval()
        return self


def count_parameters(model: nn.Module) -> int:
    """Number of parameters, trainable and frozen."""
    return sum(p.numel() for p in model.parameters())
