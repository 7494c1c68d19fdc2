"""The exercises of notebooks/15_scaling_out: labels that are missing, parts that fit, a ring of devices, and the warm-up."""

from __future__ import annotations

from random import Random

import torch
import torch.nn.functional as F
from torch import nn

from ..check import Exercise, alike


def _left(accumulate, labels: list[int], parts: int, stale: bool = False) -> list[torch.Tensor]:
    """The gradient that is left in the parameters. stale: an earlier step left one, too."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(len(labels), 5, generator=generator), torch.tensor(labels)
    model = nn.Linear(5, 3)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator))
    if stale:
        F.cross_entropy(model(x), y, ignore_index=-1).backward()
    accumulate(model, x, y, parts)
    return [torch.zeros_like(p) if p.grad is None else p.grad for p in model.parameters()]


def _agrees(labels: list[int], parts: int, stale: bool = False):
    """A test: the gradient is that of the whole batch."""

    def at_once(model, x, y, parts):
        model.zero_grad()
        F.cross_entropy(model(x), y, ignore_index=-1).backward()

    return lambda accumulate: alike(_left(accumulate, labels, parts, stale), _left(at_once, labels, parts))


def _slipped(divide, reduction: str = "sum", zero: bool = True, skip: bool = False):
    """`accumulate` with mistakes. divide(y, y_part, parts): what the loss of a part is divided by."""

    def accumulate(model, x, y, parts):
        if zero:
            model.zero_grad()
        for x_part, y_part in zip(x.chunk(parts), y.chunk(parts)):
            if skip and (y_part < 0).any():
                continue
            loss = F.cross_entropy(model(x_part), y_part, ignore_index=-1, reduction=reduction)
            (loss / divide(y, y_part, parts)).backward()

    return accumulate


def _last_part_only(model, x, y, parts):
    for x_part, y_part in zip(x.chunk(parts), y.chunk(parts)):
        model.zero_grad()
        (F.cross_entropy(model(x_part), y_part, ignore_index=-1, reduction="sum") / (y >= 0).sum()).backward()


def _labelled(y, *_) -> torch.Tensor:
    return (y >= 0).sum()


def _batches() -> list[tuple]:
    """(labels, parts, stale); every part has a label, and an image without one stands in most of them."""
    random, made = Random(0), []
    for n, parts in ((8, 2), (11, 3), (12, 4)):
        labels = random.choices((-1, 0, 1, 2), weights=(2, 1, 1, 1), k=n)
        labels[:: -(-n // parts)] = [random.randrange(3) for _ in labels[:: -(-n // parts)]]
        made.append((labels, parts, True))
    return made


def _saves_memory(accumulate) -> bool:
    sizes, model = [], nn.Linear(5, 3)
    model.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    accumulate(model, torch.ones(10, 5), torch.zeros(10, dtype=torch.long), 4)
    return max(sizes) <= 3 and sum(sizes) == 10


def _sums(count: int):
    """A test: `count` devices end with the sums, all of them."""

    def test(ring_all_reduce) -> bool:
        devices = [[(3 * d + 7 * c + d * c) % 11 for c in range(count)] for d in range(count)]
        total = [sum(column) for column in zip(*devices)]
        return alike([list(held) for held in ring_all_reduce(devices)], [total] * count)

    return test


def accumulate(model, x, y, parts):
    """Leaves in every p.grad the gradient of the mean loss over all labelled images; y is -1 where there is no label."""
    model.zero_grad()
    labelled = (y >= 0).sum()
    for x_part, y_part in zip(x.chunk(parts), y.chunk(parts)):
        loss = F.cross_entropy(model(x_part), y_part, ignore_index=-1, reduction="sum")
        (loss / labelled).backward()


def parts_that_fit(batch, per_image, fixed, memory):
    """int from 1 to batch, or None."""
    for parts in range(1, batch + 1):
        largest = -(-batch // parts)  # rounded up
        if fixed + largest * per_image <= memory:
            return parts
    return None


def ring_all_reduce(devices):
    """devices: n lists of n numbers each. Returns n lists, all of them equal: the sums."""
    n = len(devices)
    held = [list(numbers) for numbers in devices]
    for step in range(2 * (n - 1)):
        sent = [((d - step) % n, held[d][(d - step) % n]) for d in range(n)]  # place and number, one from each device
        for d in range(n):
            # begin solution
            right, (place, number) = (d + 1) % n, sent[d]
            if step < n - 1:
                held[right][place] += number  # first lap: sums grow
            else:
                held[right][place] = number  # second lap: finished sums are handed on
            # end solution
    return held


def warm_up(step, batch):
    """0.03 for every 256 images, reached in a straight line over the first 5,000 steps."""
    return 0.03 * batch / 256 * min(1, step / 5000)


def _tasks() -> list[tuple[int, int, int, int]]:
    """(batch, per_image, fixed, memory) that need from one part to the whole batch of them, or do not fit."""
    random = Random(0)
    return [
        (batch, 10, fixed, fixed + 10 * largest + 7 * (largest % 2))
        for batch, fixed, largest in ((random.randint(9, 60), random.randint(1, 99), k) for k in (0, 1, 2, 5, 6, 11, 22, 70))
    ]


def _first_fit(largest=lambda batch, parts: -(-batch // parts), tried=lambda batch: range(1, batch + 1), strict=False):
    """`parts_that_fit` with mistakes: another idea of the largest part, other numbers of parts, or < for <=."""

    def find(batch, per_image, fixed, memory):
        for parts in tried(batch):
            need = fixed + largest(batch, parts) * per_image
            if need < memory or (need == memory and not strict):
                return parts
        return None

    return find


def _ring(add=lambda step, n: step < n - 1, neighbour=lambda d, n: (d + 1) % n):
    """`ring_all_reduce` with mistakes: another end of the first lap, or another neighbour."""

    def reduce(devices):
        n, held = len(devices), [list(numbers) for numbers in devices]
        for step in range(2 * (n - 1)):
            sent = [((d - step) % n, held[d][(d - step) % n]) for d in range(n)]
            for d in range(n):
                right, (place, number) = neighbour(d, n), sent[d]
                held[right][place] = number + (held[right][place] if add(step, n) else 0)
        return held

    return reduce


def _into_its_own_place(devices):
    n, held = len(devices), [list(numbers) for numbers in devices]
    for step in range(2 * (n - 1)):
        sent = [held[d][(d - step) % n] for d in range(n)]
        for d in range(n):
            right = (d + 1) % n
            held[right][right] = sent[d] + (held[right][right] if step < n - 1 else 0)
    return held


def _devices() -> list[tuple[list[list[int]]]]:
    return [([[Random(100 * n + d).randint(1, 99) + i for i in range(n)] for d in range(n)],) for n in (2, 3, 5)]


def _steps() -> list[tuple[int, int]]:
    return [(0, 4096), (137, 4096), (2500, 512), (4999, 1024), (5000, 64), (7531, 2048), (40_000, 300)]


EXERCISES: dict[str, Exercise] = {
    "accumulate": Exercise(
        "Cut a batch into parts when some images have no label.",
        (
            ("give the gradient of the whole batch when it is cut into equal parts", _agrees([0, 1, 2, 0], 2)),
            ("give it when the last part is shorter: 10 images in 4 parts", _agrees([0, 1, 2, 0, 1, 2, 0, 1, 2, 0], 4)),
            ("start from zero, and not add to the gradient of an earlier step", _agrees([0, 1, 2, 0], 2, stale=True)),
            ("give it when one part has fewer labels than the other", _agrees([0, 1, 2, 0, -1, -1, -1, 1], 2)),
            ("give it when a part has no label at all", _agrees([0, 1, -1, -1], 2)),
            ("show the model every image once, and at most three of ten at a time in 4 parts", _saves_memory),
        ),
        (
            "The mean divides by the number of labelled images in the whole batch. Which parts of the sum does one part know?",
            "Take the *sum* of the losses in each part (reduction='sum', ignore_index=-1), and divide it by something that no "
            "single part can know.",
            "Clear the gradients of an earlier step first. Count the labels of the whole batch before the loop, and call "
            "backward() once per part; PyTorch adds the gradients up.",
        ),
        accumulate,
        inputs=_batches,
        run=_left,
        slips=(
            ("average the means of the parts", _slipped(lambda y, part, parts: parts, "mean")),
            ("weight each part by its size, labelled or not", _slipped(lambda y, part, parts: len(y) / len(part), "mean")),
            ("divide by all images, labelled or not", _slipped(lambda y, part, parts: len(y))),
            ("divide the sum of a part by the labels of that part", _slipped(lambda y, part, parts: _labelled(part))),
            ("add the sums up, and not divide them", _slipped(lambda *_: 1)),
            ("divide the sums by the number of parts", _slipped(lambda y, part, parts: parts)),
            ("add to the gradient of an earlier step", _slipped(_labelled, zero=False)),
            ("keep the gradient of the last part alone", _last_part_only),
            ("leave out each part in which a label is missing", _slipped(_labelled, skip=True)),
        ),
    ),
    "parts_that_fit": Exercise(
        "Choose the smallest number of micro-batches that fits into memory.",
        (
            ("take the whole batch where it fits", lambda f: f(32, 10, 100, 420) == 1),
            ("leave room for what does not grow with the batch", lambda f: f(32, 10, 100, 180) == 4),
            ("count the largest part: 10 images in 3 parts are 4, 3 and 3", lambda f: f(10, 10, 0, 30) == 4),
            ("fill the memory to the last byte if need be", lambda f: f(10, 10, 0, 40) == 3),
            (
                "try every number of parts, whether or not it divides the batch",
                lambda f: f(10, 10, 5, 29) == 5 and f(9, 1, 0, 2) == 5,
            ),
            ("cut into single images where nothing else fits", lambda f: f(7, 10, 5, 15) == 7),
            ("return None where even one image is too much", lambda f: f(32, 10, 100, 105) is None),
        ),
        (
            "How many images are in the largest of m parts?",
            "math.ceil(batch / m), or -(-batch // m) without an import.",
            "Try m = 1, 2, … up to batch, and stop at the first that fits. Where none does, what has to be returned after the "
            "loop?",
        ),
        parts_that_fit,
        inputs=_tasks,
        slips=(
            ("round down: the largest part holds more", _first_fit(largest=lambda batch, parts: batch // parts)),
            ("take the average part for the largest", _first_fit(largest=lambda batch, parts: batch / parts)),
            ("forget what does not grow with the batch", lambda b, per, fixed, memory: parts_that_fit(b, per, 0, memory)),
            (
                "split what does not grow with the batch, too",
                lambda b, per, fixed, memory: next(
                    (m for m in range(1, b + 1) if fixed / m + -(-b // m) * per <= memory), None
                ),
            ),
            ("leave memory unused that would have been enough", _first_fit(strict=True)),
            (
                "try powers of two alone",
                _first_fit(tried=lambda batch: [m for m in range(1, batch + 1) if m & (m - 1) == 0]),
            ),
            (
                "try only numbers that divide the batch",
                _first_fit(tried=lambda batch: [m for m in range(1, batch + 1) if batch % m == 0]),
            ),
            (
                "return the images of a part, not the number of parts",
                lambda *task: None if parts_that_fit(*task) is None else -(-task[0] // parts_that_fit(*task)),
            ),
            ("cut into single images where not even one fits", lambda *task: parts_that_fit(*task) or task[0]),
            ("take the largest number of parts", lambda *task: parts_that_fit(*task) and task[0]),
        ),
    ),
    "ring_all_reduce": Exercise(
        "Add up numbers over a ring of devices, each of which talks only to its right neighbour.",
        (
            ("give two devices their sums", _sums(2)),
            ("give three devices their sums", _sums(3)),
            ("work for eight devices, too", _sums(8)),
        ),
        (
            "There are two laps of n - 1 steps each. What should happen to a number that arrives during the first lap?",
            "First lap: add what arrives to what is held in the same place. Second lap: what arrives is finished, so it "
            "replaces what is held.",
            "The right neighbour of the last device is device 0, and sent[d] is a pair: the place, and the number that belongs "
            "there. Ask step which lap it is: the first has n - 1 steps, from 0 on.",
        ),
        ring_all_reduce,
        inputs=_devices,
        slips=(
            ("add in the second lap, too, where finished sums have to replace what is held", _ring(lambda step, n: True)),
            ("replace in the first lap, too, where sums have to grow", _ring(lambda step, n: False)),
            ("begin the second lap one step late", _ring(lambda step, n: step <= n - 1)),
            ("begin the second lap one step early", _ring(lambda step, n: step < n - 2)),
            ("hand the numbers to the left", _ring(neighbour=lambda d, n: (d - 1) % n)),
            ("hand each number to the device that sent it", _ring(neighbour=lambda d, n: d)),
            ("put what arrives into the receiver's own place, not into the number's", _into_its_own_place),
            ("add in the second lap, and replace in the first", _ring(lambda step, n: step >= n - 1)),
        ),
    ),
    "warm_up": Exercise(
        "Scale the learning rate with the batch, and warm it up.",
        (
            ("reach 0.48 for BiT's batch of 4,096", lambda f: alike(f(5000, 4096), 0.48)),
            ("start from zero", lambda f: f(0, 4096) == 0),
            ("climb in a straight line", lambda f: alike(f(1250, 4096), 0.12)),
            ("stay at the top after 5,000 steps", lambda f: alike(f(90_000, 512), 0.06)),
        ),
        (
            "There are two factors. One depends on the batch, the other on the step.",
            "The peak is 0.03 * batch / 256. What fraction of it is reached at step 1,250?",
            "At step 1,250 the fraction is a quarter, and it grows by the same amount in every step. From 5,000 on it must not "
            "grow any more: which function keeps a number from exceeding 1?",
        ),
        warm_up,
        inputs=_steps,
        slips=(
            ("climb on after step 5,000", lambda step, batch: 0.03 * batch / 256 * step / 5000),
            ("forget the batch", lambda step, batch: warm_up(step, 256)),
            ("forget the warm-up", lambda step, batch: 0.03 * batch / 256),
            ("scale with the square root of the batch", lambda step, batch: warm_up(step, 256) * (batch / 256) ** 0.5),
            ("count steps from 1", lambda step, batch: warm_up(step + 1, batch)),
            ("use 0.003, the base of fine-tuning", lambda step, batch: warm_up(step, batch) / 10),
            ("divide the batch by 512", lambda step, batch: warm_up(step, batch) / 2),
            ("fall back to 0 after the warm-up", lambda step, batch: warm_up(step, batch) if step <= 5000 else 0),
            ("take the larger of 1 and the fraction", lambda step, batch: 0.03 * batch / 256 * max(1, step / 5000)),
        ),
    ),
}
