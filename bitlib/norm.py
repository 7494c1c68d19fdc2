"""Normalisation: weight-standardised convolution, and the choice of activation norm.

Owns what distinguishes BiT from an ordinary ResNet: every convolution of the body standardises its
weights, and every norm of the body is a group norm (paper section 3.3; official code, `models.py`).
"""
from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WS_EPS = 1e-10  # official code, in PyTorch, JAX and TF2 alike
GN_EPS = 1e-5


def standardize_weight(weight: Tensor, eps: float = WS_EPS) -> Tensor:
    """Give every output filter zero mean and unit variance.

    weight: float [out, in, kh, kw]. Mean and biased variance are taken over (in, kh, kw), separately for
    each output filter; eps stands inside the square root. The memory format of `weight` is kept. Statistics of 16-bit
    weights are taken in 32 bits: the variance of a small filter would underflow.
    Source: arXiv 1903.10520; eps and the biased variance as in the official BiT code.
    """
    # (w - mean) / sqrt(var + eps) over all axes but the first is a layer norm with one filter a row, and that is one
    # fused operation, forward and backward. Permuted so that a row is contiguous in either memory format.
    if weight.is_contiguous():
        return F.layer_norm(weight, weight.shape[1:], eps=eps)
    weight = weight.permute(0, 2, 3, 1)
    return F.layer_norm(weight, weight.shape[1:], eps=eps).permute(0, 3, 1, 2)


class StdConv2d(nn.Conv2d):
    """A 2-D convolution that standardises its weights on every forward pass.

    x: float [N, in, H, W] -> float [N, out, H', W']. The stored weight stays as the optimizer left it.
    """

    def forward(self, x: Tensor) -> Tensor:
        weight = standardize_weight(self.weight)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


def make_norm(kind: str, channels: int, groups: int) -> nn.Module:
    """A norm over `channels` feature maps: "gn" (group norm with `groups` groups) or "bn" (batch norm).

    Raises ValueError for another kind, or where `groups` does not divide `channels`.
    """
    if kind == "gn":
        if channels % groups:
            raise ValueError(f"{channels} channels cannot be split into {groups} equal groups")
        return nn.GroupNorm(groups, channels, eps=GN_EPS)
    if kind == "bn":
        return nn.BatchNorm2d(channels)
    raise ValueError(f"unknown norm {kind!r}; choose 'gn' or 'bn'")


def make_conv(cin: int, cout: int, kernel: int, stride: int, standardize: bool) -> nn.Conv2d:
    """A bias-free convolution with symmetric padding, weight-standardised or plain."""
    cls = StdConv2d if standardize else nn.Conv2d
    return cls(cin, cout, kernel, stride=stride, padding=kernel // 2, bias=False)


class BatchNorm(nn.BatchNorm2d):
    """Batch norm written out, with a choice of how many pictures share their statistics in train mode.

    x: float [N, C, H, W] -> the same shape. device_batch: None for the whole batch, which is what nn.BatchNorm2d does;
    a number for groups of that many pictures, as if each group lay on a device of its own. Running mean and (unbiased)
    variance follow the average over the groups, and evaluation mode uses them. Raises ValueError where N is not a
    multiple of device_batch.
    """

    device_batch: int | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            size = self.device_batch or len(x)
            if len(x) % size:
                raise ValueError(f"a batch of {len(x)} pictures cannot be split into groups of {size}")
            x = x.unflatten(0, (-1, size))  # [groups, size, C, H, W]
            var, mean = torch.var_mean(x, dim=(1, 3, 4), keepdim=True, correction=0)
            with torch.no_grad():
                count = x[0, :, 0].numel()
                self.running_mean.lerp_(mean.mean(0).flatten(), self.momentum)
                self.running_var.lerp_((var * count / (count - 1)).mean(0).flatten(), self.momentum)
                self.num_batches_tracked += 1
        else:
            mean, var = self.running_mean[:, None, None], self.running_var[:, None, None]
        x = (x - mean) / (var + self.eps).sqrt()
        return (x.flatten(0, 1) if x.ndim == 5 else x) * self.weight[:, None, None] + self.bias[:, None, None]


def split_batch_norm(model: nn.Module, device_batch: int | None) -> nn.Module:
    """Let every batch norm of the model take its statistics over groups of `device_batch` pictures; the same model back.

    What training on many devices does to batch norm, on one (without SyncBatchNorm).
    """
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.BatchNorm2d):
                norm = BatchNorm(child.num_features, child.eps, child.momentum).to(child.weight.device)
                norm.load_state_dict(child.state_dict())
                norm.device_batch = device_batch
                setattr(parent, name, norm.train(child.training))
    return model


def fold_standardized(model: nn.Module) -> nn.Module:
    """A copy of the model whose convolutions hold their standardised weights: the same outputs, less work. For inference.

    The copy is in evaluation mode. Train the original: a step on folded weights would leave what standardisation allows.
    """
    folded = copy.deepcopy(model).eval()
    for parent in list(folded.modules()):
        for name, child in parent.named_children():
            if isinstance(child, StdConv2d):
                conv = nn.Conv2d(child.in_channels, child.out_channels, child.kernel_size, child.stride, child.padding,
                                 child.dilation, child.groups, child.bias is not None, device="meta")
                conv.weight = nn.Parameter(standardize_weight(child.weight.detach()))
                conv.bias = child.bias
                setattr(parent, name, conv.eval())
    return folded
