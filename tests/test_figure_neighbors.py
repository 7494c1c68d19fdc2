"""Neighbours: the nearest of 200 letters after each stage of two networks, as cosine similarity in PyTorch has them."""

import pytest
import torch
import torch.nn.functional as F
from browser import close, labels, numbers, open_figure, spot, state

import bitlib
from bitlib.course import explore
from bitlib.course.explore.neighbors import letters
from bitlib.data import to_input

pytestmark = pytest.mark.site


def test_neighbors(visit):
    page, shown = open_figure(visit, "neighbors")
    images, names = letters()
    x, stages = to_input(images).double(), ["pixels", "stage1", "stage2", "stage3", "stage4"]
    own = torch.arange(200) // 10
    wanted = {}
    for name in ("glyphs-L", "photos-L"):
        with torch.no_grad():
            features = {"pixels": x, **bitlib.create_model(name, pretrained=True).eval().double().stage_features(x)}
        for stage in stages:
            f = features[stage].flatten(1) if stage == "pixels" else features[stage].mean((2, 3))
            likeness = F.cosine_similarity(f[:, None], f[None], dim=2)
            order = likeness.argsort(1, descending=True)
            wanted[name, stage] = torch.stack([row[row != i][:6] for i, row in enumerate(order)])
    assert state(shown)["classes"] == names and state(shown)["stages"] == stages

    def check():
        now = state(shown)
        for stage in stages:
            row = f".bl-near-row[data-stage={stage}] .bl-near-thumb"
            near = wanted[now["network"], stage][now["query"]]
            assert numbers(shown, row, "image").tolist() == near.tolist()
            framed = shown.locator(row).evaluate_all("all => all.map(e => e.classList.contains('bl-near-same'))")
            assert framed == (own[near] == own[now["query"]]).tolist()
        near = wanted[now["network"], now["stage"]]
        marked = numbers(shown, ".bl-near-map rect", "image").long().tolist()
        assert marked == [*near[now["query"]].tolist(), now["query"]]
        close(numbers(shown, ".bl-x-answer", "share")[0], (own[near] == own[:, None]).double().mean())
        return now

    # The lists of all images, and the chart.
    for name in ("glyphs-L", "photos-L"):
        lists = shown.evaluate(
            "(f, n) => f.model.get('nearest')[n].map((row) => [...atob(row)].map((c) => c.charCodeAt(0)))", name
        )
        for stage, seen in zip(stages, lists):
            assert torch.tensor(seen).view(200, 6).equal(wanted[name, stage])
        shares = torch.stack([(own[wanted[name, stage]] == own[:, None]).double().mean() for stage in stages])
        close(numbers(shown, f"circle[data-network={name}]", "share"), shares)
    now = check()
    same = [(own[wanted["glyphs-L", stage][now["query"]]] == own[now["query"]]).sum().item() for stage in stages]
    assert same[0] == 0 and same[-1] == 6  # the point of the figure
    words = " ".join(labels(shown))
    assert "same letter, all 200 images (%)" in words and "features after stage" in words

    shown.locator(".bl-near-row[data-stage=pixels] .bl-near-thumb").nth(1).click()
    assert check()["query"] == wanted["glyphs-L", "pixels"][now["query"], 1] and state(shown)["stage"] == "pixels"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    before = state(shown)["query"]
    page.keyboard.press("Enter")
    assert check()["query"] == wanted["glyphs-L", "stage1"][before, 2] and state(shown)["stage"] == "stage1"
    grid = shown.locator(".bl-near-map image")
    page.mouse.move(*spot(grid, 3.5 / 20, 2.5 / 10))
    page.mouse.down()
    assert check()["query"] == 32
    page.mouse.move(*spot(grid, 5.5 / 20, 4.5 / 10), steps=4)
    page.mouse.up()
    assert check()["query"] == 54
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowUp")
    assert check()["query"] == 43
    page.keyboard.press("End")
    assert check()["query"] == 199
    shown.get_by_label("photographs").check()
    shown.get_by_role("button", name="stage 3", exact=True).click()
    assert check()["network"] == "photos-L" and state(shown)["stage"] == "stage3"
    linked, shown = open_figure(visit, "neighbors", query=120, network="photos-L", stage="stage2")
    check()
    assert page.problems == linked.problems == []


def test_neighbors_need_classes_of_one_size():
    with pytest.raises(ValueError, match="the same number of each class"):
        explore.Neighbors.of(torch.zeros(7, 3, 4, 4, dtype=torch.uint8), ["a", "b"], {})
