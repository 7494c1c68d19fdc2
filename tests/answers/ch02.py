"""Answers to the exercises of chapter 2."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.neighbors import NearestNeighbors


def _by_hand(features, labels, k):
    """One image after the other."""
    found = []
    for i in range(len(features)):
        likeness = [(F.cosine_similarity(features[i], other, dim=0).item(), j) for j, other in enumerate(features) if j != i]
        found += [int(labels[j] == labels[i]) for _, j in sorted(likeness, reverse=True)[:k]]
    return sum(found) / len(found)


def _by_sklearn(features, labels, k):
    search = NearestNeighbors(n_neighbors=k, metric="cosine").fit(features.numpy())
    near = search.kneighbors(return_distance=False)  # without the image itself
    return float((labels.numpy()[near] == labels.numpy()[:, None]).mean())


def _by_distance(features, labels, k):
    """For vectors of length 1 the Euclidean distance gives the same order as the cosine."""
    unit = F.normalize(features)
    near = torch.cdist(unit, unit).argsort(1)[:, 1 : k + 1]
    return (labels[near] == labels[:, None]).float().mean()


def _with(features, labels, k, likeness, skip=True, largest=True):
    table = likeness(features).clone()
    if skip:
        table.fill_diagonal_(-math.inf if largest else math.inf)
    near = table.topk(k, largest=largest).indices
    return (labels[near] == labels[:, None]).double().mean().item()


def _cosine(x):
    return F.normalize(x) @ F.normalize(x).T


def _spoils(features, labels, k):
    features /= features.norm(dim=1, keepdim=True)
    return _with(features, labels, k, _cosine)


def _pixels(layers):
    """The pixels themselves: which of a long line can reach the middle value, layer by layer from the end."""
    reach = {0}
    for kernel, stride in reversed(layers):
        reach = {at * stride + step for at in reach for step in range(kernel)}
    return max(reach) - min(reach) + 1


def _backwards(layers):
    field = 1
    for kernel, stride in reversed(layers):
        field = (field - 1) * stride + kernel
    return field


def _summed(layers):
    strides = np.cumprod([1, *(stride for _, stride in layers)])
    return 1 + int(sum((kernel - 1) * step for (kernel, _), step in zip(layers, strides)))


def _no_product(layers):
    field, step = 1, 1
    for kernel, stride in layers:
        field, step = field + (kernel - 1) * step, stride
    return field


def _interpolated(shots, accuracies, wanted):
    """By NumPy, on the part up to the first point that is high enough."""
    high = [i for i, a in enumerate(accuracies) if a >= wanted]
    if not high:
        return None
    if high[0] == 0:
        return shots[0]
    part = slice(high[0] - 1, high[0] + 1)
    return float(np.exp(np.interp(wanted, accuracies[part], np.log(shots[part]))))


def _bisected(shots, accuracies, wanted):
    for (a, low), (b, high) in zip(zip(shots, accuracies), zip(shots[1:], accuracies[1:])):
        if low < wanted <= high:
            share = (wanted - low) / (high - low)
            return math.exp((1 - share) * math.log(a) + share * math.log(b))
        if low >= wanted:
            return a
    return None


def _straight(shots, accuracies, wanted):
    """By NumPy, on all points and on the number of images itself."""
    return float(np.interp(wanted, accuracies, shots)) if accuracies[-1] >= wanted else None


WRONG = {
    "same_class_share": {
        "itself": (lambda x, y, k: _with(x, y, k, _cosine, skip=False), "no image is its own neighbour"),
        "products": (lambda x, y, k: _with(x, y, k, lambda x: x @ x.T), "look at directions only"),
        "distances": (
            lambda x, y, k: _with(x, y, k, lambda x: torch.cdist(x, x), largest=False),
            "look at directions only",
        ),
        "least similar": (lambda x, y, k: _with(x, y, k, _cosine, largest=False), "take the images that are least similar"),
        "nearest only": (lambda x, y, k: _with(x, y, 1, _cosine), "count each of the k neighbours"),
        "spoils": (_spoils, "leave the features as they were"),
        "per cent": (lambda x, y, k: 100 * _with(x, y, k, _cosine), "return 1 where the images of a class lie together"),
        "sum": (lambda x, y, k: k * _with(x, y, k, _cosine), "count each of the k neighbours"),
    },
    "field_of_view": {
        "no strides": (lambda layers: 1 + sum(k - 1 for k, _ in layers), "ignore the strides"),
        "sum of kernels": (lambda layers: sum(k for k, _ in layers), "return 1 without any layers"),
        "last stride": (_no_product, "use the stride of the last layer only"),
        "walks back": (lambda layers: _pixels(layers[::-1]), "let a stride widen the steps of what comes after it"),
        "an area": (lambda layers: _pixels(layers) ** 2, "return 3 for one 3×3"),
        "strides alone": (lambda layers: math.prod(s for _, s in layers), "return 3 for one 3×3"),
        "without the pixel": (lambda layers: _pixels(layers) - 1, "return 1 without any layers"),
    },
    "images_needed": {
        "straight": (_straight, "on a logarithmic axis"),
        "next": (
            lambda shots, accuracies, wanted: next((s for s, a in zip(shots, accuracies) if a >= wanted), None),
            "take the next measured number",
        ),
        "largest": (
            lambda shots, accuracies, wanted: (
                _bisected(shots, accuracies, wanted) or _interpolated(shots, accuracies, wanted) or shots[-1]
            ),
            "return None where the curve never gets there",
        ),
        "never the first": (
            lambda shots, accuracies, wanted: None if accuracies[0] >= wanted else _interpolated(shots, accuracies, wanted),
            "return the fewest images",
        ),
        "accuracy": (lambda shots, accuracies, wanted: max(a for a in accuracies if a <= 1), "return a measured point"),
        "whole numbers": (
            lambda shots, accuracies, wanted: (found := _interpolated(shots, accuracies, wanted)) and math.floor(found),
            "return a measured point",
        ),
    },
}
RIGHT = {
    "same_class_share": {"one by one": _by_hand, "scikit-learn": _by_sklearn, "distances of unit vectors": _by_distance},
    "field_of_view": {"pixels": _pixels, "from the end": _backwards, "a sum": _summed},
    "images_needed": {"NumPy": _interpolated, "logarithms": _bisected},
}
