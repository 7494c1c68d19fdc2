"""Group norm and ReLU as one Triton kernel each way, for NVIDIA GPUs and channels-last activations.

Holds the kernels only; `norm.use_triton` switches them on. Importing this module needs Triton, which comes with PyTorch for
Linux. With TRITON_INTERPRET=1 in the environment the kernels run on a CPU, slowly, for tests.

A channels-last image is a matrix of pixels by channels. Each program takes one image and a span of whole groups of channels,
and goes over the pixels twice: once for the statistics, and once to write the output while the span is still in the cache.
Only the input is saved for the backward pass, which recomputes from it which outputs ReLU let through.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

TILE, PER_WARP = 8192, 1024  # elements per tile of pixels by channels, and per warp: four wide loads per thread
MIN_SPAN = 64  # channels per program: 128 bytes in 16 bits, one cache line


@triton.jit
def _per_group(per_channel, channel, size: tl.constexpr):
    """For every channel, the mean over its group. The span must start at the first channel of a group."""
    same = (channel[:, None] // size) == (channel[None, :] // size)
    return tl.sum(tl.where(same, per_channel[None, :], 0.0), axis=1) / size


@triton.jit
def _place(channels, span: tl.constexpr, width: tl.constexpr):
    """(image, lanes, channel of each lane, mask of the lanes that this program uses)."""
    lane = tl.arange(0, width)
    channel = tl.program_id(1) * span + lane
    return tl.program_id(0).to(tl.int64), lane, channel, (lane < span) & (channel < channels)


@triton.jit
def _before_relu(x_ptrs, dy_ptrs, here, mean, rstd, w, b):
    """(normalised activations, gradient of the ReLU's input), both recomputed from the saved input."""
    normed = (tl.load(x_ptrs, mask=here, other=0.0).to(tl.float32) - mean[None, :]) * rstd[None, :]
    dz = tl.load(dy_ptrs, mask=here, other=0.0).to(tl.float32)
    return normed, tl.where(normed * w[None, :] + b[None, :] <= 0, 0.0, dz)


@triton.jit
def _forward(
    x_ptr,
    y_ptr,
    w_ptr,
    b_ptr,
    mean_ptr,
    rstd_ptr,
    pixels,
    channels,
    groups,
    eps,
    size: tl.constexpr,
    span: tl.constexpr,
    rows: tl.constexpr,
    width: tl.constexpr,
):
    # size: channels per group. span: channels per program, a multiple of size. width: span, rounded up to a power of 2.
    n, lane, channel, inside = _place(channels, span, width)
    row = tl.arange(0, rows)
    x_ptr += n * pixels * channels
    y_ptr += n * pixels * channels
    mean, m2 = tl.zeros([width], tl.float32), tl.zeros([width], tl.float32)
    for start in range(0, pixels, rows):
        pixel = start + row
        here = (pixel[:, None] < pixels) & inside[None, :]
        x = tl.load(x_ptr + pixel[:, None] * channels + channel[None, :], mask=here, other=0.0).to(tl.float32)
        # Merge means and sums of squared differences without cancellation (Chan, Golub and LeVeque, 1979).
        count = tl.minimum(rows, pixels - start).to(tl.float32)
        tile_mean = tl.sum(x, axis=0) / count
        difference = tl.where(here, x - tile_mean[None, :], 0.0)
        total = start + count
        delta = tile_mean - mean
        mean += delta * (count / total)
        m2 += tl.sum(difference * difference, axis=0) + delta * delta * (start * count / total)
    group_mean = _per_group(mean, lane, size)
    off = mean - group_mean
    rstd = 1 / tl.sqrt(_per_group(m2 / pixels + off * off, lane, size) + eps)
    leads = inside & (lane % size == 0)  # one lane of each group writes
    tl.store(mean_ptr + n * groups + channel // size, group_mean, mask=leads)
    tl.store(rstd_ptr + n * groups + channel // size, rstd, mask=leads)
    w = tl.load(w_ptr + channel, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(b_ptr + channel, mask=inside, other=0.0).to(tl.float32)
    for start in range(0, pixels, rows):
        pixel = start + row
        at = pixel[:, None] * channels + channel[None, :]
        here = (pixel[:, None] < pixels) & inside[None, :]
        x = tl.load(x_ptr + at, mask=here, other=0.0).to(tl.float32)
        z = (x - group_mean[None, :]) * rstd[None, :] * w[None, :] + b[None, :]
        z = tl.where(z <= 0, 0.0, z)  # not a maximum, which would hide a NaN
        tl.store(y_ptr + at, z.to(y_ptr.dtype.element_ty), mask=here)


@triton.jit
def _backward(
    x_ptr,
    dy_ptr,
    dx_ptr,
    w_ptr,
    b_ptr,
    mean_ptr,
    rstd_ptr,
    dw_ptr,
    db_ptr,
    pixels,
    channels,
    groups,
    size: tl.constexpr,
    span: tl.constexpr,
    rows: tl.constexpr,
    width: tl.constexpr,
):
    # dw and db: [N, channels], each image's contribution to the gradients of weight and bias.
    n, lane, channel, inside = _place(channels, span, width)
    row = tl.arange(0, rows)
    x_ptr += n * pixels * channels
    dy_ptr += n * pixels * channels
    dx_ptr += n * pixels * channels
    mean = tl.load(mean_ptr + n * groups + channel // size, mask=inside, other=0.0)
    rstd = tl.load(rstd_ptr + n * groups + channel // size, mask=inside, other=0.0)
    w = tl.load(w_ptr + channel, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(b_ptr + channel, mask=inside, other=0.0).to(tl.float32)
    dw, db = tl.zeros([width], tl.float32), tl.zeros([width], tl.float32)
    for start in range(0, pixels, rows):
        pixel = start + row
        at = pixel[:, None] * channels + channel[None, :]
        here = (pixel[:, None] < pixels) & inside[None, :]
        normed, dz = _before_relu(x_ptr + at, dy_ptr + at, here, mean, rstd, w, b)
        dw += tl.sum(dz * normed, axis=0)
        db += tl.sum(dz, axis=0)
    tl.store(dw_ptr + n * channels + channel, dw, mask=inside)
    tl.store(db_ptr + n * channels + channel, db, mask=inside)
    # Normalisation removes from a group's gradient its mean and its component along the normalised activations.
    constant = _per_group(db * w, lane, size) / pixels
    along = _per_group(dw * w, lane, size) / pixels
    for start in range(0, pixels, rows):
        pixel = start + row
        at = pixel[:, None] * channels + channel[None, :]
        here = (pixel[:, None] < pixels) & inside[None, :]
        normed, dz = _before_relu(x_ptr + at, dy_ptr + at, here, mean, rstd, w, b)
        dx = (dz * w[None, :] - constant[None, :] - normed * along[None, :]) * rstd[None, :]
        tl.store(dx_ptr + at, dx.to(dx_ptr.dtype.element_ty), mask=here)


def _launch(x: Tensor, groups: int) -> tuple[tuple[int, int], dict[str, int]]:
    """(grid, compile-time constants and options) for activations x [N, C, H, W] in this many groups."""
    n, channels, *sides = x.shape
    size = channels // groups
    span = size * max(1, min(MIN_SPAN // size, groups))
    width = triton.next_power_of_2(span)
    rows = min(max(1, TILE // width), triton.next_power_of_2(sides[0] * sides[1]))
    constants = {"size": size, "span": span, "width": width, "rows": rows}
    # Without fused multiply-adds both passes round in the same way, and so agree on the sign of every output.
    options = {"num_warps": min(max(1, rows * width // PER_WARP), 8), "enable_fp_fusion": False}
    return (n, triton.cdiv(channels, span)), constants | options


class GroupNormReLU(torch.autograd.Function):
    """relu(group_norm(x)): x float [N, C, H, W] -> the same shape and type, channels last; statistics in 32 bits.

    apply(x, weight [C], bias [C], groups, eps). Saves neither ReLU's output nor a mask for the backward pass.
    """

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        n, channels, height, width = x.shape
        y = torch.empty_like(x)
        mean, rstd = (torch.empty(n, groups, device=x.device, dtype=torch.float32) for _ in range(2))
        grid, constants = _launch(x, groups)
        with torch.cuda.device_of(x):  # Triton launches on the current device, which x may not be on
            _forward[grid](x, y, weight, bias, mean, rstd, height * width, channels, groups, eps, **constants)
        ctx.save_for_backward(x, weight, bias, mean, rstd)
        ctx.groups = groups
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        x, weight, bias, mean, rstd = ctx.saved_tensors
        grad = grad.contiguous(memory_format=torch.channels_last)
        n, channels, height, width = x.shape
        dx = torch.empty_like(x)
        dw, db = (torch.empty(n, channels, device=x.device, dtype=torch.float32) for _ in range(2))
        grid, constants = _launch(x, ctx.groups)
        with torch.cuda.device_of(x):
            _backward[grid](x, grad, dx, weight, bias, mean, rstd, dw, db, height * width, channels, ctx.groups, **constants)
        return dx, dw.sum(0).to(weight.dtype), db.sum(0).to(bias.dtype), None, None
