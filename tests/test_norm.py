import pytest
import torch
from torch import nn

from bitlib.norm import make_norm, standardize_weight


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
