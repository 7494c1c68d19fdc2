"""Boxes found in one scene, against the true ones: who counts as found, the curve of precision and recall, and its area."""

from __future__ import annotations

from collections.abc import Sequence

import traitlets as t

from ..show import Html, png, table
from .base import Explorable, data_url

POINTS = [i / 100 for i in range(101)]  # the recalls at which COCO reads the precision
IOUS = [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95]
# What a detector might have found in the example: (true box, shift right and down and change of width and height as shares
# of that box, score). The fifth finds a box a second time, the last one finds nothing.
FOUND = (
    (0, (0.04, -0.02, 0.05, 0.03), 0.94),
    (1, (-0.10, 0.06, 0.10, -0.06), 0.88),
    (2, (0.16, 0.10, 0.05, 0.12), 0.71),
    (3, (0.02, 0.03, -0.04, 0.02), 0.52),
    (0, (-0.14, 0.12, 0.10, 0.05), 0.63),
    (None, (4, 8, 18, 24), 0.35),
)
SCENE = (12, "test")  # seed and split of the example's scene


def iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Area that two boxes (x1, y1, x2, y2) share, over the area that they cover together."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    shared = max(0.0, width) * max(0.0, height)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def matched(truth: Sequence, boxes: Sequence, scores: Sequence[float], least: float) -> list[int]:
    """For each box the number of the true one that it found, or -1. The best score chooses first, and takes what it overlaps
    most of those that are left and that it overlaps by `least` or more."""
    found, free = [-1] * len(boxes), set(range(len(truth)))
    for i in sorted(range(len(boxes)), key=lambda i: -scores[i]):
        # COCO's tolerance, so that an IoU that is level counts.
        near = [j for j in sorted(free) if iou(boxes[i], truth[j]) >= min(least, 1 - 1e-10)]
        if near:
            found[i] = max(near, key=lambda j: iou(boxes[i], truth[j]))
            free.discard(found[i])
    return found


def curve(right: Sequence[bool], scores: Sequence[float], truths: int) -> tuple[list[float], list[float]]:
    """(recall, precision) after each box, from the best score on."""
    order, hits, recall, precision = sorted(range(len(right)), key=lambda i: -scores[i]), 0, [], []
    for count, i in enumerate(order, 1):
        hits += right[i]
        recall.append(hits / truths)
        precision.append(hits / count)
    return recall, precision


def area(recall: Sequence[float], precision: Sequence[float]) -> float:
    """COCO's average precision: at each of 101 recalls, the best precision that is still reached there or beyond."""
    best = [max((p for r, p in zip(recall, precision) if r >= at - 1e-12), default=0.0) for at in POINTS]
    return sum(best) / len(best)


class Boxes(Explorable):
    """A scene with true boxes and found ones, one of which can be moved.

    truth, boxes: [[x1, y1, x2, y2], ...] in pixels of an image of `side` pixels; scores: of the found ones. The first found box
    stands where left, top, width and height say. iou: least overlap that counts; score: least score that is kept.
    """

    module = "boxes"
    alt = (
        "A scene of digits with true boxes and found ones, and the curve of precision over recall. At an IoU of 0.5 all four "
        "digits count as found, with a false alarm in between; the area under the curve is the average precision."
    )
    image = t.Unicode("").tag(sync=True)
    side = t.Int(96).tag(sync=True)
    truth = t.List(t.List(t.Float())).tag(sync=True)
    boxes = t.List(t.List(t.Float())).tag(sync=True)
    scores = t.List(t.Float()).tag(sync=True)
    left = t.Float(0.0).tag(sync=True)
    top = t.Float(0.0).tag(sync=True)
    width = t.Float(20.0).tag(sync=True)
    height = t.Float(20.0).tag(sync=True)
    iou = t.Float(0.5).tag(sync=True)
    score = t.Float(0.05).tag(sync=True)

    @classmethod
    def example(cls) -> Boxes:
        """A scene of four digits, and six boxes that a detector might have found in it."""
        import numpy as np
        import torch

        from ...data.scenes import draw_scene

        seed, split = SCENE
        while True:
            pixels, truth, _ = draw_scene(split, np.random.default_rng(seed))
            if len(truth) == 4:
                break
            seed += 1
        boxes, scores = [], []
        for which, (dx, dy, dw, dh), score in FOUND:
            if which is None:
                box = [dx, dy, dx + dw, dy + dh]
            else:
                x1, y1, x2, y2 = truth[which].tolist()
                w, h = x2 - x1, y2 - y1
                box = [x1 + dx * w, y1 + dy * h, x1 + dx * w + w * (1 + dw), y1 + dy * h + h * (1 + dh)]
            boxes.append([round(v, 1) for v in box])
            scores.append(score)
        picture = data_url(png(torch.from_numpy(pixels.copy()).permute(2, 0, 1)))
        return cls.of(truth.tolist(), boxes, scores, image=picture, side=len(pixels))

    @classmethod
    def of(cls, truth: Sequence, boxes: Sequence, scores: Sequence[float], **traits) -> Boxes:
        """From true and found boxes and the scores of these; the third of those found, by score, is the one that moves."""
        order = sorted(range(len(boxes)), key=lambda i: -scores[i])
        first = order[min(2, len(order) - 1)]
        boxes = [boxes[first], *(box for i, box in enumerate(boxes) if i != first)]
        scores = [scores[first], *(score for i, score in enumerate(scores) if i != first)]
        x1, y1, x2, y2 = boxes[0]
        side = traits.get("side", 96)
        place = {"left": x1, "top": y1, "width": round(x2 - x1, 1), "height": round(y2 - y1, 1)}
        limits = {name: [0, side, 0.1] for name in ("left", "top")} | {name: [4, side, 0.1] for name in ("width", "height")}
        limits |= {"iou": {"of": IOUS}, "score": [0.0, 1.0, 0.01]}
        return cls(truth=truth, boxes=boxes, scores=scores, limits=limits, **place | traits)

    def found(self) -> list[list[float]]:
        """The found boxes, with the first where it stands now."""
        return [[self.left, self.top, self.left + self.width, self.top + self.height], *self.boxes[1:]]

    def judged(self) -> dict:
        """{"matches", "recall", "precision", "ap"} of all found boxes at the present IoU."""
        boxes = self.found()
        matches = matched(self.truth, boxes, self.scores, self.iou)
        recall, precision = curve([m >= 0 for m in matches], self.scores, len(self.truth))
        return {"matches": matches, "recall": recall, "precision": precision, "ap": area(recall, precision)}

    def picture(self) -> Html:
        boxes, now = self.found(), self.judged()
        order = sorted(range(len(boxes)), key=lambda i: -self.scores[i])
        rows = []
        for place, i in enumerate(order):
            best = max(iou(boxes[i], true) for true in self.truth)
            verdict = "found" if now["matches"][i] >= 0 else "false alarm"
            reached = [f"{now[key][place]:.2f}" for key in ("recall", "precision")]
            rows.append([f"{self.scores[i]:.2f}", f"{best:.2f}", verdict, *reached])
        return table(["score", "best IoU", f"at {self.iou:g}", "recall so far", "precision so far"], rows)
