"""The exercises of notebooks/03_batch_norm: batch norm for images, forward and backward, and folded into a layer."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ..check import Exercise, alike
from .cases import leaves_alone, random


def batch_norm_images(x, gamma, beta):
    """Batch norm in train mode. x: float [N, C, H, W]; gamma, beta: float [C] -> the shape of x. Epsilon is 1e-5."""
    var, mean = torch.var_mean(x, dim=(0, 2, 3), keepdim=True, correction=0)
    x_hat = (x - mean) / (var + 1e-5).sqrt()
    return gamma[:, None, None] * x_hat + beta[:, None, None]


def batch_norm_backward(g, x, gamma):
    """The loss's gradient at x, from that at the output. g, x: float [N, C, H, W]; gamma: float [C]. Epsilon is 1e-5."""
    var, mean = torch.var_mean(x, dim=(0, 2, 3), keepdim=True, correction=0)
    s = (var + 1e-5).sqrt()
    x_hat = (x - mean) / s
    shared = g.mean((0, 2, 3), keepdim=True)
    along = (g * x_hat).mean((0, 2, 3), keepdim=True)
    return gamma[:, None, None] / s * (g - shared - along * x_hat)


def fold_norm(weight, bias, gamma, beta, mean, var):
    """(weight, bias) of one layer that does the same as a linear layer and a batch norm in evaluation mode behind it.

    weight: float [out, in]; all others: float [out], mean and var the running ones. Epsilon is 1e-5.
    """
    stretch = gamma / (var + 1e-5).sqrt()
    return weight * stretch[:, None], (bias - mean) * stretch + beta


def _normalize(x, axes=(0, 2, 3), correction=0, power=0.5, eps=1e-5):
    var, mean = torch.var_mean(x, dim=axes, keepdim=True, correction=correction)
    return (x - mean) / (var + eps) ** power


def _scaled(x_hat, gamma, beta):
    return gamma[:, None, None] * x_hat + beta[:, None, None]


def _wrong_axes(*axes):
    return lambda x, gamma, beta: _scaled(_normalize(x, axes), gamma, beta)


