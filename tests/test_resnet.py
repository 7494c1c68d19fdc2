from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from conftest import TINY, TINY_BN
from torch import nn

from bitlib.norm import StdConv2d
from bitlib.resnet import ARCHS, STAGES, Arch, ResNetV2, count_parameters

# FACTS: counted on the official code; name -> (with 1000 classes, without head, with 21,843 classes, tensors).
COUNTS = {
    "R50x1": (25_549_352, 23_500_352, 68_256_659, 153),
    "R101x1": (44_541_480, 42_492_480, 87_248_787, 306),
    "R50x3": (217_319_080, 211_174_080, 345_399_315, 153),
    "R152x2": (236_335_208, 232_238_208, 321_728_979, 459),
    "R101x3": (387_934_888, 381_789_888, 516_015_123, 306),
    "R152x4": (936_533_224, 928_340_224, 1_107_299_923, 459),
}


@pytest.mark.parametrize("name", COUNTS)
def test_parameter_counts(name):
    with torch.device("meta"):  # no memory
        small, large = ResNetV2(ARCHS[name], 1000), ResNetV2(ARCHS[name], 21_843)
    total, body, total_21k, tensors = COUNTS[name]
    assert count_parameters(small) == total
    assert count_parameters(small) - count_parameters(small.head) == body
    assert count_parameters(large) == total_21k
    assert len(list(small.parameters())) == tensors


def inputs(n: int = 2, side: int = 32, seed: int = 0) -> torch.Tensor:
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def awake(arch: Arch, num_classes: int = 5, seed: int = 0) -> ResNetV2:
    """A network whose head is not all zeros."""
    model = ResNetV2(arch, num_classes, seed)
    nn.init.normal_(model.head.weight, generator=torch.Generator().manual_seed(seed))
    return model


@pytest.mark.parametrize(
    "change, message",
    [
        ({"stem": "imagenat"}, "stem is 'imagenat'; it must be 'imagenet' or 'small'"),
        ({"norm": "GN"}, "norm is 'GN'; it must be 'gn' or 'bn'"),
        ({"units": (1, 1, 1)}, r"units is \(1, 1, 1\); it must be four whole numbers from 1 to 64"),
        ({"units": (0, 1, 1, 1)}, "units is"),
        ({"root_width": 8.0}, "root_width is 8.0; it must be a whole number from 1 to 4096"),
        ({"groups": 3}, "groups is 3; it must be a divisor of root_width, 8"),
        ({"standardize": "no"}, "standardize is 'no'; it must be True or False"),
    ],
)
def test_a_typo_in_an_architecture_is_named(change, message):
    with pytest.raises(ValueError, match=message):
        replace(TINY, **change)


@pytest.mark.parametrize("stem, side", [("imagenet", 16), ("small", 32)])
def test_sizes_of_the_stages_as_documented(stem, side):
    """Of an image of 64 pixels: a quarter of it behind the stem of the official networks, half of it behind the small one."""
    stages = ResNetV2(replace(TINY, stem=stem), 2).stage_features(inputs(1, 64))
    assert [tuple(stages[s].shape[1:]) for s in STAGES] == [(32 * 2**s, side >> s, side >> s) for s in range(4)]


def test_shapes_and_parts_agree():
    model, x = awake(TINY).eval(), inputs()
    features = model.forward_features(x)
    assert features.shape == (2, 256, 2, 2)
    stages = model.stage_features(x)
    assert [tuple(stages[s].shape[1:]) for s in STAGES] == [(32, 16, 16), (64, 8, 8), (128, 4, 4), (256, 2, 2)]
    torch.testing.assert_close(model.forward_head(features), model(x))
    pooled = model.forward_head(features, pre_logits=True)
    torch.testing.assert_close(model.head(pooled), model(x))
    torch.testing.assert_close(features, F.relu(model.norm(stages["stage4"])))


