"""The HyperRule against values worked out by hand from the published code and from the paper."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bitlib import HyperRule

# Written out from the released schedule, one entry per range of steps: (first step, last step, learning rate).
# During warm-up the rate is 0.003 * step / warm-up. A boundary s takes effect at s + 1.
SMALL = (100, [(100, 200, 3e-3), (201, 300, 3e-4), (301, 400, 3e-5), (401, 499, 3e-6)])
MEDIUM = (500, [(500, 3000, 3e-3), (3001, 6000, 3e-4), (6001, 9000, 3e-5), (9001, 9999, 3e-6)])
LARGE = (500, [(500, 6000, 3e-3), (6001, 12_000, 3e-4), (12_001, 18_000, 3e-5), (18_001, 19_999, 3e-6)])


@pytest.mark.parametrize("n, golden", [(1, SMALL), (19_999, SMALL), (20_000, MEDIUM), (499_999, MEDIUM), (500_000, LARGE)])
def test_code_variant_at_every_step(n, golden):
    rule, (warmup, ranges) = HyperRule(n, (224, 224)), golden
    expected = [0.003 * step / warmup for step in range(warmup)]
    for first, last, lr in ranges:
        assert len(expected) == first
        expected += [lr] * (last - first + 1)
    assert rule.total_steps == len(expected)
    assert rule.lr(0) == 0.0
    for step, lr in enumerate(expected):
        assert math.isclose(rule.lr(step), lr, rel_tol=1e-12), step
    assert rule.lr(rule.total_steps) is None


@pytest.mark.parametrize(
    "n, steps, boundaries",
    [(19_999, 500, (150, 300, 450)), (20_000, 10_000, (3000, 6000, 9000)), (500_000, 20_000, (6000, 12_000, 18_000))],
)
def test_paper_variant(n, steps, boundaries):
    rule = HyperRule(n, (224, 224), variant="paper")
    assert (rule.total_steps, rule.boundaries, rule.warmup_steps) == (steps, boundaries, 0)
    for step in range(steps):
        decays = sum(step >= b for b in boundaries)
        assert math.isclose(rule.lr(step), 0.003 / 10**decays, rel_tol=1e-12)
    assert rule.lr(steps) is None


@pytest.mark.parametrize(
    "size, variant, model, expected",
    [
        ((32, 32), "code", "", (160, 128)),
        ((95, 97), "code", "", (160, 128)),  # 9,215 < 9,216
        ((96, 96), "code", "", (512, 480)),
        ((96, 96), "paper", "", (448, 384)),
        ((500, 300), "paper", "BiT-M-R152x4", (512, 480)),
        ((500, 300), "paper", "BiT-M-R152x2", (448, 384)),
        ((32, 32), "paper", "BiT-M-R152x4", (160, 128)),
        ((1, 9215), "paper", "", (160, 128)),
    ],
)
def test_resolution(size, variant, model, expected):
    rule = HyperRule(100, size, variant, model)
    assert (rule.resize, rule.crop) == expected


def test_mixup_only_from_twenty_thousand():
    assert [HyperRule(n, (32, 32)).mixup_alpha for n in (1, 19_999, 20_000, 10**6)] == [0.0, 0.0, 0.1, 0.1]


def test_published_defaults():
    rule = HyperRule(50_000, (32, 32))
    assert (rule.base_lr, rule.batch_size, rule.momentum, rule.weight_decay) == (0.003, 512, 0.9, 0.0)
    assert math.isclose(rule.epochs, 102.4)  # CIFAR: "HyperRule in epochs"
    assert not rule.is_adapted and rule.adapted(base_lr=0.001).is_adapted
    same = dict(steps=10_000, resolution=(160, 128), alpha=0.1)  # the rule's own values, said aloud
    assert not rule.adapted(**same).is_adapted


@given(st.integers(1, 10**6), st.integers(5, 3000), st.sampled_from(["code", "paper"]))
def test_a_stretched_schedule_keeps_its_shape(n, steps, variant):
    rule, full = HyperRule(n, (32, 32), variant, steps=steps), HyperRule(n, (32, 32), variant)
    assert rule.total_steps == steps and rule.lr(steps) is None
    for ours, theirs in zip((rule.warmup_steps, *rule.boundaries), (full.warmup_steps, *full.boundaries)):
        assert abs(ours / steps - theirs / full.total_steps) <= 0.5 / steps + 1e-9
    rates = [rule.lr(s) for s in range(rule.warmup_steps, steps)]
    assert rates == sorted(rates, reverse=True) and max(rates, default=0.003) <= 0.003


@pytest.mark.parametrize(
    "wrong",
    [
        dict(num_examples=0),
        dict(image_size=(0, 5)),
        dict(variant="colab"),
        dict(base_lr=0.0),
        dict(base_lr=math.inf),
        dict(alpha=-1.0),
        dict(momentum=-0.1),
        dict(batch_size=0),
        dict(steps=0),
        dict(resolution=(32, 36)),
    ],
)
def test_values_out_of_range_are_named(wrong):
    with pytest.raises(ValueError, match=str(next(iter(wrong))).replace("variant", "colab")):
        HyperRule(**{"num_examples": 10, "image_size": (32, 32), **wrong})


def test_negative_step():
    with pytest.raises(ValueError, match="-1"):
        HyperRule(10, (32, 32)).lr(-1)


@pytest.mark.parametrize("variant", ["code", "paper"])
def test_the_first_step_of_a_short_run_is_not_decayed(variant):
    """Boundaries used to round to 0, which divided the only step's rate by a thousand."""
    assert HyperRule(100, (32, 32), variant, steps=1).lr(0) == 0.003