def _parameters(channels: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    return random(channels, seed=seed + 50), random(channels, seed=seed + 60)


def _as_torch_does(f, x: torch.Tensor) -> bool:
    gamma, beta = _parameters(x.shape[1])
    return alike(f(x.clone(), gamma, beta), F.batch_norm(x, None, None, gamma, beta, training=True))


def _deviations(y) -> torch.Tensor:
    return torch.as_tensor(y).var((0, 2, 3), correction=0).sqrt()


def _doubles(n: int, c: int, h: int, w: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(g, x, gamma) in double precision."""
    return (*(random(n, c, h, w, seed=seed + i).double() for i in (0, 1)), random(c, seed=seed + 2).double())


def _autograd(g, x, gamma):
    x = x.clone().requires_grad_()
    return torch.autograd.grad(F.batch_norm(x, None, None, gamma, torch.zeros_like(gamma), training=True), x, g)[0]


def _partly(mean: bool = True, along: bool = True, factor=lambda gamma, s: gamma / s, axes=(0, 2, 3), total: bool = False):
    """The backward pass with a part left out, or done in another way."""

    def wrong(g, x, gamma):
        var, m = torch.var_mean(x, dim=(0, 2, 3), keepdim=True, correction=0)
        s = (var + 1e-5).sqrt()
        x_hat = (x - m) / s

        def average(v):
            return v.sum(axes, keepdim=True) if total else v.mean(axes, keepdim=True)

        left = g - (average(g) if mean else 0) - (average(g * x_hat) * x_hat if along else 0)
        return factor(gamma[:, None, None], s) * left

    return wrong


def _layer(out: int, inside: int, seed: int = 0) -> tuple[torch.Tensor, ...]:
    """(weight, bias, gamma, beta, mean, var)"""
    vectors = (random(out, seed=seed + i) for i in range(1, 5))
    return (random(out, inside, seed=seed), *vectors, random(out, seed=seed + 5).square() + 0.2)


def _same_outputs(fold, *layer: torch.Tensor) -> bool:
    weight, bias, gamma, beta, mean, var = layer
    x = random(7, weight.shape[1], seed=9)
    wanted = F.batch_norm(F.linear(x, weight, bias), mean, var, gamma, beta)
    return alike(F.linear(x, *(torch.as_tensor(v) for v in fold(*layer))), wanted, 1e-3)


def _folded(change):
    """A slip of `fold_norm`: change(weight, bias, gamma, beta, mean, var, stretch) -> (weight, bias)."""

    def wrong(weight, bias, gamma, beta, mean, var):
        return change(weight, bias, gamma, beta, mean, var, gamma / (var + 1e-5).sqrt())

    return wrong


EXERCISES: dict[str, Exercise] = {
    "norm_images": Exercise(
        "Write batch norm for images.",
        (
            ("keep the shape", lambda f: tuple(f(random(3, 4, 2, 5), *_parameters(4)).shape) == (3, 4, 2, 5)),
            (
                "give each channel, over all images and pixels, the mean β",
                lambda f: alike(
                    torch.as_tensor(f(random(3, 4, 2, 5), *_parameters(4))).mean((0, 2, 3)), _parameters(4)[1], 1e-3
                ),
            ),
            (
                "and the standard deviation |γ|",
                lambda f: alike(_deviations(f(random(3, 4, 2, 5), *_parameters(4))), _parameters(4)[0].abs(), 1e-3),
            ),
            (
                "return β, and not nan, where a channel has the same value everywhere",
                lambda f: alike(f(torch.ones(2, 4, 2, 2), *_parameters(4))[1, :, 1, 1], _parameters(4)[1], 1e-3),
            ),
            (
                "give a γ and a β to each channel, also where there are as many columns",
                lambda f: _as_torch_does(f, random(2, 4, 3, 4)),
            ),
            (
                "add an epsilon of 1e-5 to the variance, so that a faint channel is not blown up to full contrast",
                lambda f: _as_torch_does(f, 1e-3 * random(3, 4, 2, 5)),
            ),
            ("leave its input as it was", lambda f: leaves_alone(f, random(2, 4, 3, 3), *_parameters(4))),
        ),
        (
            "Which values share a mean? In [N, C, H, W], which of the four axes does that leave out?",
            "torch.var_mean takes several axes at once; with keepdim=True its results fit to x. Look up correction.",
            "Mean and variance are over axes 0, 2 and 3. γ and β have a value per channel, and need two more axes of length 1 "
            "behind it before they fit to [N, C, H, W].",
        ),
        batch_norm_images,
        inputs=lambda: [
            (random(*shape, seed=i), *_parameters(shape[1], i)) for i, shape in enumerate([(3, 2, 4, 2), (2, 3, 2, 3)])
        ],
        slips=(
            ("average over the images alone, one pixel at a time", _wrong_axes(0)),
            ("normalise each image by itself, channel by channel, which is instance norm", _wrong_axes(2, 3)),
            ("normalise each image by itself, which is layer norm", _wrong_axes(1, 2, 3)),
            ("give all channels one mean and one variance", _wrong_axes(0, 1, 2, 3)),
            (
                "divide the variance by one less than the number of values",
                lambda x, g, b: _scaled(_normalize(x, correction=1), g, b),
            ),
            ("divide by the variance, not by its square root", lambda x, g, b: _scaled(_normalize(x, power=1), g, b)),
            ("leave γ and β out", lambda x, g, b: _normalize(x)),
            ("leave β out", lambda x, g, b: _scaled(_normalize(x), g, 0 * b)),
            ("swap γ and β", lambda x, g, b: _scaled(_normalize(x), b, g)),
            ("give γ and β to columns, not to channels", lambda x, g, b: g * _normalize(x) + b),
            ("add β before it multiplies by γ", lambda x, g, b: g[:, None, None] * (_normalize(x) + b[:, None, None])),
        ),
        within=1e-3,
    ),
    "norm_backward": Exercise(
        "Write the backward pass of batch norm for images.",
        (
            ("keep the shape", lambda f: tuple(f(*_doubles(3, 4, 2, 5)).shape) == (3, 4, 2, 5)),
            (
                "send nothing back where the loss asks to move all outputs of a channel alike",
                lambda f: torch.as_tensor(f(torch.ones(3, 4, 2, 5).double(), *_doubles(3, 4, 2, 5)[1:])).abs().max() < 1e-6,
            ),
            (
                "send nothing back, but for epsilon, where the loss asks to spread the outputs of a channel",
                lambda f: torch.as_tensor(f(_normalize(_doubles(3, 4, 2, 5)[1]), *_doubles(3, 4, 2, 5)[1:])).abs().max() < 1e-3,
            ),
            (
                "agree with autograd to 1e-6",
                lambda f: (torch.as_tensor(f(*_doubles(3, 4, 2, 5))) - _autograd(*_doubles(3, 4, 2, 5))).abs().max() < 1e-6,
            ),
            ("leave its inputs as they were", lambda f: leaves_alone(f, *_doubles(2, 4, 3, 3))),
        ),
        (
            "The formula with two bars still holds. What does a bar average over, now that a unit is a channel?",
            "You need x̂ and s, so begin as in the forward pass. Then take two averages per channel: of g, and of g times x̂.",
            "From g subtract its average, and x̂ times the average of g · x̂. Multiply the rest by γ / s. All averages are over "
            "axes 0, 2 and 3, with keepdim=True; γ needs two more axes.",
        ),
        batch_norm_backward,
        inputs=lambda: [_doubles(*shape, seed=10 * i) for i, shape in enumerate([(3, 2, 2, 3), (2, 3, 3, 3)])],
        slips=(
            ("treat mean and deviation as constants: both terms of the bracket are missing", _partly(mean=False, along=False)),
            ("forget that the mean depends on x: the average of g is missing", _partly(mean=False)),
            ("forget that the deviation depends on x: the component along x̂ is missing", _partly(along=False)),
            ("leave γ out", _partly(factor=lambda gamma, s: 1 / s)),
            ("leave out the division by s", _partly(factor=lambda gamma, s: gamma)),
            ("divide by the variance, not by s", _partly(factor=lambda gamma, s: gamma / s**2)),
            ("multiply by s instead of dividing", _partly(factor=lambda gamma, s: gamma * s)),
            ("average over the images alone, one pixel at a time", _partly(axes=(0,))),
            ("average within each image by itself", _partly(axes=(2, 3))),
            ("subtract sums where averages belong", _partly(total=True)),
            (
                "return the step that the loss asks for, which is minus its gradient",
                lambda g, x, gamma: -batch_norm_backward(g, x, gamma),
            ),
        ),
        within=1e-6,
    ),
    "fold_norm": Exercise(
        "Fold batch norm into the linear layer before it.",
        (
            (
                "return a weight of the same shape, and a bias for each output",
                lambda f: [tuple(torch.as_tensor(v).shape) for v in f(*_layer(3, 5))] == [(3, 5), (3,)],
            ),
            ("do what layer and norm did", lambda f: _same_outputs(f, *_layer(3, 5))),
            (
                "stretch outputs, not inputs, also where there are as many of both",
                lambda f: _same_outputs(f, *_layer(4, 4, seed=7)),
            ),
            (
                "add an epsilon of 1e-5 to the variance, which matters where that is small",
                lambda f: _same_outputs(f, *_layer(3, 5)[:5], torch.tensor([1e-5, 1e-4, 1.0])),
            ),
            ("leave the stored weights as they were", lambda f: leaves_alone(f, *_layer(3, 5))),
        ),
        (
            "Write the norm's output as γ (Wx + b − mean) / s + β, and sort it: what stands before x, and what does not?",
            "What stands before x is W, each of its rows multiplied by one number. All that is left is the bias.",
            "Row i of the weight belongs to output i and is multiplied by its γ / s. The old bias, less the mean, is "
            "multiplied by the same number, and β is added.",
        ),
        fold_norm,
        inputs=lambda: [_layer(3, 4, seed=20), _layer(4, 4, seed=30)],
        slips=(
            ("leave the old bias unstretched", _folded(lambda w, b, g, beta, m, v, k: (w * k[:, None], b - m * k + beta))),
            ("forget the old bias", _folded(lambda w, b, g, beta, m, v, k: (w * k[:, None], beta - m * k))),
            ("forget the mean", _folded(lambda w, b, g, beta, m, v, k: (w * k[:, None], b * k + beta))),
            ("forget β", _folded(lambda w, b, g, beta, m, v, k: (w * k[:, None], (b - m) * k))),
            ("subtract the mean after stretching", _folded(lambda w, b, g, beta, m, v, k: (w * k[:, None], b * k - m + beta))),
            ("add the mean", _folded(lambda w, b, g, beta, m, v, k: (w * k[:, None], (b + m) * k + beta))),
            ("stretch β as well", _folded(lambda w, b, g, beta, m, v, k: (w * k[:, None], (b - m + beta) * k))),
            ("leave the weight as it was", _folded(lambda w, b, g, beta, m, v, k: (w, (b - m) * k + beta))),
            (
                "divide by the variance, not by its square root",
                lambda w, b, g, beta, m, v: (w * (g / v)[:, None], (b - m) * g / v + beta),
            ),
            ("leave γ out", lambda w, b, g, beta, m, v: (w / v.sqrt()[:, None], (b - m) / v.sqrt() + beta)),
            ("return the bias before the weight", lambda *layer: fold_norm(*layer)[::-1]),
        ),
        within=1e-3,
    ),
}
