"""Answers to the exercises of chapter 6."""

import math

import numpy as np
import torch

from bitlib.pretrain import PAPER_MILESTONES, Upstream


def _schedule(
    step, batch, images, epochs=90, warmup=5000, *, turns=(1 / 3, 2 / 3, 8 / 9), unit=256, power=1, first=1, tenth=10
):
    peak = 0.03 * (batch / unit) ** power
    if step < warmup:
        return peak * (step + first) / warmup
    share = step * batch / (images * epochs)
    return peak / tenth ** sum(share >= turn for turn in turns)


def _library(step, batch, images, epochs=90, warmup=5000):
    recipe = Upstream(
        steps=images * epochs / batch, lr=0.03 * batch / 256, warmup_steps=warmup, milestones=PAPER_MILESTONES, batch_size=batch
    )
    return recipe.learning_rate(step)


def _if_else(step, batch, images, epochs=90, warmup=5000):
    rate, epoch = 0.48 * batch / 4096, step / (images / batch)
    if step < warmup:
        rate *= (1 + step) / warmup
    elif epoch >= 80 / 90 * epochs:
        rate /= 1000
    elif epoch >= 60 / 90 * epochs:
        rate /= 100
    elif epoch >= 30 / 90 * epochs:
        rate /= 10
    return rate


def _fixed_epochs(step, batch, images, epochs=90, warmup=5000):
    return _schedule(step, batch, images, 90, warmup)


def _fixed_batch(step, batch, images, epochs=90, warmup=5000):
    scaled = _schedule(step, 4096, images, epochs, warmup)
    return scaled * batch / 4096


def _vectors(length, steps, rate, decay, gradient):
    """Two numbers: along the vector, and at a right angle to it."""
    w, found = np.array([length, 0.0]), [length]
    for _ in range(steps):
        now = np.linalg.norm(w)
        aside = np.array([-w[1], w[0]]) / now * gradient / now
        w = w - rate * (aside + decay * w)
        found.append(float(np.linalg.norm(w)))
    return found


def _squares(length, steps, rate, decay, gradient):
    square, found = length**2, [length]
    for _ in range(steps):
        square = (1 - rate * decay) ** 2 * square + rate**2 * gradient**2 / square
        found.append(math.sqrt(square))
    return torch.tensor(found, dtype=torch.float64)


def _walked(length, steps, rate, decay, gradient, *, gradient_of=lambda g, n: g / n, keep=lambda n: n, decays=1.0):
    found = [length]
    for _ in range(steps):
        now = found[-1]
        found.append(math.hypot((1 - rate * decay * decays) * now, rate * gradient_of(gradient, now)))
    return [keep(n) for n in found]


def _straight(length, steps, rate, decay, gradient):
    found = [length]
    for _ in range(steps):
        found.append((1 - rate * decay) * found[-1] + rate * gradient / found[-1])
    return found


def _one_gradient(length, steps, rate, decay, gradient):
    aside, found = rate * gradient / length, [length]
    for _ in range(steps):
        found.append(math.hypot((1 - rate * decay) * found[-1], aside))
    return found


def _decay_of_the_step(length, steps, rate, decay, gradient):
    found = [length]
    for _ in range(steps):
        found.append((1 - decay) * math.hypot(found[-1], rate * gradient / found[-1]))
    return found


def _expected(curvature, start, noise, batch, rates, *, shrink=lambda f: f**2, added=lambda a, v, b: a * a * v / b, half=0.5):
    total = 0.0
    for h, square, variance in zip(curvature, start, noise):
        for rate in rates:
            square = shrink(1 - rate * h) * square + added(rate, variance, batch)
        total += half * h * square
    return total


def _tensors(curvature, start, noise, batch, rates):
    h, m, c = (torch.tensor(values, dtype=torch.float64) for values in (curvature, start, noise))
    for rate in rates:
        m = m * (1 - rate * h).square() + rate**2 / batch * c
    return (h * m).sum() / 2


