"""The sizes of BiT: what every unit of a network costs, in parameters and in multiply-adds."""

from __future__ import annotations

import traitlets as t

from ...resnet import ARCHS, Arch
from ..show import Html, table
from .base import Explorable

OFFICIAL = ("R50x1", "R101x1", "R50x3", "R101x3", "R152x2", "R152x4")
UNITS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}


def costs(arch: Arch, side: int, classes: int) -> list[dict]:
    """What the stem, every unit and the head cost: {"part", "channels", "to", "parameters", "macs"}, from the image on.

    channels, to: channels and side of the output. macs: multiply-adds of the convolutions and the head, for one image of
    side x side pixels; what norms, ReLUs, pooling and the standardisation of weights need is small beside them and not counted.
    """
    large = arch.stem == "imagenet"
    first, cin = -(-side // 2), arch.root_width
    at = -(-first // 2) if large else first
    weights = 3 * (49 if large else 9) * cin
    found = [{"part": "stem", "channels": cin, "to": at, "parameters": weights, "macs": weights * first**2}]
    for s, units in enumerate(arch.units):
        cout = 4 * arch.root_width * 2**s
        for u in range(units):
            to, mid = -(-at // 2) if s and not u else at, cout // 4
            behind = 9 * mid**2 + mid * cout + (cin * cout if cin != cout or to != at else 0)
            sizes = {"part": f"stage {s + 1}", "channels": cout, "to": to}
            parameters = cin * mid + behind + 2 * (cin + 2 * mid)
            found.append(sizes | {"parameters": parameters, "macs": cin * mid * at**2 + behind * to**2})
            at, cin = to, cout
    head = {"parameters": 2 * cin + (cin + 1) * classes, "macs": cin * classes}  # with the norm in front of it
    return [*found, {"part": "head", "channels": classes, "to": 1, **head}]


class Sizes(Explorable):
    """All depths and widths of BiT, and what each unit of the chosen network costs.

    depth: number of layers in the name; width: factor of all widths; side: of a square image, in pixels; classes: of the head.
    units: by depth, the units of the four stages. official: names of the sizes that were published.
    """

    module = "sizes"
    alt = "A table of the six published sizes of BiT with their parameters and multiply-adds."
    depth = t.Int(50).tag(sync=True)
    width = t.Int(1).tag(sync=True)
    side = t.Int(224).tag(sync=True)
    classes = t.Int(1000).tag(sync=True)
    units = t.Dict({str(depth): list(units) for depth, units in UNITS.items()}).tag(sync=True)
    official = t.List(list(OFFICIAL)).tag(sync=True)
    limits = t.Dict(
        {
            "depth": {"of": list(UNITS)},
            "width": {"of": [1, 2, 3, 4]},
            "side": [32, 512, 16],
            "classes": {"of": [10, 1000, 21_843]},
        }
    ).tag(sync=True)

    @classmethod
    def example(cls) -> Sizes:
        """The smallest network, for ImageNet's thousand classes."""
        return cls()

    def picture(self) -> Html:
        rows = []
        for name in OFFICIAL:
            found = costs(ARCHS[name], self.side, self.classes)
            parameters, macs = (sum(part[what] for part in found) for what in ("parameters", "macs"))
            rows.append([name, f"{parameters / 1e6:,.1f}", f"{macs / 1e9:,.1f}"])
        return table(["", "parameters (million)", f"multiply-adds at {self.side} px (billion)"], rows)
