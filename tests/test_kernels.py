"""The Triton kernels: right values on a CPU through Triton's interpreter, and machine code for the GPUs people have.

Speed and a real launch need a GPU: the last test, and benchmarks/speed.py.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import TINY

from bitlib import UserError
from bitlib import norm as norm_module
from bitlib.norm import GroupNorm, fold_standardized, use_triton
from bitlib.resnet import ResNetV2

pytest.importorskip("triton")


@pytest.fixture(scope="module")
def report():
    script = Path(__file__).with_name("in_interpreter.py")
    done = subprocess.run([sys.executable, script], env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_values_and_gradients(report, dtype):
    cases = {name: rows for name, rows in report.items() if name.endswith(str(dtype))}
    assert len(cases) == 5
    for name, (out, dx, dw, db) in cases.items():
        # 16-bit results are rounded once; the interpreter cuts off where a GPU rounds, hence a whole unit.
        worst = 1e-5 if dtype == torch.float32 else torch.finfo(dtype).eps
        assert out[0] <= worst * out[1] and dx[0] <= max(worst, 1e-4) * dx[1], name
        assert dw[0] <= 1e-4 * dw[1] and db[0] <= 1e-4 * db[1], name  # sums in 32 bits


def test_nan_is_not_hidden_by_relu(report):
    assert report["nan"] == [True, True, *[False] * 6]  # the group of the bad number, and no other


@pytest.mark.parametrize("capability", [75, 80, 90])  # T4, A100, H100 and H200
def test_machine_code(tmp_path, monkeypatch, capability):
    """Triton's compiler needs no GPU. Wide loads are what memory speed depends on."""
    from triton import compile
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from bitlib import kernels

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    _, constants = kernels._launch(torch.empty(1, 256, 56, 56), 32)
    options = {name: constants.pop(name) for name in ("num_warps", "enable_fp_fusion")}
    for kernel in (kernels._forward, kernels._backward):
        types = {
            name: "constexpr"
            if name in constants
            else "*bf16"
            if name in ("x_ptr", "y_ptr", "dy_ptr", "dx_ptr")
            else "*fp32"
            if name.endswith("_ptr")
            else "fp32"
            if name == "eps"
            else "i32"
            for name in kernel.arg_names
        }
        place = {name: (number,) for number, name in enumerate(types)}
        aligned = {place[name]: [["tt.divisibility", 16]] for name in types if name.endswith("_ptr") or name == "channels"}
        source = ASTSource(kernel, types, {place[name]: value for name, value in constants.items()}, aligned)
        ptx = compile(source, target=GPUTarget("cuda", capability, 32), options=options).asm["ptx"]
        assert "ld.global.v4.b32" in ptx and "st.global.v4.b32" in ptx


def test_without_a_gpu_nothing_changes():
    model, x = ResNetV2(TINY, 3), torch.randn(2, 3, 16, 16)
    torch.nn.init.normal_(model.head.weight)
    before = model(x)
    assert use_triton(model) is model and all(m.fused for m in model.modules() if isinstance(m, GroupNorm))
    assert torch.equal(model(x), before)


def test_every_norm_with_its_relu_goes_through_the_kernel(monkeypatch):
    """As on a GPU: each activation once, and the same values (the kernel replaced by what it computes)."""
    from bitlib import kernels

    class OnGpu(torch.Tensor):
        is_cuda = True

    calls = []

    class Fake:
        @staticmethod
        def apply(x, weight, bias, groups, eps):
            calls.append(groups)
            return F.relu(F.group_norm(x.as_subclass(torch.Tensor), groups, weight, bias, eps)).as_subclass(OnGpu)

    monkeypatch.setattr(kernels, "GroupNormReLU", Fake)
    model, x = ResNetV2(TINY, 3), torch.randn(2, 3, 16, 16)
    torch.nn.init.normal_(model.head.weight)
    before = model(x)
    assert torch.allclose(use_triton(model)(x.as_subclass(OnGpu)), before, atol=1e-6)
    norms = sum(isinstance(m, GroupNorm) for m in model.modules())
    assert len(calls) == norms and all(m.fused for m in fold_standardized(model).modules() if isinstance(m, GroupNorm))


def test_without_triton_one_line(monkeypatch):
    monkeypatch.setattr(norm_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="Triton is not installed; .*works without it"):
        use_triton(ResNetV2(TINY, 3))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_on_a_gpu(dtype):
    from bitlib.kernels import GroupNormReLU

    generator = torch.Generator("cuda").manual_seed(0)
    x = torch.randn(4, 192, 29, 31, device="cuda", generator=generator).to(dtype).contiguous(memory_format=torch.channels_last)
    weight, bias, direction = (torch.rand(size, device="cuda", generator=generator) + 0.5 for size in (192, 192, x.shape))
    results = []
    for kind in (dtype, torch.float64):
        leaves = [
            t.to(kind if n == 0 or kind == torch.float64 else torch.float32).requires_grad_()
            for n, t in enumerate((x.clone(), weight.clone(), bias.clone()))
        ]
        plain = F.relu(F.group_norm(leaves[0], 32, *leaves[1:], 1e-5)) if kind == torch.float64 else None
        out = GroupNormReLU.apply(*leaves, 32, 1e-5) if plain is None else plain
        results.append([out, *torch.autograd.grad((out.double() * direction.double()).sum(), leaves)])
    for a, b in zip(*results):
        worst = 1e-4 if a.dtype == torch.float32 else torch.finfo(dtype).eps
        assert (a.double() - b).abs().max() <= worst * b.abs().max()
