"""What will it cost? The memory and the multiply-adds that a network, an image size, a batch and a precision ask for."""

from __future__ import annotations

import traitlets as t

from ...resnet import ARCHS, Arch
from ..show import Html, table
from .base import Explorable
from .sizes import OFFICIAL, UNITS, costs

GB = 10**9
SPARE = 0.1  # of the card: left for CUDA itself, for workspaces of convolutions and for copies that live for a moment
# Top-1 accuracy on ImageNet after ImageNet-21k, in per cent, as timm measured it (results-imagenet.csv).
IMAGENET = {"R50x1": 80.386, "R101x1": 82.332, "R50x3": 83.982, "R101x3": 84.430, "R152x2": 84.468, "R152x4": 84.936}


def account(arch: Arch, side: int, classes: int, bits: int = 32) -> dict[str, int]:
    """What training needs: {"parameters", "body", "filters", "image", "macs"}.

    body, filters: weights and output channels of all standardised convolutions. image: bytes that the backward pass keeps of
    one image of side x side pixels. macs: multiply-adds of a training step for one image, forward and backward. bits: 32, or
    16 for autocast as the library does it, where group norm keeps a 16-bit input.
    """
    found, b = costs(arch, side, classes), bits // 8
    large, root = arch.stem == "imagenet", arch.root_width
    first = -(-side // 2)
    at = -(-first // 2) if large else first
    body, filters = (3 * (49 if large else 9) * root), root
    values, indices, norms = 3 * side**2, 0, 1
    if large:  # the pool keeps its padded input, and for every output the place of the largest value, in 64 bits
        values, indices = values + root * (first + 2) ** 2, root * at**2
    cin = root
    for s, units in enumerate(arch.units):
        cout = 4 * root * 2**s
        for u in range(units):
            to, mid = -(-at // 2) if s and not u else at, cout // 4
            projected = cin != cout or to != at
            body += cin * mid + 9 * mid**2 + mid * cout + (cin * cout if projected else 0)
            filters += 2 * mid + cout + (cout if projected else 0)
            # Every norm keeps its input, and every convolution the ReLU's output in front of it.
            values += 2 * cin * at**2 + 2 * mid * at**2 + 2 * mid * to**2
            norms += 3
            at, cin = to, cout
    values += 2 * cin * at**2 + cin  # the last norm and ReLU, and the pooled features
    image = b * values + 8 * indices + norms * 2 * arch.groups * 4  # mean and deviation of each group, in 32 bits
    forward = sum(part["macs"] for part in found)
    parameters = sum(part["parameters"] for part in found)
    # Backward takes twice the forward pass, but nobody asks for the gradient of the image.
    macs = 3 * forward - found[0]["macs"]
    return {"parameters": parameters, "body": body, "filters": filters, "image": image, "macs": macs}


def needed(found: dict[str, int], images: int, batch: int, bits: int = 32) -> dict[str, int]:
    """Bytes by purpose: {"weights", "gradients", "momentum", "standardised", "activations"}, for so many images at once.

    found: from `account`, with the same bits. Where a batch is split, standardised weights are kept in 32 bits for all its
    parts, together with their gradients.
    """
    split = images < batch
    kept = found["body"] * (bits // 8) if bits == 32 or not split else found["body"] * (4 + 2)
    kept += found["filters"] * 8 + (found["body"] * 4 if split else 0)
    each = 4 * found["parameters"]
    return {
        "weights": each,
        "gradients": each,
        "momentum": each,
        "standardised": kept,
        "activations": images * found["image"],
    }


def most(found: dict[str, int], batch: int, bits: int, card: float) -> int:
    """The most images at once, up to the batch, that fit into a card of so many GB with a tenth to spare; 0 if none does."""
    room = (1 - SPARE) * card * GB

    def fits(images: int) -> bool:
        return sum(needed(found, images, batch, bits).values()) <= room

    if fits(batch):
        return batch
    left = room - sum(needed(found, 0, batch, bits).values())
    return max(0, min(batch - 1, int(left // found["image"])))


def parts_for(arch: Arch, side: int, classes: int, batch: int, card: float, bits: int = 16) -> int:
    """Into how many micro-batches a batch has to be split to fit; 0 if not even one image does."""
    at_once = most(account(arch, side, classes, bits), batch, bits, card)
    return -(-batch // at_once) if at_once else 0


class Cost(Explorable):
    """Memory over the number of images at once, for all official networks, beside the memory of a graphics card.

    network: one of them; side: of the images, in pixels; images: at once; batch: per step; bits: 32 or 16; card: GB.
    units: by depth, the units of the four stages. spare: share of the card that is left alone. imagenet: published top-1
    accuracies in per cent. classes: of the head; steps: of a run by the HyperRule, for a small task.
    """

    module = "cost"
    alt = "A table of the six networks: memory that does not depend on the batch, memory per image, and how many fit at once."
    network = t.Unicode("R50x1").tag(sync=True)
    side = t.Int(480).tag(sync=True)
    images = t.Int(128).tag(sync=True)
    batch = t.Int(128).tag(sync=True)
    bits = t.Int(16).tag(sync=True)
    card = t.Int(15).tag(sync=True)
    units = t.Dict({str(depth): list(units) for depth, units in UNITS.items()}).tag(sync=True)
    spare = t.Float(SPARE).tag(sync=True)
    imagenet = t.Dict(IMAGENET).tag(sync=True)
    classes = t.Int(10).tag(sync=True)
    steps = t.Int(500).tag(sync=True)
    limits = t.Dict(
        {
            "network": {"of": list(OFFICIAL)},
            "side": {"of": [128, 224, 384, 480]},
            "images": {"of": [1, 2, 4, 8, 16, 32, 64, 128, 256, 512]},
            "batch": {"of": [128, 512]},
            "bits": {"of": [16, 32]},
            "card": {"of": [8, 15, 24, 80]},
        }
    ).tag(sync=True)

    @classmethod
    def example(cls) -> Cost:
        """The smallest network on the large images of the released code, all of a batch at once, on Colab's free card."""
        return cls()

    def rows(self) -> list[dict]:
        """For every official network: {"name", "fixed", "image", "most", "macs"}; bytes, images, multiply-adds of a run."""
        rows, bits = [], self.bits
        for name in OFFICIAL:
            found = account(ARCHS[name], self.side, self.classes, bits)
            fixed = sum(needed(found, 0, self.batch, bits).values())
            fit = most(found, self.batch, bits, self.card)
            rows.append({"name": name, "fixed": fixed, "image": found["image"], "most": fit})
            rows[-1]["macs"] = found["macs"] * self.batch * self.steps
        return rows

    def picture(self) -> Html:
        return table(
            ["", "without any image (GB)", f"per image of {self.side} px (MB)", f"at once in {self.card} GB", "ImageNet (%)"],
            [
                [r["name"], f"{r['fixed'] / GB:.2f}", f"{r['image'] / 1e6:.0f}", r["most"] or "–", f"{IMAGENET[r['name']]:.1f}"]
                for r in self.rows()
            ],
        )
