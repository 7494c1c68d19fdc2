"""The exercises of the chapters: their questions, checks and hints. Stubs and solutions stand in the notebooks."""

from __future__ import annotations

import math

import torch

from ..check import Exercise


def _balanced(few_shot) -> bool:
    labels = torch.tensor([0, 1, 2, 2, 1, 0, 0, 1, 2, 2] * 5)
    chosen = torch.as_tensor(few_shot(labels, 4, 0))
    return torch.bincount(labels[chosen], minlength=3).tolist() == [4, 4, 4]


def _distinct(few_shot) -> bool:
    chosen = torch.as_tensor(few_shot(torch.zeros(6, dtype=torch.long), 6, 0))
    return sorted(chosen.tolist()) == [0, 1, 2, 3, 4, 5]


def _seeded(few_shot) -> bool:
    labels = torch.arange(3).repeat(50)
    draws = [torch.as_tensor(few_shot(labels, 5, seed)).tolist() for seed in (0, 0, 1)]
    return draws[0] == draws[1] and sorted(draws[0]) != sorted(draws[2])


def _leaves_its_list_alone(median) -> bool:
    values = [0.3, 0.1, 0.2]
    median(values)
    return values == [0.3, 0.1, 0.2]


_PAIR = torch.tensor([[1.0, 2.0], [5.0, 0.0]])


def _mixed(mix, lam: float) -> tuple:
    return mix(_PAIR, torch.tensor([0, 2]), lam, torch.tensor([1, 0]), 3)


def _random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 2 + 1


def _half_frozen() -> torch.nn.Module:
    model = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Linear(5, 3, bias=False))
    model[0].requires_grad_(False)
    return model  # 25 weights frozen, 15 free


def _statistics_stay(keep) -> bool:
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.Sequential(torch.nn.BatchNorm2d(4)))
    before = model[1][0].running_mean.clone()
    model.train()
    keep(model)
    model(_random(2, 3, 4, 4))
    return torch.equal(before, model[1][0].running_mean)


def _others_train(keep) -> bool:
    model = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.BatchNorm2d(4)).train()
    keep(model)
    return model.training and model[0].training and not model[1].training


def _shared_out(own) -> bool:
    return sorted(i for device in range(3) for i in own(11, device, 3)) == list(range(11))


def _lecture_row(find) -> bool:
    return find([1e-6, 0.9, 0.1, 1e-9], [0.05, 0.3, 0.2, 0.005]) is None


def _temperature(find) -> bool:
    hard = torch.tensor([4.0, 1.0, -2.0], dtype=torch.float64)
    found = find(hard.softmax(0).tolist(), (hard / 3).softmax(0).tolist())
    return found is not None and math.isclose(found, 3, rel_tol=1e-3)


def _sums_but_does_not_fit(find) -> bool:
    return find([0.7, 0.2, 0.1], [0.4, 0.2, 0.4]) is None


_PROBABILITIES = torch.tensor([[0.1, 0.9, 0.0], [0.4, 0.3, 0.3], [0.8, 0.1, 0.1], [0.2, 0.2, 0.6]])

