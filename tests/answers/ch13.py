"""Answers to the exercises of chapter 13."""

import numpy as np
import torch
import torch.nn.functional as F


def _mix(how):
    """An answer that computes in float from ink, digit and ground."""
    return lambda d, b: how(d.float() / 255, d.float(), b.float()).round().clamp(0, 255).to(torch.uint8)


def _lerp(digits, backgrounds):
    return torch.lerp(backgrounds.float(), digits.float(), digits.float() / 255).round().byte()


def _in_numpy(digits, backgrounds):
    d, b = digits.numpy().astype(float), backgrounds.numpy().astype(float)
    return torch.from_numpy(np.rint((d * d + (255 - d) * b) / 255).astype(np.uint8))


def _spoils(digits, backgrounds):
    found = _lerp(digits, backgrounds)
    backgrounds.zero_()
    return found


def _bins(confidence, right, bins, how):
    edges, found = torch.linspace(0, 1, bins + 1), []
    for k in range(bins):
        here = (confidence >= edges[k]) & ((confidence < edges[k + 1]) | (k == bins - 1))
        if here.any():
            found.append(((confidence[here].double().mean() - right[here].double().mean()).item(), int(here.sum())))
    gaps, counts = zip(*found)
    return how(np.array(gaps), np.array(counts))


def _by_sums(confidence, right, bins=10):
    """The number of images cancels: a bin's part is the difference of two sums over all images."""
    which = (confidence * bins).long().clamp_max(bins - 1)
    sums = torch.zeros(2, bins, dtype=torch.double)
    sums[0].index_add_(0, which, confidence.double())
    sums[1].index_add_(0, which, right.double())
    return (sums[0] - sums[1]).abs().sum().item() / len(confidence)


def _loses_the_last(confidence, right, bins=10):
    which = (confidence * bins).long()
    parts = [(which == k) for k in range(bins)]
    return sum(
        abs((confidence[p].double().mean() - right[p].double().mean()).item()) * p.sum().item() for p in parts if p.any()
    ) / len(confidence)


def _grid(score):
    """The T of the smallest score(logits, labels, T) on a grid."""
    grid = torch.linspace(np.log(0.05), np.log(20), 2400).exp().tolist()
    return lambda z, y: min(grid, key=lambda t: score(z.double(), y, t))


def _by_scipy(z, y):
    from scipy.optimize import minimize_scalar

    return float(
        1
        / minimize_scalar(
            lambda b: F.cross_entropy(z.double() * b, y).item(), bounds=(0.01, 100), method="bounded", options={"xatol": 1e-7}
        ).x
    )


def _by_torch(z, y):
    log_t = torch.zeros(1, dtype=torch.double, requires_grad=True)
    steps = torch.optim.LBFGS(
        [log_t], max_iter=100, tolerance_grad=1e-10, tolerance_change=1e-12, line_search_fn="strong_wolfe"
    )

    def closure():
        steps.zero_grad()
        loss = F.cross_entropy(z.double() / log_t.exp(), y)
        loss.backward()
        return loss

    steps.step(closure)
    return log_t.exp().item()


def _ece(z, y, t):
    p, said = (z / t).softmax(1).max(1)
    return _by_sums(p, said == y)


def _mean_sureness(z, y, t):
    p, said = (z / t).softmax(1).max(1)
    return abs(p.mean() - (said == y).double().mean()).item()


def _probabilities(x, y, fold, fit, seen):
    p = torch.zeros(len(y), int(y.max()) + 1, dtype=torch.double)
    for k in set(fold.tolist()):
        p[fold == k] = fit(*(v[seen(fold, k)] for v in (x, y)))(x[fold == k]).double()
    return p


def _finder(seen=lambda fold, k: fold != k, key=lambda p, i, label: p[i, label], some=lambda said, label: said != label):
    def find(x, y, fold, fit):
        p = _probabilities(x, y, fold, fit, seen)
        chosen = [i for i in range(len(y)) if some(int(p[i].argmax()), int(y[i]))]
        return sorted(chosen, key=lambda i: float(key(p, i, int(y[i]))))

    return find


def _one_by_one(x, y, fold, fit):
    """A model for each image: slow and right."""
    found = []
    for i in range(len(y)):
        others = fold != fold[i]
        p = fit(x[others], y[others])(x[i : i + 1])[0]
        if p.argmax() != y[i]:
            found.append((p[y[i]].item(), i))
    return [i for _, i in sorted(found)]


