"""The Triton kernels beside PyTorch's group norm and ReLU: on a CPU in Triton's interpreter, compiled on a GPU.

test_kernels.py runs it with TRITON_INTERPRET=1, `make gpu` on a GPU. Writes {case: [[largest difference, largest value], ...]}
as JSON, for the output and the gradients of x, weight and bias.
"""

import json
import sys

import torch
import torch.nn.functional as F

from bitlib.kernels import GroupNormReLU

# Images, channels, height, width, groups: several spans of channels, a last span that is not full, groups wider than a span,
# a group size that is no power of 2, and more pixels than one tile has rows.
SHAPES = [(2, 12, 6, 7, 4), (2, 64, 9, 9, 32), (1, 192, 5, 5, 32), (2, 512, 3, 3, 4), (3, 72, 20, 20, 8)]


DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def compare(shape, dtype, device="cpu") -> list:
    *shape, groups = shape
    generator = torch.Generator().manual_seed(0)
    # A mean that is large beside the spread: sums of squares would lose it.
    x, direction = ((torch.randn(shape, generator=generator) + shift).to(dtype) for shift in (30, 0))
    weight, bias = torch.rand(shape[1], generator=generator) + 0.5, torch.randn(shape[1], generator=generator)
    x, direction, weight, bias = (t.to(device) for t in (x, direction, weight, bias))
    results = []
    for kind in ("kernel", "plain"):
        leaves = [(t if kind == "kernel" else t.double()).requires_grad_() for t in (x.clone(), weight.clone(), bias.clone())]
        if kind == "kernel":
            out = GroupNormReLU.apply(*leaves, groups, 1e-5)
            assert out.dtype == dtype and out.is_contiguous(memory_format=torch.channels_last)
        else:
            out = F.relu(F.group_norm(leaves[0], groups, *leaves[1:], 1e-5))
        results.append([out, *torch.autograd.grad((out.double() * direction.double()).sum(), leaves)])
    return [[(a.double() - b).abs().max().item(), b.abs().max().item()] for a, b in zip(*results)]


def within(differences: list, dtype: torch.dtype) -> bool:
    """Whether what `compare` returned is rounding and no more."""
    out, dx, dw, db = (difference / largest for difference, largest in differences)
    # 16-bit results are rounded once; the interpreter cuts off where a GPU rounds, hence a whole unit.
    worst = 1e-5 if dtype == torch.float32 else torch.finfo(dtype).eps
    return out <= worst and dx <= max(worst, 1e-4) and max(dw, db) <= 1e-4  # weights and biases: sums in 32 bits


def main():
    report = {f"{shape} {dtype}": compare(shape, dtype) for shape in SHAPES for dtype in DTYPES}
    nan = torch.zeros(1, 8, 2, 2)
    nan[0, 0, 0, 0] = float("nan")
    report["nan"] = GroupNormReLU.apply(nan, torch.ones(8), torch.zeros(8), 4, 1e-5).isnan().flatten(2).all(2)[0].tolist()
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    main()
