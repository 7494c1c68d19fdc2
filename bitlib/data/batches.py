"""The batches of a run: the only place that knows about processes, devices, decoding, pinned memory and reading ahead.

Which images each step uses, where they are cropped and with which others they are mixed is drawn from (seed, step) for the
whole batch, identically on every process. Pixels are read, copied, cropped and mixed only for a process's own rows, one
micro-batch at a time. A batch is therefore the same on any number of processes and in any number of parts, and a resumed run
sees the batches of an uninterrupted one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import islice
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from ..distributed import own_rows, ranks
from ..files import UserError
from ..mixup import draw_mixup
from .augment import Augmentation, cut, draw_crops, to_input
from .sampling import BatchOrder, generator_for
from .task import Images

AHEAD_BYTES = 900 << 20  # of decoded images in memory at most, including those of the current step
AHEAD = 4  # batches decoded in advance at most

Item, Made = TypeVar("Item"), TypeVar("Made")


class Part(NamedTuple):
    """A micro-batch on the device.

    x: float [n, 3, crop, crop] in [-1, 1], mixed; y, y_other: int64 [n], labels of the two images in each mixture; lam: weight
    of the first; indices: int64 [n], positions of the first images in the split.
    """

    x: Tensor
    y: Tensor
    y_other: Tensor
    lam: float
    indices: Tensor


class Tensors:
    """A ready-made batch: tensors with the whole batch in dimension 0."""

    def __init__(self, *columns: Tensor):
        self.size = len(columns[0])
        own = own_rows(self.size)
        self.columns = [column[own.start : own.stop] for column in columns]

    def __len__(self) -> int:
        return len(self.columns[0])

    def parts(self, count: int) -> Iterator[tuple[Tensor, ...]]:
        return zip(*(column.tensor_split(count) for column in self.columns))


class Batch:
    """The batch of one step, as one process sees it. len: this process's rows; size: the rows of all processes together."""

    def __init__(self, source: Batches, step: int):
        self.source, self.size = source, source.order.batch_size
        generator = generator_for(source.seed, "batch", step)
        draws = source.images.draw(self.size, generator)
        crops = draw_crops(self.size, source.how, generator)
        self.lam, partners = draw_mixup(self.size, source.how.mixup_alpha, generator)
        own = own_rows(self.size)
        self.own = len(own)
        rows = torch.tensor(own)
        if partners is not None:
            rows = torch.cat([rows, partners[rows]])
        indices = source.order(step)[rows]
        self.draws = None if draws is None else sent(draws[rows], source.device)
        self.pixels = None
        if not source.images.resident:
            # Decode each image only once, even if it is both a row and a partner, or occurs twice because the task is small.
            wanted, self.places = indices.unique(return_inverse=True)
            self.pixels = source.images.batch(wanted)
        # All other numbers that the device needs, in a single copy.
        self.plan = sent(torch.cat([indices[None], crops[:, rows]]), source.device)

    def __len__(self) -> int:
        return self.own

    def parts(self, count: int) -> Iterator[Part]:
        """This process's rows in `count` micro-batches of nearly equal size, each made when needed. Can be called again."""
        for places in torch.arange(self.own).tensor_split(count):
            mine = slice(int(places[0]), int(places[-1]) + 1)
            x, y = self._taken(mine)
            if self.lam == 1.0:
                yield Part(x, y, y, 1.0, self.plan[0, mine])
            else:
                other, y_other = self._taken(slice(self.own + mine.start, self.own + mine.stop))
                yield Part(torch.lerp(other, x, self.lam), y, y_other, self.lam, self.plan[0, mine])

    def _taken(self, rows: slice) -> tuple[Tensor, Tensor]:
        """(augmented images as floats, labels) of these rows, on the device."""
        source, indices, crops = self.source, self.plan[0, rows], self.plan[1:, rows]
        if self.pixels is None:
            pixels = source.images.batch(indices, None if self.draws is None else self.draws[rows])
        else:
            pixels = sent(self.pixels[self.places[rows]], source.device)
        x = to_input(cut(pixels, crops, source.how.crop)).contiguous(memory_format=source.layout)
        return x, source.labels[indices]


