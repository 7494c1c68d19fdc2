"""Which images make up a step, and that step's random numbers, as pure functions of (seed, step).

Nothing here has state, so a resumed run needs only its step number to continue exactly.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def generator_for(*key: int | str) -> torch.Generator:
    """A CPU generator that depends only on `key`, for example generator_for(seed, "batch", step)."""
    # PyTorch's CPU generator uses only 32 bits of a seed, so hash before truncating.
    digest = hashlib.blake2b(repr(key).encode(), digest_size=4).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest, "little"))


class BatchOrder:
    """Indices of each step's batch: epoch after epoch, each a new random permutation of all `size` examples.

    A batch may cross the end of an epoch (or several, if it is larger than the data), so every batch is full, and the numbers
    of times that examples are seen differ by one at most. Raises ValueError for no examples.
    """

    def __init__(self, size: int, batch_size: int, seed: int):
        if size < 1:
            raise ValueError("there are no training examples")
        self.size, self.batch_size, self.seed = size, batch_size, seed
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.long)

    def _permutation(self, epoch: int) -> Tensor:
        if epoch != self._epoch:  # remembered, because consecutive steps share it
            self._epoch = epoch
            self._order = torch.randperm(self.size, generator=generator_for(self.seed, "order", epoch))
        return self._order

    def __call__(self, step: int) -> Tensor:
        start, parts = step * self.batch_size, []
        stop = start + self.batch_size
        while start < stop:
            epoch, offset = divmod(start, self.size)
            taken = min(self.size - offset, stop - start)
            parts.append(self._permutation(epoch)[offset : offset + taken])
            start += taken
        return torch.cat(parts)
