"""Detection: torchvision's RetinaNet on a BiT backbone, trained by the course's loop and judged by pycocotools.

The backbone adapter, the range of the pixels and the schedule are ours; anchors, matching, losses, feature pyramid and
non-maximum suppression are torchvision's. Follows paper section 3.7 and appendix E, where they say what was done: the
HyperRule is not used for detection. Which features feed the pyramid they do not say; see `Design.taps`.
"""

from __future__ import annotations

import contextlib
import io
import json
import reprlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from .data.boxes import NOTHING, BoxBatches, Boxed, BoxTask, in_batches
from .device import autocast, pick_device
from .files import UserError, atomic_path
from .loop import Loop
from .norm import norm_relu
from .resnet import STAGES, Arch, ResNetV2
from .trainer import History, Sgd, settle, train
from .weights import WeightsError, create_model, info_of, weights_digest
from .weights import _check_entries as check_entries
from .weights import _check_values as check_values
from .weights import _reading as reading
from .weights import _shape_error as shape_error

PARTS = ("root", *STAGES, "norm")
TAPS = ("activated", "raw")
EVAL_BATCH = 32
MILESTONES = (16 / 30, 22 / 30)  # of the 30 epochs in appendix E


@dataclass(frozen=True)
class Design:
    """What stands on the backbone.

    levels: the stages whose features enter the pyramid. extra: add two coarser levels on top (P6 and P7), as RetinaNet has on
    photographs. width: channels of the pyramid and of the heads. taps: "activated" reads each stage as the next part of the
    network does, after that part's norm and ReLU; "raw" reads the residual stream as it is. scales, ratios: the anchors at
    every place are `size` times each of `scales`, with each of `ratios` as height to width. size: side of the smallest
    anchor, in steps between neighbouring places, 4 in RetinaNet. groups: of the group norm in pyramid and heads, 0 for none.
    depth: 3x3 convolutions in each of the two heads, before the one that answers.
    Raises UserError for values out of range.
    """

    levels: tuple[str, ...] = ("stage2", "stage3", "stage4")
    extra: bool = True
    width: int = 256
    taps: str = "activated"
    scales: tuple[float, ...] = (1.0, 2 ** (1 / 3), 2 ** (2 / 3))
    ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    size: float = 4.0
    groups: int = 32
    depth: int = 4

    def __post_init__(self):
        def need(ok: bool, name: str, wanted: str) -> None:
            if not ok:
                raise UserError(f"{name} is {reprlib.repr(getattr(self, name))}; it must be {wanted}")

        runs = [STAGES[i:j] for i in range(4) for j in range(i + 1, 5)]
        need(self.levels in runs, "levels", f"neighbours among {', '.join(STAGES)}")
        need(type(self.extra) is bool, "extra", "True or False")
        need(type(self.groups) is int and 0 <= self.groups <= 4096, "groups", "a whole number from 0 to 4,096")
        fits = type(self.width) is int and 1 <= self.width <= 4096 and self.width % max(1, self.groups) == 0
        need(fits, "width", f"a multiple of groups, {self.groups}")
        need(type(self.depth) is int and 0 <= self.depth <= 4, "depth", "a whole number from 0 to 4")
        need(self.taps in TAPS, "taps", " or ".join(TAPS))
        need(_is_size(self.size), "size", "a number above 0")
        for name in ("scales", "ratios"):
            values = getattr(self, name)
            need(type(values) is tuple and 0 < len(values) <= 16 and all(map(_is_size, values)), name, "numbers above 0")


def _is_size(value) -> bool:
    return type(value) in (int, float) and 0 < value <= 1000


# For images of 96 pixels and the course's small networks: three levels, two nearly square anchors at each place.
SMALL = Design(("stage3", "stage4"), extra=False, width=64, scales=(1.0, 2**0.5), ratios=(1.4,), size=3.0, groups=8, depth=1)


def default_design(backbone: ResNetV2) -> Design:
    """`SMALL` for the course's small networks, RetinaNet's own for those with an ImageNet stem."""
    return SMALL if backbone.arch.stem == "small" else Design()


