"""The exercises of notebooks/02_why_transfer: neighbours of one's own class, fields of view, and images that are needed."""

from __future__ import annotations

import torch

from ..check import Exercise, alike
from .cases import leaves_alone


def same_class_share(features, labels, k):
    """The share, from 0 to 1, of all images' k nearest others that are of the image's own class. Nearest by the cosine.

    features: float [N, F]; labels: int [N].
    """
    unit = features / features.norm(dim=1, keepdim=True)
    likeness = (unit @ unit.T).fill_diagonal_(-2)
    near = likeness.topk(k).indices
    return (labels[near] == labels[:, None]).double().mean().item()


def field_of_view(layers):
    """Side in pixels of the part of an image that one value can see. layers: (kernel, stride) pairs, from the image on."""
    field, step = 1, 1
    for kernel, stride in layers:
        field += (kernel - 1) * step
        step *= stride
    return field


def images_needed(shots, accuracies, wanted):
    """Images per class at which a curve first reaches the wanted accuracy, or None if it never does.

    shots: images per class, increasing; accuracies: measured there. Between two points, take the curve to be straight over
    the logarithm of the images per class.
    """
    if accuracies[0] >= wanted:
        return shots[0]
    for i in range(1, len(shots)):
        if accuracies[i] >= wanted:
            share = (wanted - accuracies[i - 1]) / (accuracies[i] - accuracies[i - 1])
            return shots[i - 1] * (shots[i] / shots[i - 1]) ** share
    return None


# --- same_class_share ---


def _images(seed: int) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Features of 15 images of three classes, of very different lengths."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(3).repeat(5)
    features = torch.randn(15, 4, generator=g, dtype=torch.float64) + 0.8 * torch.eye(3, 4, dtype=torch.float64)[labels]
    return features * torch.exp(torch.randn(15, 1, generator=g, dtype=torch.float64)), labels, 3


def _shared(features, labels, k, *, likeness=None, itself=False, largest=True, outcome=None) -> float:
    """same_class_share with one thing done in another way."""
    unit = features / features.norm(dim=1, keepdim=True)
    table = unit @ unit.T if likeness is None else likeness(features)
    if not itself:
        table = table.clone().fill_diagonal_(-torch.inf if largest else torch.inf)
    own = labels[table.topk(k, largest=largest).indices] == labels[:, None]
    return (own.double() if outcome is None else outcome(own)).double().mean().item()


def _pairs() -> torch.Tensor:
    """Features of eight images: i and i + 4 lie together, far from the others. New ones each time, for an answer to spoil."""
    axes = torch.eye(4, dtype=torch.float64)
    return torch.cat([axes + 0.1, axes + 0.1001])


# --- field_of_view ---

_SMALL = [(3, 2), (3, 1), (3, 1), (3, 2), (3, 1), (3, 2), (3, 1), (3, 2), (3, 1)]  # the 3x3 convolutions of glyphs-L


def _viewed(layers, widen, start: int = 1) -> int:
    """A field that starts at `start` and grows by widen(kernel, stride, product of earlier strides, the last of them)."""
    field, step, before = start, 1, 1
    for kernel, stride in layers:
        field += widen(kernel, stride, step, before)
        step, before = step * stride, stride
    return field


# --- images_needed ---

_SHOTS, _CURVE = [1, 4, 16, 64], [0.5, 0.7, 0.8, 0.9]


def _needed(shots, accuracies, wanted, between, never=None, last=False):
    """images_needed with another way between two points, another answer for "never", or from the other end."""
    crossings = [i for i in range(1, len(shots)) if accuracies[i - 1] < wanted <= accuracies[i]]
    if accuracies[0] >= wanted and not (last and crossings):
        return shots[0]
    if not crossings:
        return never(shots) if never else None
    i = crossings[-1 if last else 0]
    share = (wanted - accuracies[i - 1]) / (accuracies[i] - accuracies[i - 1])
    return between(shots[i - 1], shots[i], share)


def _logarithmic(a, b, share):
    return a * (b / a) ** share


