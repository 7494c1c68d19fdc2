"""The exercises of notebooks/08_hyperrule: the best of k trials, what a random crop keeps, and which classes are mirrored."""

from __future__ import annotations

from itertools import combinations
from math import comb
from statistics import fmean

import torch

from ..check import Exercise, alike
from .cases import leaves_alone, shares_of_one


def expected_best(validation, test, k):
    """Test accuracy, averaged over all choices of k trials, of the one best on validation; no two trials are level there."""
    order = sorted(range(len(test)), key=lambda i: validation[i], reverse=True)
    total = 0.0
    for place, i in enumerate(order):
        worse = len(order) - 1 - place
        total += comb(worse, k - 1) * test[i]  # the other k - 1 all come from the worse ones
    return total / comb(len(order), k)


def kept(y, x, resize, crop):
    """Share of all crops of crop x crop pixels, cut out of resize x resize, that contain pixel (y, x); counted from 0."""
    places, share = resize - crop + 1, 1.0
    for at in (y, x):
        first, last = max(0, at - crop + 1), min(at, resize - crop)
        share *= (last - first + 1) / places
    return share


def mirror_twins(images, labels):
    """For every class, the class whose mean image is nearest to its own, mirrored left to right. images: float [N, H, W]."""
    means = torch.stack([images[labels == label].mean(0) for label in range(int(labels.max()) + 1)])
    mirrored = means.flip(2)
    distance = (mirrored.flatten(1)[:, None] - means.flatten(1)[None]).square().sum(2)
    return distance.argmin(1).tolist()


# --- for the checks ---
def _trials(count: int, seed: int) -> tuple[list[float], list[float]]:
    return shares_of_one(count, seed), shares_of_one(count, seed + 50)


def _over_choices(pick, validation, test, k: int) -> float:
    """The mean of pick(chosen trials) over all choices of k."""
    return fmean(pick(chosen) for chosen in combinations(range(len(test)), k))


def _with_replacement(validation, test, k: int) -> float:
    order, n = sorted(range(len(test)), key=lambda i: validation[i], reverse=True), len(test)
    return sum((((n - p) / n) ** k - ((n - p - 1) / n) ** k) * test[i] for p, i in enumerate(order))


def _share(at: int, resize: int, crop: int) -> float:
    return kept(at, at, resize, crop) ** 0.5