EXERCISES: dict[str, Exercise] = {
    "mix": Exercise(
        "Mix a batch of pictures and labels.",
        (
            (
                "change nothing where lam is 1",
                lambda f: torch.equal(_mixed(f, 1.0)[0], _PAIR) and _mixed(f, 1.0)[1].tolist() == [[1, 0, 0], [0, 0, 1]],
            ),
            (
                "mix labels in the same proportion",
                lambda f: torch.allclose(_mixed(f, 0.75)[1], torch.tensor([[0.75, 0, 0.25], [0.25, 0, 0.75]])),
            ),
            (
                "give every picture its own partner",
                lambda f: torch.allclose(_mixed(f, 0.75)[0], 0.75 * _PAIR + 0.25 * _PAIR.flip(0)),
            ),
        ),
        (
            "x[partners] is the batch of partners, in the right order.",
            "torch.nn.functional.one_hot(y, num_classes) turns labels into rows that can be mixed like pictures.",
            "lam * x + (1 - lam) * x[partners], and the same formula for the one-hot labels.",
        ),
    ),
    "ece": Exercise(
        "Measure how far confidence is from truth.",
        (
            (
                "give 0 where 75 % sure means right three times of four",
                lambda f: math.isclose(f(torch.full((4,), 0.75), torch.tensor([1.0, 1, 1, 0])), 0, abs_tol=1e-6),
            ),
            (
                "give 0.5 where half of the sure answers are wrong",
                lambda f: math.isclose(f(torch.ones(4), torch.tensor([1.0, 0, 1, 0])), 0.5, abs_tol=1e-6),
            ),
            (
                "weight bins by their pictures",
                lambda f: math.isclose(
                    f(torch.tensor([1.0, 1, 1, 0.25]), torch.tensor([1.0, 1, 1, 1])), 0.75 / 4, abs_tol=1e-6
                ),
            ),
        ),
        (
            "First decide for each picture which bin it falls into.",
            "(confidence * bins).long() is the bin; a confidence of exactly 1 needs clamp_max(bins - 1).",
            "For each bin: its share of pictures, times |mean confidence - mean right|. Add these up.",
        ),
    ),
    "soften": Exercise(
        "Softmax with a temperature, from scratch.",
        (
            (
                "be the ordinary softmax at temperature 1",
                lambda f: torch.allclose(f(_random(4, 3), 1), _random(4, 3).softmax(1)),
            ),
            ("let every row sum to 1 at temperature 7", lambda f: torch.allclose(f(_random(4, 3), 7).sum(1), torch.ones(4))),
            (
                "survive logits of a thousand",
                lambda f: torch.allclose(f(torch.tensor([[1000.0, 999.0]]), 1), torch.tensor([[1.0, 0.0]]).softmax(1)),
            ),
        ),
        (
            "Divide first. What does exp(1000) give you?",
            "Subtracting the same number from all logits of a row changes no probability. Which number keeps exp small?",
            "z = logits / t; e = (z - z.amax(1, keepdim=True)).exp(); return e / e.sum(1, keepdim=True).",
        ),
    ),
    "temperature_of": Exercise(
        "Find the temperature that turned one row of probabilities into another, or show that there is none.",
        (
            ("find 3 where it was 3", _temperature),
            ("refuse a row that sums to 1 but follows no temperature", _sums_but_does_not_fit),
            ("refuse the lecture's row", _lecture_row),
        ),
        (
            "What must a row of probabilities sum to? Check that first.",
            "log(p_i / p_j) is a difference of logits. A temperature divides all of these differences by the same number.",
            "For each entry, T = log(p_max / p_i) / log(q_max / q_i). If these agree to 1 %, return their mean.",
        ),
    ),
    "geometric": Exercise(
        "Join several networks by the geometric mean of their probabilities.",
        (
            (
                "give rows that sum to 1",
                lambda f: torch.allclose(f([_random(4, 3), _random(4, 3, seed=1)]).sum(1), torch.ones(4)),
            ),
            ("give one network back as it is", lambda f: torch.allclose(f([_random(4, 3)]), _random(4, 3).softmax(1))),
            (
                "be the softmax of the mean logits",
                lambda f: torch.allclose(
                    f([_random(4, 3), _random(4, 3, seed=1)]), ((_random(4, 3) + _random(4, 3, seed=1)) / 2).softmax(1)
                ),
            ),
        ),
        (
            "The logarithm of a geometric mean is a mean of logarithms.",
            "The logarithm of a softmax is the logits less a constant for each row. What happens to the constant at the end?",
            "torch.stack(logits).mean(0).softmax(1).",
        ),
    ),
    "trainable_share": Exercise(
        "How much of a network will be trained?",
        (
            ("give 1 where nothing is frozen", lambda f: f(torch.nn.Linear(3, 2)) == 1),
            ("count weights, not layers", lambda f: math.isclose(f(_half_frozen()), 15 / 40)),
            ("give 0 where everything is frozen", lambda f: f(torch.nn.Linear(3, 2).requires_grad_(False)) == 0),
        ),
        (
            "Every parameter knows whether it wants a gradient.",
            "p.requires_grad is True for a trainable parameter p, and p.numel() is its number of weights.",
            "Divide the sum of p.numel() over trainable parameters by the sum over all of model.parameters().",
        ),
    ),
    "keep_statistics": Exercise(
        "Freeze the statistics of batch norm.",
        (
            ("leave the running mean alone, however deep the layer lies", _statistics_stay),
            ("leave everything else in train mode", _others_train),
        ),
        (
            "requires_grad has no power over running statistics. Which switch has?",
            "A batch norm in evaluation mode uses its statistics and does not move them. model.modules() visits every layer.",
            "For every m in model.modules() with isinstance(m, nn.BatchNorm2d), call m.eval().",
        ),
    ),
    "forward_passes": Exercise(
        "Compare the work of fine-tuning and of a linear head on cached features.",
        (
            ("count forward and backward as three", lambda f: f(100, 50, 32)[0] == 4800),
            ("need one pass a picture for the features", lambda f: f(647, 500, 64)[1] == 647),
            ("not let the features depend on the number of steps", lambda f: f(10, 5, 2)[1] == f(10, 500, 2)[1]),
        ),
        (
            "How many pictures does fine-tuning process, counting repetitions?",
            "A training step costs about three forward passes a picture: one forward, two for the gradients.",
            "Return (3 * steps * batch_size, num_pictures).",
        ),
    ),
    "group_norm": Exercise(
        "Normalise groups of channels.",
        (
            ("keep the shape", lambda f: f(_random(2, 6, 3, 3), 2).shape == (2, 6, 3, 3)),
            (
                "give every group of every picture mean 0",
                lambda f: f(_random(2, 6, 3, 3), 3).reshape(2, 3, -1).mean(2).abs().max() < 1e-5,
            ),
            (
                "agree with torch.nn.functional.group_norm",
                lambda f: torch.allclose(
                    f(_random(3, 8, 4, 4), 4), torch.nn.functional.group_norm(_random(3, 8, 4, 4), 4), atol=1e-4
                ),
            ),
        ),
        (
            "Which axis tells the groups apart? There is none yet; make one.",
            "x.unflatten(1, (groups, -1)) has shape [N, groups, C / groups, H, W]. Over which of these do you take the mean?",
            "Use normalize(parts, (2, 3, 4)), and .flatten(1, 2) to get the channels back.",
        ),
    ),
    "standardize": Exercise(
        "Standardise the weights of a convolution.",
        (
            ("give every filter mean 0", lambda f: f(_random(5, 3, 3, 3)).flatten(1).mean(1).abs().max() < 1e-5),
            (
                "give every filter variance 1, the biased one",
                lambda f: (f(_random(5, 3, 3, 3)).flatten(1).var(1, correction=0) - 1).abs().max() < 1e-4,
            ),
            (
                "treat filters on their own, not the layer as a whole",
                lambda f: torch.allclose(
                    f(torch.cat([_random(2, 3, 3, 3), 9 * _random(2, 3, 3, 3)]))[2:], f(_random(2, 3, 3, 3)), atol=1e-4
                ),
            ),
        ),
        (
            "A filter is one output channel. Which axes of [out, in, kh, kw] belong to one filter?",
            "Take mean and variance over axes 1, 2 and 3, with keepdim=True and correction=0.",
            "var, mean = torch.var_mean(w, dim=(1, 2, 3), keepdim=True, correction=0); then (w - mean) / (var + 1e-10).sqrt().",
        ),
    ),
    "shares": Exercise(
        "Weight the losses of unequal micro-batches.",
        (
            ("weight equal parts equally", lambda f: list(f([4, 4])) == [0.5, 0.5]),
            ("let the weights sum to 1", lambda f: math.isclose(sum(f([32, 32, 7])), 1)),
            ("count every picture the same", lambda f: [round(v, 6) for v in f([6, 2])] == [0.75, 0.25]),
        ),
        (
            "The loss of a part is a mean over its pictures. What must the weighted sum be a mean over?",
            "A part with twice the pictures deserves twice the weight.",
            "Divide each size by the sum of all sizes.",
        ),
    ),
    "epochs": Exercise(
        "How often does the HyperRule show each picture of a small task to the network?",
        (
            ("give 5,120 for 50 pictures", lambda f: math.isclose(f(50), 5120)),
            ("give about 13.5 for 19,000 pictures", lambda f: math.isclose(f(19_000), 500 * 512 / 19_000)),
            ("use the longer schedule from 20,000 pictures on", lambda f: math.isclose(f(20_000), 256.0)),
        ),
        (
            "An epoch is one pass over the training pictures. How many pictures does the whole run show?",
            "The run shows total_steps * batch_size pictures. HyperRule tells you both.",
            "Make rule = bitlib.HyperRule(n, (32, 32)); the answer is rule.total_steps * rule.batch_size / n.",
        ),
    ),
    "few_shot": Exercise(
        "Draw a balanced few-shot subset.",
        (
            ("return four indices of every class", _balanced),
            ("never take the same picture twice", _distinct),
            ("repeat the draw for the same seed, and change it with the seed", _seeded),
        ),
        (
            "Treat one class after the other: find its members first.",
            "(labels == c).nonzero()[:, 0] are the members; torch.randperm(n, generator=g)[:k] picks k of n places.",
            "Make one generator from the seed before the loop, and join the picks of all classes with torch.cat.",
        ),
    ),
    "report": Exercise(
        "Report one test accuracy of a run that was evaluated at several checkpoints.",
        (
            ("take the checkpoint that is best on validation", lambda f: f([0.80, 0.90, 0.85], [0.81, 0.86, 0.92]) == 0.86),
            ("not look for the best test accuracy", lambda f: f([0.7, 0.6], [0.5, 0.9]) == 0.5),
            ("take the earliest of equals", lambda f: f([0.6, 0.8, 0.8], [0.1, 0.2, 0.3]) == 0.2),
        ),
        (
            "Which of the two lists may you choose by?",
            "Find the position of the largest validation accuracy, and read the test accuracy there.",
            "best = val.index(max(val)) finds the earliest of equals; return test[best].",
        ),
    ),
    "median": Exercise(
        "Report some accuracies by their median and their range.",
        (
            ("take the middle one of three", lambda f: tuple(f([0.9, 0.7, 0.8])) == (0.8, 0.7, 0.9)),
            ("take the mean of the two middle ones of four", lambda f: math.isclose(f([0.1, 0.9, 0.5, 0.3])[0], 0.4)),
            ("leave the list as it was", _leaves_its_list_alone),
        ),
        (
            "Sort first. What do you need besides the middle?",
            "With n values in order, the middle ones are at (n - 1) // 2 and n // 2; for an odd n these are the same.",
            "ordered = sorted(values) makes a new list; return the mean of the two middle ones, ordered[0] and ordered[-1].",
        ),
    ),
    "paired": Exercise(
        "Compare two methods draw by draw.",
        (
            ("give the mean difference", lambda f: math.isclose(f([0.5, 0.7], [0.6, 0.9])[0], 0.15)),
            (
                "give the spread of the differences, not of the methods",
                lambda f: math.isclose(f([0.1, 0.5, 0.9], [0.2, 0.6, 1.0])[1], 0, abs_tol=1e-9),
            ),
            ("divide by n - 1", lambda f: math.isclose(f([0, 0], [0, 1])[1], math.sqrt(0.5))),
        ),
        (
            "The draws come in pairs. What can you compute for each pair?",
            "zip(a, b) walks through the pairs; take b - a in each.",
            "statistics.fmean and statistics.stdev of the list of differences are what is asked for.",
        ),
    ),
    "pseudo_labels": Exercise(
        "Keep the predictions that are sure enough, and use them as labels.",
        (
            ("keep only what is sure", lambda f: f(_PROBABILITIES, 0.7)[0].tolist() == [0, 2]),
            ("give the predicted classes", lambda f: f(_PROBABILITIES, 0.7)[1].tolist() == [1, 0]),
            ("keep nothing where nothing is sure", lambda f: [len(part) for part in f(_PROBABILITIES, 0.99)] == [0, 0]),
        ),
        (
            "How sure a row is, is its largest entry. Where that entry stands is the class.",
            "probabilities.max(1) gives both, the values and their places.",
            "(confidence > sure).nonzero()[:, 0] are the rows to keep; index the places with them.",
        ),
    ),
    "own_share": Exercise(
        "Say which pictures of a batch belong to one of several devices.",
        (
            ("give every picture to somebody, and none to two", _shared_out),
            (
                "give shares whose sizes differ by one at most",
                lambda f: sorted(len(f(10, device, 4)) for device in range(4)) == [2, 2, 3, 3],
            ),
            ("give one device everything", lambda f: list(f(5, 0, 1)) == [0, 1, 2, 3, 4]),
        ),
        (
            "Think of dealing cards: who gets picture number 7 if there are four players?",
            "Picture i belongs to device i % devices; any other fair way is as good.",
            "list(range(device, pictures, devices)) deals them out.",
        ),
    ),
    "parts_that_fit": Exercise(
        "Choose the smallest number of micro-batches that fits into memory.",
        (
            ("take the whole batch where it fits", lambda f: f(32, 10, 100, 420) == 1),
            ("count the short part's bigger brother: 10 pictures in 3 parts are 4, 3 and 3", lambda f: f(10, 10, 0, 40) == 3),
            ("leave room for what does not grow with the batch", lambda f: f(32, 10, 100, 180) == 4),
            ("say None where one picture is too much", lambda f: f(32, 10, 100, 105) is None),
        ),
        (
            "How many pictures has the largest of m parts?",
            "math.ceil(batch / m), or -(-batch // m) without an import.",
            "Try m = 1, 2, ... up to batch, and return the first with fixed + (-(-batch // m)) * per_picture <= memory.",
        ),
    ),
    "warm_up": Exercise(
        "Scale the learning rate with the batch, and warm it up.",
        (
            ("reach 0.48 for BiT's batch of 4,096", lambda f: math.isclose(f(5000, 4096), 0.48)),
            ("start from zero", lambda f: f(0, 4096) == 0),
            ("climb in a straight line", lambda f: math.isclose(f(1250, 4096), 0.12)),
            ("stay there", lambda f: math.isclose(f(90_000, 512), 0.06)),
        ),
        (
            "Two factors: one depends on the batch, the other on the step.",
            "The peak is 0.03 * batch / 256. Up to step 5,000 it is multiplied by step / 5000.",
            "return 0.03 * batch / 256 * min(1, step / 5000)",
        ),
    ),
}
