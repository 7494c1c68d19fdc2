"""Normalisation: the weight-standardised convolution, and a choice of norms for activations.

Holds what distinguishes BiT from an ordinary ResNet: every convolution of the body standardises its
weights, and every norm of the body is a group norm (paper section 3.3; official code, `models.py`).
"""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .files import UserError

WS_EPS = 1e-10  # official code, in PyTorch, JAX and TF2 alike
GN_EPS = 1e-5


def standardize_weight(weight: Tensor, eps: float = WS_EPS) -> Tensor:
    """Give every output filter zero mean and unit variance.

    weight: float [out, in, kh, kw] -> the same shape and memory format. Mean and biased variance are taken over (in, kh, kw),
    separately for each output filter; eps is added under the square root. For 16-bit weights they are computed in 32 bits,
    since the variance of a small filter would underflow.
    Source: arXiv 1903.10520; eps and the biased variance as in the official BiT code.
    """
    # (w - mean) / sqrt(var + eps) over all axes but the first is a layer norm with one filter per row, which PyTorch fuses
    # into one operation, forward and backward. The permutation keeps rows contiguous in either memory format.
    if weight.is_contiguous():
        return F.layer_norm(weight, weight.shape[1:], eps=eps)
    weight = weight.permute(0, 2, 3, 1)
    return F.layer_norm(weight, weight.shape[1:], eps=eps).permute(0, 3, 1, 2)


class StdConv2d(nn.Conv2d):
    """A 2-D convolution that standardises its weights on every forward pass.

    x: float [N, in, H, W] -> float [N, out, H', W']. The stored weight is not changed.
    """

    held: Tensor | None = None  # the standardised weight, inside `hold_standardized`

    def forward(self, x: Tensor) -> Tensor:
        weight = standardize_weight(self.weight) if self.held is None else self.held
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


def standardized_convs(model: nn.Module) -> list[StdConv2d]:
    """The weight-standardised convolutions of a model."""
    return [m for m in model.modules() if isinstance(m, StdConv2d)]


@contextmanager
def hold_standardized(convs: Iterable[StdConv2d]) -> Iterator[None]:
    """Standardise the weights of these convolutions once for the whole block, instead of at every call.

    For weights that do not change meanwhile, as in frozen layers or evaluation. No gradient reaches them.
    """
    # In a sharded network, no process holds whole filters.
    convs = [c for c in convs if c.held is None and not hasattr(c.weight, "full_tensor")]
    try:
        for conv in convs:
            conv.held = standardize_weight(conv.weight.detach())
        yield
    finally:
        for conv in convs:
            conv.held = None


class StandardizeOnce:
    """A context that standardises weights once per step, forward and backward, whatever the number of micro-batches.

    All micro-batches but the last use a detached copy of the standardised weights, which accumulates their gradients. Call
    `join_gradients` before the last one: its backward pass adds them to its own gradient and takes the sum through the
    standardisation. The result is the same sum in another order.
    """

    def __init__(self, model: nn.Module):
        self.convs = [c for c in standardized_convs(model) if c.weight.requires_grad]

    def __enter__(self) -> StandardizeOnce:
        self.whole = [standardize_weight(conv.weight) for conv in self.convs]
        for conv, weight in zip(self.convs, self.whole):
            conv.held = weight.detach().requires_grad_()
        return self

    def join_gradients(self) -> None:
        """Make the next backward pass, which must be the step's last, include the gradients accumulated so far."""
        for conv, weight in zip(self.convs, self.whole):
            if conv.held.grad is not None:
                weight.register_hook(conv.held.grad.add)
            conv.held = weight

    def __exit__(self, *_) -> None:
        self.whole = []
        for conv in self.convs:
            conv.held = None


def _takes_16_bits(x: Tensor) -> bool:
    """Whether PyTorch's group norm accepts 16-bit activations with 32-bit weights: only its CPU kernels do."""
    return not x.is_cuda


