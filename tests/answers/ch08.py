"""Answers to the exercises of chapter 8."""

import itertools
import math
from statistics import fmean

import numpy as np
import torch


def _choices(pick, v, t, k):
    """The mean over all choices of k trials; too slow for many, and right for few."""
    return fmean(pick(some) for some in itertools.combinations(range(len(t)), k))


def _chance_by_chance(v, t, k):
    """From place to place: the chance that nobody better is among the k, times the chance that this one is."""
    found, order = 0.0, np.argsort(v)[::-1]
    for place, i in enumerate(order):
        none_better = math.prod((len(t) - place - j) / (len(t) - j) for j in range(k))
        nor_this = math.prod((len(t) - place - 1 - j) / (len(t) - j) for j in range(k))
        found += (none_better - nor_this) * t[i]
    return found


_KNOWN = {}


def _memo(v, t, k):
    """The worst trial is among the k with chance k / n, and then wins only if it is alone. Remembers what it has found."""
    key = (tuple(v), tuple(t), k)
    if key not in _KNOWN:
        n, worst = len(t), min(range(len(t)), key=lambda i: v[i])
        rest = [[x for i, x in enumerate(values) if i != worst] for values in (v, t)]
        if k == 1:
            _KNOWN[key] = fmean(t)
        else:
            _KNOWN[key] = k / n * _memo(*rest, k - 1) + ((1 - k / n) * _memo(*rest, k) if n > k else 0)
    return _KNOWN[key]


def _sorted_in_place(v, t, k):
    pairs = sorted(zip(v, t), reverse=True)
    v[:], t[:] = zip(*pairs)
    return sum(math.comb(len(t) - 1 - i, k - 1) * x for i, x in enumerate(t)) / math.comb(len(t), k)


def _off_by_one(v, t, k):
    order = sorted(range(len(t)), key=lambda i: -v[i])
    return sum(math.comb(len(t) - 1 - p, k) * t[i] for p, i in enumerate(order)) / math.comb(len(t), k)


def _with_replacement(v, t, k):
    n, order = len(t), sorted(range(len(t)), key=lambda i: -v[i])
    return sum(t[i] * (((n - p) / n) ** k - ((n - p - 1) / n) ** k) for p, i in enumerate(order))


def _places(at, resize, crop):
    return sum(p <= at < p + crop for p in range(resize - crop + 1))


def _counted(y, x, resize, crop):
    return _places(y, resize, crop) * _places(x, resize, crop) / (resize - crop + 1) ** 2


def _by_mask(y, x, resize, crop):
    """Add up all crops as masks."""
    total, places = np.zeros((resize, resize)), resize - crop + 1
    for top in range(places):
        for left in range(places):
            total[top : top + crop, left : left + crop] += 1
    return total[y, x] / places**2


def _closed(y, x, resize, crop):
    return math.prod(min(at + 1, resize - at, crop, resize - crop + 1) for at in (y, x)) / (resize - crop + 1) ** 2


def _means(images, labels):
    return torch.stack([images[labels == c].mean(0) for c in labels.unique()])


def _distances(one, other):
    return torch.cdist(one.flatten(1), other.flatten(1))


def _correlation(images, labels):
    """By the product after all: for unit length it is the distance in other words."""
    means = torch.nn.functional.normalize(_means(images, labels).flatten(1)).view(-1, *images.shape[1:])
    return torch.einsum("ahw,bhw->ab", means.flip(-1), means).argmax(1)


def _one_hot(images, labels):
    hot = torch.nn.functional.one_hot(labels).float()
    means = torch.einsum("nc,nhw->chw", hot, images) / hot.sum(0)[:, None, None]
    backwards = means[:, :, torch.arange(images.shape[2] - 1, -1, -1)]
    return [int((m - means).pow(2).sum((1, 2)).argmin()) for m in backwards]


def _spoils(images, labels):
    means = _means(images, labels)
    found = _distances(means.flip(2), means).argmin(1).tolist()
    images.zero_()
    return found


