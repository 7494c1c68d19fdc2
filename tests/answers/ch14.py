"""Answers to the exercises of chapter 14."""

import torch
import torch.nn.functional as F

MASK, PAD, START = 3, 0, 2


def _loop_mask(ids, chosen, how, random_ids):
    seen = ids.clone()
    for b in range(ids.shape[0]):
        for t in range(ids.shape[1]):
            if chosen[b, t] and ids[b, t] not in (PAD, START):
                if how[b, t] < 0.8:
                    seen[b, t] = MASK
                elif how[b, t] < 0.9:
                    seen[b, t] = random_ids[b, t]
    return seen


def _by_index(ids, chosen, how, random_ids):
    seen, free = ids.clone(), chosen & ~torch.isin(ids, torch.tensor([PAD, START]))
    seen[free & (how < 0.8)] = MASK
    other = free & (how >= 0.8) & (how < 0.9)
    seen[other] = random_ids[other]
    return seen


def _in_place(ids, chosen, how, random_ids):
    seen = _by_index(ids, chosen, how, random_ids)
    ids.copy_(seen)
    return ids


def _masked(marks, special=False):
    def answer(ids, chosen, how, random_ids):
        free = chosen if special else chosen & (ids != PAD) & (ids != START)
        seen = torch.where(free & (how < marks[0]), MASK, ids)
        return torch.where(free & (how >= marks[0]) & (how < marks[1]), random_ids, seen)

    return answer


def _everywhere(ids, chosen, how, random_ids):
    return _masked((0.8, 0.9))(ids, torch.ones_like(chosen), how, random_ids)


def _library(q, k, v, empty):
    return F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None], attn_mask=~empty[:, None, None])[:, 0]


def _row_by_row(q, k, v, empty):
    """Every sentence alone, without its [PAD] among the keys."""
    rows = []
    for i in range(len(q)):
        keys, values = k[i][~empty[i]], v[i][~empty[i]]
        rows.append((q[i] @ keys.T / q.shape[2] ** 0.5).softmax(1) @ values)
    return torch.stack(rows)


def _scores(q, k, v, empty, scale, over=2, hidden=None):
    scores = q @ k.transpose(1, 2) / scale
    if hidden is not None:
        scores = scores.masked_fill(hidden, -1e9)
    return scores.softmax(over) @ v


def _mean_by_row(features, ids, weight, bias):
    return torch.stack([F.linear(x[i != PAD].mean(0), weight, bias) for x, i in zip(features, ids)])


def _by_einsum(features, ids, weight, bias):
    share = (ids != PAD).float()
    share = share / share.sum(1, keepdim=True)
    return torch.einsum("btd,bt,cd->bc", features, share, weight) + bias


def _there(ids):
    return (ids != PAD)[:, :, None]


WRONG = {
    "mask_words": {
        "all become MASK": (_masked((1.1, 1.2)), "put the random word where how is 0.85"),
        "none is kept": (_masked((0.8, 1.1)), "keep the word where it is 0.95"),
        "MASK and random exchanged": (_masked((0.0, 0.8)), "turn chosen words into MASK"),
        "everything is hidden": (_everywhere, "change nothing where nothing is chosen"),
        "[CLS] and [PAD] are hidden": (_masked((0.8, 0.9), special=True), "never touch [CLS] or [PAD]"),
        "changes its input": (_in_place, "leave the tensors that it gets as they are"),
        "returns what is chosen": (lambda ids, chosen, how, random_ids: chosen, "change nothing where nothing is chosen"),
    },
    "attend": {
        "no scale": (lambda q, k, v, e: _scores(q, k, v, e, 1, hidden=e[:, None]), "scaled_dot_product_attention"),
        "the width, not its root": (
            lambda q, k, v, e: _scores(q, k, v, e, q.shape[2], hidden=e[:, None]),
            "scaled_dot_product_attention",
        ),
        "[PAD] takes part": (lambda q, k, v, e: _scores(q, k, v, e, q.shape[2] ** 0.5), "let tokens look at [PAD]"),
        "softmax over queries": (
            lambda q, k, v, e: _scores(q, k, v, e, q.shape[2] ** 0.5, over=1, hidden=e[:, None]),
            "scaled_dot_product_attention",
        ),
        "queries hidden": (
            lambda q, k, v, e: _scores(q, k, v, e, q.shape[2] ** 0.5, hidden=e[:, :, None]),
            "hide the queries at [PAD]",
        ),
        "no softmax": (lambda q, k, v, e: q @ k.transpose(1, 2) @ v, "mean of v"),
    },
    "pooled_logits": {
        "[PAD] in the mean": (lambda x, i, w, b: x.mean(1) @ w.T + b, "one token and two [PAD]"),
        "divided by the length": (lambda x, i, w, b: (x * _there(i)).mean(1) @ w.T + b, "one token and two [PAD]"),
        "a sum": (lambda x, i, w, b: (x * _there(i)).sum(1) @ w.T + b, "add the tokens up without dividing"),
        "[CLS] alone": (lambda x, i, w, b: x[:, 0] @ w.T + b, "count [CLS]"),
        "no bias": (lambda x, i, w, b: _by_einsum(x, i, w, 0 * b), "one token and two [PAD]"),
        "one mean for the batch": (
            lambda x, i, w, b: (x[i != PAD].mean(0) @ w.T + b).expand(len(x), -1),
            "average over the batch too",
        ),
    },
}

RIGHT = {
    "mask_words": {"with loops": _loop_mask, "by index": _by_index},
    "attend": {"PyTorch's own": _library, "sentence by sentence": _row_by_row},
    "pooled_logits": {"sentence by sentence": _mean_by_row, "einsum": _by_einsum},
}
