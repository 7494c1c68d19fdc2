"""Other people's networks: those of torchvision, and of timm where it is installed, behind the interface of `ResNetV2`.

Owns the wrapper and what it has to know about each network: preprocessing, smallest image, where the weights are. Images come
in [-1, 1], as everywhere in bitlib, and are converted inside, so nothing else needs to know whose network it is.

The network's last linear layer is replaced by ours, which starts at zero; all before it stays as its authors wrote it, dropout
and stochastic depth included. torchvision's files are pickles: they are verified by the hash in their names and read with
`weights_only`, which runs no code. timm's are read as safetensors only.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import re
import reprlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .files import UserError, cache_dir

LIBRARIES = ("torchvision", "timm")
HUB = "https://huggingface.co/{repository}/resolve/main/{file}"
# Containers that are opened, so that freezing can stop inside them: "features.4", but "layer3" and not "layer3.0".
BODIES = ("features", "layers", "trunk_output", "blocks", "stages", "encoder", "encoder.layers")
# torchvision trained these two on images in [-1, 1], and lets them undo the usual conversion if `transform_input` is set.
_PLAIN_INPUT = ("googlenet", "inception_v3")
_SQUARE = ("vit_", "maxvit_")  # torchvision's networks that take images of one size only


@dataclass(frozen=True)
class Spec:
    """What is known of a network without building it. side: of its own test images, in pixels; least: the smallest it takes
    (equal to `side` if it takes no other); mean, std: what it expects colours to be normalised by, for values from 0 to 1."""

    num_classes: int
    side: int
    least: int
    fixed: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]
    url: str | None = None
    file: str | None = None
    class_names: tuple[str, ...] = ()
    parameters: int | None = None  # as the library states them


@dataclass(frozen=True)
class BackboneArch:
    """A network of another library, by name. version: of that library; noted in files, and no part of the identity.

    Raises ValueError for a field that is not even text of the right form, and UserError, with the closest names, for a network
    that the installed library does not have, or a library that is not installed.
    """

    library: str
    network: str
    version: str = field(default="", compare=False)

    recipe = {}  # there is no published rule for it, so validation images decide; see `choose`

    def __post_init__(self):
        def need(ok: bool, name: str, wanted: str) -> None:
            if not ok:
                raise ValueError(f"{name} is {reprlib.repr(getattr(self, name))}; it must be {wanted}")

        need(self.library in LIBRARIES, "library", " or ".join(map(repr, LIBRARIES)))
        for name in ("network", "version"):
            value, pattern = getattr(self, name), r"\w[\w.]{0,99}" if name == "network" else r"[\w.+-]{0,50}"
            need(isinstance(value, str) and re.fullmatch(pattern, value, re.ASCII) is not None, name, "a short name")
        self._find()
        if not self.version:
            object.__setattr__(self, "version", _library(self.library).__version__.split("+")[0])

    def _find(self) -> None:
        known = _known(self.library)
        base = self.network.partition(".")[0] if self.library == "timm" else self.network
        if base in known and (base == self.network or _timm_tag(self.network)):
            return
        close = difflib.get_close_matches(self.network, known, 3, 0.6)
        hint = f"did you mean {' or '.join(close)}? " if close else ""
        raise UserError(
            f"{self.library} has no network {self.network!r} for whole images; {hint}`bitlib models {self.library}` lists them"
        )

    @property
    def name(self) -> str:
        return f"{self.library}/{self.network}"

    @property
    def spec(self) -> Spec:
        return _spec(self.library, self.network)

    @property
    def sides(self) -> tuple[int, int | None]:
        """Smallest side of the images that it takes as they are, and the largest that it is trained on by default."""
        return self.spec.least, self.spec.side

    def build(self, num_classes: int, seed: int | None = 0) -> Backbone:
        """A network with random weights, drawn by `seed`, and a head of zeros."""
        return Backbone(self, num_classes, seed or 0)

    @property
    def path(self) -> Path:
        """Where the published weights are, or will be, in the cache."""
        return cache_dir() / "weights" / self.library / (self.spec.file or f"{self.network}.safetensors")


def list_backbones(library: str) -> list[str]:
    """Names of the networks of "torchvision" or "timm" that classify images, as `create_model` takes them.

    Of timm's only those whose weights are published as safetensors. Raises UserError if the library is not installed.
    """
    names = _known("torchvision") if library == "torchvision" else _library("timm").list_models(pretrained=True)
    return [f"{library}/{name}" for name in names if _spec(library, name).url]


def stated_hash(url: str) -> str:
    """The first digits of the SHA-256 that torchvision puts into the names of its files; empty for other files."""
    found = re.search(r"-([0-9a-f]{8,})\.pth$", url)
    return found[1] if found else ""


# --- the two libraries ------------------------------------------------------------------------------------------------


def _library(name: str):
    try:
        if name == "timm":
            import timm

            return timm
        import torchvision

        return torchvision
    except ImportError as error:
        raise UserError(f"{name}'s networks need the package {error.name!r}; pip install {error.name}") from None


@functools.cache
def _known(library: str) -> list[str]:
    if library == "timm":
        return _library("timm").list_models()
    models = _library("torchvision").models
    # SqueezeNet has a convolution for a head, with a ReLU after it: there is nothing to put a linear head on.
    return [name for name in models.list_models(module=models) if not name.startswith("squeezenet")]


def _timm_tag(name: str) -> bool:
    """Whether timm has this network with weights of this tag, as in "resnet18.a1_in1k"."""
    try:
        return _library("timm").get_pretrained_cfg(name) is not None
    except RuntimeError:
        return False


@functools.cache
def _spec(library: str, network: str) -> Spec:
    if library == "torchvision":
        weights = _library(library).models.get_model_weights(network).DEFAULT
        how, classes = weights.transforms(), tuple(weights.meta["categories"])
        half = (0.5,) * 3
        mean, std = (half, half) if network in _PLAIN_INPUT else (tuple(how.mean), tuple(how.std))
        side, least, fixed = how.crop_size[0], max(weights.meta["min_size"]), network.startswith(_SQUARE)
        file = weights.url.rpartition("/")[2]
        count = None if network == "inception_v3" else weights.meta["num_params"]  # that one has a second head, left out here
        return Spec(len(classes), side, side if fixed else least, fixed, mean, std, weights.url, file, classes, count)
    config = _library(library).get_pretrained_cfg(network, allow_unregistered=True)
    least, fixed = max((config.min_input_size or (0, 1))[1:]), config.fixed_input_size
    side, file, url = max(config.input_size[1:]), None, None
    if config.hf_hub_id:
        repository, _, tag = config.hf_hub_id.partition("@")
        file = f"{config.architecture}.{config.tag}.safetensors" if config.tag else f"{config.architecture}.safetensors"
        url = HUB.format(repository=repository, file="model.safetensors") if not (config.hf_hub_filename or tag) else None
    return Spec(config.num_classes, side, side if fixed else least, fixed, config.mean, config.std, url, file)


def _torchvision_network(network: str, classes: int, published: Path | None) -> tuple[nn.Module, nn.Module, int]:
    """(network without its last layer, that layer, width of what goes into it)."""
    options = {"aux_logits": False, "transform_input": False, "init_weights": True} if network in _PLAIN_INPUT else {}
    net = _library("torchvision").models.get_model(network, weights=None, num_classes=classes, **options)
    if published:
        state = torch.load(published, map_location="cpu", weights_only=True)
        state = {key: value for key, value in state.items() if not key.lower().startswith("aux")}
        if network.startswith("densenet"):  # their files are older than the names of these layers
            state = {re.sub(r"(denselayer\d+\.(?:norm|conv))\.(\d)\.", r"\1\2.", key): value for key, value in state.items()}
        net.load_state_dict(state)
    name, head = [(n, m) for n, m in net.named_modules() if isinstance(m, nn.Linear)][-1]
    parent, _, last = name.rpartition(".")
    setattr(net.get_submodule(parent), last, nn.Identity())
    return net, head, head.in_features


def _timm_network(network: str, published: Path | None) -> tuple[nn.Module, nn.Module, int]:
    """(network without its last layer, that layer, width of what goes into it)."""
    source = {"pretrained": True, "pretrained_cfg_overlay": {"file": str(published)}} if published else {}
    net = _library("timm").create_model(network, **source)
    head = net.get_classifier()
    net.reset_classifier(0)
    return net, head, net.head_hidden_size


# --- the wrapper ------------------------------------------------------------------------------------------------------


class Backbone(nn.Module):
    """A network of torchvision or timm with a linear head of `num_classes` outputs, used like a `ResNetV2`.

    forward: float [N, 3, H, W] in [-1, 1] -> logits [N, num_classes]. Smaller images than the network can take are enlarged,
    and a network for one size gets every image in that size. The head starts at zero; the other weights are drawn by `seed`, or
    come from `published`, the library's own weight file, with its head if the number of classes is the same. Raises UserError
    for a file that is not that network's.

    parts: names of the network's own modules, in order, and "head"; freeze_points: those before which freezing can stop.
    """

    def __init__(self, arch: BackboneArch, num_classes: int, seed: int = 0, published: Path | None = None):
        super().__init__()
        self.arch, self.num_classes = arch, num_classes
        self.info = None  # `create_model` puts a ModelInfo here; read it with `weights.info_of`
        self.frozen: tuple[str, ...] = ()
        spec = arch.spec
        with torch.random.fork_rng(devices=()):
            torch.random.default_generator.manual_seed(seed)
            if published:
                _check_hash(published)
            try:
                if arch.library == "timm":
                    self.net, head, self.num_features = _timm_network(arch.network, published)
                else:
                    self.net, head, self.num_features = _torchvision_network(arch.network, spec.num_classes, published)
            except Exception as error:
                if not published:
                    raise
                reason = (str(error) or type(error).__name__).splitlines()[0][:200]
                raise UserError(
                    f"{published} is not the weight file of {arch.name} ({reason}); delete it, to download it again"
                ) from None
            self.head = nn.Linear(self.num_features, num_classes)
        # (x + 1) / 2 brings a colour to 0...1, where mean and std are meant; both steps together are one product and one sum.
        mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (spec.mean, spec.std))
        self.register_buffer("scale", 0.5 / std, persistent=False)
        self.register_buffer("shift", (0.5 - mean) / std, persistent=False)
        opened = tuple(_opened(self.net))
        self.parts = (*opened, "head")
        self.freeze_points = (*(name for name in opened if any(True for _ in self._part(name).parameters())), "head")
        self.reset_head(num_classes)
        if published and num_classes == spec.num_classes:
            self._keep(head)

    def _keep(self, head: nn.Module) -> None:
        """Take over a head of the library: a linear layer, or a 1x1 convolution."""
        weight = getattr(head, "weight", None)
        if weight is None or weight.numel() != self.head.weight.numel():
            raise UserError(f"the head of {self.arch.name} is not a linear layer; give num_classes, for a new head")
        with torch.no_grad():
            self.head.weight.copy_(weight.flatten(1))
            if head.bias is not None:
                self.head.bias.copy_(head.bias)

    def _part(self, name: str) -> nn.Module:
        return self.head if name == "head" else self.net.get_submodule("head" if name == "pre_head" else name)

    def reset_head(self, num_classes: int) -> None:
        """Replace the head by a new one of `num_classes` outputs, all zeros."""
        old = self.head.weight
        self.head = nn.Linear(self.num_features, num_classes, device=old.device, dtype=old.dtype)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.num_classes = num_classes

    def prepare(self, x: Tensor) -> Tensor:
        """Images in [-1, 1] -> the same in the size and with the colours that the network was trained on."""
        spec = self.arch.spec
        size = (spec.side,) * 2 if spec.fixed else tuple(max(side, spec.least) for side in x.shape[2:])
        if size != tuple(x.shape[2:]):
            x = F.interpolate(x, size, mode="bilinear", align_corners=False)
        return x * self.scale + self.shift

    def forward_features(self, x: Tensor) -> Tensor:
        """x: float [N, 3, H, W] in [-1, 1] -> what the network hands to its last layer, [N, num_features]."""
        return self.net(self.prepare(x))

    def forward_head(self, features: Tensor, pre_logits: bool = False) -> Tensor:
        """Features [N, F] -> logits [N, num_classes], or with `pre_logits` the features as they are."""
        return features if pre_logits else self.head(features)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def stage_features(self, x: Tensor) -> dict[str, Tensor]:
        """The output of each of the network's parts that has weights, by name and in order: {"conv1": [N, 64, h, w], ...}."""
        found: dict[str, Tensor] = {}
        hooks = [
            # Cloned, since a ReLU that works in place may come next.
            self._part(name).register_forward_hook(lambda _, __, output, name=name: found.update({name: output.clone()}))
            for name in self.freeze_points[:-1]
        ]
        try:
            self.forward_features(x)
        finally:
            for hook in hooks:
                hook.remove()
        return found

    def set_frozen(self, names: tuple[str, ...]) -> None:
        """Freeze the parts of these names (no gradients, fixed statistics, no dropout even in train mode), unfreeze the rest.

        What belongs to no part, as the position embedding of a transformer, comes before them all and is frozen with any.
        """
        self.frozen = tuple(names)
        self.net.requires_grad_(not names)
        for name in self.parts:
            self._part(name).requires_grad_(name not in names)
        self.train(self.training)

    def train(self, mode: bool = True) -> Backbone:
        super().train(mode)
        for name in self.frozen:
            # Batch norm updates its running statistics whenever it is in train mode, gradient or not.
            self._part(name).eval()
        return self

    @property
    def grad_checkpointing(self) -> bool:
        """Whether activations are recomputed in the backward pass: never here. Raises UserError if set to True."""
        return False

    @grad_checkpointing.setter
    def grad_checkpointing(self, wanted: bool) -> None:
        if wanted:
            raise UserError(f"{self.arch.name} has no gradient checkpointing; use --micro-batches to save memory")


def _opened(net: nn.Module, prefix: str = "") -> Iterator[str]:
    """Names of the parts of a network, in the order in which they are registered, which is the order in which they run."""
    for name, child in net.named_children():
        if prefix + name in BODIES:
            yield from _opened(child, f"{prefix}{name}.")
        else:
            yield "pre_head" if prefix + name == "head" else prefix + name  # what is left of theirs; "head" is ours


def _check_hash(path: Path) -> None:
    """Raise UserError if the file is not what the hash in its name promises."""
    if wanted := stated_hash(path.name):
        with open(path, "rb") as f:
            found = hashlib.file_digest(f, "sha256").hexdigest()
        if not found.startswith(wanted):
            raise UserError(f"{path} is damaged (its SHA-256 begins with {found[:8]}); delete it, to download it again")