WRONG = {
    "expected_best": {
        "peeks": (lambda v, t, k: _choices(lambda s: max(t[i] for i in s), v, t, k), "take the best on the test images"),
        "promise": (lambda v, t, k: _choices(lambda s: max(v[i] for i in s), v, t, k), "which flatters it"),
        "replacement": (_with_replacement, "more than once"),
        "first k": (lambda v, t, k: t[max(range(k), key=lambda i: v[i])], "the first k trials"),
        "worst": (lambda v, t, k: _choices(lambda s: t[min(s, key=lambda i: v[i])], v, t, k), "the worst on validation"),
        "mean of the k best": (lambda v, t, k: fmean(x for _, x in sorted(zip(v, t), reverse=True)[:k]), "average the k best"),
        "not divided": (lambda v, t, k: _chance_by_chance(v, t, k) * math.comb(len(t), k), "forget to divide"),
        "k of those behind": (_off_by_one, "return 0.7 for three trials"),
        "sorts the lists": (_sorted_in_place, "leave the two lists"),
        "mean of all": (lambda v, t, k: fmean(t), "return 0.7 for three trials"),
    },
    "kept": {
        "area": (lambda y, x, r, c: (c / r) ** 2, "return 1 for the pixel in the middle"),
        "one direction": (lambda y, x, r, c: _places(x, r, c) / (r - c + 1), "look at one direction only"),
        "sum": (lambda y, x, r, c: (_places(y, r, c) + _places(x, r, c)) / 2 / (r - c + 1), "add the two directions"),
        "a place too few": (
            lambda y, x, r, c: _places(y, r, c) * _places(x, r, c) / max(1, r - c) ** 2,
            "return 1 for the pixel in the middle",
        ),
        "two edges": (
            lambda y, x, r, c: math.prod(min(at + 1, r - c + 1) for at in (y, x)) / (r - c + 1) ** 2,
            "upper and left edge only",
        ),
        "central": (lambda y, x, r, c: float(all((r - c) // 2 <= at < (r + c) // 2 for at in (y, x))), "out of the middle"),
        "never all": (
            lambda y, x, r, c: math.prod(min(at + 1, r - at, r - c + 1) for at in (y, x)) / (r - c + 1) ** 2,
            "smaller than half",
        ),
    },
    "mirror_twins": {
        "top to bottom": (lambda i, y: _distances(_means(i, y).flip(1), _means(i, y)).argmin(1).tolist(), "top to bottom"),
        "180°": (lambda i, y: _distances(_means(i, y).flip(1, 2), _means(i, y)).argmin(1).tolist(), "by 180°"),
        "no mirror": (lambda i, y: _distances(_means(i, y), _means(i, y)).argmin(1).tolist(), "forget to mirror"),
        "never itself": (
            lambda i, y: _distances(_means(i, y).flip(2), _means(i, y)).fill_diagonal_(99).argmin(1).tolist(),
            "never let a class be its own twin",
        ),
        "one image": (
            lambda i, y: _distances(
                *(torch.stack([i[y == c][0] for c in y.unique()]).flip(d) for d in ([2], []))
            ).argmin(1).tolist(),
            "the first image of each class",
        ),
        "brightest": (
            lambda i, y: torch.einsum("ahw,bhw->ab", _means(i, y).flip(2), _means(i, y)).argmax(1).tolist(),
            "the brightest class",
        ),
        "distances": (lambda i, y: _distances(_means(i, y).flip(2), _means(i, y)).amin(1).tolist(), "each other's twins"),
        "spoils the images": (_spoils, "leave the images"),
    },
}  # fmt: skip
RIGHT = {
    "expected_best": {"chances": _chance_by_chance, "remembered recursion": _memo},
    "kept": {"counted": _counted, "masks": _by_mask, "closed form": _closed},
    "mirror_twins": {
        "cdist": lambda i, y: _distances(_means(i, y).flip(2), _means(i, y)).argmin(1),
        "unit length": _correlation,
        "one-hot": _one_hot,
    },
}
