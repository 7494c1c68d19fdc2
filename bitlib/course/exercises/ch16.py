"""The exercises of notebooks/16_the_real_bit: going on with a download, splitting a batch, and mistakes that repeat."""

from __future__ import annotations

import math
import re

import torch

from ..check import Exercise, alike
from .cases import leaves_alone


def next_step(have, status, stated):
    """What to do with `have` bytes of a download on this answer: "append", "start over" or "fail".

    status: 206, 200, 416, 404, ...; stated: the header Content-Range, such as "bytes 100-199/200", or None.
    """
    if status == 206:
        found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", stated or "")
        if found:
            first, last, whole = map(int, found.groups())
            if first == have and last + 1 == whole:
                return "append"
        return "start over"  # a part, and not the one that was asked for
    return "start over" if status in (200, 416) else "fail"


def fewest_parts(fixed, per_image, batch, card):
    """The smallest number of parts of a batch such that the largest fits; 0 if not even one image does. All in GB.

    fixed: needed without any image; per_image: more for each one at once; a tenth of the card stays free.
    """
    room = 0.9 * card - fixed
    at_once = math.floor(room / per_image)
    if at_once < 1:
        return 0
    return math.ceil(batch / min(at_once, batch))


def repeated(wrong):
    """How many times as likely a mistake of one run is to be a mistake of another as any image is. wrong: bool [runs, images].

    Averaged over all ordered pairs of two different runs.
    """
    wrong, ratios = wrong.double(), []
    for i in range(len(wrong)):
        for j in range(len(wrong)):
            if i != j:
                both = (wrong[i] * wrong[j]).sum()
                ratios.append(both / wrong[i].sum() / wrong[j].mean())
    return float(sum(ratios) / len(ratios))


# --- for the checks ---
def _errors(runs: int, images: int, seed: int, shared: float = 0.5) -> torch.Tensor:
    """Mistakes of several runs with a common part: some images are hard for all of them; each run has another error rate."""
    generator = torch.Generator().manual_seed(seed)
    hard = torch.rand(images, generator=generator)
    own = torch.rand(runs, images, generator=generator)
    rates = 0.2 + 0.4 * torch.rand(runs, 1, generator=generator)
    return (shared * hard + (1 - shared) * own) < rates


def _pairs(wrong: torch.Tensor, ratio, *, itself: bool = False, ordered: bool = True) -> float:
    """The mean of ratio(mistakes of i, mistakes of j) over pairs of runs."""
    wrong = wrong.double()
    pairs = [(i, j) for i in range(len(wrong)) for j in range(len(wrong)) if (itself or i != j) and (ordered or i < j)]
    return float(sum(ratio(wrong[i], wrong[j]) for i, j in pairs) / len(pairs))


def _lift(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a * b).sum() / a.sum() / b.mean()