class Batches:
    """The batches of a training run, as a function of the step.

    images: a split, which is decoded and resized here; how: the augmentation; batch_size: images per step, over all processes;
    layout: memory format of the batches on `device`. Raises UserError if an image cannot be read, or for fewer images per
    step than processes.
    """

    def __init__(
        self, images: Images, how: Augmentation, batch_size: int, seed: int, device: torch.device, layout=torch.channels_last
    ):
        if batch_size < ranks()[1]:
            raise UserError(
                f"a batch of {batch_size} cannot be shared among {ranks()[1]} processes; start fewer, or raise --batch-size"
            )
        self.how, self.seed, self.device, self.layout = how, seed, device, layout
        self.images = images.prepare(how.resize, device)
        self.labels = images.labels.to(device)
        self.order = BatchOrder(len(images), batch_size, seed)

    def __call__(self, step: int) -> Batch:
        return Batch(self, step)

    @property
    def ahead(self) -> int:
        """How many batches to decode in advance: none if images are in memory, else as many as fit into AHEAD_BYTES."""
        if self.images.resident:
            return 0
        rows = -(-self.order.batch_size // ranks()[1]) * (2 if self.how.mixup_alpha else 1)
        held = min(rows, self.order.size, self.order.batch_size) * 3 * self.how.resize**2
        return max(1, min(AHEAD, AHEAD_BYTES // held - 1))


class InTurn:
    """The batches of one source before step `at`, and of another from then on."""

    def __init__(self, first: Batches, then: Batches, at: int):
        self.first, self.then, self.at = first, then, at

    def __call__(self, step: int) -> Batch:
        return (self.first if step < self.at else self.then)(step)

    @property
    def ahead(self) -> int:
        return self.then.ahead


def stream(batches: Callable[[int], object], steps: Iterable[int]) -> Iterator[tuple[int, object]]:
    """Yield (step, batch) for these steps, decoding ahead if the source asks for it.

    batches: `Batches`, or any function of the step that returns a batch or a tuple of tensors.
    """

    def made(step: int) -> tuple[int, object]:
        batch = batches(step)
        return step, Tensors(*batch) if isinstance(batch, tuple) else batch

    return ahead(made, steps, getattr(batches, "ahead", 0))


def ahead(make: Callable[[Item], Made], items: Iterable[Item], count: int) -> Iterator[Made]:
    """Yield make(item) for all items in order; a thread works up to `count` items ahead, 0 means without a thread."""
    if count == 0:
        yield from map(make, items)
        return
    items, waiting = iter(items), deque()
    with ThreadPoolExecutor(1, "batches") as thread:
        try:
            for item in islice(items, count):
                waiting.append(thread.submit(make, item))
            while waiting:
                made = waiting.popleft().result()
                waiting.extend(thread.submit(make, item) for item in islice(items, 1))
                yield made
        finally:
            for future in waiting:
                future.cancel()


def scan(images: Images, side: int, device: torch.device, batch_size: int) -> Iterator[tuple[int, Tensor]]:
    """Yield a split from beginning to end, uncropped: (number of the batch, float [B, 3, side, side] on the device).

    Processes take batches in turn. Each gets the same number of them, because a sharded network runs only when all processes
    do; a process with none left repeats the last batch.
    """
    prepared, (rank, world) = images.prepare(side, device), ranks()
    batches = torch.arange(len(prepared)).split(batch_size)

    def read(turn: int) -> tuple[int, Tensor]:
        number = min(turn * world + rank, len(batches) - 1)
        indices = batches[number]
        return number, prepared.batch(indices, prepared.draw(len(indices), generator_for("evaluation", number)))

    with closing(ahead(read, range(-(-len(batches) // world)), 0 if prepared.resident else 1)) as made:
        for number, pixels in made:
            yield number, to_input(sent(pixels, device)).contiguous(memory_format=torch.channels_last)


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device, copied without waiting if that is a CUDA GPU; the tensor itself if it is already there."""
    if tensor.device.type == "cpu" and device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)  # on Apple GPUs, not waiting would read freed memory (pytorch/pytorch#189690)
