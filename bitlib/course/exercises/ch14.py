"""The exercises of notebooks/14_beyond_vision: masking, one head of attention, and a pooled head that leaves out [PAD]."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ..check import Exercise, alike
from ..text import MASK, PAD, START
from .cases import leaves_alone, random


def mask_words(ids, chosen, how, random_ids):
    """What the network sees. ids, random_ids: int [B, T]; chosen: bool [B, T]; how: [B, T], drawn evenly from 0 to 1.

    Of the chosen tokens, 80 % become MASK, the next 10 % the word in random_ids, and the last 10 % stay. [CLS] is START.
    """
    free = chosen & (ids != PAD) & (ids != START)
    seen = torch.where(free & (how < 0.8), MASK, ids)
    return torch.where(free & (how >= 0.8) & (how < 0.9), random_ids, seen)


def attend(q, k, v, empty):
    """One head of self-attention. q, k: [B, T, D]; v: [B, T, E]; empty: bool [B, T], True where a token is [PAD]."""
    scores = q @ k.transpose(1, 2) / q.shape[2] ** 0.5
    scores = scores.masked_fill(empty[:, None], -torch.inf)
    return scores.softmax(2) @ v


def pooled_logits(features, ids, weight, bias):
    """Logits [B, C] of a linear head on the mean over each sentence's tokens. features: [B, T, D]; ids: [B, T] with PAD."""
    there = (ids != PAD)[:, :, None].to(features.dtype)
    return (features * there).sum(1) / there.sum(1) @ weight.T + bias


# --- for the checks ---
def _sentences(rows: int = 4, length: int = 9, seed: int = 0) -> torch.Tensor:
    """Token ids with [CLS] in front, and a [PAD] more from row to row."""
    ids = torch.randint(10, 60, (rows, length), generator=torch.Generator().manual_seed(seed))
    ids[:, 0] = START
    for row in range(rows):
        ids[row, length - row :] = PAD
    return ids


def _drawn(seed: int, length: int = 9) -> tuple[torch.Tensor, ...]:
    ids, g = _sentences(4, length, seed), torch.Generator().manual_seed(seed)
    chosen = torch.rand(ids.shape, generator=g) < 0.6
    how = torch.rand(ids.shape, generator=g)
    return ids, chosen, how, torch.randint(100, 160, ids.shape, generator=g)


def _masked(ids, chosen, how, random_ids, *, marks=(0.8, 0.9), special=False, everywhere=False):
    """mask_words, with one thing done in another way."""
    free = torch.ones_like(chosen) if everywhere else chosen
    free = free if special else free & (ids != PAD) & (ids != START)
    seen = torch.where(free & (how < marks[0]), MASK, ids)
    return torch.where(free & (how >= marks[0]) & (how < marks[1]), random_ids, seen)


def _heads(seed: int, width: int = 5) -> tuple[torch.Tensor, ...]:
    empty = _sentences(seed=seed) == PAD
    q, k = (random(*empty.shape, width, seed=seed + i) for i in (10, 20))
    return q, k, random(*empty.shape, 3, seed=seed + 30), empty


def _attended(q, k, v, empty, *, scale=True, hide=True, over=2, width=None, query=False):
    """attend, with one thing done in another way."""
    scores = q @ k.transpose(1, 2)
    scores = scores / (width or q.shape[2]) ** 0.5 if scale else scores
    if hide:
        scores = scores.masked_fill(empty[:, :, None] if query else empty[:, None], -1e9)
    return scores.softmax(over) @ v


def _by_torch(q, k, v, empty):
    return F.scaled_dot_product_attention(q, k, v, attn_mask=~empty[:, None])


def _pools(seed: int) -> tuple[torch.Tensor, ...]:
    ids = _sentences(seed=seed)
    return random(*ids.shape, 5, seed=seed), ids, random(3, 5, seed=seed + 1), random(3, seed=seed + 2)


def _all_same_how(value: float):
    def call(f):
        ids, _, how, other = _drawn(3)
        return f(ids, torch.ones_like(ids, dtype=torch.bool), torch.full_like(how, value), other)

    return call


