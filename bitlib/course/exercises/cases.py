"""Inputs on which several chapters' exercises try an answer."""

from __future__ import annotations

from random import Random

import torch


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    """float [*shape] with mean about 1 and standard deviation about 2; the same for the same seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 2 + 1


def shares_of_one(n: int, seed: int = 0) -> list[float]:
    """n different numbers between 0 and 1 with two decimals, such as accuracies, in random order; n at most 80."""
    return [percent / 100 for percent in Random(seed).sample(range(15, 95), n)]


def leaves_alone(f, *arguments) -> bool:
    """Whether a call of f leaves its arguments, tensors or lists, as they were."""
    before = [a.tolist() if hasattr(a, "tolist") else list(a) if isinstance(a, list) else a for a in arguments]
    f(*arguments)
    return before == [a.tolist() if hasattr(a, "tolist") else a for a in arguments]
