"""Answers to the exercises of chapter 15."""

import math

import numpy as np
import torch
import torch.nn.functional as F


def _in_parts(divide, reduction="sum", zero=True, skip=lambda y: False, cut=torch.Tensor.chunk):
    """Backward part by part; divide(y, y_part, parts) is what the loss of a part is divided by."""

    def accumulate(model, x, y, parts):
        if zero:
            model.zero_grad()
        for x_part, y_part in zip(cut(x, parts), cut(y, parts)):
            if not skip(y_part):
                loss = F.cross_entropy(model(x_part), y_part, ignore_index=-1, reduction=reduction)
                (loss / divide(y, y_part, parts)).backward()

    return accumulate


def _labelled(y, *_):
    return (y >= 0).sum()


def _all_at_once(model, x, y, parts):
    model.zero_grad()
    F.cross_entropy(model(x), y, ignore_index=-1).backward()


def _cleared_each_time(model, x, y, parts):
    for x_part, y_part in zip(x.chunk(parts), y.chunk(parts)):
        model.zero_grad()
        (F.cross_entropy(model(x_part), y_part, ignore_index=-1, reduction="sum") / _labelled(y)).backward()


def _drops_the_rest(model, x, y, parts):
    size = len(x) // parts
    _in_parts(_labelled)(model, x[: size * parts], y[: size * parts], parts)


def _own_gradients(model, x, y, parts):
    """Adds gradients up by hand, and divides at the end."""
    total = [torch.zeros_like(p) for p in model.parameters()]
    for x_part, y_part in zip(x.tensor_split(parts), y.tensor_split(parts)):
        known = y_part >= 0
        log_p = model(x_part).log_softmax(1)[known]
        loss = -log_p.gather(1, y_part[known, None]).sum()
        total = [t + g for t, g in zip(total, torch.autograd.grad(loss, list(model.parameters())))]
    for p, g in zip(model.parameters(), total):
        p.grad = g / (y != -1).sum()


def _weighted_means(model, x, y, parts):
    """The mean of each part times its share of the labels; a part without any has no mean."""
    for p in model.parameters():
        p.grad = None
    for x_part, y_part in zip(x.chunk(parts), y.chunk(parts)):
        logits = model(x_part)
        if (y_part >= 0).any():
            share = (y_part >= 0).sum().item() / (y >= 0).sum().item()
            (share * F.cross_entropy(logits, y_part, ignore_index=-1)).backward()


def _first(largest=lambda b, m: math.ceil(b / m), tried=lambda b: range(1, b + 1), fits=lambda need, memory: need <= memory):
    def parts_that_fit(batch, per_image, fixed, memory):
        for m in tried(batch):
            if fits(fixed + largest(batch, m) * per_image, memory):
                return m

    return parts_that_fit


def _without_none(batch, per_image, fixed, memory):
    m = 1
    while m < batch and fixed + math.ceil(batch / m) * per_image > memory:
        m += 1
    return m


def _directly(batch, per_image, fixed, memory):
    room = (memory - fixed) // per_image
    return None if room < 1 else math.ceil(batch / min(room, batch))


