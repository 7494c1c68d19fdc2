"""Answers to the exercises of chapter 5."""

import math
import re

from bitlib.course.explore.sizes import costs
from bitlib.resnet import Arch
from bitlib.weights import npz_key


def _unit(cin, cout, side, stride, *, norms=2, projection=None, first=None, last=None, mid=None, area=9):
    mid, out = mid or cout // 4, last or math.ceil(side / stride)
    convs = [(cin, mid, 1, first or side), (mid, mid, area, out), (mid, cout, 1, out)]
    if projection if projection is not None else (cin, stride) != (cout, 1):
        convs.append((cin, cout, 1, out))
    weights = sum(a * b * k for a, b, k, _ in convs)
    return weights + norms * (cin + mid + mid), sum(a * b * k * at * at for a, b, k, at in convs)


def _counted_by_pytorch(cin, cout, side, stride):
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from bitlib.resnet import Unit

    with torch.device("meta"), torch.no_grad():
        unit = Unit(Arch((1, 1, 1, 1), 32), cin, cout, stride)
        with FlopCounterMode(display=False) as counter:
            unit(torch.empty(1, cin, side, side))
    return sum(p.numel() for p in unit.parameters()), counter.get_total_flops() / 2


def _by_list(cin, cout, side, stride):
    return list(map(float, _unit(cin, cout, side, stride)))


NAMES = {
    npz_key(f"{path}.{kind}"): f"{path}.{kind}"
    for stage in range(1, 5)
    for unit in range(1, 37)
    for step in "abc"
    for layer, kind in (("norm", "weight"), ("norm", "bias"), ("conv", "weight"), ("proj", "weight"))
    for path in [f"stage{stage}.unit{unit:02d}.{step}.{layer}"]
}
NAMES |= {npz_key(name): name for name in ("root.conv.weight", "norm.weight", "norm.bias", "head.weight", "head.bias")}


def _table(key):
    return NAMES[re.sub(r"_\d+/", "/", key)]


def _substitutions(key):
    rules = [("^resnet/", ""), ("root_block", "root"), ("block", "stage"), (r"proj/standardized_conv2d(_\d+)?", "proj")]
    rules += [(r"standardized_conv2d(_\d+)?", "conv"), ("head/conv2d", "head"), ("group_norm", "norm")]
    for old, new in [*rules, ("gamma|kernel", "weight"), ("beta", "bias"), ("/", ".")]:
        key = re.sub(old, new, key)
    return key


def _exact_layers(key):
    return NAMES.get(key, key)


def _one_digit(key):
    return re.sub(r"unit(\d)\d", r"unit\1", _table(key))


def _zeros(side, kernel, stride):
    return max((math.ceil(side / stride) - 1) * stride + kernel - side, 0)


def _walk(side, kernel, stride):
    """Lay the windows over a line of pixels, and look where the first one lies."""
    windows = len(range(0, side, stride))
    covered = {stride * i + j for i in range(windows) for j in range(kernel)}
    zeros = max(max(covered) + 1 - side, 0)
    return list(range(-(zeros // 2), side))[kernel // 2]


WRONG = {
    "unit_cost": {
        "no norms": (lambda *u: _unit(*u, norms=0), "forget the norms"),
        "γ without β": (lambda *u: _unit(*u, norms=1), "where it has γ and β"),
        "no projection": (lambda *u: _unit(*u, projection=False), "forget the projection"),
        "always a projection": (lambda *u: _unit(*u, projection=True), "give every unit a projection"),
        "projection by channels": (lambda a, b, *u: _unit(a, b, *u, projection=a != b), "forget the stride"),
        "ResNet v1": (lambda a, b, n, s: _unit(a, b, n, s, first=math.ceil(n / s)), "as the original ResNet did"),
        "input's side": (lambda a, b, n, s: _unit(a, b, n, s, last=n), "ignore the stride"),
        "middle of the input": (lambda a, *u: _unit(a, *u, mid=a // 4), "a quarter of the input's width"),
        "1×1 in the middle": (lambda *u: _unit(*u, area=1), "nine weights"),
        "operations": (lambda *u: (_unit(*u)[0], 2 * _unit(*u)[1]), "a multiplication and an addition as two"),
        "other way round": (lambda *u: _unit(*u)[::-1], "return the multiply-adds first"),
        "rounded down": (lambda a, b, n, s: _unit(a, b, n, s, last=n // s), "7 becomes 4"),
        "parameters alone": (lambda *u: _unit(*u)[0], "cannot be used here"),
    },
    "parameter_name": {
        "exact names only": (_exact_layers, "ignore the number of a numbered layer"),
        "blocks": (lambda key: _table(key).replace("stage", "block"), "call a stage a block"),
        "conv behind proj": (lambda key: _table(key).replace("proj", "proj.conv"), "add a conv behind a projection"),
        "conv in the head": (lambda key: _table(key).replace("head", "head.conv"), "add a conv to the head"),
        "root_stage": (lambda key: _table(key).replace("root", "root_stage"), "turn the block of the stem into a stage"),
        "slashes": (lambda key: _table(key).replace(".", "/"), "forget the dots"),
        "gamma": (
            lambda key: _table(key).replace("norm.weight", "norm.gamma").replace("norm.bias", "norm.beta"),
            "leave gamma and beta as they are",
        ),
        "beta is a weight": (lambda key: _table(key).replace("norm.bias", "norm.weight"), "call a beta a weight"),
        "one digit": (_one_digit, "gamma into norm.weight"),
        "drops what is not in a stage": (
            lambda key: _table(key) if "/block" in key or "head" in key else "",
            "call the stem's convolution",
        ),
    },
    "misalignment": {
        "behind": (lambda n, k, s: k // 2 - (_zeros(n, k, s) - _zeros(n, k, s) // 2), "count the zeros behind the image"),
        "zeros in front": (lambda n, k, s: _zeros(n, k, s) // 2, "return the zeros in front, not the distance"),
        "all zeros": (_zeros, "return all the zeros"),
        "all in front": (lambda n, k, s: k // 2 - _zeros(n, k, s), "put all the zeros in front"),
        "valid": (lambda n, k, s: k // 2, "put no zeros in front"),
        "symmetric": (lambda n, k, s: 0, "symmetric padding"),
        "negative": (
            lambda n, k, s: k // 2 - ((math.ceil(n / s) - 1) * s + k - n) // 2,
            "let the number of zeros become negative",
        ),
        "other sign": (lambda n, k, s: _zeros(n, k, s) // 2 - k // 2, "with the other sign"),
        "always 1 with a stride": (lambda n, k, s: int(s > 1), "return 0 on an odd side"),
    },
}
RIGHT = {
    "unit_cost": {
        "a list of convolutions": _unit,
        "floats": _by_list,
        "PyTorch": _counted_by_pytorch,
        "the figure's own": lambda cin, cout, side, stride: _from_figure(cin, cout, side, stride),
    },
    "parameter_name": {"a table": _table, "substitutions": _substitutions},
    "misalignment": {
        "walk": _walk,
        "closed form": lambda n, k, s: k // 2 - _zeros(n, k, s) // 2,
        "division with remainder": lambda n, k, s: k // 2 - max(k - ((n - 1) % s + 1), 0) // 2,
    },
}


def _from_figure(cin, cout, side, stride):
    """From two networks' costs, where such a unit is in one; else counted anew."""
    if (cin, cout, stride) != (64, 256, 1):
        return _unit(cin, cout, side, stride)
    found = costs(Arch((1, 1, 1, 1)), 4 * side, 10)[1]
    return found["parameters"], found["macs"]
