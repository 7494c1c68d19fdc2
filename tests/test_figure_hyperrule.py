"""The hyperrule: every size, step and image that can be dragged to, against `bitlib.HyperRule`."""

import itertools

import pytest
from browser import dataset, labels, module, numbers, open_figure, pull_by, state

import bitlib

pytestmark = pytest.mark.site


def test_hyperrule(visit):
    page, shown = open_figure(visit, "hyperrule")
    sizes, steps, corner = (shown.locator(f"[role=slider] >> nth={i}") for i in range(3))

    def check():
        now = state(shown)
        rule = bitlib.HyperRule(now["examples"], (now["side"], now["side"]), now["variant"])
        seen = dataset(shown.locator(".bl-x-answer"))
        assert (seen["task"], int(seen["steps"])) == (rule.task_size, rule.total_steps)
        assert float(seen["epochs"]) == pytest.approx(rule.epochs, rel=1e-6)
        assert (int(seen["warmup"]), float(seen["alpha"])) == (rule.warmup_steps, rule.mixup_alpha)
        assert tuple(map(int, seen["boundaries"].split())) == rule.boundaries
        assert shown.locator(".bl-x-band.bl-x-on").get_attribute("data-zone") == rule.task_size
        assert sizes.get_attribute("aria-valuenow") == str(now["examples"])
        side = dict(shown.locator("rect[data-resize], rect[data-crop]").evaluate_all(
            "all => all.filter(e => !e.matches('.bl-x-ghost')).map(e => [Object.keys(e.dataset)[0], "
            "[+Object.values(e.dataset)[0], +e.getAttribute('width')]])"
        ))  # fmt: skip
        assert (side["resize"][0], side["crop"][0]) == (rule.resize, rule.crop)
        assert side["crop"][1] / side["resize"][1] == pytest.approx(rule.crop / rule.resize, rel=1e-6)  # drawn to scale
        for variant in ("code", "paper"):
            dot, other = f'circle[data-variant="{variant}"]', bitlib.HyperRule(now["examples"], (32, 32), variant)
            step = int(numbers(shown, dot, "step")[0])
            assert numbers(shown, dot, "value")[0].item() == pytest.approx(other.lr(step), rel=1e-6)
        return now

    assert check() == state(shown) and state(shown)["examples"] == 50_000
    for name, n in state(shown)["named"]:
        shown.get_by_role("button", name=f"{name}, {n:,} images", exact=True).press("Enter")
        assert check()["examples"] == n
    pull_by(page, shown.locator(".bl-x-grip >> nth=0 >> circle"), -200)
    few = check()["examples"]
    assert 10 < few < 20_000
    sizes.focus()
    page.keyboard.press("ArrowRight")
    assert few < check()["examples"] < 1.2 * few
    page.keyboard.press("Home")
    assert check()["examples"] == 10
    for n in range(11, 15):  # no key press is swallowed, even where one image is a large step
        page.keyboard.press("ArrowRight")
        assert check()["examples"] == n
    page.keyboard.press("ArrowUp")
    assert check()["examples"] == 100  # the next named size
    page.keyboard.press("End")
    assert check()["examples"] == 20_000_000

    steps.focus()
    page.keyboard.press("Home")
    assert check()["step"] == 0
    for wanted in (500, 6000, 12_000, 18_000, 19_999):
        page.keyboard.press("ArrowUp")
        assert check()["step"] == wanted
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Shift+ArrowLeft")
    assert check()["step"] == 19_988
    pull_by(page, shown.locator(".bl-x-grip >> nth=1 >> circle >> nth=0"), -300)
    assert check()["step"] < 12_000

    assert check()["side"] == 32
    pull_by(page, shown.locator(".bl-x-grip >> nth=2 >> circle >> nth=1"), 60, -60)
    large = check()["side"]
    assert large > 150
    corner.focus()
    page.keyboard.press("ArrowDown")
    assert check()["side"] == large - 1
    shown.locator('input[value="paper"]').check()
    check()

    # The warm-up is drawn as one straight line up to the full rate.
    line = shown.locator('polyline[data-variant="code"]').get_attribute("points").split()
    (x0, _), (x1, y1), (x2, y2), *_, (end, _) = (map(float, point.split(",")) for point in line)
    assert (x1 - x0) / (end - x0) == pytest.approx(500 / 19_999, rel=1e-6) and x2 > x1 and y1 == y2
    names = {"Labelled training images", "Epochs", "Learning rate", "Step (20,000 in all)", "Resolution"}
    assert set(labels(shown)) >= names
    assert "The number of classes does not matter." in shown.inner_text()
    linked, shown = open_figure(visit, "hyperrule", examples=3680, variant="paper", side=95)
    sizes = shown.locator("[role=slider] >> nth=0")
    assert shown.locator(".bl-x-flag.bl-x-on").text_content() == "Pets" and check()["variant"] == "paper"
    assert page.problems == linked.problems == []
    # Every step of every size and variant, by the module's own functions.
    for variant, n in itertools.product(("code", "paper"), (50, 19_999, 20_000, 499_999, 500_000)):
        rule = bitlib.HyperRule(n, (96, 96), variant)
        steps = [
            s
            for b in (0, rule.warmup_steps, *rule.boundaries, rule.total_steps // 2, rule.total_steps - 1)
            for s in (b - 1, b, b + 1)
            if 0 <= s < rule.total_steps
        ]
        rates = "(m, [n, variant, steps]) => steps.map((s) => m.rate(m.rule(n, 96, 96, variant), s, variant))"
        assert module(shown, rates, [n, variant, steps]) == pytest.approx([rule.lr(s) for s in steps], rel=1e-9)