def _parts(fixed, per_image, batch, card, *, spare=0.9, without=True, round_up=True) -> int:
    """fewest_parts, with one thing done in another way."""
    at_once = math.floor((spare * card - (fixed if without else 0)) / per_image)
    if at_once < 1:
        return 0
    return math.ceil(batch / min(at_once, batch)) if round_up else max(1, batch // at_once)


def _read(stated: str | None) -> tuple[int, int, int]:
    found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", stated or "")
    return tuple(map(int, found.groups())) if found else (-1, -1, -1)


def _append_if(condition, status, stated) -> str:
    if status == 206:
        return "append" if condition(*_read(stated)) else "start over"
    return "start over" if status in (200, 416) else "fail"


ANSWERS = [
    (100, 206, "bytes 100-199/200"),
    (100, 206, "bytes 0-199/200"),
    (100, 206, "bytes 100-149/200"),
    (100, 206, "bytes 96-199/200"),
    (100, 206, None),
    (100, 200, None),
    (200, 416, "bytes */200"),
    (100, 404, None),
    (100, 503, None),
    (1_500_000, 206, "bytes 1500000-2999999/3000000"),
    (99, 206, "bytes 100-199/200"),
]

EXERCISES: dict[str, Exercise] = {
    "next_step": Exercise(
        "How does an interrupted download go on?",
        (
            (
                "append when the answer is 206 and brings exactly the rest",
                lambda f: f(100, 206, "bytes 100-199/200") == "append",
            ),
            (
                "start over on 200, with which the server sends the whole file from the beginning",
                lambda f: f(100, 200, None) == "start over",
            ),
            (
                "start over when the part that comes begins elsewhere than asked",
                lambda f: {f(100, 206, "bytes 96-199/200"), f(100, 206, "bytes 0-199/200")} == {"start over"},
            ),
            (
                "start over when the part that comes ends before the file does",
                lambda f: f(100, 206, "bytes 100-149/200") == "start over",
            ),
            (
                "start over when a part comes without saying which",
                lambda f: f(100, 206, None) == "start over",
            ),
            (
                "start over on 416, which says that nothing comes behind your bytes: they may be of another file",
                lambda f: f(200, 416, "bytes */200") == "start over",
            ),
            ("fail on 404 and 503", lambda f: [f(100, 404, None), f(100, 503, None)] == ["fail"] * 2),
        ),
        (
            "Sort by status first. Which statuses bring bytes of the file, and from where on?",
            "With 206, read the three numbers of Content-Range. Where does the part begin and end, and how long is the file?",
            "Append only if the first number equals what you have and the second is the last byte of the file, counted from 0. "
            "Anything else with 206 is a part you did not ask for.",
        ),
        next_step,
        inputs=lambda: list(ANSWERS),
        slips=(
            (
                "append whatever comes with 206",
                lambda have, status, stated: _append_if(lambda *_: True, status, stated),
            ),
            (
                "append on 200 as well, although the server sends the file from the beginning",
                lambda have, status, stated: (
                    "append" if status == 200 else _append_if(lambda a, b, n: a == have and b + 1 == n, status, stated)
                ),
            ),
            (
                "look only at where the part begins",
                lambda have, status, stated: _append_if(lambda a, b, n: a == have, status, stated),
            ),
            (
                "look only at where the part ends",
                lambda have, status, stated: _append_if(lambda a, b, n: b >= 0 and b + 1 == n, status, stated),
            ),
            (
                "count the last byte from 1",
                lambda have, status, stated: _append_if(lambda a, b, n: b >= 0 and a == have and b == n, status, stated),
            ),
            (
                "fail on 416",
                lambda have, status, stated: (
                    "fail" if status == 416 else _append_if(lambda a, b, n: a == have and b + 1 == n, status, stated)
                ),
            ),
            (
                "start over whatever happens",
                lambda have, status, stated: _append_if(lambda *_: False, 206, None),
            ),
        ),
    ),
    "fewest_parts": Exercise(
        "Into how many parts must a batch be split?",
        (
            ("return 1 if the whole batch fits", lambda f: f(0.5, 0.01, 128, 15) == 1),
            (
                "return 3 for a batch of 128 if 50 images fit at once: 50, 50 and 28",
                lambda f: f(1.0, 0.1, 128, 6.7) == 3,
            ),
            ("return 0 if not even one image fits", lambda f: f(13.45, 0.2, 128, 15) == 0),
            (
                "return 0 if the network alone is too large",
                lambda f: f(20.4, 0.1, 512, 15) == 0,
            ),
            ("keep a tenth of the card free", lambda f: f(0.0, 1.0, 10, 10) == 2),
        ),
        (
            "How many images fit at once? Then: how many parts of at most that size does the batch make?",
            "The room for images is what the card has, less a tenth, less what is needed without any image.",
            "Round the number of images at once down, and the number of parts up. Divide the batch by the first to get the "
            "second, and think of the case that it is 0.",
        ),
        fewest_parts,
        inputs=lambda: [
            (0.5, 0.18, 128, 15),
            (4.6, 0.54, 512, 15),
            (8.4, 0.82, 128, 15),
            (5.1, 0.78, 512, 24),
            (20.4, 1.5, 128, 24),
            (0.5, 0.011, 512, 8),
            (0.47, 0.05, 512, 8),
            (1.0, 0.1, 128, 6.7),
        ],
        slips=(
            ("use the whole card", lambda *given: _parts(*given, spare=1.0)),
            ("forget what is needed without any image", lambda *given: _parts(*given, without=False)),
            ("round the number of parts down, so that the last images belong to none", lambda *g: _parts(*g, round_up=False)),
            (
                "return how many images fit at once",
                lambda fixed, per_image, batch, card: max(0, min(batch, math.floor((0.9 * card - fixed) / per_image))),
            ),
            (
                "double the number of parts until it fits, which may be more than needed",
                lambda fixed, per_image, batch, card: next(
                    (
                        n
                        for n in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
                        if fixed + math.ceil(batch / n) * per_image <= 0.9 * card
                    ),
                    0,
                ),
            ),
            (
                "take a tenth off the room for images, not off the card",
                lambda fixed, per_image, batch, card: (
                    math.ceil(batch / min(batch, n)) if (n := math.floor(0.9 * (card - fixed) / per_image)) >= 1 else 0
                ),
            ),
        ),
        within=1e-9,
    ),
    "repeated": Exercise(
        "Do mistakes repeat?",
        (
            (
                "return 2 for two runs that are wrong on the same half of the images",
                lambda f: alike(f(torch.tensor([[True, True, False, False]] * 2)), 2.0),
            ),
            (
                "return 0 for two runs that are never wrong on the same image",
                lambda f: alike(f(torch.tensor([[True, False, False, False], [False, True, True, False]])), 0.0),
            ),
            (
                "return 1 if the mistakes have nothing to do with each other",
                lambda f: alike(f(torch.tensor([[True, True, False, False], [True, False, True, False]])), 1.0),
            ),
            (
                "come close to 1 for many independent runs, whatever their error rates",
                lambda f: abs(f(_errors(6, 20_000, 3, shared=0.0)) - 1) < 0.05,
            ),
            ("leave the mistakes as they are", lambda f: leaves_alone(f, _errors(3, 50, 1))),
        ),
        (
            "For two runs: among the mistakes of the one, in what share is the other wrong, too? Compare that with the error "
            "rate of the other.",
            "Go through all ordered pairs of two different runs, and average the ratios. A run and itself make no pair.",
            "Multiply the two rows of zeros and ones, add up, divide by the number of mistakes of the first and by the mean "
            "of the second row.",
        ),
        repeated,
        inputs=lambda: [(_errors(runs, 60, seed),) for seed, runs in enumerate((2, 3, 5, 4), 10)],
        slips=(
            ("compare every run with itself, too", lambda wrong: _pairs(wrong, _lift, itself=True)),
            (
                "return the share that repeats, without the error rate to compare it with",
                lambda wrong: _pairs(wrong, lambda a, b: (a * b).sum() / a.sum()),
            ),
            (
                "return how far the share that repeats lies above the error rate, where a ratio was asked for",
                lambda wrong: _pairs(wrong, lambda a, b: (a * b).sum() / a.sum() - b.mean()),
            ),
            (
                "compare with the error rate of the same run",
                lambda wrong: _pairs(wrong, lambda a, b: (a * b).sum() / a.sum() / a.mean()),
            ),
            (
                "count agreement on right answers as well",
                lambda wrong: _pairs(wrong, lambda a, b: (a == b).double().mean() / b.mean()),
            ),
            (
                "divide by the images that either of the two gets wrong",
                lambda wrong: _pairs(wrong, lambda a, b: (a * b).sum() / ((a + b) > 0).sum() / b.mean()),
            ),
            ("work with right answers instead of mistakes", lambda wrong: _pairs(~wrong, _lift)),
        ),
    ),
}
