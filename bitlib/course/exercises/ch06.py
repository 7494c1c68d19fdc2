"""The exercises of notebooks/06_upstream: the paper's schedule, the length of weights without a scale, and expected loss."""

from __future__ import annotations

import math

from ..check import Exercise, alike

TURNS = (30 / 90, 60 / 90, 80 / 90)  # as shares of the run


def paper_rate(step, batch, images, epochs=90, warmup=5000):
    """The learning rate at `step`, counted from 0, when `images` images are seen `epochs` times in batches of `batch`."""
    peak = 0.03 * batch / 256
    if step < warmup:
        return peak * (step + 1) / warmup
    seen = step * batch / images
    decays = sum(seen >= share * epochs for share in (30 / 90, 60 / 90, 80 / 90))
    return peak * 0.1**decays


def lengths(length, steps, rate, decay, gradient):
    """The length of a weight vector before each of `steps` steps of SGD and after the last, as a list of steps + 1 numbers."""
    found = [length]
    for _ in range(steps):
        shrunk = (1 - rate * decay) * found[-1]
        sideways = rate * gradient / found[-1]
        found.append(math.hypot(shrunk, sideways))
    return found


def expected_loss(curvature, start, noise, batch, rates):
    """Expected loss after one step of SGD at each of `rates`. curvature, start, noise: a number for each direction."""
    squares = list(start)
    for rate in rates:
        squares = [
            (1 - rate * h) ** 2 * square + rate**2 * variance / batch for h, square, variance in zip(curvature, squares, noise)
        ]
    return sum(h * square / 2 for h, square in zip(curvature, squares))


def _rate(step, batch, images, epochs=90, warmup=5000, *, peak=None, start=1, turns=TURNS, factor=0.1, whose=None, held=None):
    """The schedule, with one thing done in another way."""
    peak = 0.03 * batch / 256 if peak is None else peak
    if step < warmup:
        return peak * (step + start) / warmup
    seen = step * (whose or batch) / images
    decays = sum(seen >= share * (held or epochs) for share in turns)
    return peak * factor**decays


def _walk(length, steps, rate, decay, gradient, *, grows=1, along=False, shrinks=1.0, squared=False):
    found = [length]
    for _ in range(steps):
        now = found[-1]
        shrunk, aside = (1 - rate * decay * shrinks) * now, rate * gradient / now**grows
        found.append(shrunk + aside if along else math.hypot(shrunk, aside))
    return [v**2 for v in found] if squared else found


def _first_gradient(length, steps, rate, decay, gradient):
    return _walk(length, steps, rate, decay, gradient / length, grows=0)


def _loss(curvature, start, noise, batch, rates, *, shrink=2, rate_power=2, per=1, half=0.5, noise_power=1, weight=1, given=1):
    squares = [s**given for s in start]
    for a in rates:
        squares = [
            (1 - a * h) ** shrink * s + a**rate_power * v**noise_power / batch**per
            for h, s, v in zip(curvature, squares, noise)
        ]
    return half * sum(h**weight * s for h, s in zip(curvature, squares))


_S = (4096, 1_280_000)  # batch and images of BiT-S
_STEEP = ((1.0, 0.1), (0.5, 3.0), (4.0, 0.4), 8)

