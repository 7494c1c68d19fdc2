"""Cached features, and heads fitted on them by logistic regression."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from .data.task import Images
from .evaluate import run_over
from .norm import hold_standardized, standardized_convs
from .resnet import ResNetV2

LEAST_SPREAD = 0.1  # of the mean standard deviation: what a feature is divided by at least


def cache_features(model: ResNetV2, images: Images, side: int, mirrored: bool = False) -> Tensor:
    """Pooled features, float [N, num_features] on the CPU, of all images, resized to `side` pixels and optionally mirrored."""
    device = next(model.parameters()).device
    model.eval()

    def features(x: Tensor) -> Tensor:
        return model.forward_head(model.forward_features(x.flip(3) if mirrored else x), pre_logits=True)

    with hold_standardized(standardized_convs(model)):
        return run_over(features, images, side, device)


def fit_head(features: Tensor, labels: Tensor, num_classes: int, c: float = 1.0, max_iter: int = 2000) -> tuple[Tensor, Tensor]:
    """Logistic regression on standardised features, fitted until it no longer changes.

    features: float [N, F]; labels: int [N], of two classes or more. c: inverse strength of the L2 penalty, for a loss summed
    over images. Returns (weight [C, F], bias [C]), double, for features as they come: the standardisation is folded in.
    A class without an image gets a bias that it cannot win with.
    """
    from sklearn.linear_model import LogisticRegression

    features = features.double()
    std, mean = torch.std_mean(features, dim=0, correction=0)
    # A feature that hardly ever moves here would get an enormous weight, which the first image that moves it would blow up.
    std = std.clamp_min(std.mean() * LEAST_SPREAD).clamp_min(1e-6)
    with _one_thread():
        fitted = LogisticRegression(C=c, max_iter=max_iter).fit(((features - mean) / std).numpy(), labels.numpy())
    found, offset = torch.from_numpy(fitted.coef_), torch.from_numpy(fitted.intercept_)
    if len(fitted.classes_) == 2:  # scikit-learn returns a single row for two classes
        found, offset = torch.cat([-found, found]) / 2, torch.cat([-offset, offset]) / 2
    weight, bias = found.new_zeros(num_classes, features.shape[1]), found.new_full((num_classes,), -1e4)
    there = torch.from_numpy(fitted.classes_)
    weight[there], bias[there] = found / std, offset - (found / std) @ mean
    return weight, bias


def _one_thread():
    """A context in which NumPy's linear algebra keeps to one thread.

    A fit is thousands of small products. With two threads on two cores they took ten times as long, most of it spent waiting
    for each other; and the last bits of a head would depend on the number of cores.
    """
    return _pools().limit(limits=1, user_api="blas")


@functools.cache
def _pools():
    from threadpoolctl import ThreadpoolController  # scikit-learn needs it, too

    return ThreadpoolController()


@torch.no_grad()
def set_head(model: ResNetV2, weight: Tensor, bias: Tensor) -> None:
    """Copy a head, as `fit_head` returns one, into a model with as many classes."""
    model.head.weight.copy_(weight.reshape(model.head.weight.shape))
    model.head.bias.copy_(bias)


def out_of_fold(features: Tensor, labels: Tensor, num_classes: int, c: float = 1.0, folds: int = 5, seed: int = 0) -> Tensor:
    """What a linear probe says of each image without having seen its label: probabilities, double [N, num_classes].

    The images are dealt into `folds` parts, alike in their shares of the classes; a head that judges one part is fitted to the
    others (confident learning does the same: arXiv 1911.00068). Raises ValueError for fewer than two folds.
    """
    if folds < 2:
        raise ValueError(f"folds is {folds}; with fewer than two a head would have seen the labels that it judges")
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
    fold = torch.empty(len(labels), dtype=torch.long)
    fold[order[labels[order].argsort(stable=True)]] = torch.arange(len(labels)) % folds
    found = torch.empty(len(labels), num_classes, dtype=torch.double)
    for k in range(folds):
        weight, bias = fit_head(features[fold != k], labels[fold != k], num_classes, c)
        found[fold == k] = (features[fold == k].double() @ weight.T + bias).softmax(1)
    return found
