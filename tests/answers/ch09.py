"""Answers to the exercises of chapter 9."""

import numpy as np
import torch
from torch.nn.functional import one_hot


def _mix(x, y, lam, partners, num_classes):
    labels = one_hot(y, num_classes).float()
    return lam * x + (1 - lam) * x[partners], lam * labels + (1 - lam) * labels[partners]


def _in_place(x, y, lam, partners, num_classes):
    other, labels = x[partners], one_hot(y, num_classes).float()
    x *= lam
    x += (1 - lam) * other
    return x, lam * labels + (1 - lam) * labels[partners]


def _image_after_image(x, y, lam, partners, num_classes):
    images, labels = [], np.zeros((len(y), num_classes))
    for i, j in enumerate(partners.tolist()):
        images.append((x[i] + (1 - lam) * (x[j] - x[i])).tolist())
        labels[i, y[i]] += lam
        labels[i, y[j]] += 1 - lam
    return images, labels


def _matrix(x, y, lam, partners, num_classes):
    """Mixing as one matrix, in float64."""
    n = len(x)
    m = lam * torch.eye(n, dtype=torch.float64) + (1 - lam) * torch.eye(n, dtype=torch.float64)[partners]
    return (m @ x.double().flatten(1)).view_as(x), m @ torch.eye(num_classes, dtype=torch.float64)[y]


def _bins(confidence, right, bins=10, last=True, weigh=True, power=1):
    which = (confidence * bins).long()
    if last:
        which = which.clamp_max(bins - 1)
    total, number = 0.0, 0
    for b in range(bins):
        inside = which == b
        if inside.any():
            gap = (confidence[inside].mean() - right[inside].mean()).abs() ** power
            total += gap * (inside.float().mean() if weigh else 1)
            number += 1
    return float(total if weigh else total / number)


def _empty_bins(confidence, right, bins=10):
    which = (confidence * bins).long().clamp_max(bins - 1)
    parts = [which == b for b in range(bins)]
    return sum(p.float().mean() * (confidence[p].mean() - right[p].mean()).abs() for p in parts)


def _equal_counts(confidence, right, bins=10):
    order = confidence.argsort()
    parts = order.chunk(bins)
    return sum(len(p) / len(order) * (confidence[p].mean() - right[p].mean()).abs() for p in parts)


def _sums(confidence, right, bins=10):
    """The number of images in a bin cancels."""
    which = (confidence * bins).long().clamp_max(bins - 1)
    return torch.zeros(bins).index_add_(0, which, confidence - right).abs().sum() / len(which)


def _edges(confidence, right, bins=10):
    """Bins that hold their upper edge, not the lower one, in NumPy."""
    c, r = confidence.double().numpy(), right.double().numpy()
    which = np.digitize(c, np.linspace(0, 1, bins + 1)[1:-1], right=True)
    return sum((which == b).mean() * abs(c[which == b].mean() - r[which == b].mean()) for b in np.unique(which))


def _plain_pairs(partners):
    seen = []
    for i, p in enumerate(partners.tolist()):
        if i != p and (i, p) not in seen and (p, i) not in seen:
            seen.append((i, p))
    return len(seen)


def _adjacency(partners):
    met = torch.zeros(len(partners), len(partners), dtype=torch.bool)
    met[torch.arange(len(partners)), partners] = True
    return (met | met.T).triu(1).sum()


def _unique_rows(partners):
    i = torch.arange(len(partners))
    rows = torch.stack([torch.minimum(i, partners), torch.maximum(i, partners)], 1)
    return len(rows[rows[:, 0] != rows[:, 1]].unique(dim=0))


WRONG = {
    "mix": {
        "lam for the partner": (lambda x, y, lam, p, c: _mix(x, y, 1 - lam, p, c), "change nothing where lam is 1"),
        "reversed": (
            lambda x, y, lam, p, c: _mix(x, y, lam, torch.arange(len(x)).flip(0), c),
            "the batch with itself reversed",
        ),
        "the neighbour": (lambda x, y, lam, p, c: _mix(x, y, lam, torch.arange(len(x)).roll(1), c), "with its neighbour"),
        "labels not mixed": (lambda x, y, lam, p, c: (_mix(x, y, lam, p, c)[0], one_hot(y, c)), "leave the labels unmixed"),
        "images not mixed": (lambda x, y, lam, p, c: (x, _mix(x, y, lam, p, c)[1]), "leave the images unmixed"),
        "half and half": (lambda x, y, lam, p, c: _mix(x, y, 0.5, p, c), "half and half, whatever lam is"),
        "numbers of classes": (
            lambda x, y, lam, p, c: (_mix(x, y, lam, p, c)[0], lam * y + (1 - lam) * y[p]),
            "average the numbers of the classes",
        ),
        "in place": (_in_place, "leave the batch that it was given as it was"),
        "labels the wrong way round": (
            lambda x, y, lam, p, c: (_mix(x, y, lam, p, c)[0], _mix(x, y, 1 - lam, p, c)[1]),
            "change nothing where lam is 1",
        ),
        "images alone": (lambda x, y, lam, p, c: lam * x + (1 - lam) * x[p], "what it returned cannot be used here"),
    },
    "ece": {
        "one bin": (lambda c, r, bins=10: (c.mean() - r.mean()).abs(), "let the bins cancel each other"),
        "bins not weighted": (lambda c, r, bins=10: _bins(c, r, bins, weigh=False), "weight all bins the same"),
        "a confidence of 1 in a bin of its own": (
            lambda c, r, bins=10: _bins(c, r, bins, last=False),
            "put a confidence of exactly 1 into the last bin",
        ),
        "empty bins": (_empty_bins, "leave out the empty bins"),
        "always ten bins": (lambda c, r, bins=10: _bins(c, r, 10), "use ten bins, whatever it is asked for"),
        "image by image": (lambda c, r, bins=10: (c - r).abs().mean(), "compare image by image"),
        "Brier score": (lambda c, r, bins=10: (c - r).square().mean(), "return the Brier score"),
        "squares": (lambda c, r, bins=10: _bins(c, r, bins, power=2), "square the distances"),
        "as many images in each bin": (_equal_counts, "put as many images into each bin"),
    },
    "pairs": {
        "both orders": (lambda p: len({(i, j) for i, j in enumerate(p.tolist()) if i != j}), "count a pair twice"),
        "with itself": (lambda p: len({tuple(sorted(e)) for e in enumerate(p.tolist())}), "its own partner as a pair"),
        "half the batch": (lambda p: len(p) // 2, "as if partners always came in pairs"),
        "different partners": (lambda p: len(set(p.tolist())), "count the different partners"),
        "sums": (lambda p: len({i + j for i, j in enumerate(p.tolist()) if i != j}), "the same sum"),
        "the whole batch": (lambda p: len(p), "count a pair once"),
        "only where the partner comes later": (lambda p: int((p > torch.arange(len(p))).sum()), "four images stand in a ring"),
    },
}
RIGHT = {
    "mix": {
        "lerp": lambda x, y, lam, p, c: tuple(z[p].lerp(z, lam) for z in (x, one_hot(y, c).float())),
        "image after image": _image_after_image,
        "a matrix": _matrix,
    },
    "ece": {"sums over bins": _sums, "edges, in NumPy": _edges, "bin after bin": _bins},
    "pairs": {"a list": _plain_pairs, "an adjacency matrix": _adjacency, "unique rows": _unique_rows},
}
