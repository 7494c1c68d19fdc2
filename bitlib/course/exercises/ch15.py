"""The exercises of notebooks/15_scaling_out: shares of devices, micro-batches that fit, and the warm-up."""

from __future__ import annotations

import math

from ..check import Exercise


def _shared_out(own) -> bool:
    return sorted(i for device in range(3) for i in own(11, device, 3)) == list(range(11))


def own_share(pictures, device, devices):
    """A list of indices from 0 to pictures - 1; device counts from 0."""
    return list(range(device, pictures, devices))


def parts_that_fit(batch, per_picture, fixed, memory):
    """int from 1 to batch, or None."""
    for parts in range(1, batch + 1):
        if fixed + -(-batch // parts) * per_picture <= memory:
            return parts
    return None


def warm_up(step, batch):
    """0.03 for every 256 pictures, reached in a straight line over 5,000 steps."""
    return 0.03 * batch / 256 * min(1, step / 5000)


EXERCISES: dict[str, Exercise] = {
    "own_share": Exercise(
        "Say which pictures of a batch belong to one of several devices.",
        (
            ("give every picture to somebody, and none to two", _shared_out),
            (
                "give shares whose sizes differ by one at most",
                lambda f: sorted(len(f(10, device, 4)) for device in range(4)) == [2, 2, 3, 3],
            ),
            ("give one device everything", lambda f: list(f(5, 0, 1)) == [0, 1, 2, 3, 4]),
        ),
        (
            "Think of dealing cards: who gets picture number 7 if there are four players?",
            "Picture i belongs to device i % devices; any other fair way is as good.",
            "list(range(device, pictures, devices)) deals them out.",
        ),
        own_share,
    ),
    "parts_that_fit": Exercise(
        "Choose the smallest number of micro-batches that fits into memory.",
        (
            ("take the whole batch where it fits", lambda f: f(32, 10, 100, 420) == 1),
            ("count the short part's bigger brother: 10 pictures in 3 parts are 4, 3 and 3", lambda f: f(10, 10, 0, 40) == 3),
            ("leave room for what does not grow with the batch", lambda f: f(32, 10, 100, 180) == 4),
            ("say None where one picture is too much", lambda f: f(32, 10, 100, 105) is None),
        ),
        (
            "How many pictures has the largest of m parts?",
            "math.ceil(batch / m), or -(-batch // m) without an import.",
            "Try m = 1, 2, ... up to batch, and return the first with fixed + (-(-batch // m)) * per_picture <= memory.",
        ),
        parts_that_fit,
    ),
    "warm_up": Exercise(
        "Scale the learning rate with the batch, and warm it up.",
        (
            ("reach 0.48 for BiT's batch of 4,096", lambda f: math.isclose(f(5000, 4096), 0.48)),
            ("start from zero", lambda f: f(0, 4096) == 0),
            ("climb in a straight line", lambda f: math.isclose(f(1250, 4096), 0.12)),
            ("stay there", lambda f: math.isclose(f(90_000, 512), 0.06)),
        ),
        (
            "Two factors: one depends on the batch, the other on the step.",
            "The peak is 0.03 * batch / 256. Up to step 5,000 it is multiplied by step / 5000.",
            "return 0.03 * batch / 256 * min(1, step / 5000)",
        ),
        warm_up,
    ),
}
