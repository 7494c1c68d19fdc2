"""Images with boxes: what a detector is trained and tested on. Knows nothing about models.

A box is (x1, y1, x2, y2) in pixels from the top left corner: left, top, right and bottom edge. The COCO files say (x, y, width,
height) instead, and `truth` speaks that language; nothing else here does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .batches import sent
from .sampling import BatchOrder, generator_for
from .task import Closed

NOTHING = -1  # label of a row that fills up a batch, where an image has fewer boxes than another


class Boxed:
    """Square images in memory, with their boxes.

    images: uint8 [N, 3, side, side]; boxes: for every image float [M, 4] as (x1, y1, x2, y2) in pixels; labels: int64 [M], from
    0. names: what an image is called, by default its number. scales: square pixels per pixel of the original, 1 by default.
    """

    def __init__(self, images: Tensor, boxes: Sequence[Tensor], labels: Sequence[Tensor], class_names: Sequence[str]):
        self.images, self.boxes, self.labels = images, list(boxes), list(labels)
        self.class_names, self.side = tuple(class_names), images.shape[-1]
        self.names = [str(i) for i in range(len(self))]
        self.scales, self.resident = [1.0] * len(self), True

    def __len__(self) -> int:
        return len(self.boxes)

    def pixels(self, indices: Tensor) -> Tensor:
        """uint8 [B, 3, side, side] on the CPU."""
        return self.images[indices]

    def subset(self, indices: Tensor) -> Boxed:
        """Only these images, in this order."""
        chosen = indices.tolist()
        part = Boxed(self.images[indices], [self.boxes[i] for i in chosen], [self.labels[i] for i in chosen], self.class_names)
        part.names, part.scales = [self.names[i] for i in chosen], [self.scales[i] for i in chosen]
        return part

    def truth(self) -> dict:
        """The boxes as the content of a COCO annotation file, in pixels of the originals; ids of images and classes are
        their positions here."""
        annotations = []
        for image, (boxes, labels, scale) in enumerate(zip(self.boxes, self.labels, self.scales)):
            for (x1, y1, x2, y2), label in zip((boxes / scale).tolist(), labels.tolist()):
                box = [x1, y1, x2 - x1, y2 - y1]
                entry = {"id": len(annotations) + 1, "image_id": image, "category_id": label, "bbox": box}
                annotations.append(entry | {"area": box[2] * box[3], "iscrowd": 0})
        sides = [round(self.side / scale) for scale in self.scales]
        images = [{"id": i, "file_name": name, "width": s, "height": s} for i, (name, s) in enumerate(zip(self.names, sides))]
        return {"images": images, "annotations": annotations, "categories": categories(self.class_names)}


def categories(class_names: Sequence[str]) -> list[dict]:
    """The entry `categories` of a COCO file, with the position of a class as its id."""
    return [{"id": i, "name": name} for i, name in enumerate(class_names)]


@dataclass(frozen=True)
class BoxTask:
    """A detection task: three splits of images with boxes. flip: whether a class survives being mirrored.

    test may be closed, as in `data.Task`. fingerprint: changes whenever an image, a box or a class changes.
    """

    name: str
    train: Boxed
    val: Boxed
    test: Boxed | Closed | None
    flip: bool = True
    fingerprint: str = ""

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.train.class_names

    def closed(self) -> BoxTask:
        """The same task without access to its test images, for choosing settings."""
        return replace(self, test=Closed(len(self.test)))


def mirrored(pixels: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """An image and its boxes, left and right exchanged. pixels: [..., H, W]; boxes: float [..., 4]."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    width = pixels.shape[-1]
    return pixels.flip(-1), torch.stack([width - x2, y1, width - x1, y2], -1)


class BoxBatches:
    """The batches of a run as a function of the step: (pixels uint8 [B, 3, side, side], boxes float [B, M, 4], labels [B, M]).

    M is the largest number of boxes in an image of the batch, and missing rows have the label NOTHING. With `flip` every image
    is mirrored with probability a half, together with its boxes. Everything is drawn from (seed, step), so that a resumed run
    sees the batches of an uninterrupted one.
    """

    def __init__(self, images: Boxed, batch_size: int, seed: int, flip: bool, device: torch.device):
        self.images, self.seed, self.flip, self.device = images, seed, flip, device
        self.order = BatchOrder(len(images), batch_size, seed)
        self.ahead = 0 if images.resident else 2

    def __call__(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        indices = self.order(step)
        pixels = self.images.pixels(indices).clone()
        some = [(self.images.boxes[i], self.images.labels[i]) for i in indices.tolist()]
        rows = max(1, max(len(boxes) for boxes, _ in some))
        boxes, labels = torch.zeros(len(some), rows, 4), torch.full((len(some), rows), NOTHING)
        for i, (its_boxes, its_labels) in enumerate(some):
            boxes[i, : len(its_boxes)], labels[i, : len(its_boxes)] = its_boxes, its_labels
        if self.flip:
            turn = torch.rand(len(some), generator=generator_for(self.seed, "flip", step)) < 0.5
            pixels[turn], boxes[turn] = mirrored(pixels[turn], boxes[turn])
        return tuple(sent(tensor, self.device) for tensor in (pixels, boxes, labels))


def in_batches(images: Boxed, size: int, use: Callable[[Tensor], list]) -> list:
    """use(uint8 [B, 3, side, side]) -> a list of B things, over all images in order."""
    return [thing for part in torch.arange(len(images)).split(size) for thing in use(images.pixels(part))]