EXERCISES: dict[str, Exercise] = {
    "paper_rate": Exercise(
        "Write the paper's learning-rate schedule.",
        (
            ("reach a peak of 0.48 with a batch of 4,096", lambda f: alike(f(5000, *_S), 0.48, 1e-9)),
            ("halve the peak with half the batch", lambda f: alike(f(6000, 2048, 1_280_000), 0.24, 1e-9)),
            (
                "begin with one five-thousandth of the peak, and be at half of it in step 2,499",
                lambda f: alike(f(0, *_S), 0.48 / 5000, 1e-9) and alike(f(2499, *_S), 0.24, 1e-9),
            ),
            (
                "be a tenth of the peak from epoch 30 on, not before and not much later",
                lambda f: alike(f(9374, *_S), 0.48, 1e-9) and alike(f(9376, *_S), 0.048, 1e-9),
            ),
            (
                "fall to a hundredth after 60 epochs and to a thousandth after 80",
                lambda f: alike(f(18_751, *_S), 0.0048, 1e-9) and alike(f(25_001, *_S), 0.00048, 1e-9),
            ),
            (
                "decay after as many epochs with any batch, so after twice as many steps with half of it",
                lambda f: alike(f(18_740, 2048, 1_280_000), 0.24, 1e-9) and alike(f(18_760, 2048, 1_280_000), 0.024, 1e-9),
            ),
            (
                "keep the shares of the run when it has another number of epochs",
                lambda f: alike(f(3200, 256, 25_600, 90, 10), 0.003, 1e-9) and alike(f(3200, 256, 25_600, 180, 10), 0.03, 1e-9),
            ),
        ),
        (
            "Three things happen to one number: it is scaled by the batch, it rises for a while, and it falls in steps. Write "
            "them as three separate lines, in this order.",
            "How many epochs are over before this step? Steps times images per step, divided by the images there are. Compare "
            "that with 30/90, 60/90 and 80/90 of the epochs.",
            "Count how many of the three turns have been reached; the peak is divided by ten that many times. While the step "
            "is below the warm-up, none of this matters: the rate is the peak times (step + 1) / warm-up.",
        ),
        paper_rate,
        inputs=lambda: [
            (0, 4096, 1_280_000),
            (4999, 4096, 1_280_000),
            (12_000, 4096, 1_280_000),
            (20_000, 4096, 1_280_000),
            (28_000, 4096, 1_280_000),
            (40_000, 1024, 1_280_000),
            (700, 64, 12_800, 10, 100),
            (1900, 64, 12_800, 10, 100),
        ],
        slips=(
            ("leave the rate at 0.03 whatever the batch is", lambda *g: _rate(*g, peak=0.03)),
            ("take the square root of batch / 256", lambda s, b, *g: _rate(s, b, *g, peak=0.03 * (b / 256) ** 0.5)),
            ("multiply by the batch without dividing by 256", lambda s, b, *g: _rate(s, b, *g, peak=0.03 * b)),
            ("leave out the warm-up", lambda s, b, n, e=90, w=0: _rate(s, b, n, e, 0)),
            ("begin at a rate of 0, one step late", lambda *g: _rate(*g, start=0)),
            ("decay at 30, 60 and 90 epochs, as fine-tuning does in per cent", lambda *g: _rate(*g, turns=(1 / 3, 2 / 3, 1.0))),
            ("halve the rate instead of taking a tenth", lambda *g: _rate(*g, factor=0.5)),
            ("count the epochs of a batch of 4,096, whatever the batch is", lambda *g: _rate(*g, whose=4096)),
            ("decay at epochs 30, 60 and 80 even if the run is shorter or longer than 90", lambda *g: _rate(*g, held=90)),
            ("decay only once, by a tenth", lambda *g: _rate(*g, turns=(1 / 3,))),
        ),
    ),
    "lengths": Exercise(
        "Follow the length of a weight vector whose scale does not matter.",
        (
            (
                "begin with the length given, and return one number more than there are steps",
                lambda f: len(f(2.0, 3, 0, 0, 1)) == 4,
            ),
            ("not move at a rate of 0", lambda f: alike(f(2.0, 3, 0, 0.1, 1), [2.0] * 4, 1e-9)),
            (
                "grow by Pythagoras where there is no decay: from 3, with a sideways step of 4, to 5",
                lambda f: alike(f(3.0, 1, 1.0, 0.0, 12.0), [3.0, 5.0], 1e-9),
            ),
            (
                "make shorter steps when the vector is longer: the gradient is `gradient` at length 1, half of it at length 2",
                lambda f: alike(f(2.0, 1, 0.1, 0.0, 1.0)[1] ** 2 - 4, 0.0025, 1e-6),
            ),
            (
                "shrink by a factor of 1 − rate × decay where there is no gradient",
                lambda f: alike(f(2.0, 2, 0.5, 0.2, 0), [2, 1.8, 1.62]),
            ),
            (
                "come to rest where growth and decay balance",
                lambda f: alike(f(1.0, 3000, 0.1, 0.1, 1.0)[-1], f(5.0, 3000, 0.1, 0.1, 1.0)[-1], 1e-3),
            ),
        ),
        (
            "The gradient stands at a right angle to the weights. Draw the two sides of the triangle: what is left of the "
            "vector, and the step.",
            "Weight decay acts along the vector and multiplies its length by 1 − rate × decay. The gradient acts sideways, and "
            "its length is `gradient` divided by the vector's own.",
            "The new length is the hypotenuse: the root of (shrunken length)² plus (rate × gradient / length)². Append it, and "
            "use it in the next step.",
        ),
        lengths,
        inputs=lambda: [(1.0, 4, 0.1, 0.01, 2.0), (3.0, 3, 0.5, 0.1, 1.0), (0.5, 5, 0.05, 0.0, 1.5), (2.0, 2, 0.2, 0.5, 0.0)],
        slips=(
            ("let the gradient be as long at every length", lambda *g: _walk(*g, grows=0)),
            ("divide the gradient by the square of the length", lambda *g: _walk(*g, grows=2)),
            ("let the gradient grow with the vector", lambda *g: _walk(*g, grows=-1)),
            ("add the step along the vector, not at a right angle", lambda *g: _walk(*g, along=True)),
            ("keep the gradient of the first step", _first_gradient),
            ("leave out the weight decay", lambda *g: _walk(*g, shrinks=0.0)),
            ("apply the decay twice", lambda *g: _walk(*g, shrinks=2.0)),
            ("return squares of the lengths", lambda *g: _walk(*g, squared=True)),
            ("leave out the length at the start", lambda *g: _walk(*g)[1:]),
            ("return only the last length", lambda *g: _walk(*g)[-1]),
        ),
    ),
    "expected_loss": Exercise(
        "What does SGD reach on average, on a quadratic with noisy gradients?",
        (
            (
                "be half the sum of curvature × start where no step is taken",
                lambda f: alike(f((1.0, 0.1), (0.5, 3.0), (4.0, 0.4), 8, []), 0.4, 1e-9),
            ),
            (
                "shrink every direction by (1 − rate × curvature)² where there is no noise",
                lambda f: alike(f((1.0, 0.1), (2.0, 20.0), (0.0, 0.0), 8, [0.5]), 0.25 + 0.9025, 1e-9),
            ),
            (
                "add rate² × noise / batch to a direction's square",
                lambda f: alike(f((1.0,), (0.0,), (4.0,), 8, [0.5]), 0.5 * 0.25 * 4 / 8, 1e-9),
            ),
            (
                "let the noise of one step shrink in the next",
                lambda f: alike(f((1.0,), (0.0,), (8.0,), 1, [0.5, 0.5]), 0.5 * (0.25 * 2 + 2), 1e-9),
            ),
            ("use each rate in its turn", lambda f: not alike(f(*_STEEP, [0.9, 0.1]), f(*_STEEP, [0.1, 0.9]), 1e-3)),
        ),
        (
            "Directions don't see one another, so follow each by itself. What does one step do to the weight, and what to the "
            "average of its square?",
            "A weight w becomes (1 − rate × curvature) w − rate × noise. Square it, and take the average: the noise has mean "
            "0, so the mixed term is gone, and two terms are left.",
            "The average of the noise's square is its variance, which a batch divides by its size. Keep a list of squares, "
            "renew it for every rate, and only in the end add up curvature × square / 2.",
        ),
        expected_loss,
        inputs=lambda: [
            ((1.0, 0.1), (0.5, 3.0), (4.0, 0.4), 8, [0.9, 0.5, 0.1]),
            ((1.0, 0.3, 0.01), (1.0, 1.0, 1.0), (2.0, 0.6, 0.02), 64, [0.5] * 6),
            ((0.5,), (4.0,), (3.0,), 2, [1.0, 0.3]),
        ],
        slips=(
            ("shrink by 1 − rate × curvature without squaring", lambda *g: _loss(*g, shrink=1)),
            ("multiply the noise by the rate, not by its square", lambda *g: _loss(*g, rate_power=1)),
            ("forget the batch", lambda *g: _loss(*g, per=0)),
            ("divide by the square root of the batch", lambda *g: _loss(*g, per=0.5)),
            ("divide by the square of the batch", lambda *g: _loss(*g, per=2)),
            ("forget the half", lambda *g: _loss(*g, half=1.0)),
            ("take `noise` for a standard deviation and square it", lambda *g: _loss(*g, noise_power=2)),
            ("add up squares without their curvature", lambda *g: _loss(*g, weight=0)),
            ("take `start` for weights and square them", lambda *g: _loss(*g, given=2)),
            ("leave out the noise", lambda c, s, n, b, r: _loss(c, s, [0.0] * len(n), b, r)),
            ("use the last rate in every step", lambda c, s, n, b, r: _loss(c, s, n, b, r[-1:] * len(r))),
        ),
    ),
}
