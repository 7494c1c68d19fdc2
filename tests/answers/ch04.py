"""Answers to the exercises of chapter 4."""

from fractions import Fraction

import torch
import torch.nn.functional as F


def _normalize(x, axes, eps=1e-5, correction=0):
    var, mean = torch.var_mean(x, dim=axes, keepdim=True, correction=correction)
    return (x - mean) / (var + eps).sqrt()


def _grouped(x, groups, axes=(2, 3, 4), **options):
    return _normalize(x.unflatten(1, (groups, -1)), axes, **options).flatten(1, 2)


def _in_place(x, groups):
    parts = x.view(len(x), groups, -1)
    parts -= parts.mean(2, keepdim=True)
    parts /= (parts.square().mean(2, keepdim=True) + 1e-5).sqrt()
    return x


def _epsilon_on_the_deviation(x, groups):
    parts = x.reshape(len(x), groups, -1)
    return ((parts - parts.mean(2, keepdim=True)) / (parts.std(2, correction=0, keepdim=True) + 1e-5)).view_as(x)


def _group_after_group(x, groups):
    out = torch.empty_like(x)
    for image in range(len(x)):
        for channels in torch.arange(x.shape[1]).chunk(groups):
            part = x[image, channels].double()
            out[image, channels] = ((part - part.mean()) / (part.var(correction=0) + 1e-5) ** 0.5).float()
    return out


def _float64(x, groups):
    parts = x.double().reshape(len(x), groups, -1)
    parts = parts - parts.mean(2, keepdim=True)
    return (parts / (parts.square().mean(2, keepdim=True) + 1e-5).sqrt()).reshape(x.shape)


def _overwritten(w):
    flat = w.view(len(w), -1)
    flat -= flat.mean(1, keepdim=True)
    flat /= (flat.square().mean(1, keepdim=True) + 1e-10).sqrt()
    return w


def _filter_after_filter(w):
    return torch.stack([(f - f.mean()) / f.std(correction=0).clamp_min(1e-5) for f in w])


WRONG = {
    "group_norm": {
        "over the batch": (lambda x, groups: _grouped(x, groups, (0, 2, 3, 4)), "over the images of the batch, too"),
        "batch norm": (lambda x, groups: _normalize(x, (0, 2, 3)), "batch norm"),
        "instance norm": (lambda x, groups: _normalize(x, (2, 3)), "instance norm"),
        "layer norm": (lambda x, groups: _normalize(x, (1, 2, 3)), "layer norm"),
        "n - 1": (lambda x, groups: _grouped(x, groups, correction=1), "one less than the number of values"),
        "no epsilon": (lambda x, groups: _grouped(x, groups, eps=0), "add an epsilon of 1e-5"),
        "epsilon on the standard deviation": (
            _epsilon_on_the_deviation,
            "add an epsilon of 1e-5",
        ),
        "in place": (_in_place, "leave its input as it was"),
        "groups not joined again": (lambda x, groups: _normalize(x.unflatten(1, (groups, -1)), (2, 3, 4)), "keep the shape"),
        "every groups-th channel": (
            lambda x, groups: _normalize(x.unflatten(1, (-1, groups)), (1, 3, 4)).flatten(1, 2),
            "do not lie side by side",
        ),
    },
    "standardize": {
        "each slice": (lambda w: _normalize(w, (2, 3), 1e-10), "kh and kw alone"),
        "each place": (lambda w: _normalize(w, (1,), 1e-10), "input channels alone"),
        "the layer as a whole": (lambda w: (w - w.mean()) / w.std(correction=0), "the layer as one big filter"),
        "each input channel": (lambda w: _normalize(w, (0, 2, 3), 1e-10), "each input channel, over all filters"),
        "across filters": (lambda w: _normalize(w, (0,), 1e-10), "average over the filters"),
        "n - 1": (lambda w: _normalize(w, (1, 2, 3), 1e-10, correction=1), "one less than the number of weights"),
        "no epsilon": (lambda w: _normalize(w, (1, 2, 3), 0), "return zeros, not nan"),
        "overwrites the weights": (_overwritten, "leave the stored weights as they were"),
        "mean alone": (lambda w: w - w.mean((1, 2, 3), keepdim=True), "only subtract the mean"),
    },
    "shares": {
        "equal": (lambda sizes: [1 / len(sizes) for _ in sizes], "weight every part the same"),
        "inverse": (lambda sizes: [1 / s / sum(1 / t for t in sizes) for s in sizes], "small parts the large weights"),
        "of the largest": (lambda sizes: [s / max(sizes) for s in sizes], "compare each part with the largest"),
        "of the first": (lambda sizes: [s / sizes[0] for s in sizes], "compare each part with the first"),
        "of the number of parts": (lambda sizes: [s / len(sizes) for s in sizes], "divide by the number of parts"),
        "numbers of images": (lambda sizes: sizes, "return the number of images"),
        "whole numbers": (lambda sizes: [s // sum(sizes) for s in sizes], "round to whole numbers"),
        "softmax": (lambda sizes: torch.tensor(sizes).float().softmax(0), "of 6 + 2 images, the first part has 3/4"),
        "right for two": (lambda sizes: [sizes[0] / sum(sizes), sizes[-1] / sum(sizes)], "make the weights sum to 1"),
    },
}
RIGHT = {
    "group_norm": {
        "PyTorch's own": F.group_norm,
        "group after group": _group_after_group,
        "float64": _float64,
        "layer norm of the groups": lambda x, groups: F.layer_norm(
            x.view(len(x), groups, -1), [x[0].numel() // groups], eps=1e-5
        ).view_as(x),
    },
    "standardize": {
        "filter after filter": _filter_after_filter,
        "layer norm of each filter": lambda w: F.layer_norm(w, w.shape[1:], eps=1e-10),
        "batch norm, filters as channels": lambda w: F.batch_norm(
            w.flatten(1).T, None, None, training=True, eps=1e-10
        ).T.reshape(w.shape),
        "epsilon on the standard deviation": lambda w: (
            (w - w.mean((1, 2, 3), keepdim=True)) / (w.std((1, 2, 3), correction=0, keepdim=True) + 1e-7)
        ),
    },
    "shares": {
        "float32 tensor": lambda sizes: torch.tensor(sizes) / sum(sizes),
        "fractions": lambda sizes: tuple(Fraction(s, sum(sizes)) for s in sizes),
        "image after image": lambda sizes: [sum(1 / sum(sizes) for _ in range(s)) for s in sizes],
    },
}
