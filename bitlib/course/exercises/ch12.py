"""The exercises of notebooks/12_detection: the overlap of boxes, focal loss, non-maximum suppression, and average precision."""

from __future__ import annotations

import torch

from ..check import Exercise, alike


def overlaps(a, b):
    """IoU of every box in a with every box in b. a: [N, 4], b: [M, 4], each row x1, y1, x2, y2. Returns [N, M]."""
    corner = torch.maximum(a[:, None, :2], b[None, :, :2])
    far = torch.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = (far - corner).clamp(min=0).prod(2)
    areas = [(x[:, 2:] - x[:, :2]).prod(1) for x in (a, b)]
    return shared / (areas[0][:, None] + areas[1] - shared)


def focal_loss(logits, targets, alpha, gamma):
    """The sum of the focal losses of all logits. targets: 0.0 or 1.0, of the same shape as logits."""
    p = logits.sigmoid()
    p_true = p * targets + (1 - p) * (1 - targets)  # of what is the case
    weight = alpha * targets + (1 - alpha) * (1 - targets)
    return -(weight * (1 - p_true) ** gamma * p_true.log()).sum()


def suppress(boxes, scores, most):
    """Numbers of the boxes to keep, best score first. boxes: [N, 4] as x1, y1, x2, y2; most: the largest IoU of two of them."""
    kept = []
    for i in sorted(range(len(boxes)), key=lambda i: -scores[i]):
        if all(overlaps(boxes[i : i + 1], boxes[j : j + 1])[0, 0] <= most for j in kept):
            kept.append(i)
    return kept


def precision_area(scores, right, truths):
    """COCO's average precision. right: whether each box found a digit; truths: how many digits there are."""
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    hits, points = 0, []
    for count, i in enumerate(order, 1):
        hits += right[i]
        points.append((hits / truths, hits / count))
    best = [max([p for r, p in points if r >= at / 100 - 1e-12], default=0.0) for at in range(101)]
    return sum(best) / 101


# --- how answers go wrong ---


def _iou(a, b, *, clamp=True, minus=True, one=False, corners=False, smaller=False):
    """`overlaps` with one thing done in another way."""
    if corners:
        a, b = (torch.cat([x[:, :2], x[:, :2] + x[:, 2:]], 1) for x in (a, b))
    sides = torch.minimum(a[:, None, 2:], b[None, :, 2:]) - torch.maximum(a[:, None, :2], b[None, :, :2]) + one
    shared = (sides.clamp(min=0) if clamp else sides).prod(2)
    areas = [(x[:, 2:] - x[:, :2] + one).prod(1) for x in (a, b)]
    if smaller:
        return shared / torch.minimum(areas[0][:, None], areas[1])
    return shared / (areas[0][:, None] + areas[1] - shared * minus)


def _random_boxes(count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=generator) * 20
    return torch.cat([corner, corner + 4 + torch.rand(count, 2, generator=generator) * 16], 1)


_ROW = torch.tensor([[0.0, 0, 10, 10], [3, 0, 13, 10], [6, 0, 16, 10]])
_ONE = torch.tensor([[0.0, 0.0, 10.0, 10.0]])


def _at(f, *box: float) -> float:
    return float(f(_ONE, torch.tensor([[*map(float, box)]]))[0][0])


def _logits(seed: int) -> tuple:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(3, 4, generator=generator) * 2
    return logits, (torch.rand(3, 4, generator=generator) < 0.3).float(), 0.25, 2.0


def _focal(logits, targets, alpha, gamma, *, power=None, weight=None, mean=False, sign=-1, soft=False):
    """`focal_loss` with one thing done in another way."""
    p = logits.softmax(-1) if soft else logits.sigmoid()
    true = p * targets + (1 - p) * (1 - targets)
    weight = alpha * targets + (1 - alpha) * (1 - targets) if weight is None else weight(alpha, targets)
    terms = sign * weight * (power(true, gamma) if power else (1 - true) ** gamma) * true.log()
    return terms.mean() if mean else terms.sum()