def _last_rate(curvature, start, noise, batch, rates):
    return _expected(curvature, start, noise, batch, [rates[-1]] * len(rates) if rates else [])


def _noise_at_the_end(curvature, start, noise, batch, rates):
    clean = _expected(curvature, start, noise, batch, rates, added=lambda a, v, b: 0.0)
    return clean + sum(0.5 * h * a * a * v / batch for h, v in zip(curvature, noise) for a in rates)


WRONG = {
    "paper_rate": {
        "not scaled": (lambda s, b, *g: _schedule(s, b, *g, power=0), "leave the rate at 0.03"),
        "square root": (lambda s, b, *g: _schedule(s, b, *g, power=0.5), "take the square root"),
        "not divided": (lambda s, b, *g: _schedule(s, b, *g, unit=1), "without dividing by 256"),
        "no warm-up": (lambda s, b, n, e=90, w=0: _schedule(s, b, n, e, 0), "leave out the warm-up"),
        "from zero": (lambda *g: _schedule(*g, first=0), "one step late"),
        "30/60/90": (lambda *g: _schedule(*g, turns=(1 / 3, 2 / 3, 1)), "decay at 30, 60 and 90"),
        "halves": (lambda *g: _schedule(*g, tenth=2), "halve the rate"),
        "of 4,096": (_fixed_batch, "whatever the batch is"),
        "90 epochs": (_fixed_epochs, "even if the run is shorter or longer"),
        "once": (lambda *g: _schedule(*g, turns=(1 / 3,)), "decay only once"),
        "a string": (lambda *g: "0.48", "reach a peak of 0.48"),
    },
    "lengths": {
        "constant": (lambda *g: _walked(*g, gradient_of=lambda g, n: g), "as long at every length"),
        "square": (lambda *g: _walked(*g, gradient_of=lambda g, n: g / n**2), "by the square of the length"),
        "grows": (lambda *g: _walked(*g, gradient_of=lambda g, n: g * n), "grow with the vector"),
        "along": (_straight, "along the vector"),
        "no decay": (lambda *g: _walked(*g, decays=0.0), "leave out the weight decay"),
        "twice": (lambda *g: _walked(*g, decays=2.0), "apply the decay twice"),
        "squares": (lambda *g: _walked(*g, keep=lambda n: n * n), "return squares"),
        "not the start": (lambda *g: _walked(*g)[1:], "one number more than there are steps"),
        "one gradient": (_one_gradient, "keep the gradient of the first step"),
        "decay without the rate": (_decay_of_the_step, "not move at a rate of 0"),
    },
    "expected_loss": {
        "not squared": (lambda *g: _expected(*g, shrink=lambda f: f), "without squaring"),
        "rate": (lambda *g: _expected(*g, added=lambda a, v, b: a * v / b), "by the rate, not by its square"),
        "no batch": (lambda *g: _expected(*g, added=lambda a, v, b: a * a * v), "forget the batch"),
        "root": (lambda *g: _expected(*g, added=lambda a, v, b: a * a * v / b**0.5), "square root of the batch"),
        "deviation": (lambda *g: _expected(*g, added=lambda a, v, b: a * a * v * v / b), "for a standard deviation"),
        "no half": (lambda *g: _expected(*g, half=1.0), "forget the half"),
        "no noise": (lambda *g: _expected(*g, added=lambda a, v, b: 0.0), "leave out the noise"),
        "squared start": (lambda c, s, *g: _expected(c, [v * v for v in s], *g), "for weights and square them"),
        "last rate": (_last_rate, "use the last rate in every step"),
        "noise never shrinks": (_noise_at_the_end, "let the noise of one step shrink"),
    },
}
RIGHT = {
    "paper_rate": {"one power": _schedule, "the library": _library, "if and else": _if_else},
    "lengths": {"vectors": _vectors, "squares": _squares},
    "expected_loss": {"direction after direction": _expected, "tensors": _tensors},
}
