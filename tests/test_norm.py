import pytest
import torch
from torch import nn

from bitlib import norm
from bitlib.norm import (
    BatchNorm,
    GroupNorm,
    StandardizeOnce,
    hold_standardized,
    make_norm,
    split_batch_norm,
    standardize_weight,
    standardized_convs,
)
from bitlib.resnet import ARCHS, ResNetV2


def weight(scale: float = 0.05, seed: int = 0) -> torch.Tensor:
    return torch.randn(8, 4, 3, 3, generator=torch.Generator().manual_seed(seed)) * scale + 0.3


def test_every_filter_has_zero_mean_and_unit_biased_variance():
    flat = standardize_weight(weight()).flatten(1)
    assert flat.mean(1).abs().max() < 1e-5
    assert (flat.var(1, correction=0) - 1).abs().max() < 1e-5


def test_against_the_formula_by_hand():
    w = torch.tensor([1.0, 2.0, 3.0, 6.0]).view(1, 1, 2, 2)  # mean 3, biased variance 3.5
    expected = torch.tensor([-2.0, -1.0, 0.0, 3.0]).view(1, 1, 2, 2) / 3.5**0.5
    torch.testing.assert_close(standardize_weight(w), expected)


def test_eps_is_inside_the_root_and_small():
    # With eps 1e-10 a filter of standard deviation 1e-3 still comes out at 1e-6 / (1e-6 + 1e-10) of unit variance;
    # with timm's 1e-8 it would be 0.995 of it, which moves logits by per cents.
    variance = standardize_weight(weight(1e-3).double()).flatten(1).var(1, correction=0)
    raw = weight(1e-3).double().flatten(1).var(1, correction=0)
    torch.testing.assert_close(variance, raw / (raw + 1e-10))


def test_memory_format_survives():
    w = weight().contiguous(memory_format=torch.channels_last)
    assert standardize_weight(w).is_contiguous(memory_format=torch.channels_last)


def test_a_constant_filter_is_finite():
    assert torch.equal(standardize_weight(torch.ones(1, 3, 3, 3)), torch.zeros(1, 3, 3, 3))


def test_half_precision_weights_do_not_overflow():
    small = torch.randn(8, 4, 3, 3, generator=torch.Generator().manual_seed(0)) * 1e-4  # its variance is 0 in fp16
    for dtype in (torch.float16, torch.bfloat16):
        assert torch.allclose(standardize_weight(small.to(dtype)).float(), standardize_weight(small), atol=0.05)


def test_gradient():
    w = weight().double()[:2, :2].requires_grad_()
    assert torch.autograd.gradcheck(standardize_weight, w)


def test_make_norm():
    gn = make_norm("gn", 64, 32)
    assert isinstance(gn, nn.GroupNorm) and gn.num_groups == 32 and gn.eps == 1e-5
    assert isinstance(make_norm("bn", 64, 32), nn.BatchNorm2d)
    with pytest.raises(ValueError, match="48 channels"):
        make_norm("gn", 48, 32)
    with pytest.raises(ValueError, match="'ln'"):
        make_norm("ln", 64, 32)


def batch(n: int = 8, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, 6, 5, 5, generator=torch.Generator().manual_seed(seed)) * 2 + 1


def test_batch_norm_written_out_is_batch_norm():
    ours, theirs = BatchNorm(6), nn.BatchNorm2d(6)
    for module in (ours, theirs):
        nn.init.uniform_(module.weight, 0.5, 1.5, generator=torch.Generator().manual_seed(1))
        nn.init.uniform_(module.bias, -1, 1, generator=torch.Generator().manual_seed(2))
    x, y = (batch().requires_grad_() for _ in range(2))
    for a, b in ((ours(x), theirs(y)), (ours.train()(batch(4, 1)), theirs.train()(batch(4, 1)))):
        torch.testing.assert_close(a, b)
    (ours(x) ** 3).sum().backward()
    (theirs(y) ** 3).sum().backward()
    torch.testing.assert_close(x.grad, y.grad, rtol=1e-4, atol=1e-4)
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value)
    torch.testing.assert_close(ours.eval()(batch(3, 2)), theirs.eval()(batch(3, 2)))


def test_groups_of_the_batch_are_normalised_like_batches_of_their_own():
    split, x = BatchNorm(6), batch()
    split.device_batch = 2
    apart = torch.cat([nn.BatchNorm2d(6)(part) for part in x.split(2)])
    torch.testing.assert_close(split(x), apart)
    assert not torch.allclose(split(x), nn.BatchNorm2d(6)(x), atol=0.1)
    with pytest.raises(ValueError, match="7 images.*groups of 2"):
        split(x[:7])


def test_split_batch_norm_keeps_the_network():
    model = ResNetV2(ARCHS["small-bn"], 3)
    x = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    model.reset_head(3)
    nn.init.ones_(model.head.weight)
    model.eval()
    before = model(x)
    assert split_batch_norm(model, 2) is model
    torch.testing.assert_close(model(x), before, rtol=1e-4, atol=1e-4)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms and all(isinstance(m, BatchNorm) and m.device_batch == 2 for m in norms)


