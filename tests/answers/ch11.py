"""Answers to the exercises of chapter 11."""

import math

import numpy as np
import torch
import torch.nn.functional as F


def _rows(e):
    return e / e.sum(1, keepdim=True)


def _in_place(logits, t):
    logits /= t
    logits -= logits.amax(1, keepdim=True)
    return _rows(logits.exp())


def _differences(logits, t):
    """Each probability from the differences to all logits of its row."""
    z = (logits / t).double()
    return 1 / (z[:, None, :] - z[:, :, None]).exp().sum(2)


def _numpy_softmax(logits, t):
    z = logits.numpy() / t
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def _soft(student, teacher, t):
    return -((teacher / t).softmax(1) * (student / t).log_softmax(1)).sum(1).mean()


def _loss(factor=lambda t: t**2, hard_t=False, soft=_soft, weights=lambda a: (a, 1 - a)):
    def loss(student, teacher, labels, t, alpha):
        w, v = weights(alpha)
        hard = F.cross_entropy(student / (t if hard_t else 1), labels)
        return w * factor(t) * soft(student, teacher.detach(), t) + v * hard

    return loss


def _kl(log_target, reduction="batchmean"):
    def soft(student, teacher, t):
        target = (teacher / t).log_softmax(1) if log_target else (teacher / t).softmax(1)
        return F.kl_div((student / t).log_softmax(1), target, reduction=reduction, log_target=log_target)

    return soft


def _teacher_learns(student, teacher, labels, t, alpha):
    return alpha * t**2 * _soft(student, teacher, t) + (1 - alpha) * F.cross_entropy(student, labels)


def _log_of_softmax(student, teacher, labels, t, alpha):
    soft = -((teacher.detach() / t).softmax(1) * (student / t).softmax(1).log()).sum(1).mean()
    hard = -student.softmax(1)[torch.arange(len(labels)), labels].log().mean()
    return alpha * t**2 * soft + (1 - alpha) * hard


def _reverse(student, teacher, t):
    q = (student / t).softmax(1)
    return (q * ((student / t).log_softmax(1) - (teacher / t).log_softmax(1))).sum(1).mean()


def _mixed_targets(student, teacher, labels, t, alpha):
    """Both terms as cross-entropy with a distribution, image after image."""
    total = 0
    for s, v, y in zip(student, teacher.detach(), labels):
        soft = F.cross_entropy((s / t)[None], (v / t).softmax(0)[None])
        hard = s.logsumexp(0) - s[y]
        total = total + alpha * t * t * soft + (1 - alpha) * hard
    return total / len(labels)


def _by_its_gradient(student, teacher, labels, t, alpha):
    """A linear function of the student whose gradient is that of the loss."""
    with torch.no_grad():
        soft = t * ((student / t).softmax(1) - (teacher / t).softmax(1))
        hard = student.softmax(1) - F.one_hot(labels, student.shape[1])
        pull = (alpha * soft + (1 - alpha) * hard) / len(labels)
    return (pull * student).sum()


def _fitted(before, after, check_sum=True, check_all=True, whole=False, even=None, positive=True):
    """T from the two entries that are farthest apart, then tested on the others; with mistakes."""
    if check_sum and abs(sum(after) - 1) > 1e-3:
        return None
    if any((p > 0) != (q > 0) for p, q in zip(before, after)):
        return None
    pairs = [(math.log(p), math.log(q)) for p, q in zip(before, after) if p > 0 and q > 0]
    (high, high_after), (low, low_after) = max(pairs), min(pairs)  # of the row before
    if abs(high - low) < 1e-9 or abs(high_after - low_after) < 1e-9:
        return even
    t = (high - low) / (high_after - low_after)
    if whole:
        t = max(1, round(t))
    fits = all(abs((high - p) / t - (high_after - q)) < 0.02 for p, q in pairs)
    return t if (t > 0 or not positive) and (fits or not check_all) else None


def _first_and_last(before, after):
    if abs(sum(after) - 1) > 1e-3 or any((p > 0) != (q > 0) for p, q in zip(before, after)):
        return None
    before, after = ([v for v in row if v > 0] for row in (before, after))
    return _fitted([before[0], before[-1]], [after[0], after[-1]], check_sum=False)


def _ratio_of_neighbours(before, after):
    log = [[math.log(v) for v in row] for row in (before, after)]
    return (log[0][0] - log[0][1]) / (log[1][0] - log[1][1])


