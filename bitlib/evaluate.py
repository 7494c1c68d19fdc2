"""Evaluating a trained model on images: logits, accuracy, calibration and temperature, confusion matrix, mistakes."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw
from torch import Tensor, nn

from .data.batches import scan
from .data.task import Images
from .device import autocast
from .distributed import gathered, is_sharded
from .files import UserError, atomic_path
from .norm import hold_standardized, standardized_convs

EVAL_BATCH = 256  # fixed, so that the order of summation, and with it the last bit, is always the same


@torch.no_grad()
def run_over(function, images: Images, side: int, device: torch.device, precision: str = "fp32") -> Tensor:
    """Apply `function` (float [B, 3, side, side] in [-1, 1] -> [B, ...]) to all images; returns float32 on the CPU.

    Images are resized, not cropped, as in the paper's tests (section 3.3). Several processes share the work, and each gets the
    whole result. If the device runs out of memory, the batch is halved. Raises UserError if even one image does not fit, or
    for an empty split.
    """
    if not len(images):
        raise UserError("there are no images to evaluate in this split")
    at_once, outputs = EVAL_BATCH, {}
    in_parts = isinstance(function, nn.Module) and is_sharded(function)
    for number, x in scan(images, side, device, EVAL_BATCH):
        done: list[Tensor] = []
        while (start := sum(map(len, done))) < len(x):
            try:
                with autocast(device, precision):
                    done.append(function(x[start : start + at_once]).float().cpu())
                continue
            except torch.OutOfMemoryError:
                if in_parts:  # the other processes would wait for forward passes that this one does not need
                    raise UserError(
                        "out of memory during evaluation; the trained model is saved, so evaluate it on one process"
                    ) from None
                if min(at_once, len(x)) == 1:
                    raise UserError(f"the device runs out of memory with one image of {side} px; use --device cpu") from None
            at_once = -(-min(at_once, len(x)) // 2)
            if device.type == "cuda":
                torch.cuda.empty_cache()
        outputs[number] = torch.cat(done)
    outputs = {number: output for part in gathered(outputs) for number, output in part.items()}
    return torch.cat([outputs[number] for number in sorted(outputs)])


def predict_logits(model: nn.Module, images: Images, side: int, precision: str = "fp32") -> Tensor:
    """Logits float32 [N, C], on the CPU, of a model in evaluation mode on its own device; then restores the model's mode."""
    was_training = model.training
    model.eval()
    try:
        with hold_standardized(standardized_convs(model)):
            return run_over(model, images, side, next(model.parameters()).device, precision)
    finally:
        model.train(was_training)


@dataclass(frozen=True)
class Evaluation:
    """logits: float [N, C]; labels: int [N]."""

    logits: Tensor
    labels: Tensor

    @property
    def predictions(self) -> Tensor:
        return self.logits.argmax(1)

    @property
    def accuracy(self) -> float:
        """Share of correct predictions, 0 to 1."""
        return (self.predictions == self.labels).double().mean().item()

    def interval(self) -> tuple[float, float]:
        """95 % confidence interval of the accuracy, as (low, high), from `accuracy_interval`."""
        return accuracy_interval(self.accuracy, len(self.labels))

    @property
    def loss(self) -> float:
        """Mean cross-entropy in nats."""
        return F.cross_entropy(self.logits, self.labels).item()

    @property
    def confusion(self) -> Tensor:
        """Confusion matrix, int [C, C]: how many images of the true class (row) were predicted as each class (column)."""
        c = self.logits.shape[1]
        return torch.bincount(self.labels * c + self.predictions, minlength=c * c).view(c, c)

    def reliability(self, bins: int = 10) -> tuple[Tensor, Tensor, Tensor]:
        """Mean confidence, accuracy and number of images in each of `bins` equally wide ranges of confidence; each [bins]."""
        confidence, predicted = self.logits.double().softmax(1).max(1)
        which = (confidence * bins).long().clamp_max(bins - 1)
        count = torch.bincount(which, minlength=bins)
        right = (predicted == self.labels).double()
        mean = [torch.bincount(which, weights=w, minlength=bins) / count.clamp_min(1) for w in (confidence, right)]
        return mean[0], mean[1], count

    def calibration_error(self, bins: int = 10) -> float:
        """Expected calibration error: |confidence - accuracy|, averaged over the bins, weighted by their images."""
        confidence, accuracy, count = self.reliability(bins)
        return ((confidence - accuracy).abs() * count).sum().item() / len(self.labels)

    def at_temperature(self, temperature: float) -> Evaluation:
        """The same predictions with softer (temperature > 1) or sharper probabilities."""
        return Evaluation(self.logits / temperature, self.labels)

    def worst_mistakes(self, count: int = 10) -> Tensor:
        """Indices of up to `count` wrong predictions, those that gave the true class the smallest probability first."""
        log_p = self.logits.log_softmax(1).gather(1, self.labels[:, None])[:, 0]
        wrong = (self.predictions != self.labels).nonzero()[:, 0]
        return wrong[log_p[wrong].argsort(stable=True)][:count]