class _GroupNorm16(torch.autograd.Function):
    """Group norm of 16-bit activations: computes in 32 bits, and saves only the 16-bit input for the backward pass.

    Autocast on a GPU would convert the activations to 32 bits and save those. PyTorch's 16-bit GPU kernels round the statistics
    too (all of them in some versions, those for channels last in 2.15), so this makes a 32-bit copy and drops it again.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        n, c, *pixels = x.shape
        wide = x if _takes_16_bits(x) else x.float()
        y, mean, rstd = torch.native_group_norm(wide, weight, bias, n, c, pixels[0] * pixels[1], groups, eps)
        ctx.save_for_backward(x, weight, mean, rstd)
        ctx.groups = groups
        return y if wide is x else torch.empty_like(x).copy_(y)  # back in the memory format of x

    @staticmethod
    def backward(ctx, grad: Tensor):
        x, weight, mean, rstd = ctx.saved_tensors
        n, c, *pixels = x.shape
        wide, grad = (x, grad) if _takes_16_bits(x) else (x.float(), grad.float())
        dx, dw, db = torch.ops.aten.native_group_norm_backward(
            grad, wide, mean, rstd, weight, n, c, pixels[0] * pixels[1], ctx.groups, list(ctx.needs_input_grad[:3])
        )
        return dx if wide is x or dx is None else torch.empty_like(x).copy_(dx), dw, db, None, None


class GroupNorm(nn.GroupNorm):
    """Group norm that keeps 16-bit activations in 16 bits, with statistics in 32. x: float [N, C, H, W] -> the same shape."""

    fused = False  # with the ReLU after it, in one kernel; see `use_triton`

    def forward(self, x: Tensor) -> Tensor:
        if x.is_cpu and not x.requires_grad and self.weight.requires_grad and torch.is_grad_enabled():
            # After frozen layers: PyTorch 2.11 to 2.13 crash in backward on channels-last input that needs no gradient.
            x = x.detach().requires_grad_()
        if x.dtype in (torch.bfloat16, torch.float16) and self.weight.dtype == torch.float32:
            return _GroupNorm16.apply(x, self.weight, self.bias, self.num_groups, self.eps)
        return super().forward(x)


def norm_relu(norm: nn.Module, x: Tensor) -> Tensor:
    """relu(norm(x)), saving only x for the backward pass. x: float [N, C, H, W] -> the same shape."""
    if getattr(norm, "fused", False) and x.is_cuda:
        from .kernels import GroupNormReLU

        return GroupNormReLU.apply(x, norm.weight, norm.bias, norm.num_groups, norm.eps)
    # Safe in place: a norm's backward pass needs its input, not its output.
    return F.relu(norm(x), inplace=True)


def use_triton(model: nn.Module) -> nn.Module:
    """Run group norm and ReLU as one Triton kernel when the activations are on a GPU; returns the same model.

    The values are the same up to rounding. Raises UserError if Triton is not installed; it comes with PyTorch for Linux.
    """
    if not importlib.util.find_spec("triton"):
        raise UserError("Triton is not installed; it comes with PyTorch for Linux, and everything else works without it")
    for module in model.modules():
        if isinstance(module, GroupNorm):
            module.fused = True
    return model


def make_norm(kind: str, channels: int, groups: int) -> nn.Module:
    """A norm over `channels` feature maps: "gn" (group norm with `groups` groups) or "bn" (batch norm).

    Raises ValueError for any other kind, or if `groups` does not divide `channels`.
    """
    if kind == "gn":
        if channels % groups:
            raise ValueError(f"{channels} channels cannot be split into {groups} equal groups")
        return GroupNorm(groups, channels, eps=GN_EPS)
    if kind == "bn":
        return nn.BatchNorm2d(channels)
    raise ValueError(f"unknown norm {kind!r}; choose 'gn' or 'bn'")


def make_conv(cin: int, cout: int, kernel: int, stride: int, standardize: bool) -> nn.Conv2d:
    """A bias-free convolution with symmetric padding, weight-standardised or plain."""
    cls = StdConv2d if standardize else nn.Conv2d
    return cls(cin, cout, kernel, stride=stride, padding=kernel // 2, bias=False)


class BatchNorm(nn.BatchNorm2d):
    """Batch norm written out, with a choice of how many images share statistics in train mode.

    x: float [N, C, H, W] -> the same shape. device_batch: images per group, as if each group were on its own device; None
    treats the whole batch as one group, like nn.BatchNorm2d. The running mean and (unbiased) variance track the average over
    the groups, and evaluation mode uses them. Raises ValueError if N is not a multiple of device_batch.
    """

    device_batch: int | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            size = self.device_batch or len(x)
            if len(x) % size:
                raise ValueError(f"a batch of {len(x)} images cannot be split into groups of {size}")
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
    """Make every batch norm of the model take statistics over groups of `device_batch` images; returns the same model.

    This simulates, on one device, batch norm trained on several without SyncBatchNorm.
    """
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.__class__ = BatchNorm  # adds no state, so weights and statistics stay as they are
            norm.device_batch = device_batch
    return model


@contextmanager
def still_statistics(model: nn.Module) -> Iterator[None]:
    """Within the block, batch norm normalises by the batch but does not update its running statistics."""
    norms = [(m, m.momentum, m.num_batches_tracked.clone()) for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    try:
        for norm, _, _ in norms:
            norm.momentum = 0.0
        yield
    finally:
        for norm, momentum, count in norms:
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(count)


def batch_norm_statistics(model: nn.Module) -> list[Tensor]:
    """The buffers that a forward pass in train mode changes: batch norm's running statistics. Empty without batch norm."""
    return [b for m in model.modules() if isinstance(m, nn.BatchNorm2d) and m.training for b in m.buffers()]


def fold_standardized(model: nn.Module) -> nn.Module:
    """A copy of the model for inference whose convolutions store standardised weights: the same outputs for less work.

    The copy is in evaluation mode. Train the original: after a training step, folded weights would not be standardised.
    """
    folded = copy.deepcopy(model).eval()
    for conv in standardized_convs(folded):
        conv.weight = nn.Parameter(standardize_weight(conv.weight.detach()))
        conv.__class__ = nn.Conv2d  # uses the weight as it is
    return folded
