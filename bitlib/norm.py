"""Normalisation: weight-standardised convolution, and the choice of activation norm.

Owns what distinguishes BiT from an ordinary ResNet: every convolution of the body standardises its
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

    weight: float [out, in, kh, kw]. Mean and biased variance are taken over (in, kh, kw), separately for
    each output filter; eps stands inside the square root. The memory format of `weight` is kept. Statistics of 16-bit
    weights are taken in 32 bits: the variance of a small filter would underflow.
    Source: arXiv 1903.10520; eps and the biased variance as in the official BiT code.
    """
    # (w - mean) / sqrt(var + eps) over all axes but the first is a layer norm with one filter per row, and that is one
    # fused operation, forward and backward. Permuted so that a row is contiguous in either memory format.
    if weight.is_contiguous():
        return F.layer_norm(weight, weight.shape[1:], eps=eps)
    weight = weight.permute(0, 2, 3, 1)
    return F.layer_norm(weight, weight.shape[1:], eps=eps).permute(0, 3, 1, 2)


class StdConv2d(nn.Conv2d):
    """A 2-D convolution that standardises its weights on every forward pass.

    x: float [N, in, H, W] -> float [N, out, H', W']. The stored weight stays as the optimizer left it.
    """

    held: Tensor | None = None  # the standardised weight, while `hold_standardized` keeps it

    def forward(self, x: Tensor) -> Tensor:
        weight = standardize_weight(self.weight) if self.held is None else self.held
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


def standardized_convs(model: nn.Module) -> list[StdConv2d]:
    """The weight-standardised convolutions of a model."""
    return [m for m in model.modules() if isinstance(m, StdConv2d)]


@contextmanager
def hold_standardized(convs: Iterable[StdConv2d]) -> Iterator[None]:
    """Standardise the weights of these convolutions once, for the length of the block, instead of at every call.

    For weights that do not change within it: frozen layers, evaluation. No gradient reaches them.
    """
    # Of a sharded network no process has whole filters.
    convs = [c for c in convs if c.held is None and not hasattr(c.weight, "full_tensor")]
    try:
        for conv in convs:
            conv.held = standardize_weight(conv.weight.detach())
        yield
    finally:
        for conv in convs:
            conv.held = None


class StandardizeOnce:
    """Weight standardisation once per step, forward and backward, however many parts the batch is cut into. A context.

    The parts before the last one see a copy of the standardised weights, which collects their gradients; in the backward
    pass of the last (call `join_gradients` before it) these join its own on the way through the standardisation. The gradient
    is the same sum, in another order.
    """

    def __init__(self, model: nn.Module):
        self.convs = [c for c in standardized_convs(model) if c.weight.requires_grad]

    def __enter__(self) -> StandardizeOnce:
        self.whole = [standardize_weight(conv.weight) for conv in self.convs]
        for conv, weight in zip(self.convs, self.whole):
            conv.held = weight.detach().requires_grad_()
        return self

    def join_gradients(self) -> None:
        """The part that follows is the last one: its backward pass takes the others' gradients along."""
        for conv, weight in zip(self.convs, self.whole):
            if conv.held.grad is not None:
                weight.register_hook(conv.held.grad.add)
            conv.held = weight

    def __exit__(self, *_) -> None:
        self.whole = []
        for conv in self.convs:
            conv.held = None


def _takes_16_bits(x: Tensor) -> bool:
    """Whether PyTorch's group norm takes 16-bit activations beside 32-bit weights: its kernels for the CPU do."""
    return not x.is_cuda


class _GroupNorm16(torch.autograd.Function):
    """Group norm of 16-bit activations: statistics and arithmetic in 32 bits, nothing kept but the 16-bit input.

    Autocast on a GPU would turn the activations into 32 bits, and keep them. PyTorch's kernels for 16 bits on a GPU round
    the statistics as well (some versions all of them, 2.15 those for channels last), so a copy in 32 bits is made and dropped.
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
    """Group norm that leaves 16-bit activations in 16 bits, with statistics in 32. x: float [N, C, H, W] -> the same."""

    fused = False  # with the ReLU behind it, in one kernel; see `use_triton`

    def forward(self, x: Tensor) -> Tensor:
        if x.is_cpu and not x.requires_grad and self.weight.requires_grad and torch.is_grad_enabled():
            # Behind frozen layers: the backward pass of PyTorch 2.11 to 2.13 crashes on channels-last input that needs none.
            x = x.detach().requires_grad_()
        if x.dtype in (torch.bfloat16, torch.float16) and self.weight.dtype == torch.float32:
            return _GroupNorm16.apply(x, self.weight, self.bias, self.num_groups, self.eps)
        return super().forward(x)


def norm_relu(norm: nn.Module, x: Tensor) -> Tensor:
    """relu(norm(x)). Nothing but x is kept for the backward pass."""
    if getattr(norm, "fused", False) and x.is_cuda:
        from .kernels import GroupNormReLU

        return GroupNormReLU.apply(x, norm.weight, norm.bias, norm.num_groups, norm.eps)
    # In place: a norm keeps its input for the backward pass and not its output, so nothing is lost.
    return F.relu(norm(x), inplace=True)


def use_triton(model: nn.Module) -> nn.Module:
    """Let group norm and ReLU be one Triton kernel wherever the activations are on a GPU; the same model back.

    The same values up to rounding. Raises UserError where Triton is not installed; it comes with PyTorch for Linux.
    """
    if not importlib.util.find_spec("triton"):
        raise UserError("Triton is not installed; it comes with PyTorch for Linux, and all but this works without it")
    for module in model.modules():
        if isinstance(module, GroupNorm):
            module.fused = True
    return model


def make_norm(kind: str, channels: int, groups: int) -> nn.Module:
    """A norm over `channels` feature maps: "gn" (group norm with `groups` groups) or "bn" (batch norm).

    Raises ValueError for another kind, or where `groups` does not divide `channels`.
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
    """Batch norm written out, with a choice of how many images share their statistics in train mode.

    x: float [N, C, H, W] -> the same shape. device_batch: None for the whole batch, which is what nn.BatchNorm2d does;
    a number for groups of that many images, as if each group lay on a device of its own. Running mean and (unbiased)
    variance follow the average over the groups, and evaluation mode uses them. Raises ValueError where N is not a
    multiple of device_batch.
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
    """Let every batch norm of the model take its statistics over groups of `device_batch` images; the same model back.

    What training on many devices does to batch norm, on one (without SyncBatchNorm).
    """
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.__class__ = BatchNorm  # which adds no state, so weights and statistics stay where they are
            norm.device_batch = device_batch
    return model


@contextmanager
def still_statistics(model: nn.Module) -> Iterator[None]:
    """Batch norm normalises by the batch, as in training, and leaves its running statistics as they are."""
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
    """The running statistics that a forward pass in train mode moves; none without batch norm."""
    return [b for m in model.modules() if isinstance(m, nn.BatchNorm2d) and m.training for b in m.buffers()]


def fold_standardized(model: nn.Module) -> nn.Module:
    """A copy of the model whose convolutions hold their standardised weights: the same outputs, less work. For inference.

    The copy is in evaluation mode. Train the original: a step on folded weights would leave what standardisation allows.
    """
    folded = copy.deepcopy(model).eval()
    for conv in standardized_convs(folded):
        conv.weight = nn.Parameter(standardize_weight(conv.weight.detach()))
        conv.__class__ = nn.Conv2d  # which uses its weight as it is
    return folded