def plain_standardize(w):
    """The formula of the paper, one operation at a time."""
    mean = w.mean((1, 2, 3), keepdim=True)
    variance = ((w - mean) ** 2).mean((1, 2, 3), keepdim=True)
    return (w - mean) / torch.sqrt(variance + 1e-10)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("shape", [(8, 4, 3, 3), (16, 32, 1, 1), (8, 3, 7, 7)])
def test_fast_standardisation_against_the_plain_one(shape, memory_format):
    generator = torch.Generator().manual_seed(0)
    raw, direction = (torch.randn(shape, generator=generator) * 0.05 + 0.1 for _ in range(2))
    results = []
    for function in (standardize_weight, plain_standardize):
        w = raw.clone().contiguous(memory_format=memory_format).requires_grad_()
        out = function(w)
        (out * direction).sum().backward()
        results.append((out, w.grad))
    (fast, fast_grad), (plain, plain_grad) = results
    assert fast.is_contiguous(memory_format=memory_format)
    assert (fast - plain).abs().max() < 1e-5 * plain.abs().max()
    assert (fast_grad - plain_grad).abs().max() < 1e-4 * plain_grad.abs().max()


def test_standardisation_under_autocast_is_in_32_bits():
    w = weight(1e-4).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        out = standardize_weight(w)
    assert out.dtype == torch.float32 and torch.equal(out, standardize_weight(w))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("narrow_kernel", [True, False])  # as on a CPU; as on a GPU
def test_group_norm_of_16_bit_activations(dtype, memory_format, narrow_kernel, monkeypatch):
    monkeypatch.setattr(norm, "_takes_16_bits", lambda x: narrow_kernel)
    generator = torch.Generator().manual_seed(0)
    layer = GroupNorm(4, 12)
    nn.init.uniform_(layer.weight, 0.5, 1.5, generator=generator)
    nn.init.uniform_(layer.bias, -1, 1, generator=generator)
    x, direction = (
        torch.randn(5, 12, 6, 7, generator=generator).to(dtype).contiguous(memory_format=memory_format) for _ in range(2)
    )
    results = []
    for kind in (dtype, torch.float32):
        leaf = x.to(kind).requires_grad_()
        out = layer(leaf)
        grads = torch.autograd.grad((out.float() * direction.float()).sum(), [leaf, layer.weight, layer.bias])
        results.append((out, *grads))
    narrow, wide = results
    assert narrow[0].dtype == narrow[1].dtype == dtype and narrow[2].dtype == narrow[3].dtype == torch.float32
    assert narrow[0].is_contiguous(memory_format=memory_format) and narrow[1].is_contiguous(memory_format=memory_format)
    eps = torch.finfo(dtype).eps
    for a, b in zip(narrow, wide):  # one rounding of the result; sums over pictures and pixels, done in 32 bits, less
        assert (a.float() - b).abs().max() <= eps * b.abs().max()


def test_group_norm_keeps_only_the_16_bit_input():
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        GroupNorm(4, 12)(torch.randn(5, 12, 6, 7).bfloat16().requires_grad_())
    big = [t for t in kept if t.numel() == 5 * 12 * 6 * 7]
    assert len(big) == 1 and big[0].dtype == torch.bfloat16


@pytest.fixture
def count(monkeypatch):
    """How many weights have been standardised so far."""
    calls = []
    monkeypatch.setattr(norm, "standardize_weight", lambda w, eps=norm.WS_EPS: calls.append(w) or standardize_weight(w, eps))
    return lambda: len(calls)


def test_held_weights_are_standardised_once_and_change_nothing(count):
    model, x = ResNetV2(ARCHS["tiny"], 3).eval(), torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(1))
    convs = standardized_convs(model)
    plain = model(x)
    assert count() == len(convs)
    with hold_standardized(convs):
        assert torch.equal(model(x), plain)
        with hold_standardized(convs):  # the outer one keeps them
            assert torch.equal(model(x), plain)
        model(x)
        assert count() == 2 * len(convs)
    assert torch.equal(model(x), plain) and count() == 3 * len(convs)


def test_standardised_once_a_step_gives_the_same_gradients(count):
    model = ResNetV2(ARCHS["tiny"], 3).double()
    nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(1))
    x = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(0)).double()
    model(x).square().sum().backward()
    whole = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    before, convs = count(), len(standardized_convs(model))
    with StandardizeOnce(model) as once:
        for number, part in enumerate(x.split(2)):
            if number == 2:
                once.join_gradients()
            model(part).square().sum().backward()
    assert count() - before == convs and all(c.held is None for c in standardized_convs(model))
    for name, p in model.named_parameters():
        assert (p.grad - whole[name]).abs().max() <= 1e-10 * whole[name].abs().max()
