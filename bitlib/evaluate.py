"""What a trained model does on pictures: logits, accuracy, calibration, confusion, worst mistakes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .data.augment import to_input
from .data.sampling import generator_for
from .data.task import Images
from .distributed import gathered, ranks
from .norm import hold_standardized, standardized_convs

EVAL_BATCH = 256  # fixed, so that the order of a sum, and so its last bit, does not depend on the caller


@torch.no_grad()
def run_over(function, images: Images, side: int, device: torch.device, batch_size: int = EVAL_BATCH) -> Tensor:
    """Apply `function` (float [B, 3, side, side] in [-1, 1] -> [B, ...]) to all pictures, resized; result on the CPU.

    Of several processes (`distributed`) each takes some of the batches, and all of them get the whole result.

    Pictures are resized as a whole, without a crop, as the paper tests (section 3.3).
    """
    prepared, outputs, (rank, world) = images.prepare(side, device), {}, ranks()
    generator = generator_for("evaluation")
    batches = list(enumerate(torch.arange(len(prepared)).split(batch_size)))
    for number, indices in batches[rank::world]:
        x = to_input(prepared.batch(indices, generator)).contiguous(memory_format=torch.channels_last)
        outputs[number] = function(x.to(device)).float().cpu()
    outputs = {number: output for part in gathered(outputs) for number, output in part.items()}
    return torch.cat([outputs[number] for number, _ in batches])


def predict_logits(model: nn.Module, images: Images, side: int) -> Tensor:
    """Logits [N, C] of a model in evaluation mode, on the device where it is; its mode is restored afterwards."""
    was_training = model.training
    model.eval()
    try:
        with hold_standardized(standardized_convs(model)):
            return run_over(model, images, side, next(model.parameters()).device)
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
        """Share of pictures whose largest logit is the label's, 0 to 1."""
        return (self.predictions == self.labels).double().mean().item()

    @property
    def loss(self) -> float:
        """Mean cross-entropy in nats."""
        return F.cross_entropy(self.logits, self.labels).item()

    @property
    def confusion(self) -> Tensor:
        """int [C, C]: how often a picture of class (row) was taken for class (column)."""
        c = self.logits.shape[1]
        return torch.bincount(self.labels * c + self.predictions, minlength=c * c).view(c, c)

    def reliability(self, bins: int = 10) -> tuple[Tensor, Tensor, Tensor]:
        """Mean confidence, accuracy and number of pictures in each of `bins` equal ranges of confidence."""
        confidence, predicted = self.logits.double().softmax(1).max(1)
        which = (confidence * bins).long().clamp_max(bins - 1)
        count = torch.bincount(which, minlength=bins)
        right = (predicted == self.labels).double()
        mean = [torch.bincount(which, weights=w, minlength=bins) / count.clamp_min(1) for w in (confidence, right)]
        return mean[0], mean[1], count

    def calibration_error(self, bins: int = 10) -> float:
        """Expected calibration error: |confidence - accuracy|, averaged over the bins by their share of pictures."""
        confidence, accuracy, count = self.reliability(bins)
        return ((confidence - accuracy).abs() * count).sum().item() / len(self.labels)

    def worst_mistakes(self, count: int = 10) -> Tensor:
        """Indices of the wrong predictions, the label with the smallest probability first; at most `count`."""
        log_p = self.logits.log_softmax(1).gather(1, self.labels[:, None])[:, 0]
        wrong = (self.predictions != self.labels).nonzero()[:, 0]
        return wrong[log_p[wrong].argsort(stable=True)][:count]


def evaluate(model: nn.Module, images: Images, side: int) -> Evaluation:
    """Run the model over a split, every picture resized to `side` x `side`. Model and result as in `predict_logits`."""
    return Evaluation(predict_logits(model, images, side), images.labels)