EXERCISES: dict[str, Exercise] = {
    "mask_words": Exercise(
        "Hide words as BERT does.",
        (
            ("change nothing where nothing is chosen", lambda f: torch.equal(_nothing(f), _drawn(1)[0])),
            (
                "turn chosen words into MASK where how is 0.5",
                lambda f: bool((_all_same_how(0.5)(f)[:, 1:5] == MASK).all()),
            ),
            (
                "put the random word where how is 0.85, and keep the word where it is 0.95",
                lambda f: (
                    torch.equal(_all_same_how(0.85)(f)[:, 1:5], _drawn(3)[3][:, 1:5])
                    and torch.equal(_all_same_how(0.95)(f), _drawn(3)[0])
                ),
            ),
            (
                "never touch [CLS] or [PAD], even if they are chosen",
                lambda f: all(
                    torch.equal(_all_same_how(how)(f)[s], _drawn(3)[0][s])
                    for how in (0.5, 0.85)
                    for s in [(_drawn(3)[0] == PAD) | (_drawn(3)[0] == START)]
                ),
            ),
            ("leave the tensors that it gets as they are", lambda f: leaves_alone(f, *_drawn(2))),
        ),
        (
            "torch.where(condition, this, that) chooses element by element, and conditions are joined with & in brackets.",
            "First settle which places may change at all: chosen, and neither PAD nor START. Then two cases of `how` matter.",
            "MASK where how < 0.8; the random word where how is at least 0.8 and below 0.9; ids everywhere else.",
        ),
        mask_words,
        inputs=lambda: [_drawn(seed) for seed in range(20, 24)],
        slips=(
            ("turn every chosen word into MASK", lambda *given: _masked(*given, marks=(1.1, 1.2))),
            ("use the random word in 20 % of the cases and keep none", lambda *given: _masked(*given, marks=(0.8, 1.1))),
            ("use the random word in 80 % and MASK in none", lambda *given: _masked(*given, marks=(0.0, 0.8))),
            ("hide words that were not chosen", lambda *given: _masked(*given, everywhere=True)),
            ("hide [CLS] and [PAD], which hold nothing to guess", lambda *given: _masked(*given, special=True)),
        ),
    ),
    "attend": Exercise(
        "One head of self-attention.",
        (
            (
                "return the mean of v if all scores are equal and nothing is empty",
                lambda f: alike(
                    f(torch.zeros(1, 3, 2), torch.zeros(1, 3, 2), torch.eye(3)[None], torch.zeros(1, 3, dtype=torch.bool)),
                    torch.full((1, 3, 3), 1 / 3),
                ),
            ),
            (
                "agree with torch.nn.functional.scaled_dot_product_attention",
                lambda f: alike(f(*_heads(4)), _by_torch(*_heads(4))),
            ),
            ("not let a value at [PAD] change anything", lambda f: alike(_with_loud_padding(f), f(*_heads(5)))),
            ("leave the tensors that it gets as they are", lambda f: leaves_alone(f, *_heads(6))),
        ),
        (
            "Three steps: scores between every query and every key, weights that add up to one, a weighted mean of the values.",
            "Scores are q @ kᵀ divided by the root of the width of q. A score of minus infinity becomes a weight of zero.",
            "empty belongs to the keys, the last dimension of the scores [B, T, T], so it needs a dimension for the queries in "
            "between. Fill there with minus infinity, and take the softmax over that last dimension.",
        ),
        attend,
        inputs=lambda: [_heads(seed) for seed in range(40, 43)],
        slips=(
            ("forget to divide by the root of the width", lambda *given: _attended(*given, scale=False)),
            ("divide by the root of the number of tokens", lambda *given: _attended(*given, width=9)),
            ("divide by the width instead of its root", lambda *given: _attended(*given, width=25)),
            ("let tokens look at [PAD]", lambda *given: _attended(*given, hide=False)),
            ("take the softmax over the queries instead of the keys", lambda *given: _attended(*given, over=1)),
            ("hide the queries at [PAD] instead of the keys", lambda *given: _attended(*given, query=True)),
        ),
    ),
    "pooled_logits": Exercise(
        "A head on the mean of a sentence.",
        (
            (
                "return weight @ feature + bias for a sentence of one token and two [PAD]",
                lambda f: alike(
                    f(
                        torch.tensor([[[1.0, 2.0], [9.0, 9.0], [9.0, 9.0]]]),
                        torch.tensor([[START, PAD, PAD]]),
                        torch.tensor([[1.0, 1.0], [0.0, 2.0]]),
                        torch.tensor([0.0, 1.0]),
                    ),
                    [[3.0, 5.0]],
                ),
            ),
            ("give the same logits when more [PAD] follows", lambda f: alike(_longer(f), f(*_pools(7)))),
            ("count [CLS], which is a token like the others here", lambda f: alike(f(*_pools(8)), pooled_logits(*_pools(8)))),
            ("leave the tensors that it gets as they are", lambda f: leaves_alone(f, *_pools(9))),
        ),
        (
            "A mean is a sum over a count, and for both only what is not [PAD] matters.",
            "Multiply the features by a mask [B, T, 1] that is 1 at tokens and 0 at [PAD], then add up over the tokens.",
            "Divide by the sum of that same mask, one number per sentence, and only then apply weight.T and bias.",
        ),
        pooled_logits,
        inputs=lambda: [_pools(seed) for seed in range(60, 64)],
        slips=(
            ("average over [PAD] as well", lambda x, ids, w, b: x.mean(1) @ w.T + b),
            (
                "leave out the features of [PAD] and still divide by the full length",
                lambda x, ids, w, b: (x * (ids != PAD)[:, :, None]).mean(1) @ w.T + b,
            ),
            ("add the tokens up without dividing", lambda x, ids, w, b: (x * (ids != PAD)[:, :, None]).sum(1) @ w.T + b),
            ("use [CLS] alone", lambda x, ids, w, b: x[:, 0] @ w.T + b),
            (
                "average over the batch too",
                lambda x, ids, w, b: (x[ids != PAD].mean(0) @ w.T + b).expand(len(x), -1),
            ),
            ("forget the bias", lambda x, ids, w, b: pooled_logits(x, ids, w, 0 * b)),
        ),
    ),
}


def _nothing(f):
    ids, chosen, how, other = _drawn(1)
    return f(ids, torch.zeros_like(chosen), how, other)


def _with_loud_padding(f):
    q, k, v, empty = _heads(5)
    return f(q, torch.where(empty[:, :, None], 50.0, k), torch.where(empty[:, :, None], 100.0, v), empty)


def _longer(f):
    features, ids, weight, bias = _pools(7)
    more = torch.full((len(ids), 2, features.shape[2]), 30.0)
    return f(torch.cat([features, more], 1), F.pad(ids, (0, 2), value=PAD), weight, bias)
