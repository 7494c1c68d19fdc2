"""MixUp: mixed pixels, labels and hundreds of weights against PyTorch and SciPy, and images of one's own."""

import base64
import json
import re

import numpy as np
import pytest
import scipy.stats
import torch
from browser import close, keys, labels, module, numbers, open_figure, pixels, pull_handle, spot, state
from PIL import Image

pytestmark = pytest.mark.site


def test_mixup(visit):
    page, shown = open_figure(visit, "mixup")
    handle = shown.get_by_role("slider", name="Weight of the first image")
    first, second = (
        torch.frombuffer(bytearray(base64.b64decode(p)), dtype=torch.uint8).double() for p in state(shown)["images"]
    )
    side = round((len(first) / 3) ** 0.5)

    def check():
        now = state(shown)
        assert 0 <= now["weight"] <= 1
        close(numbers(shown, "rect[data-p]", "p"), [now["weight"], 1 - now["weight"]])
        close(numbers(shown, "canvas[data-mean]", "mean")[0], torch.lerp(second, first, now["weight"]).mean())
        at = numbers(shown, "circle.bl-x-dot", "at")[0]
        wanted = torch.distributions.Beta(*[torch.tensor(now["alpha"], dtype=torch.float64)] * 2).log_prob(at).exp()
        close(numbers(shown, "circle.bl-x-dot", "value")[0], wanted)
        # The middle pixel of the drawn canvas.
        drawn = pixels(shown.locator("canvas[data-mean]"))
        centre = drawn[drawn.shape[0] // 2, drawn.shape[1] // 2, :3]
        mixed = torch.lerp(second, first, now["weight"]).view(3, side, side)[:, side // 2, side // 2]
        assert (centre - mixed).abs().max() <= 0.51
        # The histogram, and what is said of it, are those of the hundred weights.
        weights = np.array(module(shown, "(m, given) => m.hundred(...given)", [now["alpha"], now["draws"]]))
        assert numbers(shown, "rect[data-count]", "count").tolist() == np.histogram(weights, 20, (0, 1))[0].tolist()
        lighter = np.minimum(weights, 1 - weights)
        said, real = shown.locator(".bl-x-answer").inner_text(), int((lighter >= 0.1).sum())
        assert said.startswith(f"{real} of these 100") and shown.locator(".bl-x-mixes").text_content() == f"{real} really mix"
        even = int((lighter >= min(now["weight"], 1 - now["weight"])).sum())
        assert re.search(rf"more\. {even} mix(es)? at least as evenly as now\.$", said)
        return weights

    usual = check()
    assert state(shown)["alpha"] == 0.1 and (np.minimum(usual, 1 - usual) >= 0.1).sum() < 30  # the point of the figure
    pull_handle(page, handle, 0.2)
    assert 0.1 < state(shown)["weight"] < 0.3
    check()
    handle.focus()
    before = state(shown)["weight"]
    page.keyboard.press("ArrowRight")
    assert state(shown)["weight"] == pytest.approx(before + 0.01)
    page.keyboard.press("End")
    assert state(shown)["weight"] == 1
    check()
    # Every press of a key moves alpha.
    for wanted in (0.2, 0.4, 0.7, 1):
        keys(shown, "alpha", "ArrowRight")
        assert state(shown)["alpha"] == wanted
    even = check()
    assert (np.minimum(even, 1 - even) >= 0.1).sum() > 65
    shown.get_by_role("button", name="Draw another 100").click()
    assert state(shown)["draws"] == 5 and not np.array_equal(check(), even)
    # A step is chosen from the strip, by click and by key; its tile shows its mixture.
    weights, film = check(), shown.locator(".bl-x-strip")
    picker = film.get_by_role("slider")
    page.mouse.click(*spot(film, 3.5 / 20, 2.5 / 5))
    assert state(shown)["weight"] == pytest.approx(weights[43], abs=5.1e-4)
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowUp")
    assert picker.get_attribute("aria-valuenow") == "25"
    assert state(shown)["weight"] == pytest.approx(weights[24], abs=5.1e-4)
    tile = pixels(film.locator("canvas"), 4 * 32, 32, 32, 32)
    assert tile[..., :3].mean().item() == pytest.approx(torch.lerp(second, first, weights[24].item()).mean().item(), abs=2)
    check()
    for alpha in (0.1, 1, 3):
        drawn = module(shown, "(m, alpha) => Array.from({length: 2000}, (_, i) => m.drawWeight(alpha, i + 1))", alpha)
        assert scipy.stats.kstest(drawn, scipy.stats.beta(alpha, alpha).cdf).pvalue > 0.001
    assert {name.split("; ")[0] for name in labels(shown)} == {"mixed label", "steps of 100", "weight λ of “temple”"}
    assert page.problems == []
    open_figure(visit, "mixup", weight=0.9, alpha=2, draws=7)


def test_mixup_of_own_images(visit, tmp_path):
    page, shown = open_figure(visit, "mixup")
    Image.new("RGB", (300, 200), (200, 40, 80)).save(tmp_path / "my red cat.png")
    (tmp_path / "note.png").write_text("no image")
    sent = []
    page.on("request", lambda request: sent.append(request.url))
    shown.get_by_label("Your own first image").set_input_files(tmp_path / "my red cat.png")
    page.wait_for_function("() => document.querySelector('#figure-mixup svg').textContent.includes('my red cat')")
    assert pixels(shown.locator("canvas").first, 9, 9, 1, 1).flatten().tolist() == [200, 40, 80, 255]
    shown.get_by_label("Your own second image").set_input_files(tmp_path / "note.png")
    page.wait_for_function("() => document.querySelector('#figure-mixup .bl-x-answer').textContent.includes('note.png cannot')")
    assert all(url.startswith("blob:") for url in sent) and page.problems == []
    assert "cat" not in json.dumps(state(shown))  # nothing reaches a kernel