def _loss(f, logit: float, target: float, alpha: float = 0.25, gamma: float = 2.0) -> float:
    return float(f(torch.tensor([logit]), torch.tensor([target]), alpha, gamma))


def _crowd(seed: int) -> tuple:
    generator = torch.Generator().manual_seed(seed)
    boxes = torch.cat([_random_boxes(3, seed)] * 3) + torch.rand(9, 4, generator=generator) * 2
    return boxes, [round(v, 4) for v in torch.rand(9, generator=generator).tolist()], 0.5


def _kept(answer) -> list[int]:
    return [int(i) for i in answer]


def _nms(boxes, scores, most, *, worst=False, against_all=False, turned=False, limit=None) -> list[int]:
    kept, gone = [], set()
    for i in sorted(range(len(boxes)), key=lambda i: scores[i] if worst else -scores[i]):
        others = gone | {*kept} if against_all else kept
        near = [float(overlaps(boxes[i : i + 1], boxes[j : j + 1])[0, 0]) for j in others]
        (kept.append if all((v > most if turned else v <= most) for v in near) else gone.add)(i)
    return kept[:limit]


def _ap(scores, right, truths, *, order=True, envelope=True, count=None, found=False) -> float:
    """`precision_area` with one thing done in another way."""
    order = sorted(range(len(scores)), key=lambda i: -scores[i]) if order else range(len(scores))
    hits, points, truths = 0, [], max(1, sum(right)) if found else truths
    for number, i in enumerate(order, 1):
        hits += right[i]
        points.append((hits / truths, hits / number))
    if count == "mean":
        return sum(p for _, p in points) / len(points)
    if count == "exact":
        steps = zip([0.0, *(r for r, _ in points)], points)
        return sum((r - before) * max(p for at, p in points if at >= r) for before, (r, _) in steps)
    if not envelope:
        steps = zip([0.0, *(r for r, _ in points)], points)
        return sum((r - before) * p for before, (r, p) in steps)
    ats = range(11) if count == 11 else range(101)
    most = len(ats) - 1
    return sum(max([p for r, p in points if r >= at / most - 1e-12], default=0.0) for at in ats) / len(ats)


def _cases() -> list[tuple]:
    found = []
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        scores = [round(v, 4) for v in torch.rand(7, generator=generator).tolist()]
        right = [bool(v) for v in (torch.rand(7, generator=generator) < 0.6).tolist()]
        found.append((scores, right, sum(right) + 1 + seed % 3))
    return found


