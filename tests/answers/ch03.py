"""Answers to the exercises of chapter 3."""

import numpy as np
import torch
import torch.nn.functional as F

EPS = 1e-5


def _norm(x, axes=(0, 2, 3), correction=0, eps=EPS, power=0.5):
    var, mean = torch.var_mean(x, dim=axes, keepdim=True, correction=correction)
    return (x - mean) / (var + eps) ** power


def _affine(x, gamma, beta):
    return x * gamma[:, None, None] + beta[:, None, None]


def _in_place(x, gamma, beta):
    x -= x.mean((0, 2, 3), keepdim=True)
    x /= (x.square().mean((0, 2, 3), keepdim=True) + EPS).sqrt()
    return _affine(x, gamma, beta)


def _channel_after_channel(x, gamma, beta):
    out = torch.empty_like(x)
    for c in range(x.shape[1]):
        values = x[:, c].double()
        out[:, c] = ((values - values.mean()) / (values.square().mean() - values.mean() ** 2 + EPS).sqrt()) * gamma[c] + beta[c]
    return out


def _numpy(x, gamma, beta):
    x, gamma, beta = (v.double().numpy() for v in (x, gamma, beta))
    mean, var = x.mean((0, 2, 3), keepdims=True), x.var((0, 2, 3), keepdims=True)
    return (x - mean) / np.sqrt(var + EPS) * gamma.reshape(1, -1, 1, 1) + beta.reshape(1, -1, 1, 1)


def _back(g, x, gamma, parts="mean along", axes=(0, 2, 3), factor=lambda gamma, s: gamma / s, reduce=torch.mean):
    s = (x.var((0, 2, 3), correction=0, keepdim=True) + EPS).sqrt()
    x_hat = (x - x.mean((0, 2, 3), keepdim=True)) / s
    left = g.clone()
    if "mean" in parts:
        left = left - reduce(g, axes, keepdim=True)
    if "along" in parts:
        left = left - reduce(g * x_hat, axes, keepdim=True) * x_hat
    return factor(gamma[:, None, None], s) * left


def _chain(g, x, gamma):
    """The three ways of the lesson, with m values per channel."""
    m = x.numel() / x.shape[1]
    mean = x.mean((0, 2, 3), keepdim=True)
    var = ((x - mean) ** 2).mean((0, 2, 3), keepdim=True) + EPS
    g_hat = g * gamma[:, None, None]
    g_var = (g_hat * (x - mean)).sum((0, 2, 3), keepdim=True) * -0.5 * var**-1.5
    g_mean = -g_hat.sum((0, 2, 3), keepdim=True) / var.sqrt()
    return g_hat / var.sqrt() + g_var * 2 * (x - mean) / m + g_mean / m


def _autograd(g, x, gamma):
    x = x.clone().requires_grad_()
    y = F.batch_norm(x, None, None, gamma, torch.zeros_like(gamma), training=True)
    return torch.autograd.grad((y * g).sum(), x)[0]


def _spoils(g, x, gamma):
    g *= gamma[:, None, None]
    return _back(g, x, torch.ones_like(gamma))


def _stretch(gamma, var, eps=EPS):
    return gamma / (var + eps) ** 0.5


def _fold(w, b, gamma, beta, mean, var, eps=EPS):
    k = _stretch(gamma, var, eps)
    return w * k[:, None], (b - mean) * k + beta


def _spoils_weight(w, b, gamma, beta, mean, var):
    w *= _stretch(gamma, var)[:, None]
    return w, (b - mean) * _stretch(gamma, var) + beta


def _by_columns(w, b, gamma, beta, mean, var):
    k = _stretch(gamma, var)
    return (w * k if len(k) == w.shape[1] else w * k[:, None]), (b - mean) * k + beta


def _row_after_row(w, b, gamma, beta, mean, var):
    rows, biases = [], []
    for i in range(len(w)):
        k = gamma[i].item() / (var[i].item() + EPS) ** 0.5
        rows.append([k * value for value in w[i].tolist()])
        biases.append(k * (b[i].item() - mean[i].item()) + beta[i].item())
    return torch.tensor(rows), torch.tensor(biases)


def _by_asking(w, b, gamma, beta, mean, var):
    """What layer and norm do to nothing is the bias; what they do to each input alone, less that, is the weight."""

    def both(x):
        return F.batch_norm(F.linear(x, w, b), mean, var, gamma, beta)

    bias = both(torch.zeros(1, w.shape[1]))[0]
    return (both(torch.eye(w.shape[1])) - bias).T, bias


