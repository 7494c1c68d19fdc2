"""The exercises of notebooks/07_freezing_vs_finetuning: what training changes, frozen statistics, a fitted head."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from ..check import Exercise
from .cases import random


def _network() -> torch.nn.Sequential:
    """A linear layer, a batch norm inside a block, and a head, in train mode."""
    block = torch.nn.Sequential(torch.nn.BatchNorm1d(5), torch.nn.ReLU())
    return torch.nn.Sequential(torch.nn.Linear(4, 5), block, torch.nn.Linear(5, 3))


def _frozen_by_gradient() -> torch.nn.Sequential:
    model = _network()
    model[:2].requires_grad_(False)
    return model


def _frozen() -> torch.nn.Sequential:
    model = _frozen_by_gradient()
    model[1].eval()
    return model


def _changed(model: torch.nn.Module) -> set[str]:
    """What one step of training does change."""
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model(random(8, 4)).square().mean().backward()
    with torch.no_grad():
        for p in model.parameters():
            if p.grad is not None:
                p -= 0.1 * p.grad.sign() + 0.01  # a parameter whose gradient happens to be 0 would move in a later step
    return {name for name, value in model.state_dict().items() if not torch.equal(before[name], value)}


def _agrees(what_moves, make) -> bool:
    return set(what_moves(make())) == _changed(make())


def _statistics_stay(keep) -> bool:
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.Sequential(torch.nn.BatchNorm2d(4)))
    before = model[1][0].running_mean.clone()
    model.train()
    keep(model)
    model(random(2, 3, 4, 4))
    return torch.equal(before, model[1][0].running_mean)


def _every_kind(keep) -> bool:
    model = torch.nn.Sequential(torch.nn.BatchNorm1d(4), torch.nn.BatchNorm2d(4), torch.nn.BatchNorm3d(4)).train()
    keep(model)
    return not any(layer.training for layer in model)


def _others_train(keep) -> bool:
    model = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.BatchNorm2d(4), torch.nn.GroupNorm(2, 4)).train()
    keep(model)
    return model.training and model[0].training and model[2].training


def _weights_stay_free(keep) -> bool:
    model = torch.nn.Sequential(torch.nn.BatchNorm2d(4)).train()
    keep(model)
    return all(p.requires_grad for p in model.parameters())


def _clusters(scale: float = 1.0, shift: float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of three classes, in columns of very different size, and their labels; scaled and shifted as a whole."""
    labels = torch.arange(30) % 3
    centres = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]])
    features = centres[labels] + 0.1 * random(30, 4)
    return (features * torch.tensor([1.0, 30.0, 0.1, 5.0])) * scale + shift, labels


def _logits(fit, features, labels) -> torch.Tensor:
    weight, bias = fit(features, labels, 3)
    return features @ weight.T + bias


def _fits(fit) -> bool:
    features, labels = _clusters()
    return bool((_logits(fit, features, labels).argmax(1) == labels).all())


def _shapes(fit) -> bool:
    weight, bias = fit(*_clusters(), 3)
    return tuple(weight.shape) == (3, 4) and tuple(bias.shape) == (3,)


def _units_do_not_matter(fit) -> bool:
    one, other = (_logits(fit, *_clusters(scale, shift)) for scale, shift in ((1, 0), (20, 3)))
    return torch.allclose(one, other, atol=1e-2)


def _dead_feature(fit) -> bool:
    features, labels = _clusters()
    features[:, 3] = 7.0
    logits = _logits(fit, features, labels)
    return bool(logits.isfinite().all() and (logits.argmax(1) == labels).all())


def _least_squares(fit) -> bool:
    """The optimum: at it, no small change of the head lowers the penalised error."""
    features, labels = _clusters()
    std, mean = torch.std_mean(features, dim=0, correction=0)
    x, y = (features - mean) / std, F.one_hot(labels, 3).float()
    w = torch.linalg.solve(x.T @ x + torch.eye(4), x.T @ (y - y.mean(0)))
    return torch.allclose(_logits(fit, features, labels), x @ w + y.mean(0), atol=1e-2)


