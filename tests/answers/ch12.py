"""Answers to the exercises of chapter 12."""

import numpy as np
import torch
import torchvision


def _iou(a, b, *, clamp=True, minus=True, one=False, corners=False):
    if corners:
        a, b = (torch.cat([x[:, :2], x[:, :2] + x[:, 2:]], 1) for x in (a, b))
    w = torch.minimum(a[:, None, 2], b[None, :, 2]) - torch.maximum(a[:, None, 0], b[None, :, 0]) + one
    h = torch.minimum(a[:, None, 3], b[None, :, 3]) - torch.maximum(a[:, None, 1], b[None, :, 1]) + one
    if clamp:
        w, h = w.clamp(min=0), h.clamp(min=0)
    size = [(x[:, 2] - x[:, 0] + one) * (x[:, 3] - x[:, 1] + one) for x in (a, b)]
    return w * h / (size[0][:, None] + size[1][None] - w * h * minus)


def _by_loops(a, b):
    rows = []
    for p in a.tolist():
        row = []
        for q in b.tolist():
            w, h = min(p[2], q[2]) - max(p[0], q[0]), min(p[3], q[3]) - max(p[1], q[1])
            shared = w * h if w > 0 and h > 0 else 0.0
            row.append(shared / ((p[2] - p[0]) * (p[3] - p[1]) + (q[2] - q[0]) * (q[3] - q[1]) - shared))
        rows.append(row)
    return torch.tensor(rows)


def _focal(logits, targets, alpha, gamma, *, hard=None, weight=None):
    ce = torch.nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    true = torch.exp(-ce)
    hard = (1 - true) ** gamma if hard is None else hard(true, gamma)
    weight = torch.where(targets == 1, alpha, 1 - alpha) if weight is None else weight(targets, alpha)
    return (weight * hard * ce).sum()


def _nms(boxes, scores, most):
    order, kept = list(np.argsort(scores)[::-1]), []
    while order:
        best = order.pop(0)
        kept.append(best)
        order = [i for i in order if _by_loops(boxes[[best]], boxes[[i]])[0, 0] <= most]
    return kept


def _once(boxes, scores, most):
    """Drops what overlaps anything better, dropped or not."""
    order = sorted(range(len(boxes)), key=lambda i: -scores[i])
    return [i for n, i in enumerate(order) if all(_by_loops(boxes[[i]], boxes[[j]])[0, 0] <= most for j in order[:n])]


