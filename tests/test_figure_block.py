"""The residual block: every map of two units of photos-L against bitlib's own modules, and their sum at every scale."""

import pytest
import torch
from browser import close, drag, module, numbers, open_figure, pixels, spot, state
from sklearn.datasets import load_sample_image

import bitlib
from bitlib.data import resize, to_input

pytestmark = pytest.mark.site


def block_maps() -> list[list[torch.Tensor]]:
    """All channels after each step of the two units that the figure shows, and last the output, by bitlib's own modules."""
    image = torch.from_numpy(load_sample_image("china.jpg").copy()).permute(2, 0, 1)
    left = (image.shape[2] - image.shape[1]) // 2
    x = to_input(resize(image[None, :, :, left : left + image.shape[1]], 48)).double()
    model, found = bitlib.create_model("photos-L", pretrained=True).eval().double(), []
    with torch.no_grad():
        x = model.stage1(model.root(x))
        for unit in model.stage2:
            maps, y = [x], x
            for part in (unit.a, unit.b, unit.c):
                maps += [part.norm(y), part.norm(y).relu(), y := part(y)]
            maps += [x if unit.a.proj is None else unit.a.proj(maps[2]), x := unit(x)]
            found.append([m[0] for m in maps])
    return found


def test_block(visit):
    page, shown = open_figure(visit, "block")
    truth = block_maps()
    both = "(m) => [0, 1].map((b) => m.maps(figure.model.get('blocks'), b).map((maps) => maps.map((v) => [...v])))"
    computed = module(shown, both)
    units = bitlib.create_model("photos-L", pretrained=True).stage2
    for unit, block, seen, wanted in zip(units, state(shown)["blocks"], computed, truth):
        for step, maps, whole in zip(block["steps"], seen, wanted, strict=False):
            assert list(whole.shape) == step["shape"]
            close(maps, whole[step["channels"]].flatten(1))
        assert sum(step["parameters"] for step in block["steps"]) == sum(p.numel() for p in unit.parameters())
        total = torch.tensor(seen[9], dtype=torch.float64) + torch.tensor(seen[10], dtype=torch.float64)
        close(total, wanted[11][block["steps"][9]["channels"]].flatten(1))

    def check():
        now = state(shown)
        steps, maps, a = now["blocks"][now["block"]]["steps"], truth[now["block"]], now["branch"]
        for s in range(11):
            close(numbers(shown, f"[data-step='{s}'] canvas", "mean"), maps[s][steps[s]["channels"]].mean((1, 2)))
        branch, shortcut = (maps[s][steps[s]["channels"]] for s in (9, 10))
        close(numbers(shown, ".bl-block-pick canvas", "mean"), (shortcut + a * branch).mean((1, 2)))
        left, middle = (m[now["channel"], now["row"], now["column"]] for m in (shortcut, branch))
        close(numbers(shown, ".bl-block-value", "value"), torch.stack([left, a * middle, left + a * middle]))
        close(numbers(shown, ".bl-x-answer", "ratio")[0], a * branch.square().mean().sqrt() / shortcut.square().mean().sqrt())
        # The drawn output: what is positive is drawn without colour, what is negative in orange, where it is not too faint.
        drawn = pixels(shown.locator(".bl-block-pick canvas").nth(0))
        output = (shortcut + a * branch)[0]
        strong = output.abs() > 0.2 * (shortcut + branch).abs().max()
        assert strong.sum() > 5 and ((drawn[..., 0] - drawn[..., 2] > 20) == (output < 0))[strong].all()
        return now

    assert check()["branch"] == 1
    knob = shown.get_by_role("slider", name="Scale a of the branch")
    track = shown.locator(".bl-block-track")
    drag(page, spot(track, 1), spot(track, 0.3))
    assert check()["branch"] == pytest.approx(0.3, abs=0.02)
    knob.press("ArrowRight")
    assert check()["branch"] == pytest.approx(0.35, abs=0.02)
    knob.press("Home")
    assert check()["branch"] == 0 and "the reshaped input" in shown.locator(".bl-x-answer").inner_text()
    knob.press("End")
    # A pixel and a channel of the sum.
    page.mouse.click(*spot(shown.locator(".bl-block-sum image").nth(2), 2.5 / 12, 10.5 / 12))
    assert [check()[k] for k in ("row", "column")] == [10, 2]
    shown.get_by_role("slider", name="Pixel").press("ArrowUp")
    assert [check()[k] for k in ("row", "column")] == [9, 2]
    shown.locator(".bl-block-pick").nth(3).click()
    assert check()["channel"] == 3
    # Steps: their shapes and numbers of parameters.
    shown.locator("[data-step='10']").click()
    assert "18,432" in shown.locator(".bl-block-detail").inner_text() and state(shown)["step"] == 10
    page.keyboard.press("ArrowUp")
    assert "9,216" in shown.locator(".bl-block-detail").inner_text() and state(shown)["step"] == 9
    shown.locator("input[type=radio]").nth(1).check()
    assert check()["block"] == 1
    shown.locator("[data-step='10']").press("Enter")
    assert "none" in shown.locator(".bl-block-detail").inner_text()
    assert page.problems == []
    linked, shown = open_figure(visit, "block", width=375, block=1, branch=0, step=3, channel=2)
    check()
    assert "its input unchanged" in shown.locator(".bl-x-answer").inner_text()
    # On a phone the explanation stands below its step.
    assert shown.evaluate("f => f.querySelector('[data-step=\"3\"]').nextElementSibling.className") == "bl-block-detail"
    assert linked.problems == []


def test_block_follows_the_theme(visit):
    page, shown = open_figure(visit, "block")
    canvas = shown.locator(".bl-block-pick canvas").nth(0)
    assert pixels(canvas)[..., :3].mean() > 150  # most values are near zero, which is the colour of the ground
    page.emulate_media(color_scheme="dark")
    page.evaluate("document.documentElement.dataset.theme = 'dark'")
    page.wait_for_function("() => true")
    assert pixels(canvas)[..., :3].mean() < 100
