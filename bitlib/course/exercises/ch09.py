"""The exercises of notebooks/09_mixup: mixing a batch, the calibration error, and counting pairs."""

from __future__ import annotations

import torch
from torch.nn.functional import one_hot

from ..check import Exercise, alike
from .cases import leaves_alone, random

# Four images of two pixels, in three classes. The partners are neither the batch reversed nor the batch moved along.
_LABELS, _PARTNERS = torch.tensor([0, 2, 2, 1]), torch.tensor([2, 0, 1, 1])


def _mixed(f, lam: float) -> tuple:
    images, labels = f(random(4, 2), _LABELS, lam, _PARTNERS, 3)
    return images, labels


def _images_are(f, lam: float) -> bool:
    x = random(4, 2)
    return alike(_mixed(f, lam)[0], lam * x + (1 - lam) * x[_PARTNERS])


def _is(f, wanted: float, confidence: list[float], right: list[float], **bins) -> bool:
    return alike(f(torch.tensor(confidence), torch.tensor(right, dtype=torch.float32), **bins), wanted)


def mix(x, y, lam, partners, num_classes):
    """(mixed images, mixed labels). x: float [N, ...]; y: int [N]; partners: int [N]; mixed labels: float [N, num_classes]."""
    labels = one_hot(y, num_classes).to(x.dtype)
    return lam * x + (1 - lam) * x[partners], lam * labels + (1 - lam) * labels[partners]


def ece(confidence, right, bins=10):
    """Mean |confidence - share right| over equal bins, weighted by their number of images. Both float [N], 0 to 1."""
    which = (confidence * bins).long().clamp_max(bins - 1)
    total = 0.0
    for b in which.unique():
        inside = which == b
        total += inside.double().mean() * (confidence[inside].mean() - right[inside].mean()).abs()
    return float(total)


def pairs(partners):
    """How many different pairs of images a batch mixes, where image i is mixed with image partners[i]. partners: int [N]."""
    return len({frozenset((i, p)) for i, p in enumerate(partners.tolist()) if p != i})


def _batches() -> list[tuple]:
    """Batches of vectors and of images, whose partners repeat and do not come in pairs."""
    made = []
    for seed, (n, *shape) in enumerate([(5, 3), (6, 2, 2, 2), (8, 1)]):
        generator = torch.Generator().manual_seed(seed)
        y, partners = (torch.randint(high, (n,), generator=generator) for high in (4, n))
        partners[:3] = torch.tensor([1, 2, 0])
        made.append((random(n, *shape, seed=seed), y, 0.1 + 0.3 * seed, partners, 4))
    return made


def _inverse(partners: torch.Tensor) -> torch.Tensor:
    """Where each image went, if image i goes to place partners[i]."""
    inverse = torch.arange(len(partners))
    for i, p in enumerate(partners.tolist()):
        inverse[p] = i
    return inverse


def _mixed_numbers(x, y, lam, partners, num_classes):
    return mix(x, y, lam, partners, num_classes)[0], lam * y + (1 - lam) * y[partners]


def _confidences() -> list[tuple]:
    """Two hundred answers, right in half of the cases whatever the confidence: too modest below, too sure above."""
    made = []
    for seed, bins in enumerate((10, 10, 15, 4)):
        generator = torch.Generator().manual_seed(seed)
        confidence = torch.rand(200, generator=generator) ** 0.8
        made.append((confidence, torch.randint(2, (200,), generator=generator).float(), bins))
    return made


def _gaps(confidence, right, bins=10, place=torch.floor) -> list[tuple[float, float]]:
    """(share of the images, confidence less accuracy) of every bin that is not empty."""
    which = place(confidence * bins).clamp_max(bins - 1)
    parts = [which == b for b in which.unique()]
    return [(float(p.double().mean()), float(confidence[p].mean() - right[p].mean())) for p in parts]


def _equal_counts(confidence, right, bins=10) -> float:
    parts = confidence.argsort().chunk(bins)
    return sum(len(p) * abs(float(confidence[p].mean() - right[p].mean())) for p in parts) / len(confidence)


def _partners() -> list[tuple[torch.Tensor]]:
    """Partners with and without repetition; one image is its own."""
    made = []
    for n in (8, 9, 10, 12):
        generator = torch.Generator().manual_seed(n)
        partners = torch.randint(8, (n,), generator=generator) if n % 2 else torch.randperm(n, generator=generator)
        partners[2], partners[4], partners[5] = 2, 5, 4
        made.append((partners,))
    return made


