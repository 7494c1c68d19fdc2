import pytest
import torch
from torch import nn

from bitlib.norm import BatchNorm, make_norm, split_batch_norm, standardize_weight
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
    with pytest.raises(ValueError, match="7 pictures.*groups of 2"):
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
