"""Answers to the exercises of chapter 16."""

import itertools
import math

import torch


def _by_words(have, status, stated):
    """Without a regular expression."""
    if status in (200, 416):
        return "start over"
    if status != 206:
        return "fail"
    try:
        part, whole = stated.removeprefix("bytes ").split("/")
        first, last = part.split("-")
    except (AttributeError, ValueError):
        return "start over"
    return "append" if (int(first), int(last)) == (have, int(whole) - 1) else "start over"


def _by_match(have, status, stated):
    """By writing down what would have to be stated."""
    match status:
        case 206:
            whole = (stated or "/0").rpartition("/")[2]
            return "append" if whole.isdigit() and stated == f"bytes {have}-{int(whole) - 1}/{whole}" else "start over"
        case 200 | 416:
            return "start over"
        case _:
            return "fail"


def _numbers(stated):
    try:
        part, whole = stated.removeprefix("bytes ").split("/")
        return (*map(int, part.split("-")), int(whole))
    except (AttributeError, ValueError):
        return None


def _loose(have, status, stated, rule):
    if status == 206:
        found = _numbers(stated)
        return "append" if found and rule(*found) else "start over"
    return "start over" if status in (200, 416) else "fail"


def _one_by_one(fixed, per_image, batch, card):
    """Add parts until the largest fits."""
    for parts in range(1, batch + 1):
        if fixed + -(-batch // parts) * per_image <= 0.9 * card:
            return parts
    return 0


def _by_images(fixed, per_image, batch, card):
    """Add images until the card is full."""
    at_once = 0
    while at_once < batch and fixed + (at_once + 1) * per_image <= 0.9 * card:
        at_once += 1
    return len(range(0, batch, at_once)) if at_once else 0


def _matrix(wrong):
    """All pairs in one product."""
    w = wrong.double()
    both = w @ w.T
    lift = both / w.sum(1)[:, None] / w.mean(1)[None]
    n = len(w)
    return ((lift.sum() - lift.diagonal().sum()) / (n * (n - 1))).item()


def _masks(wrong):
    """By picking the images."""
    ratios = [
        wrong[j][wrong[i]].double().mean() / wrong[j].double().mean() for i, j in itertools.permutations(range(len(wrong)), 2)
    ]
    return torch.stack(ratios).mean()


def _over_pairs(wrong, ratio, pairs=itertools.permutations):
    w = wrong.double()
    found = [ratio(w[i], w[j]) for i, j in pairs(range(len(w)), 2)]
    return float(sum(found) / len(found))


def _spoils(wrong):
    found = _matrix(wrong)
    wrong.zero_()
    return found


WRONG = {
    "next_step": {
        "any 206": (lambda h, s, r: "append" if s == 206 else "start over" if s in (200, 416) else "fail", "begins elsewhere"),
        "any bytes": (
            lambda h, s, r: "append" if s in (200, 206) else "start over" if s == 416 else "fail",
            "start over on 200",
        ),
        "where it begins": (lambda h, s, r: _loose(h, s, r, lambda a, b, n: a == h), "ends before the file does"),
        "where it ends": (lambda h, s, r: _loose(h, s, r, lambda a, b, n: b + 1 == n), "begins elsewhere"),
        "off by one": (lambda h, s, r: _loose(h, s, r, lambda a, b, n: a == h and b == n), "exactly the rest"),
        "416 fails": (lambda h, s, r: "fail" if s == 416 else _by_words(h, s, r), "start over on 416"),
        "416 is complete": (lambda h, s, r: "append" if s == 416 else _by_words(h, s, r), "start over on 416"),
        "never gives up": (lambda h, s, r: "start over" if s >= 400 else _by_words(h, s, r), "fail on 404 and 503"),
        "always anew": (lambda h, s, r: "start over", "start over whatever happens"),
    },
    "fewest_parts": {
        "whole card": (lambda f, p, b, c: _one_by_one(f, p, b, c / 0.9), "use the whole card"),
        "no fixed part": (lambda f, p, b, c: _one_by_one(0, p, b, c), "forget what is needed"),
        "rounded down": (
            lambda f, p, b, c: max(1, b // n) if (n := int((0.9 * c - f) / p)) > 0 else 0,
            "round the number of parts down",
        ),
        "images": (lambda f, p, b, c: max(0, min(b, int((0.9 * c - f) / p))), "how many images fit"),
        "doubled": (
            lambda f, p, b, c: next((n for n in (2**i for i in range(10)) if f + -(-b // n) * p <= 0.9 * c), 0),
            "double the number of parts",
        ),
        "never 0": (lambda f, p, b, c: math.ceil(b / max(1, min(b, int((0.9 * c - f) / p)))), "return 0 if not even one"),
        "a part per image": (lambda f, p, b, c: b, "return 1 if the whole batch fits"),
        "tenth of the rest": (
            lambda f, p, b, c: math.ceil(b / min(b, n)) if (n := int(0.9 * (c - f) / p)) >= 1 else 0,
            "take a tenth off the room",
        ),
    },
    "repeated": {
        "with itself": (
            lambda w: float((w.double() @ w.double().T / w.double().sum(1)[:, None] / w.double().mean(1)).mean()),
            "itself",
        ),
        "share": (lambda w: _over_pairs(w, lambda a, b: (a * b).sum() / a.sum()), "without the error rate"),
        "difference": (lambda w: _over_pairs(w, lambda a, b: (a * b).sum() / a.sum() - b.mean()), "return 2 for two runs"),
        "own rate": (lambda w: _over_pairs(w, lambda a, b: (a * b).sum() / a.sum() / a.mean()), "error rate of the same run"),
        "agreement": (lambda w: _over_pairs(w, lambda a, b: (a == b).double().mean() / b.mean()), "right answers as well"),
        "union": (lambda w: _over_pairs(w, lambda a, b: (a * b).sum() / ((a + b) > 0).sum() / b.mean()), "either of the two"),
        "right answers": (lambda w: _over_pairs(~w, lambda a, b: (a * b).sum() / a.sum() / b.mean()), "right answers instead"),
        "spoils its input": (_spoils, "leave the mistakes"),
        "all at once": (lambda w: float(w.all(0).double().mean() / w.double().mean(1).prod()), "come close to 1"),
    },
}

RIGHT = {
    "next_step": {"words": _by_words, "match": _by_match},
    "fewest_parts": {"one by one": _one_by_one, "image by image": _by_images},
    "repeated": {"matrix": _matrix, "masks": _masks},
}