EXERCISES: dict[str, Exercise] = {
    "mix": Exercise(
        "Mix a batch of images and labels.",
        (
            (
                "change nothing where lam is 1",
                lambda f: _images_are(f, 1.0) and alike(_mixed(f, 1.0)[1], [[1, 0, 0], [0, 0, 1], [0, 0, 1], [0, 1, 0]]),
            ),
            (
                "give image i the weight lam and image partners[i] the rest",
                lambda f: _images_are(f, 0.75) and _images_are(f, 0.1),
            ),
            (
                "mix each label with its partner's, in the same proportion",
                lambda f: alike(_mixed(f, 0.75)[1], [[0.75, 0, 0.25], [0.25, 0, 0.75], [0, 0, 1], [0, 0.75, 0.25]]),
            ),
            (
                "leave the batch that it was given as it was",
                lambda f: leaves_alone(f, random(4, 2), _LABELS.clone(), 0.75, _PARTNERS.clone(), 3),
            ),
        ),
        (
            "x[partners] is a batch too: the partner of every image, in the right order.",
            "torch.nn.functional.one_hot(y, num_classes) turns labels into rows, and rows can be mixed like images.",
            "Both are weighted means of two rows: lam is the weight of an image's own row, and its partner's gets the rest. "
            "Find the partners' rows of the one-hot labels as you find those of x.",
        ),
        mix,
        inputs=_batches,
        slips=(
            ("give lam to the partner", lambda x, y, lam, partners, c: mix(x, y, 1 - lam, partners, c)),
            (
                "mix the batch with itself reversed, not with partners",
                lambda x, y, lam, p, c: mix(x, y, lam, torch.arange(len(p)).flip(0), c),
            ),
            (
                "mix each image with its neighbour, not with its partner",
                lambda x, y, lam, p, c: mix(x, y, lam, torch.arange(len(p)).roll(1), c),
            ),
            (
                "mix image partners[i] with image i, not i with partners[i]",
                lambda x, y, lam, p, c: mix(x, y, lam, _inverse(p), c),
            ),
            (
                "leave the labels unmixed",
                lambda x, y, lam, p, c: (mix(x, y, lam, p, c)[0], one_hot(y, c).float()),
            ),
            ("leave the images unmixed", lambda x, y, lam, p, c: (x, mix(x, y, lam, p, c)[1])),
            ("mix images and labels half and half, whatever lam is", lambda x, y, lam, p, c: mix(x, y, 0.5, p, c)),
            ("average the numbers of the classes, where class 1 is not the mean of 0 and 2", _mixed_numbers),
        ),
    ),
    "ece": Exercise(
        "Measure how far confidence is from the truth.",
        (
            (
                "give 0 where the network is 75 % sure and right three times out of four, and leave out the empty bins",
                lambda f: _is(f, 0, [0.75] * 4, [1, 1, 1, 0]),
            ),
            (
                "put a confidence of exactly 1 into the last bin, beside 0.95",
                lambda f: _is(f, 0.475, [1.0, 0.95], [0, 1]),
            ),
            (
                "weight each bin by its number of images",
                lambda f: _is(f, 0.9 / 4, [0.95, 0.95, 0.95, 0.25], [1, 1, 1, 1]),
            ),
            (
                "not let a bin that is too sure make up for one that is too modest",
                lambda f: _is(f, 0.4, [0.95, 0.95, 0.15, 0.15], [1, 0, 1, 0]),
            ),
            (
                "use as many bins as it is asked to",
                lambda f: _is(f, 0.3, [0.95, 0.65], [0, 1], bins=2) and _is(f, 0.65, [0.95, 0.65], [0, 1], bins=4),
            ),
        ),
        (
            "First decide which bin each image falls into.",
            "(confidence * bins).long() is the bin; a confidence of exactly 1 needs clamp_max(bins - 1).",
            "In a bin, take the mean of confidence and the mean of right; their distance counts in proportion to the images in "
            "the bin. An empty bin has no mean, so visit only those that occur.",
        ),
        ece,
        inputs=_confidences,
        slips=(
            (
                "let the bins cancel each other, as one bin for everything does",
                lambda c, r, bins=10: float((c.mean() - r.mean()).abs()),
            ),
            ("weight all bins the same", lambda *args: (lambda g: sum(abs(d) for _, d in g) / len(g))(_gaps(*args))),
            ("take the worst bin, which is the maximum calibration error", lambda *args: max(abs(d) for _, d in _gaps(*args))),
            ("compare image by image, without bins", lambda c, r, bins=10: float((c - r).abs().mean())),
            ("return the Brier score, which has no bins", lambda c, r, bins=10: float((c - r).square().mean())),
            ("put as many images into each bin, where the bins should be as wide as each other", _equal_counts),
            ("square the distances", lambda *args: sum(w * d * d for w, d in _gaps(*args))),
            ("use ten bins, whatever it is asked for", lambda c, r, bins=10: ece(c, r, 10)),
            (
                "round to the nearest bin, so that the first and the last are of half the width",
                lambda *args: sum(w * abs(d) for w, d in _gaps(*args, place=torch.round)),
            ),
        ),
    ),
    "pairs": Exercise(
        "Count the pairs that a batch mixes.",
        (
            (
                "count a pair once, whichever of the two images comes first",
                lambda f: int(f(torch.tensor([3, 2, 1, 0]))) == 2,
            ),
            ("find four pairs where four images stand in a ring", lambda f: int(f(torch.tensor([1, 2, 3, 0]))) == 4),
            ("not count an image that is mixed with itself", lambda f: int(f(torch.tensor([0, 2, 1, 3]))) == 1),
            ("keep pairs apart that share one image", lambda f: int(f(torch.tensor([1, 0, 1, 0, 4]))) == 3),
        ),
        (
            "Write down the pairs for partners = [3, 2, 1, 0]. Which of the four are the same?",
            "A set keeps one copy of each pair, provided (0, 3) and (3, 0) are written alike.",
            "Put the smaller number first, or use a frozenset, in which order means nothing. Skip an image that is its own "
            "partner. How large is the set in the end?",
        ),
        pairs,
        inputs=_partners,
        slips=(
            (
                "count a pair twice, once for each of its images",
                lambda partners: len({(i, p) for i, p in enumerate(partners.tolist()) if p != i}),
            ),
            (
                "count an image that is its own partner as a pair",
                lambda partners: len({frozenset((i, p)) for i, p in enumerate(partners.tolist())}),
            ),
            ("take half the number of images, as if partners always came in pairs", lambda partners: len(partners) // 2),
            ("count the different partners, not the pairs", lambda partners: len(partners.unique())),
            (
                "confuse pairs whose numbers have the same sum",
                lambda partners: len({i + p for i, p in enumerate(partners.tolist()) if p != i}),
            ),
        ),
    ),
}
