"""The exercises of notebooks/13_mistakes_and_robustness: a shift, calibration error, temperature, a finder of wrong labels."""

from __future__ import annotations

import math

import torch

from ..check import Exercise, alike
from .cases import leaves_alone


def on_background(digits, backgrounds):
    """Put bright ink on other ground, as much of it as the ink lets through. Both, and what is returned: uint8 [N, 3, H, W]."""
    ink = digits.float() / 255
    mixed = ink * digits.float() + (1 - ink) * backgrounds.float()
    return mixed.round().to(torch.uint8)


def expected_calibration_error(confidence, right, bins=10):
    """How far confidence is from accuracy, over bins of equal width. confidence: float [N], 0 to 1; right: bool [N]."""
    which = (confidence * bins).long().clamp(max=bins - 1)
    total = 0.0
    for k in range(bins):
        here = which == k
        if here.any():
            gap = confidence[here].double().mean() - right[here].double().mean()
            total += abs(gap.item()) * here.sum().item()
    return total / len(confidence)


def best_temperature(logits, labels):
    """The T > 0 for which softmax(logits / T) has the smallest mean cross-entropy. logits: float [N, C]; labels: int [N]."""
    logits, low, high = logits.double(), math.log(0.01), math.log(100)

    def loss(log_t):
        return torch.nn.functional.cross_entropy(logits / math.exp(log_t), labels).item()

    for _ in range(80):
        left, right = low + (high - low) / 3, high - (high - low) / 3
        if loss(left) < loss(right):
            high = right
        else:
            low = left
    return math.exp((low + high) / 2)


def suspects(features, labels, fold, fit):
    """Images whose label a model that has not seen it disagrees with, the least credible label first: a list of indices.

    fold: int [N], the part that each image belongs to. fit(features, labels) -> a function: features to probabilities [M, C].
    """
    said, credible = torch.empty_like(labels), torch.empty(len(labels), dtype=torch.double)
    for k in fold.unique():
        here = fold == k
        p = fit(features[~here], labels[~here])(features[here]).double()
        said[here] = p.argmax(1)
        credible[here] = p.gather(1, labels[here][:, None])[:, 0]
    flagged = (said != labels).nonzero()[:, 0]
    return flagged[credible[flagged].argsort()].tolist()


# --- for the checks ---
def _scene(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    digits = torch.randint(0, 256, (2, 3, 4, 4), generator=generator).to(torch.uint8)
    digits[:, :, 0], digits[:, :, 1] = 0, 255
    return digits, torch.randint(0, 256, digits.shape, generator=generator).to(torch.uint8)


def _flat(value: int) -> torch.Tensor:
    return torch.full((1, 3, 1, 1), value, dtype=torch.uint8)


def _mixed(digits, backgrounds, how):
    ink, d, b = digits.float() / 255, digits.float(), backgrounds.float()
    return how(ink, d, b).round().clamp(0, 255).to(torch.uint8)


def _guesses(seed: int = 0, count: int = 300) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    confidence = 0.3 + 0.7 * torch.rand(count, generator=generator).sqrt()
    return confidence, torch.rand(count, generator=generator) < confidence + 0.3 * torch.sin(40 * confidence)


def _binned(confidence, right, bins=10, *, how):
    """how(gaps, counts) over the bins that hold something; a gap is confidence minus accuracy."""
    which = (confidence * bins).long().clamp(max=bins - 1)
    filled = [which == k for k in range(bins) if (which == k).any()]
    gaps = torch.tensor([(confidence[f].double().mean() - right[f].double().mean()).item() for f in filled])
    return how(gaps, torch.tensor([f.sum().item() for f in filled])).item()


def _equally_full(confidence, right, bins=10):
    order = confidence.argsort()
    parts = [part for part in order.tensor_split(bins) if len(part)]
    gaps = [(confidence[part].double().mean() - right[part].double().mean()).abs().item() * len(part) for part in parts]
    return sum(gaps) / len(confidence)


def _outputs(seed: int = 0, scale: float = 1.0, count: int = 200) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 4, (count,), generator=generator)
    logits = torch.randn(count, 4, generator=generator) + 1.5 * torch.nn.functional.one_hot(labels, 4)
    return scale * logits, labels


