"""The Triton kernels: right values on a CPU through Triton's interpreter, and machine code for the GPUs people have.

Speed and a real launch need a GPU: the last test, and `make gpu`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import TINY, quiet, toy_task

from bitlib import HyperRule, UserError, create_model, finetune
from bitlib import norm as norm_module
from bitlib.norm import GroupNorm, fold_standardized, use_triton
from bitlib.resnet import ResNetV2

pytest.importorskip("triton")
from in_interpreter import DTYPES, SHAPES, compare, within  # noqa: E402 - needs Triton


@pytest.fixture(scope="module")
def report():
    script = Path(__file__).with_name("in_interpreter.py")
    done = subprocess.run([sys.executable, script], env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("dtype", DTYPES)
def test_values_and_gradients(report, dtype):
    cases = {name: rows for name, rows in report.items() if name.endswith(str(dtype))}
    assert len(cases) == 5
    assert all(within(differences, dtype) for differences in cases.values()), cases


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


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", DTYPES)
def test_on_a_gpu(dtype):
    assert all(within(compare(shape, dtype, "cuda"), dtype) for shape in SHAPES)


@pytest.mark.gpu
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_on_a_gpu_that_is_not_the_current_one():
    """Triton launches on the current device, and used to be given pointers into another one's memory."""
    with torch.cuda.device(0):
        assert all(within(compare(shape, torch.float32, "cuda:1"), torch.float32) for shape in SHAPES)
        losses = {}
        for triton in (False, True):
            loop = quiet(device="cuda:1", triton=triton)
            run = finetune(create_model("glyphs-S", 3), toy_task(), HyperRule(24, (12, 12), steps=4, batch_size=8), loop=loop)
            losses[triton] = run.history.column("loss")[1]
        assert torch.cuda.current_device() == 0
    assert losses[True] == pytest.approx(losses[False], rel=1e-2)  # other rounding, carried through a few steps