EXERCISES: dict[str, Exercise] = {
    "same_class_share": Exercise(
        "How many of the nearest neighbours are of the same class?",
        (
            (
                "return 1 where the images of a class lie together",
                lambda f: alike(f(_pairs(), torch.arange(4).repeat(2), 1), 1.0),
            ),
            (
                "return 0 where every image lies beside one of another class; no image is its own neighbour",
                lambda f: alike(f(_pairs(), torch.arange(8), 1), 0.0),
            ),
            (
                "count each of the k neighbours: of 3 neighbours, 1 is of the same class",
                lambda f: alike(f(_pairs(), torch.arange(4).repeat(2), 3), 1 / 3),
            ),
            (
                "look at directions only: an image whose features are ten times as large keeps its neighbours",
                lambda f: alike(
                    f(_pairs() * torch.tensor([1, 10, 100, 1, 10, 1, 1, 100.0])[:, None], torch.arange(4).repeat(2), 1), 1.0
                ),
            ),
            (
                "leave the features as they were",
                lambda f: leaves_alone(lambda x: f(x, torch.arange(4).repeat(2), 2), _pairs()),
            ),
        ),
        (
            "The cosine of two vectors is their product after each has been divided by its length. Who is nearest to an image, "
            "if you let everybody compete?",
            "One matrix product gives the likeness of all pairs. Make sure that no image can win against itself, then take the "
            "k largest of every row.",
            "Put something below −1 on the diagonal before topk. Then look the winners' labels up, compare them with the "
            "label of the row, and average over all rows and all k.",
        ),
        same_class_share,
        inputs=lambda: [_images(0), _images(1), _images(2)],
        slips=(
            ("count every image as its own neighbour", lambda *a: _shared(*a, itself=True)),
            (
                "multiply features without dividing by their lengths, so that large images win",
                lambda *a: _shared(*a, likeness=lambda x: x @ x.T),
            ),
            (
                "take the Euclidean distance, in which lengths count",
                lambda *a: _shared(*a, likeness=lambda x: torch.cdist(x, x), largest=False),
            ),
            ("take the images that are least similar", lambda *a: _shared(*a, largest=False)),
            ("look at the nearest one only", lambda x, y, k: _shared(x, y, 1)),
            ("ask whether any of the k is of the same class", lambda *a: _shared(*a, outcome=lambda own: own.any(1))),
            (
                "ask whether most of the k are of the same class",
                lambda *a: _shared(*a, outcome=lambda own: own.double().mean(1) > 0.5),
            ),
            ("return the share of other classes", lambda *a: 1 - same_class_share(*a)),
        ),
    ),
    "field_of_view": Exercise(
        "How much of an image can one value of a layer see?",
        (
            ("return 1 without any layers: a pixel sees itself", lambda f: f([]) == 1),
            ("return 3 for one 3×3 convolution, whatever its stride", lambda f: f([(3, 1)]) == 3 and f([(3, 2)]) == 3),
            ("return 5 for two 3×3 convolutions on one another", lambda f: f([(3, 1), (3, 1)]) == 5),
            (
                "let a stride widen the steps of what comes after it: 3×3 with stride 2, then 3×3, see 7",
                lambda f: f([(3, 2), (3, 1)]) == 7,
            ),
            ("multiply strides: 3×3 three times with stride 2 see 15", lambda f: f([(3, 2)] * 3) == 15),
            ("count the stride of a 1×1, too", lambda f: f([(1, 2), (3, 1)]) == 5 and f([(1, 1)] * 9) == 1),
            (
                "return 11 for the stem of R50x1: 7×7 with stride 2, then a 3×3 pool with stride 2",
                lambda f: f([(7, 2), (3, 2)]) == 11,
            ),
        ),
        (
            "Walk from the image to the value. What does a 3×3 convolution add to what its inputs already see?",
            "A kernel reaches one step further on either side. How many pixels of the image is one step, after two layers "
            "with stride 2?",
            "Keep two numbers: the field, and how many pixels apart neighbouring values of the present layer are. The first "
            "grows by the second, once for each step from the first to the last weight of the kernel; then the second is "
            "multiplied.",
        ),
        field_of_view,
        inputs=lambda: [
            (_SMALL,),
            ([(7, 2), (3, 2), (1, 1), (3, 1)],),
            ([(5, 3), (3, 2), (3, 1), (3, 3)],),
            ([(1, 2), (3, 2), (5, 1)],),
        ],
        within=1e-9,
        slips=(
            ("ignore the strides", lambda layers: _viewed(layers, lambda k, s, step, before: k - 1)),
            ("add the kernels up", lambda layers: _viewed(layers, lambda k, s, step, before: k, start=0)),
            (
                "widen by the whole kernel, not by its steps",
                lambda layers: _viewed(layers, lambda k, s, step, before: k * step),
            ),
            (
                "let the stride of a layer widen its own kernel",
                lambda layers: _viewed(layers, lambda k, s, step, before: (k - 1) * step * s),
            ),
            (
                "use the stride of the last layer only, not the product of all",
                lambda layers: _viewed(layers, lambda k, s, step, before: (k - 1) * before),
            ),
            ("count one side of the kernel", lambda layers: _viewed(layers, lambda k, s, step, before: k // 2 * step)),
            ("start at 0, without the pixel itself", lambda layers: field_of_view(layers) - 1),
            ("walk from the last layer to the image", lambda layers: field_of_view(layers[::-1])),
        ),
    ),
    "images_needed": Exercise(
        "How many images per class does a method need for an accuracy?",
        (
            (
                "return a measured point where the curve reaches the accuracy exactly there",
                lambda f: alike(f(_SHOTS, _CURVE, 0.8), 16),
            ),
            (
                "lie halfway on a logarithmic axis for an accuracy halfway: between 4 and 16, that is 8",
                lambda f: alike(f(_SHOTS, _CURVE, 0.75), 8),
            ),
            ("return the fewest images where they already suffice", lambda f: alike(f(_SHOTS, _CURVE, 0.4), 1)),
            ("return None where the curve never gets there", lambda f: f(_SHOTS, _CURVE, 0.95) is None),
            (
                "take the first crossing of a curve that goes up and down",
                lambda f: alike(f(_SHOTS, [0.5, 0.8, 0.6, 0.9], 0.7), 4 ** (2 / 3)),
            ),
            ("leave the lists as they were", lambda f: leaves_alone(lambda x: f(x, list(_CURVE), 0.75), list(_SHOTS))),
        ),
        (
            "Find the two measured points between which the curve crosses the accuracy. In two cases there is no such pair.",
            "Which share of the way up lies the accuracy between the two? Go that share of the way from the lower to the upper "
            "number of images, on a logarithmic scale.",
            "On a logarithmic scale equal steps are equal factors: halfway from 4 to 16 is 4 times the root of 4. Multiply "
            "the lower number by the ratio of the two, raised to the share.",
        ),
        images_needed,
        inputs=lambda: [
            (_SHOTS, _CURVE, 0.78),
            (_SHOTS, _CURVE, 0.55),
            (_SHOTS, _CURVE, 0.3),
            (_SHOTS, _CURVE, 0.99),
            ([1, 5, 10, 25], [0.5, 0.8, 0.75, 0.9], 0.78),
        ],
        slips=(
            (
                "go straight on the number of images, not on its logarithm",
                lambda *a: _needed(*a, lambda x, y, share: x + share * (y - x)),
            ),
            ("take the next measured number", lambda *a: _needed(*a, lambda x, y, share: y)),
            ("take the last measured number before it", lambda *a: _needed(*a, lambda x, y, share: x)),
            (
                "return the largest number where the curve never gets there",
                lambda *a: _needed(*a, _logarithmic, never=lambda shots: shots[-1]),
            ),
            (
                "return infinity where None was asked for",
                lambda *a: _needed(*a, _logarithmic, never=lambda shots: float("inf")),
            ),
            ("go the share from the upper end", lambda *a: _needed(*a, lambda x, y, share: _logarithmic(x, y, 1 - share))),
            ("take the last crossing", lambda *a: _needed(*a, _logarithmic, last=True)),
        ),
    ),
}