class Pyramid(nn.Module):
    """A ResNet-v2 of any size that returns a feature pyramid, as torchvision's detectors want it.

    forward: float [N, 3, H, W] in [-1, 1] -> {level: [N, width, h, w]}, finest first. Parts of the backbone that no level needs
    are frozen, its head among them.
    """

    def __init__(self, backbone: ResNetV2, design: Design):
        super().__init__()
        self.body, self.design, self.out_channels = backbone, design, design.width
        norm = partial(nn.GroupNorm, design.groups) if design.groups else None
        channels = [4 * backbone.arch.root_width * 2 ** STAGES.index(name) for name in design.levels]
        more = LastLevelP6P7(design.width, design.width) if design.extra else None
        self.fpn = FeaturePyramidNetwork(channels, design.width, more, norm)
        self.freeze(None)

    @property
    def strides(self) -> list[int]:
        """Pixels between neighbouring places, for each level."""
        first = 4 if self.body.arch.stem == "imagenet" else 2
        strides = [first * 2 ** STAGES.index(name) for name in self.design.levels]
        return strides + [strides[-1] * 2, strides[-1] * 4] * self.design.extra

    def freeze(self, until: str | None) -> None:
        """Freeze the backbone before `until`: "stage1" to "stage4", or "pyramid" for all of it; None freezes nothing."""
        if until not in (None, *STAGES, "pyramid"):
            raise UserError(f"cannot freeze until {until!r}; choose one of {', '.join((*STAGES, 'pyramid'))}")
        last = STAGES.index(self.design.levels[-1])
        # The norm that reads the last level is the next stage's first, or that of the head.
        needed = PARTS[: last + 2] if self.design.taps == "raw" or last < 3 else PARTS
        kept = PARTS if until == "pyramid" else PARTS[: PARTS.index(until)] if until else ()
        self.body.set_frozen((*(part for part in PARTS if part in kept or part not in needed), "head"))

    def stage_features(self, x: Tensor) -> dict[str, Tensor]:
        """The features that enter the pyramid. x: float [N, 3, H, W] in [-1, 1] -> {stage: [N, C, h, w]}."""
        found, x = {}, self.body.root(x)
        for number, name in enumerate(STAGES[: STAGES.index(self.design.levels[-1]) + 1]):
            x = self.body._run_stage(name, x)
            if name in self.design.levels:
                reader = self.body.norm if number == 3 else getattr(self.body, STAGES[number + 1]).unit01.a.norm
                found[name] = norm_relu(reader, x) if self.design.taps == "activated" else x
        return found

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        return self.fpn(OrderedDict(self.stage_features(x)))


def anchors_of(pyramid: Pyramid, design: Design) -> AnchorGenerator:
    """torchvision's anchors for the levels of a pyramid. Every place of a level has one for each scale and each ratio."""
    sizes = tuple(tuple(design.size * stride * scale for scale in design.scales) for stride in pyramid.strides)
    return AnchorGenerator(sizes, (design.ratios,) * len(sizes))


# --- the detector --------------------------------------------------------------------------------------------------------


class Detector(RetinaNet):
    """torchvision's RetinaNet on a `Pyramid`, for square images of `side` pixels.

    In training: (pixels, targets) -> {"classification", "bbox_regression"}, losses per image. In evaluation: pixels -> for each
    image {"boxes": float [D, 4], "scores": [D], "labels": [D]}, best first. pixels: uint8 [N, 3, side, side]; targets: for
    each image {"boxes": float [M, 4] as (x1, y1, x2, y2), "labels": int64 [M]}. seed: of the new weights.
    """

    def __init__(self, backbone: ResNetV2, class_names: Sequence[str], side: int, design: Design | None = None, seed: int = 0):
        design = design or default_design(backbone)
        norm = partial(nn.GroupNorm, design.groups) if design.groups else None
        with torch.random.fork_rng([]):  # torchvision draws new weights from the global generator
            torch.manual_seed(seed)
            pyramid = Pyramid(backbone, design)
            anchors = anchors_of(pyramid, design)
            head = RetinaNetHead(design.width, len(design.scales) * len(design.ratios), len(class_names), norm)
            for part in (head.classification_head, head.regression_head):  # torchvision's have four convolutions
                part.conv = part.conv[: design.depth]
        # BiT's weights expect pixels in [-1, 1]; torchvision's default is the mean and deviation of ImageNet.
        pixels = dict(min_size=side, max_size=side, image_mean=[0.5] * 3, image_std=[0.5] * 3, _skip_resize=True)
        super().__init__(pyramid, len(class_names), anchor_generator=anchors, head=head, **pixels)
        self.design, self.class_names, self.side = design, tuple(class_names), side
        self.info = info_of(backbone)

    def forward(self, pixels: Tensor, targets: list[dict[str, Tensor]] | None = None):
        return super().forward(list(pixels.float() / 255), targets)