def _letters(seed: int = 0, side: int = 6, copies: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    """Five classes: a shape, its mirror image, it upside down, both, and one that is its own mirror image; with noise."""
    generator = torch.Generator().manual_seed(seed)
    shape = torch.rand(side, side, generator=generator)
    own = torch.rand(side, side, generator=generator)
    kinds = torch.stack([shape, shape.flip(1), shape.flip(0), shape.flip(0, 1), (own + own.flip(1)) / 2 + 0.5])
    labels = torch.arange(5).repeat(copies)
    labels = labels[torch.randperm(len(labels), generator=generator)]
    return kinds[labels] + 0.6 * torch.randn(len(labels), side, side, generator=generator), labels


def _twins(images, labels, *, flip=(2,), means=True, own=True, near=True):
    """mirror_twins, with one thing done in another way."""
    classes = range(int(labels.max()) + 1)
    looks = torch.stack([images[labels == c].mean(0) if means else images[labels == c][0] for c in classes])
    mirrored = (looks.flip(flip) if flip else looks).flatten(1)
    distance = (mirrored[:, None] - looks.flatten(1)[None]).square().sum(2)
    if not own:
        distance.fill_diagonal_(float("inf"))
    return (distance.argmin(1) if near else (mirrored @ looks.flatten(1).T).argmax(1)).tolist()


EXERCISES: dict[str, Exercise] = {
    "expected_best": Exercise(
        "What to expect of the best of k trials.",
        (
            (
                "return 0.7 for three trials of which two are chosen: validation 0.9, 0.8, 0.7 and test 0.6, 0.9, 0.5",
                lambda f: alike(f([0.9, 0.8, 0.7], [0.6, 0.9, 0.5], 2), 0.7),
            ),
            (
                "return the mean of all test accuracies for k = 1, where there is nothing to choose",
                lambda f: alike(f([0.2, 0.6, 0.4], [0.3, 0.5, 0.7], 1), 0.5),
            ),
            (
                "return, if k is all of them, the test accuracy of the trial with the best validation accuracy",
                lambda f: alike(f([0.2, 0.6, 0.4], [0.3, 0.5, 0.7], 3), 0.5),
            ),
            (
                "not depend on the order in which the trials come",
                lambda f: alike(f([0.7, 0.9, 0.8], [0.5, 0.6, 0.9], 2), f([0.9, 0.8, 0.7], [0.6, 0.9, 0.5], 2)),
            ),
            ("leave the two lists as they are", lambda f: leaves_alone(f, [0.2, 0.6, 0.4], [0.3, 0.5, 0.7], 2)),
            (
                "take no longer for 15 of 30 trials, which can be chosen in 155 million ways",
                lambda f: alike(f(*_trials(30, 1), 15), expected_best(*_trials(30, 1), 15)),
            ),
        ),
        (
            "Line the trials up by validation accuracy, best first. In how many choices of k trials does the first one win?",
            "A trial wins if it is chosen and everything better is not. So the other k − 1 come from the trials behind it.",
            "With m trials behind it, a trial wins in comb(m, k − 1) of the comb(n, k) choices; comb is in the module math. "
            "Add up these shares, each times the trial's test accuracy.",
        ),
        expected_best,
        inputs=lambda: [
            (*_trials(n, seed), k) for seed, (n, k) in enumerate([(4, 2), (6, 3), (8, 2), (8, 7), (5, 1), (12, 4)])
        ],
        within=1e-9,
        slips=(
            (
                "take the best on the test images, which no search may look at",
                lambda v, t, k: _over_choices(lambda some: max(t[i] for i in some), v, t, k),
            ),
            (
                "return the validation accuracy of the winner, which flatters it",
                lambda v, t, k: _over_choices(lambda some: max(v[i] for i in some), v, t, k),
            ),
            ("let a trial be chosen more than once", _with_replacement),
            ("take the first k trials instead of all choices of k", lambda v, t, k: t[max(range(k), key=lambda i: v[i])]),
            (
                "take the worst on validation",
                lambda v, t, k: _over_choices(lambda some: t[min(some, key=lambda i: v[i])], v, t, k),
            ),
            (
                "average the k best trials",
                lambda v, t, k: fmean(t[i] for i in sorted(range(len(t)), key=lambda i: -v[i])[:k]),
            ),
            ("forget to divide by the number of choices", lambda v, t, k: expected_best(v, t, k) * comb(len(t), k)),
        ),
    ),
    "kept": Exercise(
        "What does a random crop keep?",
        (
            ("return 1 everywhere if the crop is the whole image", lambda f: f(0, 0, 32, 32) == 1 and f(31, 5, 32, 32) == 1),
            (
                "return 1 for the pixel in the middle, which every crop of 128 out of 160 contains",
                lambda f: f(80, 80, 160, 128) == 1,
            ),
            (
                "find a corner in one of the 33 × 33 crops",
                lambda f: alike(f(0, 0, 160, 128), 1 / 33**2) and alike(f(159, 159, 160, 128), 1 / 33**2),
            ),
            (
                "treat the four sides alike",
                lambda f: alike([f(3, 20, 40, 32), f(36, 20, 40, 32), f(20, 3, 40, 32), f(20, 36, 40, 32)], [4 / 9] * 4),
            ),
            (
                "cope with a crop smaller than half the image, which no pixel is sure to be in",
                lambda f: alike(f(10, 10, 20, 5), (5 / 16) ** 2),
            ),
        ),
        (
            "Take one side first. At how many places can a crop begin, and at which of them does it contain pixel x?",
            "A crop that begins at place p contains the pixels from p to p + crop − 1. And p itself runs from 0 to "
            "resize − crop, both included.",
            "The first place is the larger of 0 and x − crop + 1, the last one the smaller of x and resize − crop. Height and "
            "width are independent, so their shares are multiplied.",
        ),
        kept,
        inputs=lambda: [(0, 0, 40, 32), (3, 39, 40, 32), (20, 20, 40, 32), (7, 30, 36, 32), (5, 14, 20, 5), (11, 2, 12, 12)],
        within=1e-9,
        slips=(
            (
                "return the crop's share of the area, which is the mean over all pixels",
                lambda y, x, resize, crop: (crop / resize) ** 2,
            ),
            ("look at one direction only", lambda y, x, resize, crop: _share(x, resize, crop)),
            (
                "add the two directions, where both have to hold",
                lambda y, x, resize, crop: (_share(y, resize, crop) + _share(x, resize, crop)) / 2,
            ),
            (
                "count one place too few for the crop to begin",
                lambda y, x, resize, crop: kept(y, x, resize, crop) * ((resize - crop + 1) / max(1, resize - crop)) ** 2,
            ),
            (
                "look at the upper and left edge only",
                lambda y, x, resize, crop: (
                    min(y + 1, resize - crop + 1) * min(x + 1, resize - crop + 1) / (resize - crop + 1) ** 2
                ),
            ),
            (
                "cut the crop out of the middle",
                lambda y, x, resize, crop: float(all((resize - crop) // 2 <= at < (resize + crop) // 2 for at in (y, x))),
            ),
        ),
    ),
    "mirror_twins": Exercise(
        "Which classes are mirror images of each other?",
        (
            ("find that a shape and its mirror image are each other's twins", lambda f: list(f(*_letters(1)))[:2] == [1, 0]),
            (
                "find the same for the two that stand upside down, and not mix up the pairs",
                lambda f: list(f(*_letters(2)))[2:4] == [3, 2],
            ),
            ("let a symmetric class be its own twin", lambda f: f(*_letters(3))[4] == 4),
            (
                "use the mean of a class, since any single image is too noisy",
                lambda f: all(list(f(*_letters(seed))) == [1, 0, 3, 2, 4] for seed in range(10, 30)),
            ),
            ("leave the images and the labels as they are", lambda f: leaves_alone(f, *_letters(4))),
        ),
        (
            "Two steps: a mean image for every class, then distances between mirrored means and means.",
            "Left to right is the last dimension of a tensor of images. Compare a mirrored mean with all means as they are, "
            "its own among them.",
            "Flatten the means to [classes, pixels], subtract every one from every mirrored one, square, add up, and take the "
            "index of the smallest in each row.",
        ),
        mirror_twins,
        inputs=lambda: [_letters(seed) for seed in range(40, 44)],
        slips=(
            ("mirror top to bottom", lambda images, labels: _twins(images, labels, flip=(1,))),
            ("turn the images by 180°", lambda images, labels: _twins(images, labels, flip=(1, 2))),
            ("forget to mirror", lambda images, labels: _twins(images, labels, flip=())),
            ("never let a class be its own twin", lambda images, labels: _twins(images, labels, own=False)),
            ("look at the first image of each class", lambda images, labels: _twins(images, labels, means=False)),
            (
                "take the largest product, which goes to the brightest class",
                lambda images, labels: _twins(images, labels, near=False),
            ),
        ),
    ),
}
