"""The figure of found boxes: IoU against torchvision's, AP against pycocotools, and everything that can be moved."""

import pytest
import torch
from browser import close, dataset, keys, labels, module, numbers, open_figure, pull_to, state
from torchvision.ops import box_iou

from bitlib.course.explore.boxes import IOUS, Boxes, area, curve, iou, matched
from bitlib.data.boxes import Boxed
from bitlib.detection import average_precision


def random_case(seed: int) -> tuple[list, list, list]:
    """(true boxes, found boxes, scores): some found ones lie near a true one, and some nowhere."""
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(5, 2, generator=generator) * 60
    truth = torch.cat([corner, corner + 10 + torch.rand(5, 2, generator=generator) * 20], 1)
    near = truth[torch.randint(5, (9,), generator=generator)]
    boxes = near + torch.randn(9, 4, generator=generator) * 2.5
    return truth.tolist(), boxes.tolist(), torch.rand(9, generator=generator).tolist()


def official(truth: list, boxes: list, scores: list) -> dict:
    label = torch.zeros(len(truth), dtype=torch.long)
    scene = Boxed(torch.zeros(1, 3, 96, 96, dtype=torch.uint8), [torch.tensor(truth)], [label], ["digit"])
    found = {"boxes": torch.tensor(boxes), "scores": torch.tensor(scores, dtype=torch.float64)}
    return average_precision(scene.truth(), [found | {"labels": torch.zeros(len(boxes), dtype=torch.long)}])


def judged(truth: list, boxes: list, scores: list, least: float) -> float:
    matches = matched(truth, boxes, scores, least)
    return area(*curve([m >= 0 for m in matches], scores, len(truth)))


@pytest.mark.parametrize("seed", range(6))
def test_the_arithmetic_is_that_of_torchvision_and_pycocotools(seed):
    truth, boxes, scores = random_case(seed)
    wanted = box_iou(torch.tensor(truth, dtype=torch.float64), torch.tensor(boxes, dtype=torch.float64))
    ours = torch.tensor([[iou(a, b) for b in boxes] for a in truth], dtype=torch.float64)
    torch.testing.assert_close(ours, wanted, atol=1e-9, rtol=0)
    found = official(truth, boxes, scores)
    areas = [judged(truth, boxes, scores, least) for least in IOUS]
    assert areas[0] == pytest.approx(found["ap50"], abs=1e-6) and areas[5] == pytest.approx(found["ap75"], abs=1e-6)
    assert sum(areas) / len(areas) == pytest.approx(found["ap"], abs=1e-6)


def test_the_example_makes_its_point():
    figure = Boxes.example()
    mild = figure.judged()
    figure.iou = 0.75
    strict = figure.judged()
    assert len(figure.truth) == 4 and sum(m >= 0 for m in mild["matches"]) == 4  # at 0.5 every digit is found
    assert 0.8 < mild["ap"] < 1 and strict["ap"] < mild["ap"] - 0.2
    assert figure.scores[0] == sorted(figure.scores)[-3]  # the box that moves is neither the best nor the worst
    said = figure.picture().text
    assert "false alarm" in said and "found" in said
    for name, (low, high, _) in {k: v for k, v in figure.limits.items() if isinstance(v, list)}.items():
        assert low <= getattr(figure, name) <= high


@pytest.mark.site
def test_boxes(visit):
    page, shown = open_figure(visit, "boxes")

    def check() -> dict:
        now, answer = state(shown), dataset(shown.locator(".bl-x-answer"))
        mine = [now["left"], now["top"], now["left"] + now["width"], now["top"] + now["height"]]
        boxes = [mine, *now["boxes"][1:]]
        matches = matched(now["truth"], boxes, now["scores"], now["iou"])
        recall, precision = curve([m >= 0 for m in matches], now["scores"], len(now["truth"]))
        close(float(answer["ap"]), area(recall, precision))
        close(numbers(shown, ".bl-boxes-found", "match"), matches)
        close(numbers(shown, ".bl-boxes-found", "iou"), [max(iou(b, t) for t in now["truth"]) for b in boxes])
        close(numbers(shown, "circle[data-recall]", "recall"), recall)
        close(numbers(shown, "circle[data-recall]", "precision"), precision)
        kept = sum(score >= now["score"] for score in now["scores"])
        assert int(answer["kept"]) == kept == shown.locator(".bl-boxes-kept").count()
        if kept:
            close([float(answer["recall"]), float(answer["precision"])], [recall[kept - 1], precision[kept - 1]])
        assert shown.locator("tbody tr").count() == len(boxes)
        return now | {"ap": float(answer["ap"])}

    first = check()
    assert first["iou"] == 0.5 and first["ap"] > 0.8
    box = shown.get_by_role("slider", name="Box, to be moved")
    box.focus()
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Shift+ArrowDown")
    moved = check()
    close([moved["left"], moved["top"]], [first["left"] - 1, min(first["top"] + 10, 96 - first["height"])])
    corner = shown.get_by_role("slider", name="Corner of the box")
    corner.focus()
    page.keyboard.press("ArrowRight")
    assert check()["width"] == pytest.approx(min(first["width"] + 1, 96 - moved["left"]))
    pull_to(page, corner.locator(".bl-x-knob"), 5)
    assert check()["width"] == 4  # no smaller than that
    shown.get_by_role("button", name="Start again").click()
    again = check()
    assert {k: again[k] for k in ("left", "top", "width", "height", "ap")} == {
        k: first[k] for k in ("left", "top", "width", "height", "ap")
    }
    pull_to(page, box.locator(".bl-boxes-grab"), 12)
    assert check()["left"] != first["left"]
    keys(shown, "iou", "End")
    assert check()["iou"] == 0.95
    keys(shown, "score", "End")
    last = check()
    assert last["score"] == 1 and "No box scores that much" in shown.locator(".bl-x-answer").inner_text()
    assert {"precision", "recall"} <= set(labels(shown))
    truth, boxes, scores = random_case(9)
    given = [truth, boxes, scores]
    seen = module(shown, "(m, [t, b, s]) => m.area(m.curve(m.matched(t, b, s, 0.5).map((i) => i >= 0), s, t.length))", given)
    assert seen == pytest.approx(judged(*given, 0.5), abs=1e-9)
    linked, shown = open_figure(visit, "boxes", width=375, iou=0.75, left=30)
    check()
    assert page.problems == linked.problems == []
