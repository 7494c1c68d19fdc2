"""Softmax: dragged temperatures against `bitlib.soften` and the gradient of `bitlib.distillation_loss`."""

import itertools

import pytest
import torch
from browser import close, labels, numbers, open_figure, pull_handle, state

import bitlib

pytestmark = pytest.mark.site


def test_softmax(visit):
    page, shown = open_figure(visit, "softmax")
    scale, marker = (shown.get_by_role("slider").nth(i) for i in range(2))

    def norms(now, temperature):
        """Of the gradient at the student's logits, with the factor T^2 and without."""
        teacher = torch.tensor([now["logits"]], dtype=torch.float64)
        student = torch.tensor([now["student"]], dtype=torch.float64, requires_grad=True)
        loss = bitlib.distillation_loss(student, teacher, temperature=temperature)
        norm = torch.autograd.grad(loss, student)[0].norm()
        return torch.stack([norm, norm / temperature**2])

    def check():
        now = state(shown)
        p = bitlib.soften(torch.tensor([now["logits"]], dtype=torch.float64), now["temperature"])[0]
        close(numbers(shown, "rect[data-p]", "p"), p)
        close(numbers(shown, ".bl-x-answer[data-entropy]", "entropy")[0], -(p * p.log()).sum())
        close(numbers(shown, "circle[data-norm]", "norm"), norms(now, now["temperature"]))
        widths = shown.locator("rect[data-p]").evaluate_all("all => all.map(e => +e.getAttribute('width'))")
        torch.testing.assert_close(torch.tensor(widths).double() / sum(widths), p, rtol=1e-4, atol=1e-4)
        # Each end of the marker lies on its curve.
        for curve in ("with", "without"):
            gap = shown.evaluate(
                """(figure, name) => {
                const curve = figure.querySelector(`.bl-x-${name}`), end = figure.querySelector(`[data-curve=${name}]`);
                const at = [...curve.points].map((p) => Math.hypot(p.x - end.cx.baseVal.value, p.y - end.cy.baseVal.value));
                return Math.min(...at);
            }""",
                curve,
            )
            assert gap < 4
        assert scale.get_attribute("aria-valuenow") == marker.get_attribute("aria-valuenow") == f"{now['temperature']:g}"
        return now["temperature"]

    assert check() == 2
    pull_handle(page, scale, 0.85)
    hot = check()
    assert hot > 8
    pull_handle(page, marker, 0.3)
    assert 1 < check() < 2
    for handle in (scale, marker):
        handle.focus()
        page.keyboard.press("Home")
        assert check() == 0.5
        seen = [0.5]
        for _ in range(12):  # every press counts
            page.keyboard.press("ArrowRight")
            seen.append(state(shown)["temperature"])
        assert all(a < b for a, b in itertools.pairwise(seen))
        page.keyboard.press("ArrowDown")
        assert check() < seen[-1]
        page.keyboard.press("End")
        assert check() == 20
    kept, lost = numbers(shown, "circle[data-norm]", "norm")
    assert kept > 0.9 * norms(state(shown), 1)[0] and lost < kept / 300  # the point of the second chart
    assert set(labels(shown)) >= {"class", "probability", "temperature T", "norm of the student’s gradient"}
    assert page.problems == []
    _, linked = open_figure(visit, "softmax", temperature=5)
    assert "T = 5" in linked.locator("svg").first.text_content()
