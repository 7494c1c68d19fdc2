"""MixUp (arXiv 1710.09412): train on convex combinations of images and of their labels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def sample_lambda(alpha: float, generator: torch.Generator) -> float:
    """One mixing weight from Beta(alpha, alpha); 1.0 (no mixing) where alpha is 0.

    generator: a CPU generator. Raises ValueError for a negative alpha.
    """
    if alpha < 0:
        raise ValueError(f"MixUp alpha is {alpha}; it must be 0 (off) or more")
    if alpha == 0:
        return 1.0
    # A Beta draw is g / (g + h), where g and h are Gamma(alpha) draws. For small alpha both can underflow, so this uses
    # float64 and logarithms: log Gamma(alpha) = log Gamma(alpha + 1) + log(U) / alpha.
    concentration = torch.full((2,), alpha + 1.0, dtype=torch.float64)
    uniform = torch.rand(2, dtype=torch.float64, generator=generator).clamp_min(1e-300)
    log_gamma = torch._standard_gamma(concentration, generator=generator).log() + uniform.log() / alpha
    return torch.softmax(log_gamma, 0)[0].item()


def draw_mixup(count: int, alpha: float, generator: torch.Generator) -> tuple[float, Tensor | None]:
    """Random choices for a batch of `count` images: (lam, index of each image's partner, int64 [count]); (1.0, None) if off."""
    lam = sample_lambda(alpha, generator)
    return (1.0, None) if lam == 1.0 else (lam, torch.randperm(count, generator=generator))


def mixup(x: Tensor, y: Tensor, alpha: float, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, float]:
    """Mix a batch with a random permutation of itself.

    x: float [N, 3, H, W]; y: int [N]; alpha: Beta parameter, 0 is off; generator: a CPU generator.
    Returns (lam * x + (1 - lam) * x[perm], y, y[perm], lam) with a single lam for the batch, as in the official code.
    """
    lam, partners = draw_mixup(len(x), alpha, generator)
    if partners is None:
        return x, y, y, lam
    partners = partners.to(x.device)
    return torch.lerp(x[partners], x, lam), y, y[partners], lam


def mixup_loss(logits: Tensor, y: Tensor, y_other: Tensor, lam: float) -> Tensor:
    """Mean cross-entropy against labels mixed in the proportion lam : 1 - lam. logits: [N, C]; y, y_other: int [N].

    Cross-entropy is linear in the target, so mixing two losses with hard labels gives the loss with the mixed label.
    """
    loss = F.cross_entropy(logits, y)
    return loss if lam == 1.0 else lam * loss + (1 - lam) * F.cross_entropy(logits, y_other)