def test_imagenet_stem_pads_the_pool_with_zeros():
    model = ResNetV2(Arch((1, 1, 1, 1), 8, 4), 2)
    model.root.conv = nn.Conv2d(3, 8, 7, 2, 3)
    with torch.no_grad():
        model.root.conv.weight.zero_()
        model.root.conv.bias.fill_(-1.0)  # everything below zero: only the padding can win
    out = model.root(inputs(1, 64))
    assert out.shape[-2:] == (16, 16)
    assert (out[..., 0, :] == 0).all() and (out[..., 1:, 1:] == -1).all()


def test_the_unit_by_hand():
    """The residual unit written out with functional calls, from the paper's description."""
    model, x = ResNetV2(TINY, 2).eval(), torch.randn(2, 32, 8, 8, generator=torch.Generator().manual_seed(1))
    unit = model.stage2.unit01

    def norm_relu(step, y):
        return F.relu(F.group_norm(y, 4, step.norm.weight, step.norm.bias, 1e-5))

    def conv(layer, y, stride=1):
        w = layer.weight
        w = (w - w.mean((1, 2, 3), keepdim=True)) / (w.var((1, 2, 3), correction=0, keepdim=True) + 1e-10).sqrt()
        return F.conv2d(y, w, stride=stride, padding=w.shape[-1] // 2)

    act = norm_relu(unit.a, x)
    out = conv(unit.a.conv, act)
    out = conv(unit.b.conv, norm_relu(unit.b, out), 2)  # the stride is on the 3x3
    out = conv(unit.c.conv, norm_relu(unit.c, out)) + conv(unit.a.proj, act, 2)
    torch.testing.assert_close(unit(x), out, rtol=1e-4, atol=1e-3)


def test_every_body_convolution_is_standardised_or_none():
    body = [m for m in ResNetV2(TINY, 2).modules() if isinstance(m, nn.Conv2d)]
    assert all(isinstance(m, StdConv2d) and m.bias is None for m in body)
    assert not any(isinstance(m, StdConv2d) for m in ResNetV2(TINY_BN, 2).modules())


def test_scaling_a_filter_changes_nothing():
    """What weight standardisation promises: only the direction of a filter matters."""
    model, x = awake(TINY).eval(), inputs()
    before = model(x)
    with torch.no_grad():
        model.stage2.unit01.b.conv.weight.mul_(7).add_(0.5)
    torch.testing.assert_close(model(x), before, rtol=1e-3, atol=1e-3)


def test_same_seed_same_weights():
    a, b, c = ResNetV2(TINY, 5, 1), ResNetV2(TINY, 5, 1), ResNetV2(TINY, 5, 2)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters()))
    assert not torch.equal(a.root.conv.weight, c.root.conv.weight)


def test_new_head_is_zero():
    model = awake(TINY)
    model.reset_head(7)
    assert model.num_classes == 7 and torch.equal(model(inputs()), torch.zeros(2, 7))


def test_gradient_checkpointing_gives_the_same_gradients():
    plain, saving = awake(TINY).train(), awake(TINY).train()
    saving.grad_checkpointing = True
    for model in (plain, saving):
        model(inputs()).square().sum().backward()
    for (name, p), q in zip(plain.named_parameters(), saving.parameters()):
        torch.testing.assert_close(p.grad, q.grad, msg=name)


@pytest.mark.parametrize("arch", [TINY, TINY_BN])
def test_frozen_means_frozen(arch):
    model = awake(arch)
    model.set_frozen(("root", "stage1", "stage2"))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    model.train()  # what a training loop does before every epoch
    model(inputs(8)).square().mean().backward()
    optimizer.step()
    for name, value in model.state_dict().items():
        frozen = name.split(".")[0] in ("root", "stage1", "stage2")
        assert torch.equal(value, before[name]) == frozen, name  # statistics included
    assert all(p.grad is None for p in model.stage2.parameters())
    model.set_frozen(())
    assert model.train().stage1.training and all(p.requires_grad for p in model.parameters())


def test_small_variants_exist():
    for name in ("small", "small-gn", "small-bn"):
        assert awake(ARCHS[name])(inputs()).shape == (2, 5)
    ws = {name: any(isinstance(m, StdConv2d) for m in ResNetV2(ARCHS[name], 2).modules()) for name in ARCHS if "small" in name}
    assert ws == {"small": True, "small-gn": False, "small-bn": False}