def create_detector(
    name: str,
    class_names: Sequence[str],
    side: int,
    *,
    pretrained: bool | str | Path = True,
    design: Design | None = None,
    freeze: str | None = None,
    seed: int = 0,
) -> Detector:
    """A detector on any backbone by name, as `create_model` takes it: official, the course's, an architecture, or a file.

    pretrained: of the backbone; pyramid and heads are new, and drawn by `seed`. freeze: see `Pyramid.freeze`.
    """
    backbone = create_model(name, 1, pretrained, seed)
    detector = Detector(backbone, class_names, side, design, seed)
    detector.backbone.freeze(freeze)
    return detector


# --- training ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recipe:
    """How a detector is trained.

    Appendix E has SGD, batch 256, rate 0.08, momentum 0.9, weight decay 1e-4, and 30 epochs with the rate divided by ten after
    16 and 22. Here the rate is in proportion to the batch, and milestones are shares of the steps.

    lr: for this batch size; None for 0.08 * batch_size / 256. warmup_steps: over which the rate rises from 0. freeze: parts of
    the backbone that stay as they are, see `Pyramid.freeze`. Raises UserError for values out of range.
    """

    steps: int = 300
    batch_size: int = 8
    lr: float | None = None
    warmup_steps: int = 30
    momentum: float = 0.9
    weight_decay: float = 1e-4
    milestones: tuple[float, ...] = MILESTONES
    freeze: str | None = None

    def __post_init__(self):
        for name in ("steps", "batch_size"):
            if not getattr(self, name) >= 1:
                raise UserError(f"{name} is {getattr(self, name)}; it must be 1 or more")
        if self.lr is not None and not 0 < self.lr < float("inf"):
            raise UserError(f"lr is {self.lr}; it must be above 0")
        if not all(0 < a < b for a, b in zip(self.milestones, (*self.milestones[1:], 1))):
            raise UserError(f"milestones are {self.milestones}; they must rise and lie between 0 and 1")

    @property
    def base_lr(self) -> float:
        return 0.08 * self.batch_size / 256 if self.lr is None else self.lr

    def learning_rate(self, step: int) -> float:
        """Learning rate at `step`, counted from 0: a linear warm-up, then the staircase."""
        warm = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        return self.base_lr * warm * 0.1 ** sum(step >= share * self.steps for share in self.milestones)


def detection_loss(net: nn.Module, pixels: Tensor, boxes: Tensor, labels: Tensor) -> Tensor:
    """Focal loss plus L1 loss of the boxes, per image, over a batch as `data.boxes.BoxBatches` makes them."""
    there = labels != NOTHING
    targets = [{"boxes": b[t], "labels": y[t]} for b, y, t in zip(boxes, labels, there)]
    return sum(net(pixels, targets).values())


@dataclass
class DetectionRun:
    """The result of training a detector. val_ap: COCO's AP on the validation images, from 0 to 1."""

    model: Detector
    task: BoxTask
    config: dict
    history: History = field(default_factory=History)
    val_ap: float | None = None
    precision: str = "fp32"

    @property
    def val_accuracy(self) -> float | None:
        """`val_ap`, under the name by which `course.protocol` chooses among trials."""
        return self.val_ap

    def evaluate(self, split: str = "test") -> dict[str, float]:
        """AP and its variants on a split of the task; see `average_precision`."""
        return evaluate_detector(self.model, getattr(self.task, split), self.precision)