def _first_part_only(x, y, fold, fit):
    others = fold != 0
    p = fit(x[others], y[others])(x).double()
    found = (p.argmax(1) != y).nonzero()[:, 0]
    return found[p.gather(1, y[:, None])[found, 0].argsort()].tolist()


WRONG = {
    "on_background": {
        "wraps": (lambda d, b: d + b, "leave full ink"),
        "adds": (_mix(lambda ink, d, b: d + b), "mix where there is some ink"),
        "brighter": (torch.maximum, "mix where there is some ink"),
        "paste": (lambda d, b: torch.where(d > 100, d, b), "mix where there is some ink"),
        "exchanged": (_mix(lambda ink, d, b: ink * b + (1 - ink) * d), "leave full ink"),
        "average": (_mix(lambda ink, d, b: (d + b) / 2), "leave full ink"),
        "unweighted ink": (_mix(lambda ink, d, b: d + (1 - ink) * b), "mix where there is some ink"),
        "floor": (lambda d, b: torch.lerp(b.float(), d.float(), d.float() / 255).byte(), "mix where there is some ink"),
        "float": (lambda d, b: torch.lerp(b.float(), d.float(), d.float() / 255).round(), "return uint8"),
        "spoils": (_spoils, "leave both batches"),
    },
    "expected_calibration_error": {
        "unweighted": (lambda c, r, b=10: _bins(c, r, b, lambda g, n: float(np.abs(g).mean())), "weight all bins alike"),
        "cancels": (lambda c, r, b=10: _bins(c, r, b, lambda g, n: float(abs((g * n).sum() / n.sum()))), "return 0.4"),
        "largest": (lambda c, r, b=10: _bins(c, r, b, lambda g, n: float(np.abs(g).max())), "largest difference"),
        "squares": (lambda c, r, b=10: _bins(c, r, b, lambda g, n: float(((g**2 * n).sum() / n.sum()) ** 0.5)), "square"),
        "no bins": (lambda c, r, b=10: (c - r.float()).abs().mean().item(), "return 0.4"),
        "always ten": (lambda c, r, b=10: _by_sums(c, r, 10), "agree with the solution"),
        "loses a confidence of 1": (_loses_the_last, "exactly 1"),
    },
    "best_temperature": {
        "1 / T": (lambda z, y: 1 / _by_scipy(z, y), "three times the temperature"),
        "calibration error": (_grid(_ece), "minimise the calibration error"),
        "mean confidence": (_grid(_mean_sureness), "match the mean confidence"),
        "probabilities": (lambda z, y: _by_torch(z.double().softmax(1), y), "three times the temperature"),
        "times T": (_grid(lambda z, y, t: F.cross_entropy(z * t, y).item()), "three times the temperature"),
        "accuracy": (_grid(lambda z, y, t: -((z / t).argmax(1) == y).double().mean().item()), "three times the temperature"),
        "one": (lambda z, y: 1.0, "three times the temperature"),
    },
    "suspects": {
        "leaks": (_finder(seen=lambda fold, k: fold == fold), "knows its images by heart"),
        "own part": (_finder(seen=lambda fold, k: fold == k), "knows its images by heart"),
        "most credible first": (_finder(key=lambda p, i, label: -p[i, label]), "most credible label first"),
        "all": (_finder(some=lambda said, label: True), "return all images"),
        "by its own sureness": (_finder(key=lambda p, i, label: -p[i].max()), "sure the model is of its own answer"),
        "unsorted": (_finder(key=lambda p, i, label: i), "in the order in which they come"),
        "one part holds out": (_first_part_only, "knows its images by heart"),
    },
}  # fmt: skip
RIGHT = {
    "on_background": {"lerp": _lerp, "numpy": _in_numpy},
    "expected_calibration_error": {
        "sums": _by_sums,
        "edges": lambda c, r, b=10: _bins(c, r, b, lambda g, n: float((np.abs(g) * n).sum() / n.sum())),
    },
    "best_temperature": {"scipy": _by_scipy, "L-BFGS": _by_torch},
    "suspects": {"loop and sorted": _finder(), "one by one": _one_by_one},
}
