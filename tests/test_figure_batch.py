"""A batch, forward and back: every value and every push against PyTorch's batch norm and autograd."""

import pytest
import torch
from browser import close, labels, module, numbers, open_figure, pull_by, state

from bitlib.course import explore

site = pytest.mark.site


@site
def test_batch(visit):
    page, shown = open_figure(visit, "batch")

    def check() -> dict:
        now = state(shown)
        x, y, push, arrives = explore.Batch(**now).values()
        close(numbers(shown, ".bl-batch-x .bl-x-knob", "value"), x)
        close(numbers(shown, ".bl-batch-dot", "value"), y)
        close(numbers(shown, ".bl-batch-y .bl-x-knob", "value"), push)
        close(numbers(shown, ".bl-batch-asked", "by"), push)
        close(numbers(shown, ".bl-batch-arrives", "by"), arrives)
        if not push.any():
            return now
        parts = numbers(shown, "td[data-p]", "p")
        hat = explore.Batch(**now | {"gamma": 1.0, "beta": 0.0}).values()[1]
        along = [(push @ v) ** 2 / (v @ v) / (push @ push) for v in (torch.ones(5).double(), hat)]
        close(parts, torch.stack([*along, 1 - sum(along)]))
        # What arrives is what was asked, without the first two parts, times gamma over the deviation.
        assert arrives.sum().abs() < 1e-6 * (1 + arrives.abs().max()) and (arrives @ hat).abs() < 1e-4
        return now

    first = check()
    arrives = numbers(shown, ".bl-batch-arrives", "by")
    assert (arrives.abs() > 0.05).sum() >= 4 and arrives[1] > 0.3  # one was asked for, and others move: the point
    assert "pushes all five" in shown.locator(".bl-x-answer").inner_text()

    second = shown.get_by_role("slider", name="Input of image 2")
    pull_by(page, second, 60)
    assert check()["x2"] > first["x2"] + 0.5
    assert second.evaluate("e => e === document.activeElement")
    page.keyboard.press("Home")
    assert check()["x2"] == -4
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("ArrowUp")
    assert check()["x2"] == pytest.approx(-2.9) and second.get_attribute("aria-valuetext") == "−2.90"
    wish = shown.get_by_role("slider", name="What the loss asks of image 5")
    pull_by(page, wish, -40)
    assert check()["push5"] < -0.3
    wish.press("End")
    assert check()["push5"] == 3

    for name, part in (("Raise all alike", 0), ("Spread them", 1)):
        shown.get_by_role("button", name=name).click()
        check()
        assert numbers(shown, "td[data-p]", "p")[part] > 0.9999
        assert numbers(shown, ".bl-batch-arrives", "by").abs().max() < 1e-3
        assert "batch norm would take away again" in shown.locator(".bl-x-answer").inner_text()
    shown.get_by_role("button", name="Raise one").press("Enter")
    shown.locator('[data-trait="gamma"]').press("End")
    shown.locator('[data-trait="beta"]').press("Home")
    assert [check()[name] for name in ("gamma", "beta")] == [2, -2]
    shown.get_by_role("button", name="Start again").click()
    assert check() == first
    assert labels(shown) == ["image", "x", "image", "y = γ x̂ + β"]
    assert page.problems == []

    linked, shown = open_figure(visit, "batch", width=375, x1=2, push2=0, gamma=-1)
    check()
    assert "The loss asks for nothing" in shown.locator(".bl-x-answer").inner_text()
    assert linked.problems == []


@site
def test_equal_inputs_and_the_functions_themselves(visit):
    _, shown = open_figure(visit, "batch", x1=1, x2=1, x3=1, x4=1, x5=1)
    assert "all but equal" in shown.locator(".bl-x-answer").inner_text()
    call = "(m, [x, push, gamma, beta]) => { const f = m.forward(x, gamma, beta); return [f.y, m.backward(push, f, gamma)]; }"
    for seed in range(3):
        x, push = (3 * torch.randn(5, generator=torch.Generator().manual_seed(2 * seed + i)).double() for i in (0, 1))
        made = {f"{name}{i + 1}": v for name, values in (("x", x), ("push", push)) for i, v in enumerate(values.tolist())}
        _, y, _, arrives = explore.Batch(**made, gamma=0.7, beta=-0.3).values()
        seen = module(shown, call, [x.tolist(), push.tolist(), 0.7, -0.3])
        close(seen[0], y)
        close(seen[1], arrives)


def test_a_batch_is_five_numbers():
    with pytest.raises(ValueError, match="five numbers are needed"):
        explore.Batch.of([1.0, 2.0])
    far = explore.Batch.of([-9, 0.123, 1, 2, 9])
    assert [far.x1, far.x2, far.x5] == [-4, 0.12, 4]
    assert [round(v, 6) for v in explore.Batch.of([-2, -1, 0, 1, 2]).values()[1].tolist()][2] == 0