def _bisection(before, after):
    """Searches for the T at which the entropy is right, in plain Python."""
    if abs(sum(after) - 1) > 1e-3 or len(set(after)) == 1 or len(set(before)) == 1:
        return None

    def at(t):
        powers = [p ** (1 / t) for p in before]
        return [p / sum(powers) for p in powers]

    def entropy(row):
        return -sum(p * math.log(p) for p in row if p > 0)

    low, high = 0.05, 50.0
    for _ in range(60):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if entropy(at(middle)) < entropy(after) else (low, middle)
    return low if max(abs(p - q) for p, q in zip(at(low), after)) < 1e-3 else None


def _all_pairs(before, after):
    """One T for each pair of entries, in NumPy; they have to agree."""
    p, q = np.array(before, float), np.array(after, float)
    if abs(q.sum() - 1) > 1e-3 or ((p > 0) != (q > 0)).any():
        return None
    p, q = np.log(p[p > 0]), np.log(q[q > 0])
    i, j = np.triu_indices(len(p), 1)
    up, down = p[i] - p[j], q[i] - q[j]
    different = abs(up) > 1e-6
    if not different.any() or abs(down[~different]).max(initial=0) > 1e-2 or (abs(down[different]) < 1e-9).any():
        return None
    found = up[different] / down[different]
    return np.float64(found.mean()) if np.ptp(found) < 0.02 * abs(found.mean()) and found.min() > 0 else None


def _probabilities(logits):
    return torch.stack([z.softmax(1) for z in logits])


def _powers(logits, root=None):
    return _rows(_probabilities(logits).prod(0) ** (1 / (root or len(logits))))


def _adds_into_the_first(logits):
    total = logits[0]
    for z in logits[1:]:
        total += z
    return (total / len(logits)).softmax(1)


def _pairwise(logits):
    """A running mean of the logarithms, in NumPy."""
    mean = np.zeros(tuple(logits[0].shape))
    for n, z in enumerate(logits, start=1):
        mean += (z.double().log_softmax(1).numpy() - mean) / n
    e = np.exp(mean)
    return e / e.sum(1, keepdims=True)


