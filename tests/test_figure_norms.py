"""Norms: four of them over the same cells against PyTorch's and bitlib's, and which cells each depends on."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from browser import close, dataset, keys, labels, numbers, open_figure, pull_to, spot, state

import bitlib
from bitlib.course import explore
from bitlib.data import resize, to_input
from bitlib.norm import make_norm

pytestmark = pytest.mark.site


def cell_of(shown) -> str:
    """The cell that is framed in the figure of the norms, as a screen reader says it."""
    return shown.get_by_role("slider", name="Batch norm: the chosen cell").get_attribute("aria-valuetext")


def test_norms(visit):
    page, shown = open_figure(visit, "norms")
    means, deviations = explore.Norms(**state(shown)).statistics()
    model, images = bitlib.create_model("glyphs-L", pretrained=True).eval(), bitlib.load_task("digits").train.images
    with torch.no_grad():
        real = model.stage_features(to_input(resize(images[:64], 32)))["stage4"][:, ::64].double()
    torch.testing.assert_close(means[:64], real.mean((2, 3)), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(deviations[:64], real.var((2, 3), correction=0).sqrt(), rtol=1e-3, atol=1e-4)
    assert len(means) == 512  # so many that subsets of 64 differ
    # Two pixels with the mean and the deviation that the figure holds.
    x = torch.stack([means - deviations, means + deviations], -1)[:, :, None]
    panels = dict(zip(("bn", "ln", "in", "gn"), shown.locator("svg.bl-x-norm").all()))

    def norms() -> dict:
        return {
            "bn": make_norm("bn", 8, 1).double().train(),
            "ln": lambda v: F.layer_norm(v, v.shape[1:]),
            "in": F.instance_norm,
            "gn": make_norm("gn", 8, state(shown)["groups"]).double(),
        }

    def check() -> dict[str, float]:
        now, spreads = state(shown), {}
        for kind, norm in norms().items():
            values, draws = numbers(panels[kind], ".bl-x-value", "value"), panels[kind].locator(".bl-x-value")
            assert len(values) == 40
            for draw, value in zip(draws.evaluate_all("all => all.map(e => e.dataset.images)"), values):
                part = [int(i) for i in draw.split()]
                assert len(part) == len(set(part)) == now["batch"] and part[0] == now["image"]
                close(value, norm(x[part]).detach()[0, now["channel"]].mean())
            # The coloured cells are those that the framed activation depends on.
            part = [int(i) for i in draws.first.get_attribute("data-images").split()]
            batch = x[part].requires_grad_()
            felt = torch.autograd.grad(norm(batch)[0, now["channel"], 0, 0], batch)[0].abs().amax((2, 3)) > 0
            coloured = torch.zeros_like(felt)
            data = dataset(panels[kind])
            for image, channel in itertools.product(data["images"].split(), data["channels"].split()):
                coloured[part.index(int(image)), int(channel)] = True
            assert torch.equal(coloured, felt), kind
            spreads[kind] = float(data["spread"])
            assert spreads[kind] == pytest.approx(values.std(correction=0).item(), abs=1e-9)
            assert [name.strip(" ↓→") for name in labels(panels[kind])] == ["channel", "image", "normalised", "random subset"]
        assert max(spreads[kind] for kind in ("ln", "in", "gn")) < 1e-9
        return spreads

    eight = check()["bn"]
    assert state(shown)["batch"] == 8 and eight > 0.2  # the point of the figure

    # The edge of the batch: by mouse to the right end, by keys from there.
    edge = shown.get_by_role("slider", name="Images in the batch")
    pull_to(page, edge, 2000)
    assert state(shown)["batch"] == 64 and edge.get_attribute("aria-valuenow") == "64"
    assert 0.02 < check()["bn"] < eight / 2
    assert edge.evaluate("e => e === document.activeElement")
    page.keyboard.press("ArrowLeft")
    assert state(shown)["batch"] == 32
    page.keyboard.press("Home")
    assert state(shown)["batch"] == 1 and check()["bn"] < 1e-9
    assert "over itself alone" in shown.locator(".bl-x-panel.bl-x-bn").inner_text()
    assert "shares with itself: batch norm has become instance norm" in shown.locator(".bl-x-answer").inner_text()
    for _ in range(2):
        page.keyboard.press("ArrowRight")
    assert state(shown)["batch"] == 4

    # The row of images: a click on one watches it, a click on the scale sets the batch.
    row = shown.locator("svg.bl-x-batch")
    box = row.bounding_box()
    row.click(position={"x": (box["width"] - 14) * 3 / 7 * 0.85, "y": 20})
    assert cell_of(shown) == "image 4 of 4, channel 4"
    row.click(position={"x": (box["width"] - 14) * 6 / 7, "y": 64})
    assert state(shown)["batch"] == 32
    row.click(position={"x": (box["width"] - 14) * 6 / 7 * 0.1, "y": 40})  # the lower of two lines
    assert cell_of(shown) == "image 18 of 32, channel 4"
    check()
    row.click(position={"x": (box["width"] - 14) * 3 / 7, "y": 64})
    assert state(shown)["batch"] == 4 and cell_of(shown) == "image 1 of 4, channel 4"

    # A cell: by pointing, which only shows; by clicking; by keys.
    cell = shown.get_by_role("slider", name="Group norm: the chosen cell")
    third_seventh = spot(cell, 2.5 / 4, 6.5 / 8)
    before, was = state(shown), panels["gn"].get_attribute("data-channels")
    assert was == "2 3"
    page.mouse.move(*third_seventh)
    assert panels["gn"].get_attribute("data-channels") == "6 7" and state(shown) == before
    page.mouse.move(0, 0)
    assert panels["gn"].get_attribute("data-channels") == "2 3"
    page.mouse.click(*third_seventh)
    chosen = state(shown)
    assert chosen["channel"] == 6 and chosen["image"] != before["image"]
    assert cell_of(shown) == "image 3 of 4, channel 7"
    page.mouse.move(0, 0)
    check()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowLeft")
    assert cell_of(shown) == "image 2 of 4, channel 6" and state(shown)["channel"] == 5
    page.keyboard.press("Home")
    assert cell_of(shown) == "image 1 of 4, channel 1" and state(shown)["channel"] == 0

    keys(shown, "groups", "ArrowLeft")
    shown.locator('input[data-trait="groups"][value="2"]').check()
    assert state(shown)["groups"] == 2 and panels["gn"].get_attribute("data-channels") == "0 1 2 3"
    before = numbers(panels["bn"], ".bl-x-value", "value")
    shown.get_by_role("button", name="Draw other companions").press("Enter")
    assert not torch.equal(before, numbers(panels["bn"], ".bl-x-value", "value"))
    check()
    assert page.problems == []

    _, linked = open_figure(visit, "norms", batch=2, image=17, channel=1)
    assert numbers(linked, "svg.bl-x-norm", "spread")[0] > 0.05


def test_norms_need_enough_to_choose_from():
    with pytest.raises(ValueError, match="64 images and 8 channels are needed"):
        explore.Norms.of(torch.zeros(64, 6, 2, 2))