def _smallest(loss) -> float:
    """The T at which loss(T) is smallest, on a fine grid of logarithms."""
    grid = torch.linspace(math.log(0.05), math.log(20), 2400).exp().tolist()
    return min(grid, key=loss)


def _calibration(logits, labels, t):
    confidence, said = (logits.double() / t).softmax(1).max(1)
    return expected_calibration_error(confidence, said == labels)


def _sureness(logits, labels, t):
    confidence, said = (logits.double() / t).softmax(1).max(1)
    return abs((confidence.mean() - (said == labels).double().mean()).item())


def _nearest(features, labels):
    """A model that knows its training images by heart: its probabilities follow the distances to them."""

    def judge(x):
        weight = (-4 * torch.cdist(x.double(), features.double())).softmax(1)
        return weight @ torch.nn.functional.one_hot(labels, 4).double()

    return judge


def _centroids(features, labels):
    """A model that knows only the mean of each class, and so does not believe every label it has seen."""
    seen = features.double()
    means = torch.stack([seen[labels == c].mean(0) if (labels == c).any() else seen[0] + 1e3 for c in range(4)])
    return lambda x: (-torch.cdist(x.double(), means)).softmax(1)


def _flock(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Four clouds of points, of which six points have a wrong label, and five parts."""
    generator = torch.Generator().manual_seed(seed)
    truth = torch.arange(80) % 4
    x = 4 * torch.nn.functional.one_hot(truth, 4).float() + torch.randn(80, 4, generator=generator)
    labels = truth.clone()
    wrong = torch.randperm(80, generator=generator)[:6]
    labels[wrong] = (labels[wrong] + 1 + torch.randint(0, 3, (6,), generator=generator)) % 4
    return x, labels, torch.randperm(80, generator=generator) % 5


def _uneven(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    x, labels, fold = _flock(seed)
    return x, labels, (fold > 1) * 7


def _judged(features, labels, fold, fit, *, seen="others"):
    """Probabilities of all images; seen: which images the model that judges them was fitted to."""
    p = torch.empty(len(labels), 4, dtype=torch.double)
    for k in fold.unique():
        here = fold == k
        used = {"others": ~here, "all": torch.ones_like(here), "own": here}[seen]
        p[here] = fit(features[used], labels[used])(features[here]).double()
    return p


def _listed(p, labels, score, *, everything=False, descending=False):
    found = torch.arange(len(labels)) if everything else (p.argmax(1) != labels).nonzero()[:, 0]
    return found[score(p, labels)[found].argsort(descending=descending)].tolist()


def _own(p, labels):
    return p.gather(1, labels[:, None])[:, 0]


def _with(fit=_nearest, **how):
    """A wrong answer to `suspects`: the parts of _judged and _listed in another way."""
    seen = how.pop("seen", "others")
    score = how.pop("score", _own)
    return lambda x, y, fold, fit: _listed(_judged(x, y, fold, fit, seen=seen), y, score, **how)


def _newton(logits, labels) -> float:
    """The temperature by Newton's method on b = 1 / T, on which the cross-entropy is convex."""
    z, b = logits.double(), 0.1
    own = z.gather(1, labels[:, None])[:, 0]
    for _ in range(100):
        p = (b * z).softmax(1)
        mean = (p * z).sum(1)
        slope, bend = (mean - own).mean(), ((p * z**2).sum(1) - mean**2).mean()
        b = max(b / 2, min(2 * b, (b - slope / bend).item()))
    return 1 / b


EXERCISES: dict[str, Exercise] = {
    "on_background": Exercise(
        "Put digits on other ground.",
        (
            (
                "leave full ink as it is and show the new ground where there is no ink at all",
                lambda f: f(*_scene(1))[:, :, 1].eq(255).all() and f(*_scene(1))[:, :, 0].equal(_scene(1)[1][:, :, 0]),
            ),
            (
                "mix where there is some ink: half ink of 128 on a ground of 200 gives 164",
                lambda f: f(_flat(128), _flat(200)).flatten().tolist() == [164] * 3,
            ),
            ("return uint8 again", lambda f: f(*_scene(2)).dtype == torch.uint8),
            ("leave both batches as they are", lambda f: leaves_alone(f, *_scene(3))),
        ),
        (
            "Take the brightness of a pixel for how much ink there is, from 0 to 1. What do you see where there is half of it?",
            "Compute in float: a sum of two uint8 tensors starts again from 0 when it passes 255. Round before you go back.",
            "Divide the digit by 255 to get the share of ink, weight the digit's own brightness by it and the ground by what "
            "is left to 1, add the two, round, and convert.",
        ),
        on_background,
        inputs=lambda: [_scene(seed) for seed in range(10, 13)],
        within=1e-9,
        slips=(
            (
                "add the two as uint8, which starts again from 0 above 255",
                lambda d, b: d + b,
            ),
            ("add the two and cut off at 255", lambda d, b: _mixed(d, b, lambda ink, d, b: d + b)),
            ("take the brighter of the two", lambda d, b: torch.maximum(d, b)),
            (
                "paste whole pixels, where half-inked edges should let some of the ground through",
                lambda d, b: torch.where(d > 127, d, b),
            ),
            ("have ink and ground exchanged", lambda d, b: _mixed(d, b, lambda ink, d, b: ink * b + (1 - ink) * d)),
            ("average the two", lambda d, b: _mixed(d, b, lambda ink, d, b: (d + b) / 2)),
            (
                "add the ink to what it lets through at full strength, without weighting the ink itself",
                lambda d, b: _mixed(d, b, lambda ink, d, b: d + (1 - ink) * b),
            ),
            (
                "cut off the decimals instead of rounding",
                lambda d, b: _mixed(d, b, lambda ink, d, b: (ink * d + (1 - ink) * b).floor()),
            ),
        ),
    ),
    "expected_calibration_error": Exercise(
        "How far is confidence from accuracy?",
        (
            (
                "return 0.4 for two images at 0.9, one of them right, and two at 0.6, both right",
                lambda f: alike(f(torch.tensor([0.9, 0.9, 0.6, 0.6]), torch.tensor([True, False, True, True])), 0.4),
            ),
            (
                "return 0 for ten images at 0.8 of which eight are right",
                lambda f: alike(f(torch.full((10,), 0.8), torch.arange(10) < 8) + 0.0, 0.0, 1e-3),
            ),
            (
                "count images with a confidence of exactly 1 to the last bin",
                lambda f: alike(f(torch.ones(4), torch.tensor([True, True, True, False])), 0.25),
            ),
            (
                "not let an error upwards in one bin cancel an error downwards in another",
                lambda f: alike(f(torch.tensor([0.9, 0.6]), torch.tensor([False, True])), 0.65),
            ),
            ("leave both tensors as they are", lambda f: leaves_alone(f, *_guesses(5))),
        ),
        (
            "Sort the images into bins by confidence. In each of them, compare two means.",
            "The number of a bin is confidence × bins, cut to a whole number; 1.0 needs care. An empty bin has no mean.",
            "For each bin that holds something, take the absolute difference of mean confidence and share of right answers, "
            "weight it by the images in it, add up, and divide by the number of all images.",
        ),
        expected_calibration_error,
        inputs=lambda: [(*_guesses(seed), bins) for seed, bins in ((0, 10), (1, 5), (2, 15))],
        slips=(
            (
                "weight all bins alike, however few images they hold",
                lambda c, r, b=10: _binned(c, r, b, how=lambda g, n: g.abs().mean()),
            ),
            (
                "let errors of different signs cancel, where the absolute value belongs inside the sum",
                lambda c, r, b=10: _binned(c, r, b, how=lambda g, n: ((g * n).sum() / n.sum()).abs()),
            ),
            ("return the largest difference of any bin", lambda c, r, b=10: _binned(c, r, b, how=lambda g, n: g.abs().max())),
            (
                "square the differences",
                lambda c, r, b=10: _binned(c, r, b, how=lambda g, n: ((g**2 * n).sum() / n.sum()).sqrt()),
            ),
            (
                "compare each image by itself, without bins, although a single answer is either right or wrong",
                lambda c, r, b=10: (c - r.float()).abs().mean().item(),
            ),
            ("make the bins equally full instead of equally wide", _equally_full),
        ),
    ),
    "best_temperature": Exercise(
        "Fit the one parameter of temperature scaling.",
        (
            (
                "find three times the temperature for three times the logits",
                lambda f: alike(f(*_outputs(1, 3.0)), 3 * best_temperature(*_outputs(1)), 1e-3),
            ),
            (
                "return about 1 for logits that are the true log-probabilities",
                lambda f: abs(f(*_outputs(2, 1.5 * 1.0, 4000)) - 1) < 0.1,
            ),
            (
                "agree with an optimiser that works in another way, Newton's method on 1 / T",
                lambda f: all(alike(f(*_outputs(s)), _newton(*_outputs(s)), 1e-3) for s in (3, 4)),
            ),
            ("leave logits and labels as they are", lambda f: leaves_alone(f, *_outputs(5))),
        ),
        (
            "Only one number is to be found. How does the mean cross-entropy on these images depend on it?",
            "It has a single lowest point, so any search on a line will find it. A logarithmic scale suits temperatures best.",
            "Keep an interval of log T. Compare the loss at one third and at two thirds of it, drop the outer third on the "
            "worse side, and repeat until the interval is narrow.",
        ),
        best_temperature,
        inputs=lambda: [_outputs(seed, scale) for seed, scale in ((10, 1.0), (11, 0.4), (12, 5.0))],
        within=5e-3,
        slips=(
            ("return 1 / T", lambda z, y: 1 / best_temperature(z, y)),
            (
                "minimise the calibration error, which jumps, instead of the cross-entropy",
                lambda z, y: _smallest(lambda t: _calibration(z, y, t)),
            ),
            (
                "match the mean confidence to the accuracy, whatever the single images say",
                lambda z, y: _smallest(lambda t: _sureness(z, y, t)),
            ),
            (
                "take the probabilities for logits",
                lambda z, y: best_temperature(z.double().softmax(1), y),
            ),
            (
                "look for the temperature of the highest accuracy, on which it has no influence",
                lambda z, y: _smallest(lambda t: -((z.double() / t).argmax(1) == y).double().mean().item()),
            ),
        ),
    ),
    "suspects": Exercise(
        "Which labels does a model not believe that has never seen them?",
        (
            (
                "judge an image by a model that was fitted without it; one that knows its images by heart believes every label",
                lambda f: len(f(*_flock(1), _nearest)) >= 5,
            ),
            (
                "return only images whose label differs from the prediction",
                lambda f: sorted(f(*_flock(2), _nearest)) == sorted(suspects(*_flock(2), _nearest)),
            ),
            (
                "put the label first that is least credible by its own probability",
                lambda f: list(f(*_flock(3), _nearest)) == suspects(*_flock(3), _nearest),
            ),
            (
                "go by the parts that it is given, whatever they are called and however large they are",
                lambda f: list(f(*_uneven(4), _nearest)) == suspects(*_uneven(4), _nearest),
            ),
            (
                "leave features, labels and parts as they are",
                lambda f: leaves_alone(lambda x, y, k: f(x, y, k, _nearest), *_flock(5)),
            ),
        ),
        (
            "Who may judge image i? Only a model that was fitted to images of other parts.",
            "For each part: fit to all the others, ask for probabilities of this one, and write them where they belong. Keep "
            "two things of each image, the predicted class and the probability of its own label.",
            "A mask of the part's images and its opposite split features and labels. Afterwards take the indices where "
            "prediction and label differ, and sort these by the probability of the label, smallest first.",
        ),
        suspects,
        inputs=lambda: [(*_flock(seed), fit) for seed in range(20, 23) for fit in (_nearest, _centroids)],
        slips=(
            ("judge labels that the model has been fitted to", _with(seen="all")),
            ("fit to the part that is judged instead of the others", _with(seen="own")),
            ("put the most credible label first", _with(descending=True)),
            ("return all images, and not only those on which the two differ", _with(everything=True)),
            (
                "sort by how sure the model is of its own answer, not by how little it believes the label",
                _with(score=lambda p, y: -p.max(1).values),
            ),
            ("return the images in the order in which they come", _with(score=lambda p, y: torch.arange(len(y)))),
        ),
    ),
}