def fit_temperature(held_out: Evaluation) -> float:
    """The temperature that makes the mean cross-entropy of these logits smallest, between 0.01 and 100 (arXiv 1706.04599).

    held_out: images that were not trained on, and that are not the test images. The cross-entropy is convex in one over the
    temperature, so its slope there has one zero, which is found by halving.
    """
    logits = held_out.logits.double()
    own = logits.gather(1, held_out.labels[:, None])[:, 0]
    low, high = 0.01, 100.0  # of one over the temperature
    for _ in range(60):
        middle = math.sqrt(low * high)
        expected = ((logits * middle).softmax(1) * logits).sum(1)
        low, high = (low, middle) if (expected - own).mean() > 0 else (middle, high)
    return 1 / math.sqrt(low * high)


def evaluate(model: nn.Module, images: Images, side: int, precision: str = "fp32") -> Evaluation:
    """Run a model over a split, with every image resized to `side` x `side` pixels.

    precision: "fp32", "bf16" or "fp16". The model stays on its device; it runs in evaluation mode and is then returned to the
    mode it was in. Raises UserError for an empty split, or if one image alone does not fit into memory.
    """
    return Evaluation(predict_logits(model, images, side, precision), images.labels)


def save_mistakes(found: Evaluation, images: Images, names: Sequence[str], out: str | Path, side: int = 64) -> Path:
    """Write mistakes.csv and mistakes.png into the folder `out`, the worst mistake first, and return the folder.

    The table has the number of each image in its split (and its file, if it has one), label, prediction, and the probability of
    both; the sheet shows the same images in the same order, eight to a row, as "label > prediction". found: of these images.
    """
    worst, out = found.worst_mistakes(len(found.labels)).tolist(), Path(out)
    p, files = found.logits.double().softmax(1), getattr(images, "paths", None)
    with atomic_path(out / "mistakes.csv") as temporary, open(temporary, "w", newline="", encoding="utf8") as f:
        writer = csv.writer(f)
        writer.writerow(["image", *(["file"] * bool(files)), "label", "predicted", "p_label", "p_predicted"])
        for i in worst:
            own, said = int(found.labels[i]), int(found.predictions[i])
            told = [names[own], names[said], f"{p[i, own]:.4f}", f"{p[i, said]:.4f}"]
            writer.writerow([i, *([files[i]] if files else []), *told])
    cell, columns = side + 16, min(8, max(1, len(worst)))
    sheet = Image.new("RGB", (columns * side, max(1, -(-len(worst) // columns)) * cell), "white")
    shown = images.subset(torch.tensor(worst, dtype=torch.long)).prepare(side, "cpu")
    for k, i in enumerate(worst):
        pixels = shown.batch(torch.tensor([k]))[0].permute(1, 2, 0).numpy()
        x, y = k % columns * side, k // columns * cell
        sheet.paste(Image.fromarray(pixels), (x, y))
        ImageDraw.Draw(sheet).text((x + 2, y + side + 2), f"{names[found.labels[i]]} > {names[found.predictions[i]]}", "black")
    with atomic_path(out / "mistakes.png") as temporary:
        sheet.save(temporary, "PNG")
    return out


def accuracy_interval(accuracy: float, images: int, z: float = 1.96) -> tuple[float, float]:
    """Wilson's score interval for an accuracy measured on this number of images: (low, high), 95 % for z = 1.96.

    It accounts for the choice of test images only, not for the variation between training runs.
    """
    middle = (accuracy + z * z / (2 * images)) / (1 + z * z / images)
    half = z * math.sqrt(accuracy * (1 - accuracy) / images + (z / (2 * images)) ** 2) / (1 + z * z / images)
    return max(0.0, middle - half), min(1.0, middle + half)
