"""The transfer map: every cell, spread and gain against the stored records."""

import json
from pathlib import Path
from statistics import fmean, stdev

import pytest
from browser import close, dataset, labels, numbers, open_figure, pull_by, state

from bitlib.course import explore

RESULTS = Path(__file__).resolve().parent.parent / "results"
RECORDS = ("cifar10", "cifar10_scales", "transfer_map", "digits", "freezing", "pretrain_photos-S")

pytestmark = pytest.mark.site


def records() -> dict[str, dict]:
    return {name: json.loads((RESULTS / f"{name}.json").read_text()) for name in RECORDS}


def test_transfer_map(visit):
    page, shown = open_figure(visit, "transfermap")
    stored = records()

    def cells(task: str, row: str) -> dict[int, list[float]]:
        """What was measured, read from the records without the figure's help."""
        part, _, model = row.partition("/")
        if task == "tiles":
            title = {"fitted": "head only", "stage4": "stage 4 and head", "scratch": "from scratch"}.get(part, part)
            title = f"photos-L, {title}" if model == "photos-L" else title
            return {k: stored["freezing"]["cells"][f"tiles, {title}, {k}-shot"]["accuracy"] for k in (5, 50)}
        if task == "digits" and part in ("head", "stage4", "stage3", "everything"):
            data = stored["transfer_map"]
            table = data["accuracy"][data["models"].index(model)]
            return dict(zip(data["shots"], table[["head", "stage4", "stage3", "everything"].index(part)]))
        data = stored["cifar10_scales" if part == "everything" else task]
        return {int(k): v for k, v in data[{"fitted": "linear_probe", "everything": model}.get(part, part)].items()}

    def check():
        now, seen = state(shown), dataset(shown.locator(".bl-x-answer"))
        here, other = (cells(now["task"], seen[key])[int(seen["shot"])] for key in ("row", "other"))
        assert float(seen["value"]) == pytest.approx(fmean(here), rel=1e-6)
        assert float(seen["spread"]) == pytest.approx(stdev(here), rel=1e-6)
        pairs = [a - b for a, b in zip(here, other, strict=True)]
        assert float(seen["gain"]) == pytest.approx(fmean(pairs), rel=1e-6, abs=1e-9)
        assert float(seen["gainSpread"]) == pytest.approx(stdev(pairs), rel=1e-6)
        close(numbers(shown, f'.bl-x-draws[data-row="{seen["row"]}"] circle', "value"), here)
        close(numbers(shown, f'.bl-x-seed[data-shot="{seen["shot"]}"]', "value"), pairs)
        assert shown.locator("td.bl-x-here").inner_text() == f"{100 * fmean(here):.1f}"
        assert shown.locator("td[aria-selected=true]").get_attribute("data-row") == seen["row"]
        return seen["row"], int(seen["shot"])

    assert check() == ("everything/photos-L", 10)
    assert shown.locator("thead").is_visible()  # the site's style hides the empty heads of Markdown tables
    for task in ("CIFAR-10 photographs", "digits", "tiles of photographs"):
        shown.get_by_label(task, exact=True).check()
        check()
        drawn = shown.locator("td[data-value]").evaluate_all(
            "all => all.map(e => [e.dataset.row, +e.dataset.shot, +e.dataset.value])"
        )
        name = state(shown)["task"]
        assert len(drawn) == sum(len(row["cells"]) for row in state(shown)["tasks"][name]["rows"]) >= 10
        for row, shot, value in drawn:
            assert value == pytest.approx(fmean(cells(name, row)[shot]), rel=1e-6)
    shown.locator('td[data-row="scratch"][data-shot="5"]').click()
    assert check() == ("scratch", 5)
    page.keyboard.press("Tab")  # from the map to the chart of gains; back to the map by its one tab stop
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowRight")
    assert check() == ("everything/glyphs-L", 50)
    shown.get_by_label("CIFAR-10 photographs", exact=True).check()
    shown.locator('td[data-row="fitted/photos-L"][data-shot="100"]').click()
    pull_by(page, shown.locator(".bl-x-grip circle"), -400)
    assert check() == ("fitted/photos-L", 1)
    shown.get_by_role("slider").press("ArrowRight")
    assert check() == ("fitted/photos-L", 5)
    assert set(labels(shown)) >= {"Test accuracy (%)", "Training images per class", "Gain over “Everything” (points)"}
    photos = stored["pretrain_photos-S"]
    assert f"{photos['n_train']:,}" in shown.inner_text() and f"of {photos['classes']} classes" in shown.inner_text()
    linked, shown = open_figure(visit, "transfermap", task="tiles", row="fitted/photos-L", shot=50)
    assert check() == ("fitted/photos-L", 50)
    assert page.problems == linked.problems == []


def test_transfer_map_leaves_out_what_was_measured_on_other_draws():
    stored = records()
    alone = explore.TransferMap.of(stored["transfer_map"])
    assert list(alone.tasks) == ["digits"] and len(alone.tasks["digits"]["rows"]) == 13 and alone.models == {}
    both = explore.TransferMap.of(stored["transfer_map"], stored["freezing"], task="tiles")
    assert both.tasks["digits"] == alone.tasks["digits"] and both.row in both.limits["row"]["of"]
    assert both.row == "everything/glyphs-L" and both.picture()
    rows = {row["id"]: row["cells"] for row in both.tasks["tiles"]["rows"]}  # a probe before fine-tuning freezes nothing
    assert list(rows) == ["fitted/glyphs-L", "fitted/photos-L", "stage4/glyphs-L", "everything/glyphs-L", "scratch"]
    assert all(len(cell) == len(stored["freezing"]["seeds"]) == 5 for cells in rows.values() for cell in cells)


def test_transfer_map_takes_fine_tuning_by_the_settings_of_its_neighbours():
    """results/digits.json compares methods, each with settings of its own; two of them are no row of the map."""
    stored = records()
    rows = {row["id"]: row["cells"] for row in explore.TransferMap.of(stored["digits"]).tasks["digits"]["rows"]}
    assert set(rows) == {"fitted/glyphs-L", "everything/glyphs-L", "scratch"}
    assert rows["everything/glyphs-L"] == list(stored["digits"]["finetune"].values())
    whole = {row["id"]: row["cells"] for row in explore.TransferMap.of(*stored.values()).tasks["digits"]["rows"]}
    data = stored["transfer_map"]
    assert len(whole) == 14 and whole["fitted/glyphs-L"] == rows["fitted/glyphs-L"] and whole["scratch"] == rows["scratch"]
    assert whole["everything/glyphs-L"] == data["accuracy"][data["models"].index("glyphs-L")][-1]