WRONG = {
    "norm_images": {
        "images alone": (lambda x, g, b: _affine(_norm(x, (0,)), g, b), "average over the images alone"),
        "instance norm": (lambda x, g, b: _affine(_norm(x, (2, 3)), g, b), "instance norm"),
        "layer norm": (lambda x, g, b: _affine(_norm(x, (1, 2, 3)), g, b), "layer norm"),
        "one mean for all": (lambda x, g, b: _affine(_norm(x, (0, 1, 2, 3)), g, b), "one mean and one variance"),
        "unbiased": (lambda x, g, b: _affine(_norm(x, correction=1), g, b), "one less than the number of values"),
        "variance": (lambda x, g, b: _affine(_norm(x, power=1), g, b), "not by its square root"),
        "no parameters": (lambda x, g, b: _norm(x), "leave γ and β out"),
        "no beta": (lambda x, g, b: _norm(x) * g[:, None, None], "leave β out"),
        "swapped": (lambda x, g, b: _affine(_norm(x), b, g), "swap γ and β"),
        "columns": (lambda x, g, b: _norm(x) * g + b if x.shape[-1] == len(g) else _affine(_norm(x), g, b), "as many columns"),
        "no epsilon": (lambda x, g, b: _affine(_norm(x, eps=0), g, b), "not nan"),
        "tiny epsilon": (lambda x, g, b: _affine(_norm(x, eps=1e-12), g, b), "faint channel"),
        "in place": (_in_place, "leave its input as it was"),
    },
    "norm_backward": {
        "constants": (lambda *a: _back(*a, parts=""), "treat mean and deviation as constants"),
        "no mean": (lambda *a: _back(*a, parts="along"), "forget that the mean depends on x"),
        "no deviation": (lambda *a: _back(*a, parts="mean"), "forget that the deviation depends on x"),
        "no gamma": (lambda *a: _back(*a, factor=lambda gamma, s: 1 / s), "leave γ out"),
        "no s": (lambda *a: _back(*a, factor=lambda gamma, s: gamma), "leave out the division by s"),
        "variance": (lambda *a: _back(*a, factor=lambda gamma, s: gamma / s**2), "divide by the variance"),
        "upside down": (lambda *a: _back(*a, factor=lambda gamma, s: gamma * s), "multiply by s"),
        "pixel by pixel": (lambda *a: _back(*a, axes=(0,)), "one pixel at a time"),
        "image by image": (lambda *a: _back(*a, axes=(2, 3)), "within each image"),
        "sums": (lambda *a: _back(*a, reduce=torch.sum), "subtract sums"),
        "minus": (lambda *a: -_back(*a), "minus its gradient"),
        "spoils g": (_spoils, "leave its inputs as they were"),
    },
    "fold_norm": {
        "bias unstretched": (
            lambda w, b, g, beta, m, v: (w * _stretch(g, v)[:, None], b - m * _stretch(g, v) + beta),
            "leave the old bias unstretched",
        ),
        "no old bias": (lambda w, b, *rest: _fold(w, 0 * b, *rest), "forget the old bias"),
        "no mean": (lambda w, b, g, beta, m, v: _fold(w, b, g, beta, 0 * m, v), "forget the mean"),
        "no beta": (lambda w, b, g, beta, m, v: _fold(w, b, g, 0 * beta, m, v), "forget β"),
        "mean after": (
            lambda w, b, g, beta, m, v: (w * _stretch(g, v)[:, None], b * _stretch(g, v) - m + beta),
            "subtract the mean after stretching",
        ),
        "mean added": (lambda w, b, g, beta, m, v: _fold(w, b, g, beta, -m, v), "add the mean"),
        "old weight": (lambda w, *rest: (w, _fold(w, *rest)[1]), "leave the weight as it was"),
        "columns": (_by_columns, "as many of both"),
        "no epsilon": (lambda *a: _fold(*a, eps=0), "epsilon of 1e-5"),
        "bias first": (lambda *a: _fold(*a)[::-1], "the bias before the weight"),
        "spoils the weight": (_spoils_weight, "leave the stored weights as they were"),
    },
}
RIGHT = {
    "norm_images": {
        "channel after channel": _channel_after_channel,
        "NumPy": _numpy,
        "PyTorch's": lambda x, g, b: F.batch_norm(x, None, None, g, b, training=True),
        "group norm of the transposed batch": lambda x, g, b: _affine(
            F.instance_norm(x.transpose(0, 1).flatten(1)[None], eps=EPS)[0].view_as(x.transpose(0, 1)).transpose(0, 1), g, b
        ),
    },
    "norm_backward": {
        "three ways": _chain,
        "autograd": _autograd,
        "channels last": lambda g, x, gamma: _back(*(v.contiguous(memory_format=torch.channels_last) for v in (g, x)), gamma),
    },
    "fold_norm": {
        "row after row": _row_after_row,
        "by asking": _by_asking,
        "diagonal matrix": lambda w, b, g, beta, m, v: (
            torch.diag(_stretch(g, v)) @ w,
            torch.diag(_stretch(g, v)) @ (b - m) + beta,
        ),
    },
}
