"""The same official-format file in our network and in timm's: a second implementation, written by others."""

import pytest
import timm
import torch
from test_weights import equal
from timm.layers import StdConv2d as TimmStdConv2d
from torch import nn

from bitlib import create_model, load_npz, save_npz


def random_official(name: str, classes: int):
    """Random weights whose head, norms and filter variances are all far from their initial values."""
    model, generator = create_model(name, classes), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            noise = torch.randn(p.shape, generator=generator)
            p.copy_(1 + 0.2 * noise if p.ndim == 1 else 0.05 * noise)
    return model.eval()


@pytest.mark.parametrize("ours, theirs, batch", [("R50x1", "resnetv2_50x1_bit", 2), ("R50x3", "resnetv2_50x3_bit", 1)])
def test_logits_agree_at_224(tmp_path, record_property, ours, theirs, batch):
    model, path = random_official(ours, 1000), tmp_path / "w.npz"
    save_npz(model, path)
    again = create_model(ours, 1000)
    load_npz(again, path)
    assert equal(model, again)
    other = timm.create_model(theirs, num_classes=1000).eval()
    other.load_pretrained(str(path))
    for module in other.modules():
        if isinstance(module, TimmStdConv2d):
            module.eps = 1e-10  # timm's entry points use 1e-8
        assert not isinstance(module, nn.GroupNorm) or module.eps == 1e-5
    x = torch.rand(batch, 3, 224, 224, generator=torch.Generator().manual_seed(2)) * 2 - 1
    with torch.no_grad():
        a, b = model(x), other(x)
        stages, theirs_stages = model.stage_features(x), other.forward_intermediates(x, intermediates_only=True)
    error = ((a - b).abs().max() / b.std()).item()
    record_property("max_logit_difference_over_std", error)
    print(f"{ours}: max |logit difference| / logit std = {error:.1e}")
    assert error < 1e-4
    for mine, their in zip(stages.values(), theirs_stages[-4:]):
        assert ((mine - their).abs().max() / their.std()) < 1e-4
