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


def _free_weights() -> torch.nn.Sequential:
    """Statistics frozen, weights not; and the model as a whole is in train mode."""
    model = _network()
    model[1].eval()
    return model


def _one_layer_in_train_mode() -> torch.nn.Sequential:
    model = _network().eval()
    model[1][0].train()
    return model


class _Scale(torch.nn.Module):
    """Has a buffer that no training step changes."""

    def __init__(self):
        super().__init__()
        self.register_buffer("scale", torch.tensor(2.0))

    def forward(self, x):
        return self.scale * x


def _convolutional() -> torch.nn.Sequential:
    """Two-dimensional batch norm, and a buffer beside it."""
    block = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 1), torch.nn.BatchNorm2d(2))
    return torch.nn.Sequential(torch.nn.Unflatten(1, (1, 2, 2)), block, _Scale(), torch.nn.Flatten())


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


def _with_statistics() -> torch.nn.Sequential:
    """A batch norm inside a block, with statistics of its own, in train mode."""
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 1), torch.nn.Sequential(torch.nn.BatchNorm2d(4)))
    model[1][0].running_mean.fill_(0.5)
    return model.train()


def _statistics_stay(keep) -> bool:
    model = _with_statistics()
    keep(model)
    model(random(2, 3, 4, 4))
    return bool((model[1][0].running_mean == 0.5).all())


def _statistics_are_used(keep) -> bool:
    """Each image of a batch comes out as it does alone."""
    model, x = _with_statistics(), random(2, 3, 4, 4)
    keep(model)
    return torch.allclose(model(x)[:1], model(x[:1]), atol=1e-5)


def _every_kind(keep) -> bool:
    model = torch.nn.Sequential(torch.nn.BatchNorm1d(4), torch.nn.BatchNorm2d(4), torch.nn.BatchNorm3d(4)).train()
    keep(model)
    return not any(layer.training for layer in model)


def _others_train(keep) -> bool:
    block = torch.nn.Sequential(torch.nn.BatchNorm2d(4), torch.nn.Dropout())
    model = torch.nn.Sequential(torch.nn.Dropout(), block, torch.nn.GroupNorm(2, 4)).train()
    keep(model)
    return all(m.training for m in model.modules() if not isinstance(m, torch.nn.BatchNorm2d))


def _gradients_stay(keep) -> bool:
    """Trainable weights stay trainable, and frozen ones frozen."""
    model = torch.nn.Sequential(torch.nn.BatchNorm2d(4), torch.nn.BatchNorm2d(4)).train()
    model[1].requires_grad_(False)
    keep(model)
    return [p.requires_grad for p in model.parameters()] == [True, True, False, False]


