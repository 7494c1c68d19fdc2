"""The exercises of notebooks/15_scaling_out: labels that are missing, parts that fit, a ring of devices, and the warm-up."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from ..check import Exercise


def _agrees(labels: list[int], parts: int):
    """A test: the gradient that is left in the parameters is that of the whole batch, whatever was there before."""

    def test(accumulate) -> bool:
        generator = torch.Generator().manual_seed(0)
        x, y = torch.randn(len(labels), 5, generator=generator), torch.tensor(labels)
        model = nn.Linear(5, 3)
        with torch.no_grad():
            model.weight.copy_(torch.randn(3, 5, generator=generator))
        F.cross_entropy(model(x), y, ignore_index=-1).backward()
        expected = [p.grad.clone() for p in model.parameters()]
        accumulate(model, x, y, parts)
        return all(torch.allclose(p.grad, e, atol=1e-6) for p, e in zip(model.parameters(), expected))

    return test


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
        return [list(held) for held in ring_all_reduce(devices)] == [total] * count

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


EXERCISES: dict[str, Exercise] = {
    "accumulate": Exercise(
        "Cut a batch into parts when some images have no label.",
        (
            ("give the gradient of the whole batch when it is cut into equal parts", _agrees([0, 1, 2, 0], 2)),
            ("give it when the last part is shorter: 10 images in 4 parts", _agrees([0, 1, 2, 0, 1, 2, 0, 1, 2, 0], 4)),
            ("give it when one part has fewer labels than the other", _agrees([0, 1, 2, 0, -1, -1, -1, 1], 2)),
            ("give it when a part has no label at all", _agrees([0, 1, -1, -1], 2)),
            ("show the model every image once, and at most three of ten at a time in 4 parts", _saves_memory),
        ),
        (
            "The mean divides by the number of labelled images in the whole batch. Which parts of the sum does one part know?",
            "Take the *sum* of the losses in each part (reduction='sum', ignore_index=-1), and divide it by something that no "
            "single part can know.",
            "Begin with model.zero_grad(). Count the labels >= 0 of the whole batch before the loop, and call backward() once "
            "per part; PyTorch adds the gradients up.",
        ),
        accumulate,
    ),
    "parts_that_fit": Exercise(
        "Choose the smallest number of micro-batches that fits into memory.",
        (
            ("take the whole batch where it fits", lambda f: f(32, 10, 100, 420) == 1),
            ("leave room for what does not grow with the batch", lambda f: f(32, 10, 100, 180) == 4),
            ("count the largest part: 10 images in 3 parts are 4, 3 and 3", lambda f: f(10, 10, 0, 30) == 4),
            ("fill the memory to the last byte if need be", lambda f: f(10, 10, 0, 40) == 3),
            ("cut into single images where nothing else fits", lambda f: f(7, 10, 5, 15) == 7),
            ("return None where even one image is too much", lambda f: f(32, 10, 100, 105) is None),
        ),
        (
            "How many images are in the largest of m parts?",
            "math.ceil(batch / m), or -(-batch // m) without an import.",
            "Try m = 1, 2, … up to batch and return the first that fits; after the loop, return None.",
        ),
        parts_that_fit,
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
            "The neighbour is (d + 1) % n, and sent[d] is a pair, place and number. The first lap is step < n - 1.",
        ),
        ring_all_reduce,
    ),
    "warm_up": Exercise(
        "Scale the learning rate with the batch, and warm it up.",
        (
            ("reach 0.48 for BiT's batch of 4,096", lambda f: math.isclose(f(5000, 4096), 0.48)),
            ("start from zero", lambda f: f(0, 4096) == 0),
            ("climb in a straight line", lambda f: math.isclose(f(1250, 4096), 0.12)),
            ("stay at the top after 5,000 steps", lambda f: math.isclose(f(90_000, 512), 0.06)),
        ),
        (
            "There are two factors. One depends on the batch, the other on the step.",
            "The peak is 0.03 * batch / 256. What fraction of it is reached at step 1,250?",
            "Up to step 5,000 that fraction is step / 5000; from then on it is 1. min() joins the two.",
        ),
        warm_up,
    ),
}