def _bisection(batch, per_image, fixed, memory):
    """More parts never need more memory."""
    if fixed + per_image > memory:
        return None
    low, high = 0, batch
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fixed + -(-batch // middle) * per_image <= memory else (middle, high)
    return high


def _ring(arrives, neighbour=lambda d, n: (d + 1) % n, first=lambda step, n: step < n - 1):
    """arrives(first lap, held, number): what is held afterwards."""

    def ring_all_reduce(devices):
        n = len(devices)
        held = [list(numbers) for numbers in devices]
        for step in range(2 * (n - 1)):
            sent = [((d - step) % n, held[d][(d - step) % n]) for d in range(n)]
            for d in range(n):
                right, (place, number) = neighbour(d, n), sent[d]
                held[right][place] = arrives(first(step, n), held[right][place], number)
        return held

    return ring_all_reduce


def _grow_then_replace(grow, held, number):
    return held + number if grow else number


def _keeps_its_place(devices):
    """Puts what arrives into the receiver's own place, not into the number's."""
    n = len(devices)
    held = [list(numbers) for numbers in devices]
    for step in range(2 * (n - 1)):
        sent = [((d - step) % n, held[d][(d - step) % n]) for d in range(n)]
        for d in range(n):
            right, (_, number) = (d + 1) % n, sent[d]
            held[right][right] = _grow_then_replace(step < n - 1, held[right][right], number)
    return held


def _arrays(devices):
    """All devices at once, as rows of an array."""
    held, n = np.array(devices), len(devices)
    d = np.arange(n)
    for step in range(2 * (n - 1)):
        place = (d - step) % n
        number = held[d, place]
        right = np.roll(d, -1)
        held[right, place] = number + (held[right, place] if step < n - 1 else 0)
    return held


def _by_factor(devices):
    n = len(devices)
    held = [list(numbers) for numbers in devices]
    for step in range(2 * (n - 1)):
        lap = step // (n - 1)
        sent = [((d - step) % n, held[d][(d - step) % n]) for d in range(n)]
        for d in range(n):
            place, number = sent[d - 1]  # d receives from its left
            held[d][place] = held[d][place] * (1 - lap) + number
    return held


def _peak(batch):
    return 0.03 * batch / 256


WRONG = {
    "accumulate": {
        "mean of means": (_in_parts(lambda y, part, parts: parts, "mean"), "average the means of the parts"),
        "weighted by size": (_in_parts(lambda y, part, parts: len(y) / len(part), "mean"), "weight each part by its size"),
        "all images": (_in_parts(lambda y, part, parts: len(y)), "divide by all images, labelled or not"),
        "labels of the part": (_in_parts(lambda y, part, parts: _labelled(part)), "by the labels of that part"),
        "sum": (_in_parts(lambda y, part, parts: 1), "add the sums up, and not divide them"),
        "not cleared": (_in_parts(_labelled, zero=False), "start from zero"),
        "cleared for each part": (_cleared_each_time, "keep the gradient of the last part alone"),
        "all at once": (_all_at_once, "at most three of ten at a time"),
        "rest dropped": (_drops_the_rest, "the last part is shorter"),
        "parts with gaps left out": (_in_parts(_labelled, skip=lambda y: bool((y < 0).any())), "in which a label is missing"),
        "means of parts that have labels": (
            _in_parts(lambda y, part, parts: parts, "mean", skip=lambda y: bool((y < 0).all())),
            "average the means of the parts",
        ),
        "no gradient at all": (lambda model, x, y, parts: model.zero_grad(), "the gradient of the whole batch"),
    },
    "parts_that_fit": {
        "rounded down": (_first(largest=lambda b, m: b // m), "round down"),
        "average": (_first(largest=lambda b, m: b / m), "take the average part"),
        "fixed forgotten": (lambda b, per, fixed, memory: _first()(b, per, 0, memory), "forget what does not grow"),
        "fixed split": (
            lambda b, per, fixed, memory: next((m for m in range(1, b + 1) if fixed / m + -(-b // m) * per <= memory), None),
            "split what does not grow",
        ),
        "less than": (_first(fits=lambda need, memory: need < memory), "leave memory unused"),
        "powers of two": (_first(tried=lambda b: [m for m in range(1, b + 1) if m & (m - 1) == 0]), "powers of two alone"),
        "divisors": (_first(tried=lambda b: [m for m in range(1, b + 1) if b % m == 0]), "numbers that divide the batch"),
        "single images where nothing fits": (_without_none, "where not even one fits"),
        "images per part": (
            lambda b, *rest: None if (m := _first()(b, *rest)) is None else -(-b // m),
            "the images of a part, not the number of parts",
        ),
        "never single images": (_first(tried=lambda b: range(1, b)), "cut into single images"),
    },
    "ring_all_reduce": {
        "adds in both laps": (_ring(lambda grow, held, number: held + number), "add in the second lap, too"),
        "replaces in both laps": (_ring(lambda grow, held, number: number), "replace in the first lap, too"),
        "one step late": (_ring(_grow_then_replace, first=lambda step, n: step < n), "one step late"),
        "one step early": (_ring(_grow_then_replace, first=lambda step, n: step < n - 2), "one step early"),
        "to the left": (_ring(_grow_then_replace, neighbour=lambda d, n: (d - 1) % n), "hand the numbers to the left"),
        "to itself": (_ring(_grow_then_replace, neighbour=lambda d, n: d), "hand each number to the device that sent it"),
        "laps exchanged": (_ring(lambda grow, held, number: number if grow else held + number), "replace in the first"),
        "own place": (_keeps_its_place, "into the receiver's own place"),
        "off the end": (_ring(_grow_then_replace, neighbour=lambda d, n: d + 1), "IndexError: list index out of range"),
        "larger of the two": (_ring(lambda grow, held, number: max(held, number)), "give three devices their sums"),
    },
    "warm_up": {
        "climbs on": (lambda step, batch: _peak(batch) * step / 5000, "climb on after step 5,000"),
        "no batch": (lambda step, batch: 0.03 * min(1, step / 5000), "forget the batch"),
        "no warm-up": (lambda step, batch: _peak(batch), "forget the warm-up"),
        "square root": (lambda step, batch: 0.03 * (batch / 256) ** 0.5 * min(1, step / 5000), "square root of the batch"),
        "from 1": (lambda step, batch: _peak(batch) * min(1, (step + 1) / 5000), "count steps from 1"),
        "0.003": (lambda step, batch: _peak(batch) / 10 * min(1, step / 5000), "the base of fine-tuning"),
        "by 512": (lambda step, batch: _peak(batch) / 2 * min(1, step / 5000), "divide the batch by 512"),
        "back to 0": (lambda step, batch: _peak(batch) * step / 5000 if step <= 5000 else 0.0, "fall back to 0"),
        "max": (lambda step, batch: _peak(batch) * max(1, step / 5000), "the larger of 1 and the fraction"),
        "whole steps": (lambda step, batch: _peak(batch) * min(1, step // 5000), "climb in a straight line"),
        "half a cosine": (
            lambda step, batch: _peak(batch) * (1 - math.cos(math.pi * min(1, step / 5000))) / 2,
            "climb in a straight line",
        ),
    },
}
RIGHT = {
    "accumulate": {
        "gradients added by hand": _own_gradients,
        "weighted means": _weighted_means,
        "means divided by shares of the labels": _in_parts(lambda y, part, parts: _labelled(y) / _labelled(part), "mean"),
        "other parts, all as long as can be": _in_parts(_labelled, cut=torch.tensor_split),
    },
    "parts_that_fit": {"divided directly": _directly, "bisection": _bisection},
    "ring_all_reduce": {"rows of an array": _arrays, "a factor for the lap, seen by the receiver": _by_factor},
    "warm_up": {
        "two cases": lambda step, batch: batch * 0.03 / 256 if step >= 5000 else batch * 0.03 * step / (256 * 5000),
        "interpolation": lambda step, batch: np.interp(step, [0, 5000], [0, batch / 256 * 0.03]),
        "float32": lambda step, batch: torch.tensor(step / 5000).clamp(max=1) * _peak(batch),
    },
}