def what_moves(model):
    """Names, as in model.state_dict(), of everything that a training step may change: weights and statistics."""
    names = {name for name, p in model.named_parameters() if p.requires_grad}
    for path, module in model.named_modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm) and module.training:
            names |= {f"{path}.{name}" for name, _ in module.named_buffers()}
    return names


def keep_statistics(model):
    """Put every batch norm, and nothing else, into evaluation mode."""
    for module in model.modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
            module.eval()


def fit_head(features, labels, num_classes):
    """A linear head fitted by least squares, with penalty 1, to one-hot labels.

    features: float [N, D]; labels: int [N]. Returns weight [num_classes, D] and bias [num_classes] for raw features.
    """
    std, mean = torch.std_mean(features, dim=0, correction=0)
    std = std.clamp_min(1e-6)
    x = (features - mean) / std
    y = F.one_hot(labels, num_classes).float()
    w = torch.linalg.solve(x.T @ x + torch.eye(x.shape[1]), x.T @ (y - y.mean(0)))
    weight = (w / std[:, None]).T
    bias = y.mean(0) - weight @ mean
    return weight, bias


EXERCISES: dict[str, Exercise] = {
    "what_moves": Exercise(
        "List everything that a training step may change.",
        (
            ("name all the weights and statistics of a network in train mode", lambda f: _agrees(f, _network)),
            (
                "still name the running statistics where only the gradients were switched off",
                lambda f: _agrees(f, _frozen_by_gradient),
            ),
            ("leave them out where the batch norm is in evaluation mode", lambda f: _agrees(f, _frozen)),
        ),
        (
            "Two kinds of tensor change: parameters, by their gradient, and the buffers of batch norm, in train mode.",
            "Start with the names in model.named_parameters() whose p.requires_grad is true. model.named_modules() gives "
            "the path of every layer, and layer.named_buffers() the names of its statistics.",
            "For every batch norm with layer.training, add path + '.' + name for each buffer. All its kinds are instances "
            "of torch.nn.modules.batchnorm._BatchNorm.",
        ),
        what_moves,
    ),
    "keep_statistics": Exercise(
        "Freeze the statistics of batch norm.",
        (
            ("leave the running mean alone, however deep the layer lies", _statistics_stay),
            ("treat BatchNorm1d, 2d and 3d alike", _every_kind),
            ("leave everything else in train mode", _others_train),
            ("leave the weights of the batch norm trainable: it was asked to hold the statistics only", _weights_stay_free),
        ),
        (
            "requires_grad has no power over running statistics. Which switch has?",
            "A batch norm in evaluation mode uses its statistics and does not move them. model.modules() visits every layer.",
            "Call eval() on every layer that is an instance of torch.nn.modules.batchnorm._BatchNorm, the parent of all kinds.",
        ),
        keep_statistics,
    ),
    "fit_head": Exercise(
        "Fit a linear head without a single step of SGD.",
        (
            ("return a weight of shape [num_classes, D] and a bias of shape [num_classes]", _shapes),
            ("get its own, well separated training examples right", _fits),
            ("give the same logits when the features come in other units", _units_do_not_matter),
            ("survive a feature that never changes", _dead_feature),
            ("be the least-squares head with penalty 1 on standardised features", _least_squares),
        ),
        (
            "Standardise the features, solve for the head, then rewrite the head so that it takes the raw features.",
            "With standardised x and centred one-hot y, the solution w [D, num_classes] of (x'x + I) w = x'y is what "
            "torch.linalg.solve finds. Keep the standard deviation above 1e-6.",
            "x = (features - mean) / std, so x @ w = features @ (w / std) - mean @ (w / std): divide the rows of w by std, "
            "and put the rest, with the mean of the one-hot labels, into the bias.",
        ),
        fit_head,
    ),
}