WRONG = {
    "soften": {
        "T ignored": (lambda z, t: z.softmax(1), "use the temperature"),
        "times T": (lambda z, t: (z * t).softmax(1), "multiply by the temperature"),
        "root of T": (lambda z, t: (z / t**0.5).softmax(1), "square root of the temperature"),
        "probabilities divided": (lambda z, t: z.softmax(1) / t, "divide the probabilities by the temperature"),
        "softmax of probabilities": (lambda z, t: (z.softmax(1) / t).softmax(1), "softmax of probabilities, not of logits"),
        "maximum of the batch": (lambda z, t: _rows((z / t - (z / t).max()).exp()), "logits around a thousand"),
        "no maximum": (lambda z, t: _rows((z / t).exp()), "logits around a thousand"),
        "cut off at 80": (lambda z, t: _rows((z / t).clamp(max=80).exp()), "logits around a thousand"),
        "maximum or 0": (
            lambda z, t: _rows((z / t - (z / t).amax(1, keepdim=True).clamp_min(0)).exp()),
            "logits around minus a thousand",
        ),
        "in place": (_in_place, "leave the logits that it was given as they were"),
        "columns": (lambda z, t: (z / t).softmax(0), "make each column sum to 1"),
        "logarithms": (lambda z, t: (z / t).log_softmax(1), "return logarithms"),
        "not divided by the sum": (lambda z, t: (z / t - (z / t).amax(1, keepdim=True)).exp(), "divide by the sum of the row"),
        "power T": (lambda z, t: _rows(z.softmax(1) ** t), "multiply by the temperature"),
    },
    "hintons_loss": {
        "no T²": (_loss(factor=lambda t: 1), "forget the factor T²"),
        "T for T²": (_loss(factor=lambda t: t), "multiply by T where T² is needed"),
        "T in the labels' term": (_loss(hard_t=True), "use the temperature in the labels' term, too"),
        "alpha for the labels": (_loss(weights=lambda a: (1 - a, a)), "give alpha to the labels"),
        "KL turned round": (_loss(soft=_reverse), "turn the KL divergence round"),
        "mean over classes": (_loss(soft=lambda s, v, t: _soft(s, v, t) / s.shape[1]), "average over the classes"),
        "sum over images": (_loss(soft=_kl(False, "sum")), "add up the images of the batch"),
        "teacher not softened": (
            _loss(soft=lambda s, v, t: -(v.softmax(1) * (s / t).log_softmax(1)).sum(1).mean()),
            "leave the teacher's probabilities as they are",
        ),
        "the teacher learns": (_teacher_learns, "send no gradient to the teacher"),
        "logarithm of softmax": (_log_of_softmax, "survive logits of a thousand"),
        "no labels": (_loss(weights=lambda a: (1, 0)), "ignore the labels"),
        "no teacher": (_loss(weights=lambda a: (0, 1)), "ignore the teacher"),
        "a number without a gradient": (lambda *a: _loss()(*a).item(), "what it returned cannot be used here"),
    },
    "temperature_of": {
        "1 / T": (lambda p, q: (t := _fitted(p, q)) and 1 / t, "return 1 / T"),
        "whole numbers": (lambda p, q: _fitted(p, q, whole=True), "find 2.5"),
        "first and last": (_first_and_last, "look at every entry"),
        "highest and lowest": (lambda p, q: _fitted(p, q, check_all=False), "look at every entry"),
        "first two": (_ratio_of_neighbours, "two classes that tie for first"),
        "sums not checked": (lambda p, q: _fitted(p, q, check_sum=False), "does not sum to 1"),
        "below 0": (
            lambda p, q: _fitted(p, q, positive=False),
            "accept a temperature below 0",
        ),
        "logarithms not centred": (lambda p, q: math.log(p[0]) / math.log(q[0]), "divide two logarithms"),
        "probabilities divided": (lambda p, q: p[0] / q[0], "divide the probabilities, not their logarithms"),
        "1 for even rows": (lambda p, q: _fitted(p, q, even=1.0), "refuse two even rows"),
        "zeros refused": (lambda p, q: None if 0 in p else _fitted(p, q), "probability of 0, which stays 0"),
        "always 1": (lambda p, q: 1.0, "return 1, whatever the rows are"),
    },
    "geometric": {
        "arithmetic": (lambda z: _probabilities(z).mean(0), "arithmetic mean of the probabilities"),
        "square root": (lambda z: _powers(z, 2), "always take the square root"),
        "no root": (lambda z: torch.stack(z).sum(0).softmax(1), "without taking the root"),
        "rows not made to sum to 1": (lambda z: _probabilities(z).prod(0) ** (1 / len(z)), "make each row sum to 1"),
        "first and last": (lambda z: ((z[0] + z[-1]) / 2).softmax(1), "first and the last member alone"),
        "product of float32": (_powers, "members so sure that their small probabilities round to 0"),
        "columns": (lambda z: torch.stack(z).mean(0).softmax(0), "make each column sum to 1"),
        "logits": (lambda z: torch.stack(z).mean(0), "without a softmax"),
        "adds into the first": (_adds_into_the_first, "leave the members' logits as they were"),
        "harmonic": (lambda z: _rows(1 / (1 / _probabilities(z)).mean(0)), "take the harmonic mean"),
        "softmax of probabilities": (lambda z: _probabilities(z).mean(0).softmax(1), "take the softmax of probabilities"),
    },
}
RIGHT = {
    "soften": {
        "logsumexp": lambda z, t: (z / t - (z / t).logsumexp(1, keepdim=True)).exp(),
        "PyTorch's softmax": lambda z, t: F.softmax(z / t, dim=-1),
        "differences, float64": _differences,
        "NumPy": _numpy_softmax,
        "powers of probabilities": lambda z, t: _rows(z.double().softmax(1) ** (1 / t)),
    },
    "hintons_loss": {
        "KL divergence": _loss(soft=_kl(False)),
        "KL divergence of logarithms": _loss(soft=_kl(True)),
        "image after image": _mixed_targets,
        "by its gradient": _by_its_gradient,
    },
    "temperature_of": {"farthest entries": _fitted, "bisection on the entropy": _bisection, "all pairs": _all_pairs},
    "geometric": {
        "mean of log-probabilities": lambda z: torch.stack([m.log_softmax(1) for m in z]).mean(0).softmax(1),
        "running mean, NumPy": _pairwise,
        "product of roots, float64": lambda z: _rows(torch.stack([m.double().softmax(1) ** (1 / len(z)) for m in z]).prod(0)),
    },
}
