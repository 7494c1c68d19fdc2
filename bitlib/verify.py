"""`bitlib verify`: does the checkpoint that Google fine-tuned on CIFAR-10 score here what its authors say?

Owns the chain from the download to a record of what was found, which can be committed as results/verified.json: digest of the
file, accuracy on the original test images, features of a generated input, and the logits of a second implementation (timm).
The published figure is the one of the official colab: "Expected 97.61 %".
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from .data.task import Images
from .data.vision import cifar10_test
from .device import memory_format, pick_device, pick_precision
from .download import download
from .evaluate import accuracy_interval, evaluate
from .files import UserError, cache_dir, results_dir
from .norm import standardized_convs
from .resnet import ARCHS, ResNetV2
from .transfer import environment
from .weights import load_npz

NAME, ARCH, CLASSES, SIDE = "BiT-M-R50x1-CIFAR10", "R50x1", 10, 128
PUBLISHED = 0.9761  # official colab, PyTorch: "Expected 97.61 %"; the run stored there has 97.62
TOLERANCE = 0.001  # ten of 10,000 images: other kernels and another way to enlarge change a few answers
SAME = 1e-3  # largest difference of features or logits, in their standard deviations, that rounding may make in fp32


@dataclass(frozen=True)
class Claim:
    """What is verified: the file `name` holds such a network, and its accuracy at `side` pixels is `published`."""

    name: str = NAME
    arch: str = ARCH
    classes: int = CLASSES
    side: int = SIDE
    published: float = PUBLISHED

    @property
    def url(self) -> str:
        from . import weights  # looked up when it is used, since tests put a server of their own there

        return weights.OFFICIAL_URL.format(name=self.name)


def generated_input(side: int, count: int = 8) -> Tensor:
    """Images that anybody can make again: smooth colours with some noise, float32 [count, 3, side, side] in [-1, 1]."""
    generator = torch.Generator().manual_seed(1912)
    coarse = torch.rand(count, 3, 5, 5, generator=generator)
    fine = torch.rand(count, 3, side, side, generator=generator)
    smooth = F.interpolate(coarse, (side, side), mode="bilinear", align_corners=True)
    return (0.8 * smooth + 0.2 * fine) * 2 - 1


@torch.no_grad()
def fingerprint_of(model: ResNetV2, side: int) -> dict:
    """What a network makes of `generated_input`, in 32 bits on the CPU, short enough for a record.

    "features": the pooled features of each image, projected on 16 fixed random directions; "logits": as they are; "deviation":
    of the unprojected features. Equal up to rounding on every processor.
    """
    x = generated_input(side)
    was, device = model.training, next(model.parameters()).device
    model.eval().cpu()
    features = model.forward_head(model.forward_features(x), pre_logits=True)
    directions = torch.randn(features.shape[1], 16, generator=torch.Generator().manual_seed(11370)) / features.shape[1] ** 0.5
    logits = model.head(features)
    model.to(device).train(was)

    def rounded(values: Tensor) -> list:
        return [[float(f"{v:.6g}") for v in row] for row in values.tolist()]

    return {
        "features": rounded(features.double() @ directions.double()),
        "logits": rounded(logits),
        "deviation": float(features.std()),
    }


def differ(one: dict, other: dict) -> float:
    """The largest difference between two fingerprints, in standard deviations of the first; infinite if shapes differ."""
    worst = 0.0
    for name in ("features", "logits"):
        a, b = (torch.tensor(found[name], dtype=torch.float64) for found in (one, other))
        if a.shape != b.shape or not (a.isfinite().all() and b.isfinite().all()):
            return float("inf")
        worst = max(worst, ((a - b).abs().max() / a.std().clamp_min(1e-12)).item())
    return worst


@torch.no_grad()
def timm_difference(model: ResNetV2, path: Path, arch: str, side: int) -> dict | None:
    """How far the logits of timm's network, loaded with the same file, are from ours: {"timm": version, "difference"}.

    The difference is the largest one, in standard deviations. None where timm is not installed or has no such network. Its ε of
    1e-8 is set to the official 1e-10 first.
    """
    if not importlib.util.find_spec("timm"):
        return None
    import timm
    from timm.layers import StdConv2d

    if not timm.is_model(name := f"resnetv2_{arch[1:]}_bit"):
        return None
    other = timm.create_model(name, num_classes=model.num_classes).eval()
    other.load_pretrained(str(path))
    for module in other.modules():
        if isinstance(module, StdConv2d):
            module.eps = 1e-10
    was, device = model.training, next(model.parameters()).device
    model.eval().cpu()
    x = generated_input(side)
    ours, theirs = model(x), other(x)
    model.to(device).train(was)
    return {"timm": timm.__version__, "difference": ((ours - theirs).abs().max() / theirs.std()).item()}


def smallest_variances(model: ResNetV2) -> dict:
    """The smallest variance of all filters, and how many are below 1e-6: small ones feel the ε of the standardisation."""
    found = torch.cat([conv.weight.detach().flatten(1).var(1, correction=0) for conv in standardized_convs(model)])
    return {"filters": len(found), "smallest": found.min().item(), "below 1e-6": int((found < 1e-6).sum())}


def digest(path: Path) -> dict:
    """{"bytes", "sha256"} of a file."""
    with open(path, "rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def reference(path: Path | None = None) -> dict | None:
    """The stored record of an earlier verification (results/verified.json), or None. Raises UserError for a damaged one."""
    path = path or results_dir() / "verified.json"
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text("utf8"))
        found["accuracy"], found["file"]["sha256"], found["fingerprint"]["features"], found["fingerprint"]["logits"]
        return found
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is not a record of `bitlib verify` ({error!r}); delete it, or get it again") from None


def verify(
    what: Claim = Claim(),
    weights: Path | None = None,
    *,
    device: str = "auto",
    precision: str = "fp32",
    known: dict | None = None,
    images: Images | None = None,
    say: Callable[[str], None] = print,
    progress: bool = True,
) -> dict:
    """Download, check, load, evaluate and compare; returns a JSON-able record, whose "holds" is the verdict.

    weights: the file, if it is there already. known: a record to compare with, see `reference`. images: the test images; None
    for the original ones of CIFAR-10, which torchvision downloads and verifies. say: gets a line as each step is done. Raises
    UserError if a file cannot be had or does not fit; nothing is half-written.
    """
    began = time.perf_counter()
    where = pick_device(device)
    precision = pick_precision(precision, where)
    path = weights or download(what.url, cache_dir() / "weights" / f"{what.name}.npz", progress)
    model = ResNetV2(ARCHS[what.arch], what.classes)
    told = load_npz(model, path)
    if told != f"head of {what.classes} classes loaded":
        raise UserError(f"{path} is not a network fine-tuned to {what.classes} classes ({told}); give {what.name}.npz")
    model.info = None
    record = {"model": what.name, "url": what.url, "file": digest(path), "variances": smallest_variances(model)}
    say(f"file: {record['file']['bytes']:,} bytes, sha256 {record['file']['sha256'][:16]}…; every entry fits the network")
    record["fingerprint"] = fingerprint_of(model, what.side)
    record["timm"] = timm_difference(model, path, what.arch, what.side)
    say(_about_timm(record["timm"]))
    record["reference"] = _compared(record, known)
    say(_about_reference(record["reference"]))
    images = images or cifar10_test()
    model.to(where, memory_format=memory_format(where, precision))
    found = evaluate(model, images, what.side, precision)
    record |= {"images": len(images), "accuracy": found.accuracy, "interval": [*accuracy_interval(found.accuracy, len(images))]}
    record |= {"published": what.published, "tolerance": TOLERANCE, "side": what.side, "precision": precision}
    record["holds"] = abs(found.accuracy - what.published) <= TOLERANCE + 1e-9
    record["agrees"] = not any(part and part["difference"] > SAME for part in (record["timm"], record["reference"]))
    verdict = "as published" if record["holds"] else "NOT as published"
    told = f"accuracy: {100 * found.accuracy:.2f} % of {len(images):,} test images"
    say(f"{told}; published: {100 * what.published:.2f} %: {verdict}")
    record |= {"seconds": round(time.perf_counter() - began, 1), "machine": platform.machine(), **environment(where)}
    return record


def _compared(record: dict, known: dict | None) -> dict | None:
    if known is None:
        return None
    same = known["file"]["sha256"] == record["file"]["sha256"]
    return {
        "same file": same,
        "difference": differ(known["fingerprint"], record["fingerprint"]),
        "commit": known.get("commit", ""),
    }


def _about_timm(found: dict | None) -> str:
    if found is None:
        return "second implementation: timm is not installed or has no such network, so nothing was compared"
    verdict = "the same up to rounding" if found["difference"] <= SAME else "DIFFERENT"
    return f"second implementation: timm {found['timm']}, largest difference {found['difference']:.1e} deviations: {verdict}"


def _about_reference(found: dict | None) -> str:
    if found is None:
        return "stored reference: none yet; the record of this run can become the first"
    file = "the same file" if found["same file"] else "ANOTHER FILE"
    verdict = "the same up to rounding" if found["difference"] <= SAME else "DIFFERENT"
    return f"stored reference: {file}, features {found['difference']:.1e} deviations apart: {verdict}"


__all__ = ["Claim", "differ", "fingerprint_of", "generated_input", "reference", "timm_difference", "verify"]
