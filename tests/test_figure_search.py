"""The search: what to expect of the best of k trials, against counting all choices of k, and everything that can be set."""

import itertools
import json
from pathlib import Path
from statistics import fmean

import pytest
import torch
from browser import close, dataset, labels, module, numbers, open_figure, pull_to, state

from bitlib.course.explore.search import ALL, HELD, SETTINGS, Search, expected, ranked

RECORD = Path(__file__).resolve().parent.parent / "results" / "hyperrule.json"


def by_counting(score: list[float], value: list[float], k: int) -> float:
    """The mean over all choices of k trials of the best-scored one's value; of several that are level, their mean."""
    found = []
    for chosen in itertools.combinations(range(len(score)), k):
        best = max(score[i] for i in chosen)
        found.append(fmean(value[i] for i in chosen if score[i] == best))
    return fmean(found)


def random_trials(count: int = 7, images: int = 6, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """(whether a trial was right, bool [trials, 2, images]; test accuracies); with so few images, many trials are level."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, 2, images, generator=generator) < 0.6, torch.rand(count, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("seed", range(5))
def test_expected_is_the_mean_over_all_choices(seed):
    right, test = random_trials(seed=seed)
    validation, tested = ranked(right, test, 6)
    score = right.double().mean((1, 2)).tolist()
    assert len(set(score)) < len(score)  # some are level
    for k in range(1, 8):
        assert expected(tested.tolist(), k) == pytest.approx(by_counting(score, test.tolist(), k), abs=1e-12)
        assert expected(validation.tolist(), k) == pytest.approx(by_counting(score, score, k), abs=1e-12)
    assert expected(tested.tolist(), 1) == pytest.approx(test.mean().item())


def test_fewer_validation_images_promise_more_and_choose_worse():
    generator = torch.Generator().manual_seed(0)
    truth = torch.linspace(0.4, 0.9, 12, dtype=torch.float64)
    right = torch.rand(12, 2, 400, generator=generator) < truth[:, None, None]
    found = {images: [expected(v.tolist(), 12) for v in ranked(right, truth, images)] for images in (5, 50, 400)}
    promised, got = zip(*found.values())
    assert promised[0] > promised[1] > promised[2] and got[0] < got[1] < got[2]


def test_the_picture_gives_the_ends_of_the_curve():
    record = json.loads(RECORD.read_text("utf8"))
    figure = Search.of(record)
    said = figure.picture().text
    for name, (rule, *trials) in record["trials"].items():
        best = max(trials, key=lambda found: fmean(found["validation"]))
        assert f"{100 * fmean(best['validation']):.1f}" in said and f"{100 * fmean(rule['test']):.1f}" in said
        assert figure.tasks[name]["rule"]["cost"] == 1
    assert set(figure.limits["by"]["of"]) == set(SETTINGS) and figure.limits["held"]["of"] == [*HELD, ALL]


@pytest.mark.site
def test_search(visit):
    page, shown = open_figure(visit, "search")

    def check() -> dict:
        now, answer, about = state(shown), dataset(shown.locator(".bl-x-answer")), dataset(shown.locator(".bl-search-about"))
        task, k = now["tasks"][now["task"]], now["trials"]
        held = task["held"][str(now["held"])]
        for what in ("validation", "test"):
            close(float(answer[what]), expected(held[what], k))
        close(numbers(shown, ".bl-x-knob", "value"), [expected(held[what], k) for what in ("validation", "test")])
        close(float(answer["cost"]), k * fmean(trial["cost"] for trial in task["trials"]))
        close(float(answer["rule"]), task["rule"]["test"])
        close(numbers(shown, ".bl-search-dot", "test"), [trial["test"] for trial in task["trials"]])
        close(numbers(shown, ".bl-search-mark", "value"), [task["rule"][now["by"]]])
        own = task["trials"][now["trial"]]
        close(
            [float(about[key]) for key in ("cost", "validation", "test")], [own[key] for key in ("cost", "validation", "test")]
        )
        assert shown.locator(".bl-search-own").get_attribute("data-trial") == str(now["trial"])
        # Higher is better, in the picture too.
        heights = shown.locator(".bl-search-dot circle:not(.bl-search-hit)").evaluate_all(
            "all => all.map(e => +e.getAttribute('cy'))"
        )
        order = sorted(range(len(heights)), key=lambda i: -heights[i])
        tests = [task["trials"][i]["test"] for i in order]
        assert all(a <= b + 1e-9 for a, b in itertools.pairwise(tests))
        return now

    first = check()
    assert first["trials"] == 8 and first["held"] == 0 and first["by"] == "base_lr"
    handle = shown.get_by_role("slider", name="Number of trials")
    handle.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Shift+ArrowRight")
    assert check()["trials"] == 19 and handle.get_attribute("aria-valuenow") == "19"
    page.keyboard.press("End")
    assert check()["trials"] == 30
    page.keyboard.press("Home")
    assert check()["trials"] == 1 and "One trial" in shown.locator(".bl-x-answer").inner_text()
    pull_to(page, handle.locator(".bl-search-test"), 330)
    assert check()["trials"] > 5
    for images in HELD:
        shown.locator(f'input[data-trait="held"][value="{images}"]').check()
        assert check()["held"] == images and f"{images} validation images" in shown.locator(".bl-x-answer").inner_text()
    for setting in SETTINGS:
        shown.locator(f'input[data-trait="by"][value="{setting}"]').check()
        assert check()["by"] == setting
    dot = shown.locator('[data-trial="3"]')
    dot.click()
    assert check()["trial"] == 3 and "Trial 4" in shown.locator(".bl-search-about").inner_text()
    page.keyboard.press("ArrowRight")
    assert check()["trial"] == 4
    assert shown.evaluate("f => document.activeElement.dataset.trial") == "4"  # the focus moves along
    other = list(first["tasks"])[1]
    shown.locator(f'input[data-trait="task"][value="{other}"]').check()
    assert check()["task"] == other
    assert {"accuracy (%)", "trials, of which the best is taken", "test accuracy (%)", "weight decay"} <= set(labels(shown))
    right, test = random_trials(9, 8)
    for values in ranked(right, test, 8):
        given = [values.tolist(), list(range(1, 10))]
        seen = module(shown, "(m, [values, counts]) => counts.map((k) => m.expected(values, k))", given)
        close(seen, [expected(values.tolist(), k) for k in range(1, 10)])
    linked, shown = open_figure(visit, "search", width=375, trials=25, held=30, by="steps")
    check()
    assert page.problems == linked.problems == []
