"""Answers to the exercises of chapter 7."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def _trained(model):
    return {name for name, p in model.named_parameters() if p.requires_grad}


def _statistics(model, kind=_BatchNorm, asked=lambda layer: layer.training, kept=lambda name: True):
    names = set()
    for path, layer in model.named_modules():
        if isinstance(layer, kind) and asked(layer):
            names |= {f"{path}.{name}" for name, _ in layer.named_buffers() if kept(name)}
    return names


def _by_state_dict(model):
    """Looks up the owner of every entry."""
    moves = []
    for entry in model.state_dict():
        path, _, name = entry.rpartition(".")
        owner = model.get_submodule(path)
        if name in dict(owner.named_parameters(recurse=False)):
            moves += [entry] * owner.get_parameter(name).requires_grad
        else:
            moves += [entry] * (hasattr(owner, "running_mean") and owner.training)
    return moves


def _by_difference(model):
    """Leaves out what stays."""
    stays = {name for name, p in model.named_parameters() if not p.requires_grad}
    for path, layer in model.named_modules():
        if not (isinstance(layer, _BatchNorm) and layer.training):
            stays |= {f"{path}.{name}" for name in layer._buffers}
    return set(model.state_dict()) - stays


def _each(switch, kind=_BatchNorm, layers=lambda model: model.modules()):
    def keep(model):
        for layer in layers(model):
            if isinstance(layer, kind):
                switch(layer)

    return keep


def _freeze_too(layer):
    layer.eval()
    layer.requires_grad_(False)


def _thaw(layer):
    layer.eval()
    layer.requires_grad_(True)


def _forget(layer):
    layer.reset_running_stats()
    layer.eval()


def _no_momentum(layer):
    layer.momentum = 0.0


def _block_by_block(model):
    for block in model.children():
        if any(isinstance(layer, _BatchNorm) for layer in block.modules()):
            block.eval()


def _downwards(model):
    if "BatchNorm" in type(model).__name__:
        model.train(False)
    for child in model.children():
        _downwards(child)


def _head(penalty=1.0, std=None, raw=True, dead=1e-6, centre=True, constant=True, whole=False, correction=0):
    """`fit_head` in float64, with mistakes."""

    def fit(features, labels, num_classes):
        f = features.double()
        mean = f.mean(0)
        scale = (
            (f.std(correction=0) if whole else f.std(0, correction=correction))
            if std is None
            else torch.as_tensor(std).double()
        )
        scale = scale.expand(f.shape[1]).clamp_min(dead)
        x, y = (f - mean) / scale, F.one_hot(labels, num_classes).double()
        strength = penalty(len(x)) if callable(penalty) else penalty
        w = torch.linalg.solve(x.T @ x + strength * torch.eye(x.shape[1]), x.T @ (y - y.mean(0) if centre else y))
        if not raw:
            return w.T.float(), y.mean(0).float()
        weight = (w / scale[:, None]).T
        return weight.float(), ((y.mean(0) if constant else 0) - weight @ mean).float()

    return fit


def _augmented(features, labels, num_classes):
    """Least squares on rows of data and, below them, rows of the penalty."""
    std, mean = torch.std_mean(features, dim=0, correction=0)
    x = (features - mean) / std.clamp_min(1e-6)
    y = F.one_hot(labels, num_classes).float()
    d = x.shape[1]
    rows = torch.cat([x, torch.eye(d)]), torch.cat([y - y.mean(0), torch.zeros(d, num_classes)])
    w = torch.linalg.lstsq(*rows).solution / std.clamp_min(1e-6)[:, None]
    return w.T, y.mean(0) - mean @ w


def _with_numpy(features, labels, num_classes):
    """The dual form, in float64."""
    f, y = features.double().numpy(), np.eye(num_classes)[labels.numpy()]
    std = f.std(0)
    std[std < 1e-9] = 1.0
    x = (f - f.mean(0)) / std
    w = x.T @ np.linalg.inv(x @ x.T + np.eye(len(x))) @ (y - y.mean(0)) / std[:, None]
    return w.T, y.mean(0) - f.mean(0) @ w


WRONG = {
    "what_moves": {
        "weights alone": (_trained, "forget the running statistics"),
        "the whole state": (lambda model: list(model.state_dict()), "name all that a checkpoint holds"),
        "frozen weights, too": (
            lambda model: {name for name, _ in model.named_parameters()} | _statistics(model),
            "name frozen weights, too",
        ),
        "buffers in any mode": (
            lambda model: _trained(model) | {name for name, _ in model.named_buffers()},
            "whatever mode their layer is in",
        ),
        "no counter": (
            lambda model: _trained(model) | _statistics(model, kept=lambda name: name.startswith("running")),
            "forget num_batches_tracked",
        ),
        "the model's mode": (
            lambda model: _trained(model) | (_statistics(model, asked=lambda layer: True) if model.training else set()),
            "leave the statistics out where the batch norm is in evaluation mode",
        ),
        "only BatchNorm1d": (
            lambda model: _trained(model) | _statistics(model, nn.BatchNorm1d),
            "treat BatchNorm2d as it does",
        ),
        "statistics where γ is trained": (
            lambda model: (
                _trained(model) | _statistics(model, asked=lambda layer: layer.training and layer.weight.requires_grad)
            ),
            "where only the gradients were switched off",
        ),
        "weights of layers in train mode": (
            lambda model: (
                {n for n in _trained(model) if model.get_submodule(n.rpartition(".")[0]).training} | _statistics(model)
            ),
            "which still get gradients",
        ),
        "short names": (
            lambda model: _trained(model) | {n.rpartition(".")[2] for n in _statistics(model)},
            "name all the weights and statistics",
        ),
    },
    "keep_statistics": {
        "the whole model": (lambda model: model.eval(), "leave everything else in train mode"),
        "gradients": (_each(lambda layer: layer.requires_grad_(False)), "which have no power over running statistics"),
        "top layers alone": (_each(lambda layer: layer.eval(), layers=lambda m: m.children()), "however deep the layer lies"),
        "BatchNorm2d alone": (_each(lambda layer: layer.eval(), nn.BatchNorm2d), "treat BatchNorm1d, 2d and 3d alike"),
        "freezes γ and β": (_each(_freeze_too), "leave requires_grad as it was"),
        "thaws γ and β": (_each(_thaw), "leave requires_grad as it was"),
        "momentum 0": (_each(_no_momentum), "use the stored statistics, not those of the batch"),
        "statistics reset": (_each(_forget), "it seems to reset the statistics"),
        "blocks": (_block_by_block, "dropout, group norm, and the blocks themselves"),
        "group norm, too": (
            _each(lambda layer: layer.eval(), (_BatchNorm, nn.GroupNorm)),
            "dropout, group norm, and the blocks themselves",
        ),
        "nothing": (lambda model: None, "it seems to change nothing"),
    },
    "fit_head": {
        "not for raw features": (_head(raw=False), "from features as they are, not standardised"),
        "next to no penalty": (_head(penalty=1e-6), "it seems to forget the penalty"),
        "penalty times n": (_head(penalty=lambda n: n), "penalty 1, no more and no less"),
        "penalty divided by n": (_head(penalty=lambda n: 1 / n), "penalty 1, no more and no less"),
        "not standardised": (_head(std=1.0), "it seems to leave the features as they are"),
        "one standard deviation for all": (_head(whole=True), "one standard deviation"),
        "nothing keeps the deviation above 0": (_head(dead=0.0), "survive a feature that never changes"),
        "no share of the classes": (_head(constant=False), "add the share of each class to the bias"),
        "transposed": (lambda *a: (lambda w, b: (w.T, b))(*_head()(*a)), "shape [num_classes, D]"),
        "no bias": (lambda *a: (_head()(*a)[0], torch.zeros(3)), "to the bias: an average image"),
    },
}
RIGHT = {
    "what_moves": {"owners looked up": _by_state_dict, "all but what stays": _by_difference},
    "keep_statistics": {
        "a recursion over names": _downwards,
        "apply": lambda model: model.apply(lambda layer: layer.eval() if isinstance(layer, _BatchNorm) else None),
        "the three kinds": _each(lambda layer: layer.eval(), (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)),
    },
    "fit_head": {
        "an augmented system": _augmented,
        "NumPy, dual form, float64": _with_numpy,
        "standardised with n - 1": _head(correction=1),
        "labels not centred, since the features are": _head(centre=False),
    },
}
