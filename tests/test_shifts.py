"""Shifts of test images and planted wrong labels: what each does, and what it leaves alone."""

import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter

from bitlib.data.shifts import SHIFTS, likeness, mislabelled, shifted


def images(count: int = 6, side: int = 32, seed: int = 0) -> torch.Tensor:
    """Smooth coloured images."""
    coarse = torch.rand(count, 3, 5, 5, generator=torch.Generator().manual_seed(seed))
    fine = torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic").clamp(0, 1)
    return (255 * fine).round().to(torch.uint8)


@pytest.mark.parametrize("kind", SHIFTS)
def test_a_shift_grows_with_its_severity_and_comes_out_the_same_again(kind):
    x = images() if kind != "background" else ((images() > 170) * 255).to(torch.uint8)  # ink on black
    before = x.clone()
    assert shifted(x, kind, 0) is x
    damage = [(shifted(x, kind, s).float() - x.float()).square().mean().item() for s in range(1, 6)]
    assert damage == sorted(damage) and damage[0] > 0 and len(SHIFTS[kind]) == 5
    again = shifted(x, kind, 3, seed=1)
    assert again.equal(shifted(x, kind, 3, seed=1)) and again.dtype == torch.uint8 and again.shape == x.shape
    assert x.equal(before)
    # An image is treated the same whatever stands beside it, where nothing is random.
    if kind in ("contrast", "blur", "JPEG"):
        assert shifted(x[2:3], kind, 3).equal(shifted(x, kind, 3)[2:3])


@pytest.mark.parametrize("kind, severity", [("fog", 1), ("blur", 6), ("blur", -1)])
def test_an_unknown_shift_is_refused(kind, severity):
    with pytest.raises(ValueError, match="no shift"):
        shifted(images(), kind, severity)


def test_contrast_keeps_the_mean_and_scales_the_deviation():
    x, y = images().double(), shifted(images(), "contrast", 2).double()
    assert (x.mean((1, 2, 3)) - y.mean((1, 2, 3))).abs().max() < 0.5
    ratio = y.std((1, 2, 3)) / x.std((1, 2, 3))
    assert (ratio - SHIFTS["contrast"][1]).abs().max() < 0.01


def test_blur_is_as_wide_as_it_says():
    """The spread of a single bright point, against the standard deviation asked for; and flat areas stay flat."""
    x = torch.zeros(1, 3, 65, 65, dtype=torch.uint8)
    x[..., 32, 32] = 255
    wide = torch.full((1, 3, 64, 64), 77, dtype=torch.uint8)
    assert shifted(wide, "blur", 5).equal(wide)
    x = (images(1, 128) // 255 * 0).contiguous()
    x[..., 40:88, 64:] = 200  # an edge, whose blur has the deviation of the kernel
    row = shifted(x, "blur", 2)[0, 0, 64].double()
    rise = (row[1:] - row[:-1])[40:90].clamp_min(0)
    at = torch.arange(len(rise), dtype=torch.float64)
    mean = (rise * at).sum() / rise.sum()
    spread = ((rise * (at - mean) ** 2).sum() / rise.sum()).sqrt()
    assert spread.item() == pytest.approx(SHIFTS["blur"][1] * 128 / 32, rel=0.1)
    pillow = Image.fromarray(x[0].permute(1, 2, 0).numpy()).filter(ImageFilter.GaussianBlur(SHIFTS["blur"][1] * 4))
    assert np.abs(np.asarray(pillow).astype(int)[:, :, 0] - shifted(x, "blur", 2)[0, 0].numpy().astype(int)).mean() < 2


def test_rotation_turns_both_ways_about_the_middle():
    x = torch.zeros(40, 3, 33, 33, dtype=torch.uint8)
    x[..., 16, 20:30] = 255  # a hand that points to the right
    turned = shifted(x, "rotation", 3)[:, 0].double()
    y, across = torch.meshgrid(torch.arange(33) - 16.0, torch.arange(33) - 16.0, indexing="ij")
    angle = torch.atan2((turned * y).sum((1, 2)), (turned * across).sum((1, 2))).rad2deg()
    assert (angle.abs() - 30).abs().max() < 2 and 5 < (angle > 0).sum() < 35


def test_jpeg_is_what_pillow_writes():
    x, buffer = images(1), io.BytesIO()
    Image.fromarray(x[0].permute(1, 2, 0).numpy()).save(buffer, "JPEG", quality=SHIFTS["JPEG"][3])
    wanted = torch.from_numpy(np.array(Image.open(buffer))).permute(2, 0, 1)
    assert shifted(x, "JPEG", 4)[0].equal(wanted)


def test_a_background_leaves_full_ink_and_shows_where_there_is_none():
    x = torch.zeros(3, 3, 32, 32, dtype=torch.uint8)
    x[..., :16] = 255
    y = shifted(x, "background", 5)
    assert (y[..., :16] == 255).all() and y[..., 16:].double().std() > 10
    assert y[..., 16:].max() <= 255 * SHIFTS["background"][4] + 1
    assert not y[0].equal(y[1])  # each image has its own


@pytest.mark.parametrize("like", [False, True])
def test_planted_labels_are_wrong_and_counted(like):
    labels = torch.arange(200) % 10
    table = torch.rand(200, 10, generator=torch.Generator().manual_seed(0)) if like else None
    noisy, wrong = mislabelled(labels, 17, 3, table)
    assert wrong.sum() == 17 and (noisy != labels).equal(wrong)
    assert noisy.equal(mislabelled(labels, 17, 3, table)[0]) and not noisy.equal(mislabelled(labels, 17, 4, table)[0])
    if like:
        for i in wrong.nonzero()[:, 0].tolist():
            order = [c for c in table[i].argsort(descending=True).tolist() if c != labels[i]]
            assert noisy[i] == order[0]
    else:
        spread = mislabelled(labels, 200, 3)[0]
        assert len(set(zip(labels.tolist(), spread.tolist()))) > 70  # nearly every wrong class turns up


def test_likeness_is_the_distance_to_the_mean_image():
    x, labels = images(9, 8), torch.arange(9) % 3
    found = likeness(x, labels)
    means = [x[labels == c].double().mean(0) for c in range(3)]
    wanted = torch.tensor([[-(one.double() - mean).square().sum().sqrt() for mean in means] for one in x])
    torch.testing.assert_close(found, wanted.double(), rtol=1e-6, atol=1e-6)
