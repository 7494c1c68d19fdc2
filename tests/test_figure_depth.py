"""Depth: digits in four inks at six depths of three networks, against cosine similarity and principal components in PyTorch."""

import pytest
import torch
import torch.nn.functional as F
from browser import close, keys, labels, module, numbers, open_figure, pull_handle, spot, state

import bitlib
from bitlib.course import explore
from bitlib.course.explore.depth import INKS, PAPER, drawings, inked
from bitlib.data import to_input

pytestmark = pytest.mark.site
STAGES = ["pixels", "root", "stage1", "stage2", "stage3", "stage4"]


def features(name: str) -> list[torch.Tensor]:
    """What sets each image apart from the average at each depth, float64 [80, F], by bitlib's own forward pass."""
    shapes, _, inks = drawings()
    x = to_input(inked(shapes, torch.tensor([*INKS.values()])[inks], PAPER)).double()
    model = bitlib.create_model("glyphs-L", 10) if name == "random" else bitlib.create_model(name, pretrained=True)
    with torch.no_grad():
        model = model.eval().double()
        found = [x.flatten(1), model.root(x).mean((2, 3)), *(v.mean((2, 3)) for v in model.stage_features(x).values())]
    return [f - f.mean(0) for f in found]


@pytest.fixture(scope="module")
def wanted():
    """{network: (features, the five nearest int [6, 80, 5])}"""
    found = {}
    for name in ("glyphs-L", "photos-L", "random"):
        near = []
        for f in (apart := features(name)):
            order = F.cosine_similarity(f[:, None], f[None], dim=2).argsort(1, descending=True)
            near.append(torch.stack([row[row != i][:5] for i, row in enumerate(order)]))
        found[name] = apart, torch.stack(near)
    return found


def test_depth(visit, wanted):
    page, shown = open_figure(visit, "depth")
    now = state(shown)
    digits, inks = torch.tensor(now["digits"]), torch.tensor(now["inks"])
    assert now["stages"] == STAGES and len(digits) == 80
    shapes, true, _ = drawings()
    assert digits.equal(true)

    def share(near, own):
        return (own[near] == own[:, None]).double().mean()

    def check():
        now = state(shown)
        near, stage = wanted[now["network"]][1], round(now["depth"] + 1e-9)
        chart = {what: torch.stack([share(n, own) for n in near]) for what, own in (("digit", digits), ("ink", inks))}
        for what, of in chart.items():
            close(numbers(shown, f"circle[data-what={what}]", "share"), of)
            close(numbers(shown, ".bl-x-answer", f"{what}Share")[0], of[stage])
        q = now["query"]
        assert numbers(shown, ".bl-depth-map circle.bl-depth-core", "image").tolist() == [*near[stage, q].tolist(), q]
        for what, own in (("digit", digits), ("ink", inks)):
            assert numbers(shown, ".bl-x-answer", what)[0] == (own[near[stage, q]] == own[q]).sum()
        return now

    for name, (apart, near) in wanted.items():
        lists = shown.evaluate(
            "(f, n) => f.model.get('nearest')[n].map((row) => [...atob(row)].map((c) => c.charCodeAt(0)))", name
        )
        assert torch.tensor(lists).view(6, 80, 5).equal(near)
        # The arrangement: the products of its points are those of the two largest components, up to its size.
        for places, f in zip(now["places"][name], apart):
            unit = F.normalize(f)
            values, vectors = torch.linalg.eigh((unit - unit.mean(0)) @ (unit - unit.mean(0)).T)
            gram = vectors[:, -2:] @ torch.diag(values[-2:]) @ vectors[:, -2:].T
            flat = torch.tensor(places, dtype=torch.float64).view(80, 2)
            torch.testing.assert_close(flat @ flat.T, gram / gram.diagonal().max(), rtol=1e-3, atol=1e-4)
    # Between two stages images lie between their two places.
    for depth in (0, 1.25, 2.5, 5):
        seen = module(
            shown, "(m, d) => [0, 41].map((i) => Object.values(m.at(figure.model.get('places')['photos-L'], d, i)))", depth
        )
        places = torch.tensor(now["places"]["photos-L"], dtype=torch.float64).view(6, 80, 2)
        low = min(int(depth), 4)
        close(seen, torch.lerp(places[low], places[low + 1], depth - low)[[0, 41]])
    # A digit in its ink on the paper is what the network got, before it was enlarged.
    seen = torch.tensor(module(shown, "(m, ink) => [...m.inked(ink, [200, 26, 26])]", shapes[3].flatten().tolist())).view(64, 4)
    on_paper = PAPER[0] + (seen[:, :3].double() - PAPER[0]) * seen[:, 3:].double() / 255
    close(on_paper.round(), inked(shapes[3:4], torch.tensor([[200, 26, 26]]), PAPER, 8)[0].flatten(1).T.double())

    assert check()["depth"] == 0
    near = wanted["glyphs-L"][1][:, now["query"]]
    assert (inks[near[0]] == inks[now["query"]]).all() and (digits[near[-1]] == digits[now["query"]]).all()  # its point
    words = " ".join(labels(shown))
    assert "all 80 images" in words and "after stage" in words

    handle = shown.get_by_role("slider", name="How far into the network")
    pull_handle(page, handle, 0.5)
    assert check()["depth"] == pytest.approx(2.5, abs=0.051)
    handle.press("End")
    assert check()["depth"] == 5 and handle.get_attribute("aria-valuetext") == "stage 4"
    handle.press("ArrowLeft")
    assert check()["depth"] == 4.5 and "between" in handle.get_attribute("aria-valuetext")
    keys(shown, "network", "ArrowRight")
    assert check()["network"] == "photos-L"
    shown.get_by_label("random weights").check()
    assert check()["network"] == "random"
    page.mouse.click(*spot(shown.locator(".bl-depth-map image[data-image='79']")))
    chosen = check()["query"]
    field = shown.get_by_role("slider", name="The image whose neighbours are shown")
    field.press("Home")
    assert check()["query"] == 0 != chosen
    field.press("ArrowRight")
    field.press("ArrowDown")
    assert check()["query"] == 17 and field.get_attribute("aria-valuetext") == "a 1 in red ink"
    linked, shown = open_figure(visit, "depth", width=375, query=33, network="photos-L", depth=3.5)
    check()
    assert page.problems == linked.problems == []


def test_depth_takes_at_most_256_images():
    with pytest.raises(ValueError, match="at most 256"):
        explore.Depth.of(torch.zeros(300, 8, 8, dtype=torch.uint8), torch.zeros(300), torch.zeros(300), {})


def test_depth_weighs_little():
    assert len(explore.Depth.example().static_html()) < 150_000