def _ap(scores, right, truths, *, places=101):
    order = np.argsort([-s for s in scores], kind="stable")
    hits = np.cumsum(np.asarray(right, float)[order])
    recall, precision = hits / truths, hits / np.arange(1, len(hits) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    at = np.searchsorted(recall, np.linspace(0, 1, places) - 1e-12)
    return float(np.mean([precision[i] if i < len(precision) else 0.0 for i in at]))


def _coco(scores, right, truths):
    """Asks pycocotools: a row of digits far apart, and boxes on them or beside them."""
    from bitlib.detection import average_precision

    box = [[20.0 * i, 0.0, 20.0 * i + 10, 10.0] for i in range(truths)]
    notes = [
        {"id": i + 1, "image_id": 0, "category_id": 0, "bbox": [b[0], 0.0, 10.0, 10.0], "area": 100.0, "iscrowd": 0}
        for i, b in enumerate(box)
    ]
    truth = {"images": [{"id": 0}], "annotations": notes, "categories": [{"id": 0, "name": "digit"}]}
    free = iter(box)
    found = [next(free) if hit else [0.0, 500.0, 10.0, 510.0] for hit in right]
    labels = torch.zeros(len(found), dtype=torch.long)
    boxes = {"boxes": torch.tensor(found), "scores": torch.tensor(scores, dtype=torch.float64), "labels": labels}
    return average_precision(truth, [boxes])["ap50"]


WRONG = {
    "overlaps": {
        "no clamp": (lambda a, b: _iou(a, b, clamp=False), "0 where boxes lie apart"),
        "shared twice": (lambda a, b: _iou(a, b, minus=False), "shared twice in the union"),
        "a pixel more": (lambda a, b: _iou(a, b, one=True), "share half of each"),
        "x, y, w, h": (lambda a, b: _iou(a, b, corners=True), "take the boxes for x, y, width, height"),
        "transposed": (lambda a, b: _iou(b, a), "a row for each box of a"),
        "distance": (lambda a, b: 1 - _iou(a, b), "IoU of 1 with itself"),
        "shared area": (
            lambda a, b: _iou(a, b) * 100,
            "IoU of 1 with itself",
        ),
        "first pair only": (lambda a, b: _iou(a, b)[:1, :1], "a row for each box of a"),
    },
    "focal_loss": {
        "no α": (lambda x, t, a, g: _focal(x, t, a, g, weight=lambda t, a: 1.0), "leave α out"),
        "α for all": (lambda x, t, a, g: _focal(x, t, a, g, weight=lambda t, a: a), "weight everything by α"),
        "α the wrong way": (
            lambda x, t, a, g: _focal(x, t, 1 - a, g),
            "α to the background",
        ),
        "γ of the right answer": (lambda x, t, a, g: _focal(x, t, a, g, hard=lambda p, g: p**g), "keeps the easy answers"),
        "no γ": (lambda x, t, a, g: _focal(x, t, a, g, hard=lambda p, g: 1.0), "plain cross-entropy"),
        "times γ": (lambda x, t, a, g: _focal(x, t, a, g, hard=lambda p, g: (1 - p) * g), "be the cross-entropy"),
        "mean": (lambda x, t, a, g: _focal(x, t, a, g) / x.numel(), "sum over all logits"),
        "sign": (lambda x, t, a, g: -_focal(x, t, a, g), "forget the minus sign"),
    },
    "suppress": {
        "against the dropped": (_once, "only one that was dropped"),
        "worst first": (lambda b, s, m: _nms(b, [-v for v in s], m), "the better one first"),
        "everything": (lambda b, s, m: sorted(range(len(b)), key=lambda i: -s[i]), "on one object"),
        "by position": (lambda b, s, m: sorted(_nms(b, s, m)), "the better one first"),
        "one only": (lambda b, s, m: _nms(b, s, m)[:1], "that lie apart"),
        "boxes": (lambda b, s, m: b[_nms(b, s, m)], "cannot be used here"),
    },
    "precision_area": {
        "as listed": (lambda s, r, n: _ap(range(len(s), 0, -1), r, n), "not by the order in the list"),
        "11 places": (lambda s, r, n: _ap(s, r, n, places=11), "read 11 places"),
        "of those found": (lambda s, r, n: _ap(s, r, max(1, sum(r))), "digits that were found"),
        "worst first": (lambda s, r, n: _ap([-v for v in s], r, n), "lose nothing by a false alarm"),
        "precision": (lambda s, r, n: sum(r) / len(r), "lose nothing by a false alarm"),
        "recall": (lambda s, r, n: sum(r) / n, "lose half by a false alarm"),
        "of 100": (lambda s, r, n: 100 * _ap(s, r, n), "give 1 when every digit is found"),
    },
}
RIGHT = {
    "overlaps": {"torchvision": torchvision.ops.box_iou, "loops": _by_loops},
    "focal_loss": {
        "torchvision": lambda x, t, a, g: torchvision.ops.sigmoid_focal_loss(x, t, a, g, "sum"),
        "from the cross-entropy": _focal,
    },
    "suppress": {
        "torchvision": lambda b, s, m: torchvision.ops.nms(b, torch.tensor(s, dtype=b.dtype), m),
        "a queue": _nms,
    },
    "precision_area": {"NumPy": _ap, "pycocotools": _coco},
}
