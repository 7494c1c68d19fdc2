"""Standardised weights: every weight and pixel against `standardize_weight` and PyTorch's convolution."""

import pytest
import torch
import torch.nn.functional as F
from browser import close, dataset, labels, module, numbers, open_figure, pixels, pull_to, state

from bitlib.course import explore
from bitlib.data import to_input
from bitlib.norm import standardize_weight

pytestmark = pytest.mark.site


def test_standardize(visit):
    page, shown = open_figure(visit, "standardize")
    call = "(m, [name, ...given]) => [...m[name](...given)]"
    image = explore.Standardize(**state(shown)).image()
    x, side = to_input(image[None]).double(), image.shape[-1]
    left, right = (shown.locator("canvas.bl-x-output").nth(i) for i in (0, 1))

    def check() -> dict:
        now = state(shown)
        stored = torch.tensor(now["filters"][now["filter"]], dtype=torch.float64) * now["scale"] + now["shift"]
        used = standardize_weight(stored[None])[0]
        trained = standardize_weight(torch.tensor([now["filters"][now["filter"]]], dtype=torch.float64))[0]
        limit = F.conv2d(x, trained.view(1, 3, 3, 3), padding=1).abs().flatten().sort()[0][int(0.98 * side**2)]
        for canvas, chart, w in ((left, 0, stored), (right, 1, used)):
            close(numbers(shown, f"svg >> nth={chart} >> circle[data-value]", "value"), w)
            out = F.conv2d(x, w.view(1, 3, 3, 3), padding=1)[0, 0]
            data = {name: float(value) for name, value in dataset(canvas).items()}
            assert data["limit"] == pytest.approx(limit.item(), rel=1e-6)
            assert data["mean"] == pytest.approx(out.mean().item(), abs=1e-6 * limit.item())
            assert data["deviation"] == pytest.approx(out.std(correction=0).item(), rel=1e-6)
            assert data["lost"] == pytest.approx((out.abs() > 2 * limit).double().mean().item(), abs=1e-9)
            # Every pixel of the drawn canvas.
            grey = (127.5 + 127.5 * out / limit).clamp(0, 255)
            assert (pixels(canvas)[..., :3] - grey[..., None]).abs().max() <= 0.51
        assert data["change"] < 1e-6
        return now

    check()
    assert numbers(shown, "canvas.bl-x-output", "lost")[0] > 0.3  # the point of the figure
    # The arithmetic itself, against PyTorch and bitlib.
    for filter in state(shown)["filters"]:
        for w in ([3 * v + 1 for v in filter], module(shown, call, ["standardize", filter])):
            wanted = F.conv2d(x, torch.tensor(w, dtype=torch.float64).view(1, 3, 3, 3), padding=1)[0, 0].flatten()
            out = torch.tensor(module(shown, call, ["convolve", x.flatten().tolist(), side, w]), dtype=torch.float64)
            assert (out - wanted).abs().max() < 1e-6 * wanted.abs().max()

    before = pixels(left), pixels(right)
    mean = shown.get_by_role("slider", name="Mean of the stored weights")
    scale = shown.get_by_role("slider", name="Standard deviation of the stored weights")
    pull_to(page, mean, 60)
    assert state(shown)["shift"] < -0.5
    pull_to(page, scale, 2000)
    assert state(shown)["scale"] == 3 and scale.get_attribute("aria-valuetext") == "times 3.00"
    check()
    assert not pixels(left).equal(before[0]) and pixels(right).equal(before[1])  # the point of the figure
    scale.press("ArrowDown")
    mean.press("End")
    assert (state(shown)["scale"], state(shown)["shift"]) == (2.95, 1.5)
    assert mean.evaluate("e => e === document.activeElement")
    check()
    assert pixels(right).equal(before[1])
    shown.get_by_role("button", name="Back to the trained weights").click()
    assert (state(shown)["scale"], state(shown)["shift"]) == (1, 0)

    shown.get_by_role("button", name="Filter 4 of 12").click()
    assert check()["filter"] == 3 and not pixels(right).equal(before[1])
    shown.get_by_role("button", name="Filter 9 of 12").press("Enter")
    assert check()["filter"] == 8
    assert shown.locator('[aria-pressed="true"]').get_attribute("aria-label") == "Filter 9 of 12"
    for chart in (0, 1):
        svg = shown.locator(f"svg >> nth={chart}")
        assert labels(svg) == ["channel", "weight"]
        assert svg.locator("text[class^=bl-x-c]").all_text_contents() == ["R", "G", "B"]
    assert page.problems == []

    open_figure(visit, "standardize", filter=2, shift=-1, scale=0.5)
