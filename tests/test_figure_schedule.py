"""The schedule: its staircase against `Upstream`, its loss against SGD on the quadratic, step by step and with drawn noise."""

import itertools

import pytest
import torch
from browser import close, dataset, labels, module, open_figure, pull_handle, state

from bitlib.course.explore import Schedule
from bitlib.course.explore.schedule import CURVATURE, SHARES
from bitlib.pretrain import PAPER_MILESTONES, Upstream


def rates(figure: Schedule, first: float) -> list[float]:
    """The learning rate of every step, from the library's own recipe."""
    peak = figure.rate * (figure.batch / 256 if figure.scaled == "yes" else 1)
    steps = figure.epochs * figure.images // figure.batch
    turns = [round(first * share / PAPER_MILESTONES[0] * steps) for share in PAPER_MILESTONES]
    shares = tuple((turn - 0.5) / steps for turn in turns if turn < steps)
    recipe = Upstream(steps=steps, lr=peak, warmup_steps=0, milestones=shares or (1 - 0.5 / steps,))
    return [recipe.learning_rate(step) if shares else peak for step in range(steps)]


def step_by_step(figure: Schedule, first: float) -> tuple[float, float]:
    h = torch.tensor(CURVATURE, dtype=torch.float64)
    left, kept = torch.tensor(SHARES, dtype=torch.float64), torch.zeros(len(h), dtype=torch.float64)
    for rate in rates(figure, first):
        factor = (1 - rate * h) ** 2
        left, kept = factor * left, factor * kept + rate**2 * figure.noise * h**2 / (2 * figure.batch)
    return left.sum().item(), kept.sum().item()


@pytest.mark.parametrize("first", [0.1, 1 / 3, 0.5, 1.0])
@pytest.mark.parametrize("batch, scaled", [(256, "yes"), (4096, "yes"), (1024, "no")])
def test_loss_is_that_of_every_single_step(batch, scaled, first):
    figure = Schedule(batch=batch, scaled=scaled, images=12_288)  # then every decay lies between two steps
    ends = [end * figure.images / batch for _, end, _ in figure.phases(first)]
    assert ends == pytest.approx([round(end) for end in ends])
    assert figure.loss(90, first) == pytest.approx(step_by_step(figure, first), rel=1e-6)


def test_loss_is_what_sgd_reaches_on_average():
    figure, generator = Schedule(epochs=3, batch=1024), torch.Generator().manual_seed(0)
    h, start = torch.tensor(CURVATURE), torch.tensor(SHARES)
    weights = (2 * start / h).sqrt().expand(4000, -1)  # 4,000 runs at once
    for rate in rates(figure, 1 / 3)[: round(3 * figure.images / figure.batch)]:
        noise = torch.randn(weights.shape, generator=generator) * (figure.noise * h / figure.batch).sqrt()
        weights = weights - rate * (h * weights + noise)
    steps = len(rates(figure, 1 / 3))
    reached = (h * weights.square() / 2).sum(1).mean().item()
    assert reached == pytest.approx(sum(figure.loss(steps * figure.batch / figure.images, 1 / 3)), rel=0.02)


def test_the_default_makes_its_point():
    figure = Schedule.example()
    soon, end = 1.5 * figure.first * figure.epochs, figure.epochs
    assert sum(figure.loss(soon)) < 0.8 * sum(figure.loss(soon, 1 / 3))
    assert sum(figure.loss(end)) > 2 * sum(figure.loss(end, 1 / 3))
    # Linear scaling: the same curve per epoch, until the steepest direction overshoots.
    ends = [sum(Schedule(batch=batch).loss(90, 1 / 3)) for batch in (64, 256, 1024, 4096, 16_384)]
    assert max(ends[:4]) < 1.02 * min(ends[:4]) and ends[4] > 100


@pytest.mark.site
def test_schedule(visit):
    page, shown = open_figure(visit, "schedule")
    handle = shown.locator("[role=slider]")

    def check() -> dict:
        now = state(shown)
        figure, seen = Schedule(**now), dataset(shown.locator(".bl-x-answer"))
        soon = min(1, now["first"] + 0.05) * now["epochs"]
        wanted = [sum(figure.loss(now["epochs"])), sum(figure.loss(now["epochs"], 1 / 3))]
        wanted += [sum(figure.loss(soon)), sum(figure.loss(soon, 1 / 3)), figure.loss(now["epochs"])[0]]
        close([float(seen[name]) for name in ("mine", "theirs", "now", "then", "left")], wanted)
        assert float(handle.get_attribute("aria-valuenow")) == now["first"]
        return now

    assert check()["first"] == 0.1 and "ahead at first, behind for good" in shown.inner_text()
    handle.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Shift+ArrowUp")
    assert check()["first"] == 0.21
    page.keyboard.press("Home")
    assert check()["first"] == 0.02
    page.keyboard.press("End")
    assert check()["first"] == 1 and "never lowered" in shown.inner_text() and handle.get_attribute("aria-valuetext") == "never"
    pull_handle(page, handle, 0.3)
    assert check()["first"] == pytest.approx(0.3, abs=0.02)
    slider = shown.locator('input[data-trait="batch"]')
    for _ in range(2):
        slider.press("ArrowRight")
    assert check()["batch"] == 4096
    shown.locator('input[value="no"]').check()
    assert check()["scaled"] == "no"
    shown.locator('input[value="yes"]').check()
    slider.press("End")
    assert state(shown)["batch"] == 16_384 and "grows without end" in shown.inner_text()
    slider.press("Home")
    shown.locator('input[data-trait="epochs"][value="270"]').check()
    assert check()["epochs"] == 270
    assert set(labels(shown)) == {"Learning rate, as a share of its peak", "Loss, of 1 at the start", "Epoch"}
    for batch, scaled, first in itertools.product((64, 1024), ("yes", "no"), (0.05, 0.37, 1)):
        figure = Schedule(batch=batch, scaled=scaled)
        both = "(m, [run, first, epochs]) => epochs.map((epoch) => m.loss(run, first, epoch))"
        epochs = [0, 1, 4.5, 33.3, 90]
        close(module(shown, both, [figure.state(), first, epochs]), [figure.loss(epoch, first) for epoch in epochs])
    linked, shown = open_figure(visit, "schedule", width=375, first=0.5, epochs=30)
    handle = shown.locator("[role=slider]")
    check()
    assert page.problems == linked.problems == []
