"""The exercises of notebooks/05_bit_resnet: the cost of a unit, the keys of a weight file, and padding that is out of step."""

from __future__ import annotations

import re

from ..check import Exercise, alike


def unit_cost(cin, cout, side, stride):
    """(parameters, multiply-adds) of a bottleneck of BiT, from cin channels of side x side pixels to cout channels."""
    mid, smaller = cout // 4, -(-side // stride)
    projection = cin * cout if cin != cout or stride != 1 else 0
    behind = 9 * mid**2 + mid * cout + projection
    norms = 2 * (cin + mid + mid)
    return cin * mid + behind + norms, cin * mid * side**2 + behind * smaller**2


def parameter_name(key):
    """The name of a parameter: "resnet/block1/unit02/a/standardized_conv2d_17/kernel" -> "stage1.unit02.a.conv.weight"."""
    *path, layer, kind = key.split("/")[1:]
    path = [part.replace("root_block", "root").replace("block", "stage") for part in path]
    if layer == "group_norm":
        path.append("norm")
    elif layer.startswith("standardized_conv2d") and path[-1] != "proj":
        path.append("conv")
    return ".".join([*path, "bias" if kind in ("beta", "bias") else "weight"])


def misalignment(side, kernel, stride):
    """Pixels from the one that the shortcut takes to the centre of the window, under SAME padding; kernel is odd."""
    windows = -(-side // stride)
    zeros = max((windows - 1) * stride + kernel - side, 0)
    in_front = zeros // 2
    return kernel // 2 - in_front


def _cost(cin, cout, side, stride, *, mid=None, first=None, projected=None, norms=2, kernel=9, last=None) -> tuple[int, int]:
    """The cost, with one thing counted in another way."""
    mid, smaller = mid or cout // 4, last or -(-side // stride)
    projected = (cin != cout or stride != 1) if projected is None else projected
    behind = kernel * mid**2 + mid * cout + cin * cout * projected
    return cin * mid + behind + norms * (cin + 2 * mid), cin * mid * (first or side) ** 2 + behind * smaller**2


def _costs(f, *unit: int) -> bool:
    return alike(f(*unit), unit_cost(*unit), 1e-9)


def _renamed(key: str, numbers: bool = True, **changes) -> str:
    """parameter_name, with mistakes: {a part of the right name: what stands there instead}."""
    name = parameter_name(key)
    for right, wrong in changes.items():
        name = name.replace(right, wrong)
    number = re.search(r"conv2d(_\d+)", key)
    return name if numbers or not number else name.replace("conv.", f"conv{number[1]}.").replace("proj.", f"proj{number[1]}.")


_KEYS = (
    "root_block/standardized_conv2d/kernel",
    "block1/unit01/a/group_norm/gamma",
    "block1/unit01/a/standardized_conv2d/kernel",
    "block1/unit01/a/proj/standardized_conv2d_1/kernel",
    "block2/unit03/b/group_norm/beta",
    "block3/unit12/c/standardized_conv2d_36/kernel",
    "group_norm/gamma",
    "group_norm/beta",
    "head/conv2d/kernel",
    "head/conv2d/bias",
)


def _named(f, key: str, name: str) -> bool:
    return f(f"resnet/{key}") == name


def _zeros(side: int, kernel: int, stride: int) -> int:
    return max((-(-side // stride) - 1) * stride + kernel - side, 0)


EXERCISES: dict[str, Exercise] = {
    "unit_cost": Exercise(
        "Count what a residual unit costs.",
        (
            (
                "count the three convolutions and the norms of a unit that keeps its shape: 70,400 parameters for 256 channels",
                lambda f: alike(f(256, 256, 56, 1)[0], 70_400, 1e-9),
            ),
            (
                "give that unit 69,632 multiply-adds for each of its 56 × 56 pixels, none of them for norms",
                lambda f: alike(f(256, 256, 56, 1)[1], 69_632 * 56**2, 1e-9),
            ),
            ("add a projection where the channels change", lambda f: _costs(f, 64, 256, 56, 1)),
            ("add one where only the stride changes the shape", lambda f: _costs(f, 256, 256, 56, 2)),
            (
                "let the first 1×1 see all pixels of the input, and whatever comes behind the stride only those of the output",
                lambda f: _costs(f, 256, 512, 56, 2),
            ),
            ("round the side up where it is odd: 7 becomes 4", lambda f: _costs(f, 1024, 2048, 7, 2)),
        ),
        (
            "A convolution has in × out × kernel area parameters, and as many multiply-adds at every pixel of its output.",
            "The middle width is a quarter of the output's. Which convolutions lie behind the stride, and which before it? Is "
            "there a projection at all?",
            "Each norm has two numbers for every channel that comes into its convolution: once cin, twice the middle width. "
            "Only the first 1×1 works at the input's side; all else works at the side divided by the stride, rounded up.",
        ),
        unit_cost,
        inputs=lambda: [(256, 256, 56, 1), (64, 256, 32, 1), (256, 512, 28, 2), (512, 1024, 15, 2), (128, 128, 10, 2)],
        within=1e-9,
        slips=(
            ("forget the norms", lambda *unit: _cost(*unit, norms=0)),
            ("count one number per channel of a norm, where it has γ and β", lambda *unit: _cost(*unit, norms=1)),
            ("forget the projection", lambda *unit: _cost(*unit, projected=False)),
            ("give every unit a projection", lambda *unit: _cost(*unit, projected=True)),
            (
                "look for the projection where channels change, and forget the stride",
                lambda cin, cout, *rest: _cost(cin, cout, *rest, projected=cin != cout),
            ),
            (
                "put the stride into the first 1×1, as the original ResNet did",
                lambda cin, cout, side, stride: _cost(cin, cout, side, stride, first=-(-side // stride)),
            ),
            ("ignore the stride", lambda cin, cout, side, stride: _cost(cin, cout, side, stride, last=side)),
            ("take a quarter of the input's width for the middle", lambda cin, *rest: _cost(cin, *rest, mid=cin // 4)),
            ("forget that the middle kernel has nine weights", lambda *unit: _cost(*unit, kernel=1)),
            (
                "count a multiplication and an addition as two",
                lambda *unit: (unit_cost(*unit)[0], 2 * unit_cost(*unit)[1]),
            ),
            ("return the multiply-adds first", lambda *unit: unit_cost(*unit)[::-1]),
        ),
    ),
    "parameter_name": Exercise(
        "Translate the keys of a weight file.",
        (
            ("call the stem's convolution root.conv.weight", lambda f: _named(f, _KEYS[0], "root.conv.weight")),
            (
                "turn blocks into stages, and a gamma into norm.weight",
                lambda f: _named(f, _KEYS[1], "stage1.unit01.a.norm.weight"),
            ),
            ("turn a beta into a bias", lambda f: _named(f, _KEYS[4], "stage2.unit03.b.norm.bias")),
            (
                "leave a projection its own name, without a conv behind it",
                lambda f: _named(f, "block1/unit01/a/proj/standardized_conv2d/kernel", "stage1.unit01.a.proj.weight"),
            ),
            ("find the norm that belongs to no stage", lambda f: _named(f, "group_norm/beta", "norm.bias")),
            ("call the head's kernel head.weight", lambda f: _named(f, "head/conv2d/kernel", "head.weight")),
            ("and its bias head.bias", lambda f: _named(f, "head/conv2d/bias", "head.bias")),
            (
                "ignore the number of a numbered layer, whatever it is",
                lambda f: (
                    _named(f, "block2/unit01/b/standardized_conv2d_17/kernel", "stage2.unit01.b.conv.weight")
                    and _named(f, _KEYS[3], "stage1.unit01.a.proj.weight")
                ),
            ),
            ("keep the two digits of a unit", lambda f: _named(f, _KEYS[5], "stage3.unit12.c.conv.weight")),
        ),
        (
            "Split the key at its slashes. Which parts only need another word, and which one is not in the name at all?",
            "Look at the last two parts first: a group_norm becomes norm, a standardised convolution becomes conv, and there "
            "are two cases where neither is added.",
            "The layer's number stands at the end of the second to last part, so ask how that part begins, not what it equals. "
            "Both kernel and gamma become weight; beta becomes bias. Mind proj, and mind that root_block holds the word block.",
        ),
        parameter_name,
        inputs=lambda: [(f"resnet/{key}",) for key in _KEYS],
        slips=(
            ("keep the number of a numbered layer", lambda key: _renamed(key, numbers=False)),
            ("call a stage a block", lambda key: _renamed(key, stage="block")),
            ("add a conv behind a projection", lambda key: _renamed(key, **{"proj.": "proj.conv."})),
            ("add a conv to the head", lambda key: _renamed(key, **{"head.": "head.conv."})),
            ("turn the block of the stem into a stage", lambda key: _renamed(key, **{"root.": "root_stage."})),
            ("call a beta a weight", lambda key: _renamed(key, **{"norm.bias": "norm.weight"})),
            (
                "leave gamma and beta as they are",
                lambda key: _renamed(key, **{"norm.weight": "norm.gamma", "norm.bias": "norm.beta"}),
            ),
            ("forget the dots between the parts", lambda key: _renamed(key, **{".": "/"})),
        ),
    ),
    "misalignment": Exercise(
        "How far is a padded convolution out of step with the shortcut?",
        (
            ("return 1 for a 3×3 with stride 2 on an even side", lambda f: f(32, 3, 2) == 1 and f(56, 3, 2) == 1),
            ("return 0 on an odd side, where one zero stands on either side", lambda f: f(33, 3, 2) == 0 and f(7, 3, 2) == 0),
            (
                "return 0 for every odd kernel with stride 1",
                lambda f: all(f(side, kernel, 1) == 0 for side in (7, 8, 20) for kernel in (1, 3, 5, 7)),
            ),
            ("return 1 for a 7×7 with stride 2 at 224 pixels", lambda f: f(224, 7, 2) == 1),
            ("return 0 for the shortcut itself, a 1×1", lambda f: f(32, 1, 2) == 0),
            (
                "need no zeros, rather than fewer than none, where the windows fit without any",
                lambda f: f(12, 3, 4) == 1 and f(14, 3, 7) == 1,
            ),
        ),
        (
            "The first window begins at the first zero in front of the image. Where, from the first pixel on, is its centre?",
            "SAME makes as many windows as the side divided by the stride, rounded up. How many pixels do they cover, from the "
            "beginning of the first to the end of the last, and how many of these does the image lack?",
            "Half of the missing pixels, rounded down, stand in front as zeros. The centre of a window lies half a kernel, "
            "rounded down, behind its beginning; take off the zeros that stand before the image.",
        ),
        misalignment,
        inputs=lambda: [(32, 3, 2), (33, 3, 2), (224, 7, 2), (20, 5, 1), (30, 5, 4), (12, 3, 4), (9, 1, 3)],
        slips=(
            (
                "count the zeros behind the image, not those in front",
                lambda side, k, s: k // 2 - (_zeros(side, k, s) - _zeros(side, k, s) // 2),
            ),
            ("return the zeros in front, not the distance", lambda side, k, s: _zeros(side, k, s) // 2),
            ("return all the zeros", _zeros),
            ("put all the zeros in front", lambda side, k, s: k // 2 - _zeros(side, k, s)),
            ("put no zeros in front", lambda side, k, s: k // 2),
            ("pad by half a kernel on each side, which is symmetric padding", lambda side, k, s: 0),
            (
                "round the number of windows down",
                lambda side, k, s: k // 2 - max((side // s - 1) * s + k - side, 0) // 2,
            ),
            (
                "let the number of zeros become negative",
                lambda side, k, s: k // 2 - ((-(-side // s) - 1) * s + k - side) // 2,
            ),
            ("count from the centre to the shortcut's pixel, with the other sign", lambda *given: -misalignment(*given)),
        ),
    ),
}