def train_detector(
    detector: Detector, task: BoxTask, recipe: Recipe = Recipe(), seed: int = 0, loop: Loop = Loop()
) -> DetectionRun:
    """Train `detector` on `task` in place. seed: order of the images, mirroring. loop: device, precision, memory, folder.

    Raises UserError if classes or sides differ, if pycocotools is missing, or if the loss is no longer finite, and
    `trainer.Interrupted` on Ctrl-C.
    """
    _pycocotools()  # it judges the result; without it, better to stop now than after the last step
    if task.class_names != detector.class_names:
        different = sorted({*task.class_names} ^ {*detector.class_names}) or ["their order"]
        raise UserError(f"{task.name} does not have the detector's classes (first difference: {different[0]!r})")
    if task.train.side != detector.side:
        raise UserError(f"{task.name} has images of {task.train.side} px, the detector takes {detector.side}")
    device = pick_device(loop.device)
    loop = settle(loop, device)
    detector.to(device)
    detector.backbone.freeze(recipe.freeze)
    detector.backbone.body.grad_checkpointing = loop.grad_checkpointing
    batches = BoxBatches(task.train, recipe.batch_size, seed, task.flip, device)
    config = {"task": task.name, "fingerprint": task.fingerprint, "model": detector.info.name, "seed": seed, **asdict(recipe)}
    config |= {"lr": recipe.base_lr, "design": asdict(detector.design), "side": detector.side}
    config |= {"start": weights_digest(detector), "precision": loop.precision, "ema": loop.ema}

    def judged(net: Detector) -> dict[str, float]:
        return {"val_ap": evaluate_detector(net, task.val, loop.precision)["ap"]}

    sgd = Sgd(recipe.steps, recipe.learning_rate, recipe.momentum, recipe.weight_decay)
    history = train(detector, batches, detection_loss, sgd, loop, config, judged if loop.evaluate_every else None)
    return DetectionRun(detector, task, config, history, judged(detector)["val_ap"], loop.precision)


# --- judging -----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def detect(detector: Detector, images: Boxed, precision: str = "fp32") -> list[dict[str, Tensor]]:
    """What a detector finds: for each image {"boxes", "scores", "labels"} on the CPU, best first, boxes in pixels of the
    original. A box needs a score of `detector.score_thresh`, 0.05 as torchvision leaves it."""
    was_training, device = detector.training, next(detector.parameters()).device
    detector.eval()

    def found(pixels: Tensor) -> list[dict[str, Tensor]]:
        with autocast(device, precision):
            return [{key: value.float().cpu() for key, value in one.items()} for one in detector(pixels.to(device))]

    try:
        results = in_batches(images, EVAL_BATCH, found)
    finally:
        detector.train(was_training)
    for one, scale in zip(results, images.scales):
        one["boxes"], one["labels"] = one["boxes"] / scale, one["labels"].long()
    return results


def evaluate_detector(detector: Detector, images: Boxed, precision: str = "fp32") -> dict[str, float]:
    """`average_precision` of a detector on images with boxes."""
    return average_precision(images.truth(), detect(detector, images, precision))


def _pycocotools() -> tuple[type, type]:
    """Its classes COCO and COCOeval. Raises UserError if it is not installed."""
    try:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    except ImportError:
        raise UserError("AP needs pycocotools, which is not installed; run pip install pycocotools") from None
    return COCO, COCOeval


