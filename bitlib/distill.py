"""Knowledge distillation: softened probabilities, and the loss of a student that imitates a teacher.

Follows Hinton, Vinyals and Dean (arXiv 1503.02531, section 2). Which images teacher and student see is up to
`transfer.distill`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .files import UserError


@dataclass(frozen=True)
class Distillation:
    """How a student learns from its teacher.

    temperature: softens the outputs of teacher and student; above 0. alpha: weight of the teacher, from 0 (labels only) to 1
    (teacher only). consistent: True shows the teacher exactly the student's crops and mixtures at every step (arXiv
    2106.05237); False computes its logits once, before training, from the whole images. Raises UserError for values out of
    range.
    """

    temperature: float = 1.0
    alpha: float = 1.0
    consistent: bool = True

    def __post_init__(self):
        if not 0 <= self.alpha <= 1 or not self.temperature > 0:
            wrong = f"alpha is {self.alpha} and the temperature {self.temperature}"
            raise UserError(f"{wrong}; alpha must be between 0 and 1, and the temperature above 0")


def soften(logits: Tensor, temperature: float) -> Tensor:
    """Probabilities softmax(logits / temperature). logits: float [N, C] -> [N, C], rows sum to 1.

    A temperature above 1 raises the small probabilities, one below 1 lowers them; 1 is the ordinary softmax. Raises
    ValueError unless the temperature is above 0.
    """
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}; it must be above 0")
    scaled = logits / temperature
    # Shifted so that the largest logit is 0: the quotient stays the same, and no exponential overflows.
    exponentials = (scaled - scaled.amax(1, keepdim=True)).exp()
    return exponentials / exponentials.sum(1, keepdim=True)


def distillation_loss(
    student: Tensor, teacher: Tensor, labels: Tensor | None = None, temperature: float = 1.0, alpha: float = 1.0
) -> Tensor:
    """alpha * T^2 * KL(teacher || student), both softened by T, + (1 - alpha) * cross-entropy with the labels; in nats.

    student, teacher: logits, float [N, C]; no gradient reaches the teacher. labels: int [N], needed if alpha < 1.
    The KL term is Hinton's cross-entropy minus the teacher's entropy, which has no gradient; a perfect student brings it to
    0. Gradients of the softened term shrink with 1 / T^2, so the factor T^2 keeps both terms in balance at any temperature.
    The labels are compared at temperature 1. Raises ValueError for an alpha or a temperature out of range.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is {alpha}; it must be between 0 (labels only) and 1 (teacher only)")
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}; it must be above 0")
    if alpha < 1 and labels is None:
        raise ValueError("labels are needed when alpha is below 1")
    target, guess = ((x / temperature).log_softmax(1) for x in (teacher.detach(), student))
    loss = alpha * temperature**2 * F.kl_div(guess, target, reduction="batchmean", log_target=True)
    return loss if alpha == 1 else loss + (1 - alpha) * F.cross_entropy(student, labels)


class Ensemble(nn.Module):
    """Several networks as one: the mean of their logits, which is the geometric mean of their probabilities.

    models: networks with the same classes. x: float [N, 3, H, W] -> logits [N, C]. It can be evaluated, and used as
    the teacher in `transfer.distill`. Raises ValueError for an empty list, or if the numbers of classes differ.
    """

    def __init__(self, models: Sequence[nn.Module]):
        super().__init__()
        classes = {model.num_classes for model in models}
        if len(classes) != 1:
            raise ValueError(f"an ensemble needs networks with the same number of classes, not {sorted(classes)}")
        self.models, self.num_classes = nn.ModuleList(models), classes.pop()
        self.info = SimpleNamespace(name="ensemble of " + ", ".join(model.info.name for model in models))

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([model(x) for model in self.models]).mean(0)