EXERCISES: dict[str, Exercise] = {
    "overlaps": Exercise(
        "How much do boxes overlap?",
        (
            ("give a box an IoU of 1 with itself", lambda f: alike(_at(f, 0, 0, 10, 10), 1.0, 1e-5)),
            ("give a third where two boxes of one size share half of each", lambda f: alike(_at(f, 5, 0, 15, 10), 1 / 3, 1e-5)),
            ("give a quarter to a box inside one of four times its area", lambda f: alike(_at(f, 2, 2, 7, 7), 0.25, 1e-5)),
            ("give 0 where boxes lie apart to the side", lambda f: alike(_at(f, 20, 0, 30, 10), 0.0, 1e-5)),
            ("give 0 where boxes lie apart both ways", lambda f: alike(_at(f, 20, 20, 30, 30), 0.0, 1e-5)),
            (
                "return a row for each box of a and a column for each box of b",
                lambda f: tuple(f(_random_boxes(2, 1), _random_boxes(5, 2)).shape) == (2, 5),
            ),
        ),
        (
            "What two boxes share is a box itself, if they share anything. Where is its upper left corner, and where the lower "
            "right?",
            "The shared box begins at the larger of the two beginnings and ends at the smaller of the two ends. Its sides can "
            "come out negative; what does that mean?",
            "Set negative sides to 0 before you multiply them. The union is both areas together, less what is shared, which "
            "was counted twice. With a dimension more in each, a and b are compared in all pairs at once.",
        ),
        overlaps,
        inputs=lambda: [(_random_boxes(3, seed), _random_boxes(4, seed + 10)) for seed in range(3)],
        slips=(
            ("keep negative sides, whose product can be positive", lambda a, b: _iou(a, b, clamp=False)),
            ("count what is shared twice in the union", lambda a, b: _iou(a, b, minus=False)),
            ("add a pixel to every side, as old code did for whole-numbered boxes", lambda a, b: _iou(a, b, one=True)),
            ("take the boxes for x, y, width, height", lambda a, b: _iou(a, b, corners=True)),
            ("divide by the smaller box instead of the union", lambda a, b: _iou(a, b, smaller=True)),
            ("return the distance, 1 less the IoU", lambda a, b: 1 - overlaps(a, b)),
            ("exchange rows and columns", lambda a, b: overlaps(b, a)),
        ),
    ),
    "focal_loss": Exercise(
        "Write the focal loss.",
        (
            (
                "be the cross-entropy times α where γ is 0",
                lambda f: alike(_loss(f, 0.0, 1.0, 0.25, 0.0), 0.25 * 0.693147, 1e-4),
            ),
            (
                "weight an anchor without a digit by 1 − α",
                lambda f: alike(_loss(f, 0.0, 0.0, 0.25, 0.0), 0.75 * 0.693147, 1e-4),
            ),
            (
                "shrink the loss of an easy answer: at a probability of 0.9 by a factor of 100 where γ is 2",
                lambda f: alike(_loss(f, 2.197225, 1.0, 1.0, 2.0), 0.01 * 0.105361, 1e-3),
            ),
            (
                "shrink an easy background alike",
                lambda f: alike(_loss(f, -2.197225, 0.0, 0.25, 2.0), 0.75 * 0.01 * 0.105361, 1e-3),
            ),
            ("leave a hard answer nearly its whole loss", lambda f: _loss(f, -4.0, 1.0, 1.0, 2.0) > 0.95 * 4.01),
            (
                "sum over all logits",
                lambda f: alike(float(f(torch.zeros(2, 3), torch.ones(2, 3), 1.0, 0.0)), 6 * 0.693147, 1e-4),
            ),
        ),
        (
            "Every logit is a question of its own, yes or no. What probability does the network give to what is the case?",
            "That is p where the target is 1, and 1 − p where it is 0. The loss is minus its logarithm, times how wrong it is, "
            "to the power of γ.",
            "How wrong it is: 1 − p_true. The weight is α where the target is 1, and 1 − α where it is 0. Sum, don't average.",
        ),
        focal_loss,
        inputs=lambda: [_logits(seed) for seed in range(3)],
        run=lambda f, *given: float(f(*given)),
        slips=(
            (
                "raise p_true to the power, which keeps the easy answers and drops the hard ones",
                lambda *g: _focal(*g, power=lambda t, y: t**y),
            ),
            ("leave out the power: this is plain cross-entropy with weights", lambda *g: _focal(*g, power=lambda t, y: 1.0)),
            ("multiply by γ instead of raising to its power", lambda *g: _focal(*g, power=lambda t, y: (1 - t) * y)),
            ("weight everything by α, the background too", lambda *g: _focal(*g, weight=lambda a, t: a)),
            ("leave α out", lambda *g: _focal(*g, weight=lambda a, t: 1.0)),
            (
                "give α to the background and 1 − α to the digits",
                lambda *g: _focal(*g, weight=lambda a, t: (1 - a) * t + a * (1 - t)),
            ),
            ("average", lambda *g: _focal(*g, mean=True)),
            ("forget the minus sign", lambda *g: _focal(*g, sign=1)),
            ("take a softmax over the last dimension, where classes do not compete", lambda *g: _focal(*g, soft=True)),
        ),
    ),
    "suppress": Exercise(
        "Keep one box per object.",
        (
            (
                "keep both of two boxes that lie apart, the better one first",
                lambda f: _kept(f(torch.tensor([[0.0, 0, 9, 9], [20, 20, 29, 29]]), [0.3, 0.8], 0.5)) == [1, 0],
            ),
            (
                "keep the better of two boxes on one object",
                lambda f: _kept(f(torch.tensor([[0.0, 0, 10, 10], [1, 0, 11, 10]]), [0.6, 0.9], 0.5)) == [1],
            ),
            (
                "keep a box that overlaps only one that was dropped",
                lambda f: _kept(f(_ROW, [0.9, 0.8, 0.7], 0.5)) == [0, 2],
            ),
            ("return nothing for no boxes", lambda f: _kept(f(torch.zeros(0, 4), [], 0.5)) == []),
        ),
        (
            "Go through the boxes from the best score to the worst. When is a box one too many?",
            "A box is dropped if it overlaps one that was kept by more than `most`. Those that were themselves dropped don't "
            "count.",
            "Sort the numbers of the boxes by their scores, and compare each box with those kept so far by overlaps.",
        ),
        suppress,
        inputs=lambda: [_crowd(seed) for seed in range(4)],
        run=lambda f, *given: _kept(f(*given)),
        slips=(
            ("begin with the worst score", lambda *g: _nms(*g, worst=True)),
            ("compare with boxes that were themselves dropped", lambda *g: _nms(*g, against_all=True)),
            ("keep what overlaps and drop what does not", lambda *g: _nms(*g, turned=True)),
            ("keep everything", lambda boxes, scores, most: sorted(range(len(boxes)), key=lambda i: -scores[i])),
            ("keep only the best box of the image", lambda *g: _nms(*g, limit=1)),
            ("return the kept ones in the order in which they came", lambda *g: sorted(suppress(*g))),
        ),
    ),
    "precision_area": Exercise(
        "Compute an average precision.",
        (
            ("give 1 when every digit is found and nothing else", lambda f: alike(f([0.9, 0.8], [True, True], 2), 1.0, 1e-6)),
            ("give 0 when nothing is found", lambda f: alike(f([0.9, 0.8], [False, False], 2), 0.0, 1e-6)),
            (
                "lose nothing by a false alarm behind all digits",
                lambda f: alike(f([0.9, 0.8, 0.1], [True, True, False], 2), 1.0, 1e-6),
            ),
            (
                "lose half by a false alarm in front of the only digit",
                lambda f: alike(f([0.9, 0.8], [False, True], 1), 0.5, 1e-6),
            ),
            (
                "go by the scores, not by the order in the list",
                lambda f: alike(f([0.8, 0.9], [True, False], 1), 0.5, 1e-6),
            ),
            (
                "read 51 of the 101 places where half of the digits are found",
                lambda f: alike(f([0.9], [True], 2), 51 / 101, 1e-6),
            ),
        ),
        (
            "Sort by score. After each box, which share of the digits has been found, and which share of the boxes is right?",
            "At each recall 0, 0.01, …, 1, read the best precision that is reached at that recall or at a larger one; where "
            "none is, 0.",
            "Recall is hits divided by truths, precision is hits divided by boxes so far. Average the 101 readings. A recall "
            "that only rounding puts below its reading should count, so leave it 1e-12.",
        ),
        precision_area,
        inputs=_cases,
        slips=(
            ("ignore the scores", lambda *g: _ap(*g, order=False)),
            ("take the precision as it is, instead of the best still to come", lambda *g: _ap(*g, envelope=False)),
            ("read 11 places, as PASCAL VOC did until 2009, instead of 101", lambda *g: _ap(*g, count=11)),
            ("average the precisions of the boxes", lambda *g: _ap(*g, count="mean")),
            ("divide by the digits that were found, not by all there are", lambda *g: _ap(*g, found=True)),
            ("measure the area exactly, where COCO reads it at 101 places", lambda *g: _ap(*g, count="exact")),
            ("return the last precision", lambda scores, right, truths: sum(right) / len(right)),
        ),
    ),
}
