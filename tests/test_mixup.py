import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from bitlib.mixup import mixup, mixup_loss, sample_lambda


def gen(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("alpha", [0.1, 0.4, 1.0, 3.0])
def test_lambda_follows_the_beta_distribution(alpha):
    generator = gen()
    draws = [sample_lambda(alpha, generator) for _ in range(2000)]
    assert stats.kstest(draws, stats.beta(alpha, alpha).cdf).pvalue > 0.01


@given(st.floats(1e-4, 50), st.integers(0, 1000))
def test_lambda_is_always_a_proportion(alpha, seed):
    assert 0.0 <= sample_lambda(alpha, gen(seed)) <= 1.0


def test_off():
    x, y = torch.randn(4, 3, 2, 2), torch.arange(4)
    assert sample_lambda(0.0, gen()) == 1.0
    mixed, a, b, lam = mixup(x, y, 0.0, gen())
    assert mixed is x and a is y and b is y and lam == 1.0
    with pytest.raises(ValueError, match="-1"):
        sample_lambda(-1, gen())


def test_pictures_and_labels_are_mixed_alike():
    x, y = torch.eye(6).view(6, 6, 1, 1), torch.arange(6)
    mixed, a, b, lam = mixup(x, y, 1.0, gen(3))
    expected = lam * F.one_hot(a, 6) + (1 - lam) * F.one_hot(b, 6)
    torch.testing.assert_close(mixed.view(6, 6), expected)
    assert sorted(b.tolist()) == list(range(6)) and 0 < lam < 1


@given(st.floats(0, 1), st.integers(0, 100))
@settings(deadline=None)
def test_loss_equals_cross_entropy_with_mixed_labels(lam, seed):
    logits = torch.randn(5, 4, generator=gen(seed), dtype=torch.float64)
    y, other = torch.tensor([0, 1, 2, 3, 0]), torch.tensor([1, 1, 0, 2, 3])
    target = lam * F.one_hot(y, 4).double() + (1 - lam) * F.one_hot(other, 4).double()
    torch.testing.assert_close(mixup_loss(logits, y, other, lam), F.cross_entropy(logits, target))


def test_expected_input_is_the_mean():
    """Over many draws every picture keeps half of itself plus half of the batch's mean (alpha = 1)."""
    x, generator = torch.randn(8, 1, 1, 1, generator=gen(), dtype=torch.float64), gen(1)
    mean = torch.stack([mixup(x, torch.arange(8), 1.0, generator)[0] for _ in range(4000)]).mean(0)
    torch.testing.assert_close(mean, 0.5 * x + 0.5 * x.mean(), atol=0.05, rtol=0)