def average_precision(truth: dict, found: Sequence[dict[str, Tensor]]) -> dict[str, float]:
    """COCO's figures, computed by pycocotools, from 0 to 1: {"ap", "ap50", "ap75", "small", "medium", "large"}.

    truth: the content of a COCO file, whose images and categories are numbered from 0 (`Boxed.truth`); found: for image i
    {"boxes": float [D, 4] as (x1, y1, x2, y2), "scores", "labels"}. "ap" is the mean over classes and over the ten thresholds
    of IoU from 0.5 to 0.95; the last three are for boxes of less than 32², up to 96² and more square pixels, NaN if there are
    none. Raises UserError if pycocotools is missing.
    """
    COCO, COCOeval = _pycocotools()
    names = ("ap", "ap50", "ap75", "small", "medium", "large")
    rows = []
    for image, one in enumerate(found):
        for (x1, y1, x2, y2), score, label in zip(one["boxes"].tolist(), one["scores"].tolist(), one["labels"].tolist()):
            rows.append({"image_id": image, "category_id": label, "bbox": [x1, y1, x2 - x1, y2 - y1], "score": score})
    if not truth["annotations"]:
        return dict.fromkeys(names, float("nan"))
    if not rows:
        return dict.fromkeys(names, 0.0)
    with contextlib.redirect_stdout(io.StringIO()):  # it prints its progress and a table
        wanted = COCO()
        wanted.dataset = truth
        wanted.createIndex()
        judge = COCOeval(wanted, wanted.loadRes(rows), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return {name: float(value) if value >= 0 else float("nan") for name, value in zip(names, judge.stats)}


# --- files -------------------------------------------------------------------------------------------------------------


def save_detector(detector: Detector, path: str | Path, meta: dict | None = None, state: dict | None = None) -> None:
    """Write a detector to one .safetensors file, atomically, with all that is needed to build it again.

    state: the weights to write, if the detector itself is sharded.
    """
    from safetensors.torch import save_file

    about = {"arch": asdict(detector.backbone.body.arch), "design": asdict(detector.design), "side": detector.side}
    about |= {"class_names": list(detector.class_names), "name": detector.info.name, **(meta or {})}
    tensors = {key: value.detach().cpu().contiguous() for key, value in (state or detector.state_dict()).items()}
    with atomic_path(Path(path)) as temporary:
        save_file(tensors, temporary, {"bitlib_detector": json.dumps(about, ensure_ascii=False)})


def load_detector(path: str | Path) -> Detector:
    """The detector in a file written by `save_detector`, or in a folder written by `bitlib detect train`, in evaluation mode.

    The file is not trusted: its settings are checked and its shapes compared before any memory is allocated. Raises
    WeightsError if it cannot be read or holds something else.
    """
    from safetensors import safe_open

    path = Path(path)
    if path.is_dir():
        path = path / "model.safetensors"
    with reading(path), safe_open(path, "pt", device="cpu") as file:
        about = json.loads((file.metadata() or {}).get("bitlib_detector", "null"))
        if not isinstance(about, dict):
            raise WeightsError(f"{path} holds no detector; give a file or folder that `bitlib detect train` wrote")
        try:
            detector = _empty(about)
        except (KeyError, TypeError, ValueError, UserError) as error:
            raise WeightsError(f"{path}: its settings are not those of a detector ({error}); write it again") from None
        wanted = detector.state_dict()
        check_entries(path, file.keys(), wanted)
        for key, tensor in wanted.items():
            if (found := tuple(file.get_slice(key).get_shape())) != tuple(tensor.shape):
                raise shape_error(path, key, found, tuple(tensor.shape))
        state = {key: file.get_tensor(key) for key in wanted}
    for key, tensor in state.items():
        check_values(path, key, tensor)
    detector.load_state_dict(state, assign=True)
    detector.backbone.freeze(None)
    return detector.eval()


def _empty(about: dict) -> Detector:
    """A detector without weights from the metadata of a file; raises for values out of range."""
    arch, design, names, side = about["arch"], about["design"], about["class_names"], about["side"]
    if not (isinstance(names, list) and 0 < len(names) <= 100_000 and all(isinstance(name, str) for name in names)):
        raise ValueError("class_names is not a list of names")
    if not (type(side) is int and 1 <= side <= 4096):
        raise ValueError(f"side is {side!r}")
    arch = Arch(**arch | {"units": tuple(arch["units"])})
    design = Design(**design | {key: tuple(design[key]) for key in ("levels", "scales", "ratios")})
    with torch.device("meta"):
        detector = Detector(ResNetV2(arch, 1), names, side, design)
    # The anchors are no part of the state: they follow from the design.
    detector.anchor_generator = anchors_of(detector.backbone, design)
    detector.info = replace(detector.info, name=str(about.get("name", "detector")))
    return detector


# --- drawing -----------------------------------------------------------------------------------------------------------


def draw_boxes(pixels: Tensor, boxes: Tensor, names: Sequence[str] = (), colour: str = "#ff7a1a", scale: int = 1):
    """A PIL image with boxes drawn on it. pixels: uint8 [3, H, W]; boxes: float [M, 4]; names: a word for each, or none; scale:
    how many times as large to draw."""
    from PIL import Image, ImageDraw

    image = Image.fromarray(pixels.permute(1, 2, 0).numpy())
    image = image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
    pen = ImageDraw.Draw(image)
    for i, box in enumerate((boxes * scale).tolist()):
        pen.rectangle(box, outline=colour, width=max(1, min(image.size) // 150))
        if i < len(names):
            place = (box[0] + 2, max(0, box[1] - 11))
            pen.rectangle(pen.textbbox(place, names[i]), fill=colour)
            pen.text(place, names[i], fill="black")
    return image