def _clusters(scale=1.0, shift=0.0, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Features of three classes, not all as frequent, in columns of very different size, and their labels."""
    labels = torch.tensor([0, 1, 2, 0, 1, 0] * 5)
    centres = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]])
    features = centres[labels] + 0.1 * random(30, 4, seed=seed)
    return (features * torch.tensor([1.0, 30.0, 0.1, 5.0])) * scale + shift, labels


def _noisy(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, int]:
    """Arguments for a head; ten features of 30 are of no use, so that the penalty shows."""
    features, labels = _clusters(seed=seed)
    return torch.cat([features[:20], random(10, 4, seed=seed)]), labels, 3


def _logits(fit, features, labels, num_classes: int = 3) -> torch.Tensor:
    """float64, whatever the head is made of."""
    weight, bias = (torch.as_tensor(part).double() for part in fit(features, labels, num_classes))
    return features.double() @ weight.T + bias


def _fits(fit) -> bool:
    features, labels = _clusters()
    return bool((_logits(fit, features, labels).argmax(1) == labels).all())


def _shapes(fit) -> bool:
    weight, bias = fit(*_clusters(), 3)
    return tuple(weight.shape) == (3, 4) and tuple(bias.shape) == (3,)


def _bias_is_right(fit) -> bool:
    features, labels = _clusters()
    return torch.allclose(_logits(fit, features, labels).mean(0), torch.tensor([3, 2, 1]).double() / 6, atol=1e-2)


def _units_do_not_matter(fit) -> bool:
    units = torch.tensor([20.0, 0.1, 3.0, 1.0]), torch.tensor([3.0, 0.0, -2.0, 1.0])
    one, other = (_logits(fit, *_clusters(scale, shift)) for scale, shift in ((1, 0), units))
    return torch.allclose(one, other, atol=1e-2)


def _dead_feature(fit) -> bool:
    features, labels = _clusters()
    features[:, 3] = 7.0
    logits = _logits(fit, features, labels)
    return bool(logits.isfinite().all() and (logits.argmax(1) == labels).all())


def _least_squares(fit) -> bool:
    """Standardising with n - 1 for n is near enough."""
    return torch.allclose(_logits(fit, *_noisy()), _logits(fit_head, *_noisy()), atol=5e-3)


def _slipped_head(penalty=lambda n: 1.0, scale=lambda std, features: std, raw=True, shares=True):
    """`fit_head` with mistakes: another penalty or scale, no way back to raw features, no shares of the classes."""

    def fit(features, labels, num_classes):
        std, mean = torch.std_mean(features, dim=0, correction=0)
        std = scale(std, features)
        x, y = (features - mean) / std, F.one_hot(labels, num_classes).float()
        w = torch.linalg.pinv(x.T @ x + penalty(len(x)) * torch.eye(x.shape[1])) @ x.T @ (y - y.mean(0))
        weight = (w / std[:, None]).T if raw else w.T
        return weight, (y.mean(0) if shares else 0) - (weight @ mean if raw else 0)

    return fit


def _state_after(keep, make) -> list:
    """What keep_statistics leaves: the modes of all modules, requires_grad, and whether a batch moves the statistics."""
    model = make().train()
    layers = [m for m in model.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
    for layer in layers:
        layer.running_mean.fill_(0.5)
    keep(model)
    modes, gradients = [m.training for m in model.modules()], [p.requires_grad for p in model.parameters()]
    model(random(8, 4))
    return [modes, gradients, [bool((layer.running_mean == 0.5).all()) for layer in layers]]


def _switch(change):
    """A function of a model that changes every batch norm."""

    def keep(model):
        for module in model.modules():
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                change(module)

    return keep


def _and_freeze(module) -> None:
    module.eval().requires_grad_(False)


def what_moves(model):
    """Names, as in model.state_dict(), of everything that a training step may change: weights and statistics."""
    names = {name for name, p in model.named_parameters() if p.requires_grad}
    for path, module in model.named_modules():
        if isinstance(module, torch.nn.modules.batchnorm._BatchNorm) and module.training:
            names |= {name for name, _ in module.named_buffers(prefix=path)}
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
                "still name the running statistics, but no weight, where only the gradients were switched off",
                lambda f: _agrees(f, _frozen_by_gradient),
            ),
            (
                "leave the statistics out where the batch norm is in evaluation mode, whatever the model is in",
                lambda f: _agrees(f, _frozen),
            ),
            (
                "name the weights of a batch norm in evaluation mode, which still get gradients",
                lambda f: _agrees(f, _free_weights),
            ),
            ("ask each batch norm for its own mode, not the model", lambda f: _agrees(f, _one_layer_in_train_mode)),
            (
                "treat BatchNorm2d as it does BatchNorm1d, and leave out a buffer that belongs to no batch norm",
                lambda f: _agrees(f, _convolutional),
            ),
        ),
        (
            "Two kinds of tensor change: parameters, by their gradient, and the buffers of batch norm, in train mode.",
            "Start with the names in model.named_parameters() whose p.requires_grad is true. model.named_modules() gives "
            "the path of every layer, and layer.named_buffers() the names of its statistics.",
            "Go through the layers with their paths, and stop only at those that are a batch norm (all its kinds are instances "
            "of torch.nn.modules.batchnorm._BatchNorm) and are training. A buffer's full name begins with the layer's path.",
        ),
        what_moves,
        inputs=lambda: [(make(),) for make in (_network, _frozen, _free_weights, _one_layer_in_train_mode, _convolutional)],
        slips=(
            ("forget the running statistics", lambda model: {n for n, p in model.named_parameters() if p.requires_grad}),
            ("name all that a checkpoint holds, frozen or not", lambda model: set(model.state_dict())),
            ("name frozen weights, too", lambda model: what_moves(model) | {n for n, _ in model.named_parameters()}),
            (
                "name buffers whatever mode their layer is in",
                lambda model: what_moves(model) | {n for n, _ in model.named_buffers()},
            ),
            (
                "forget num_batches_tracked, which batch norm counts up",
                lambda model: {n for n in what_moves(model) if not n.endswith("tracked")},
            ),
        ),
    ),
    "keep_statistics": Exercise(
        "Freeze the statistics of batch norm.",
        (
            ("leave the running mean alone, however deep the layer lies", _statistics_stay),
            ("use the stored statistics, not those of the batch", _statistics_are_used),
            ("treat BatchNorm1d, 2d and 3d alike", _every_kind),
            ("leave everything else in train mode: dropout, group norm, and the blocks themselves", _others_train),
            ("leave requires_grad as it was, on and off: it was asked to hold the statistics only", _gradients_stay),
        ),
        (
            "requires_grad has no power over running statistics. Which switch has?",
            "A batch norm in evaluation mode uses its statistics and does not move them. model.modules() visits every layer.",
            "isinstance tells a batch norm from other layers; torch.nn.modules.batchnorm._BatchNorm is the parent of all its "
            "kinds. Switch these, one at a time, and not a block that holds them.",
        ),
        keep_statistics,
        inputs=lambda: [(_network,), (_convolutional,)],
        run=_state_after,
        slips=(
            (
                "switch off gradients, which have no power over running statistics",
                _switch(lambda module: module.requires_grad_(False)),
            ),
            ("put the whole model into evaluation mode", lambda model: model.eval()),
            ("freeze γ and β, too", _switch(_and_freeze)),
            (
                "hold the statistics still, while batches are normalised with their own",
                _switch(lambda module: setattr(module, "momentum", 0.0)),
            ),
            ("reset the statistics", _switch(lambda module: module.eval().reset_running_stats())),
            ("change nothing", lambda model: None),
        ),
    ),
    "fit_head": Exercise(
        "Fit a linear head without a single step of SGD.",
        (
            ("return a weight of shape [num_classes, D] and a bias of shape [num_classes]", _shapes),
            ("get its own, well separated training examples right, from features as they are, not standardised", _fits),
            (
                "add the share of each class to the bias: an average image should get just that",
                _bias_is_right,
            ),
            ("give the same logits when each feature comes in other units", _units_do_not_matter),
            ("survive a feature that never changes, whose standard deviation is 0", _dead_feature),
            ("be the least-squares head with penalty 1, no more and no less, on standardised features", _least_squares),
        ),
        (
            "Standardise the features, solve for the head, then rewrite the head so that it takes the raw features.",
            "With standardised x and centred one-hot y, the solution w [D, num_classes] of (x'x + I) w = x'y is what "
            "torch.linalg.solve finds. Keep the standard deviation above 1e-6.",
            "Write one logit out as a sum over standardised features, and multiply it out: what does a raw feature end up "
            "multiplied by? All that holds no feature, and the mean of the one-hot labels, goes into the bias.",
        ),
        fit_head,
        inputs=lambda: [_noisy(seed) for seed in range(3)],
        run=_logits,
        within=2e-2,
        slips=(
            ("forget the penalty, or nearly", _slipped_head(penalty=lambda n: 0.0)),
            ("multiply the penalty by the number of images", _slipped_head(penalty=lambda n: n)),
            ("leave the features as they are, not standardised", _slipped_head(scale=lambda std, f: torch.ones_like(std))),
            ("divide all features by one standard deviation", _slipped_head(scale=lambda std, f: f.std().expand_as(std))),
            ("divide the features by their variance", _slipped_head(scale=lambda std, f: std**2)),
            ("return a head for standardised features", _slipped_head(raw=False)),
            ("forget the shares of the classes in the bias", _slipped_head(shares=False)),
        ),
    ),
}
