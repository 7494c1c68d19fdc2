"""Judge: a blind vote on images about which a model and the label disagree, counted as bitlib counts it."""

import pytest
import torch
from browser import dataset, module, numbers, open_figure, state

from bitlib.course import explore
from bitlib.course.explore.judge import FIRST, NEITHER, NONE, SECOND, Judge, tally
from bitlib.data.shifts import likeness

ITEM = {"image": "", "answers": ["3", "8"], "label": 0, "planted": False}


def test_a_tally_by_hand():
    items = [ITEM, ITEM | {"label": 1}, ITEM, ITEM, ITEM | {"planted": True}, ITEM | {"planted": True, "label": 1}, ITEM]
    votes = [FIRST, FIRST, NEITHER, NONE, SECOND, SECOND, SECOND]
    # For the label, for the model, for neither, none; a planted label that is caught and one that is not; for the model.
    assert tally(items, votes) == {"model": 2, "label": 1, "neither": 1, "voted": 4, "planted": 2, "caught": 1}
    assert tally(items, [NEITHER] * 7)["caught"] == 0
    assert tally([], []) == dict.fromkeys(("model", "label", "neither", "voted", "planted", "caught"), 0)
    with pytest.raises(ValueError):
        tally(items, votes[:-1])


def disagreements() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Images, labels and predictions; every fifth prediction is wrong. The brightness of an image is its number."""
    labels = torch.arange(60) % 4
    images = torch.arange(60, dtype=torch.uint8)[:, None, None, None].expand(60, 3, 4, 4).contiguous()
    return images, labels, torch.where(torch.arange(60) % 5 == 0, (labels + 1) % 4, labels)


def test_what_is_shown_is_what_it_says():
    images, labels, predictions = disagreements()
    made = Judge.of(images, labels, predictions, "abcd", real=8, planted=5, seed=1)
    assert len(made.items) == 13 and sum(item["planted"] for item in made.items) == 5
    assert made.votes == [NONE] * 13 and made.limits == {"at": [0, 12, 1]}
    like, places = likeness(images, labels), []
    for item in made.items:
        i = number_of(item["image"])
        label, model = item["answers"][item["label"]], item["answers"][1 - item["label"]]
        assert model == "abcd"[predictions[i]]
        if item["planted"]:
            assert predictions[i] == labels[i] and label != model
            others = [c for c in like[i].argsort(descending=True).tolist() if c != labels[i]]
            assert label == "abcd"[others[0]]
        else:
            assert predictions[i] != labels[i] and label == "abcd"[labels[i]]
        places.append(item["label"])
    assert set(places) == {0, 1}  # neither side gives the label away
    assert made.items == Judge.of(images, labels, predictions, "abcd", real=8, planted=5, seed=1).items
    assert made.items != Judge.of(images, labels, predictions, "abcd", real=8, planted=5, seed=2).items
    assert len(Judge.of(images, labels, labels, "abcd", planted=3).items) == 3  # a model without a mistake


def number_of(address: str) -> int:
    import base64
    import io

    from PIL import Image

    return Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))).getpixel((0, 0))[0]


def test_the_next_reader_finds_no_votes():
    made = Judge.of(*disagreements(), "abcd")
    made.votes, made.at, made.shown = [FIRST] * len(made.items), 3, True
    state = made.state()
    assert state["votes"] == [NONE] * len(made.items) and state["at"] == 0 and not state["shown"]
    assert made.tally()["voted"] == 12


@pytest.mark.site
def test_judge(visit):
    page, shown = open_figure(visit, "judge")
    items, last = state(shown)["items"], len(state(shown)["items"]) - 1
    assert items == explore.Judge.example().items
    result = shown.locator(".bl-judge-result")
    assert not result.is_visible() and shown.get_by_role("button", name="Count").is_disabled()

    def names() -> list[str]:
        return shown.locator(".bl-judge-name").all_inner_texts()

    # By keys, by mouse, and back; every vote leads to the next image without one.
    assert names()[:2] == items[0]["answers"]
    shown.locator("[data-vote='2']").click()
    assert state(shown)["at"] == 1 and state(shown)["votes"][0] == NEITHER
    page.keyboard.press("a")
    page.keyboard.press("b")
    assert state(shown)["votes"][:4] == [NEITHER, FIRST, SECOND, NONE] and names()[:2] == items[3]["answers"]
    page.keyboard.press("ArrowLeft")
    assert state(shown)["at"] == 2
    assert shown.locator("[data-vote='1']").get_attribute("aria-pressed") == "true"
    page.keyboard.press("c")  # a change of mind; on to the first image that has no vote
    assert state(shown)["votes"][2] == NEITHER and state(shown)["at"] == 3
    shown.get_by_role("button", name="Back").click()
    shown.get_by_role("button", name="Next").click()
    assert state(shown)["at"] == 3

    # No word in the figure gives away which answer is the label's before the count.
    assert "label" not in shown.locator(".bl-judge-stage").inner_text() and "planted" not in shown.inner_text()
    shown.get_by_role("button", name="Count the 3 votes so far").click()
    assert result.is_visible()
    seen = {name: int(value) for name, value in dataset(shown.locator(".bl-x-answer")).items()}
    assert seen == tally(items, state(shown)["votes"])
    page.keyboard.press("a")  # the ballot is closed
    assert state(shown)["votes"][3] == NONE and shown.locator("[data-vote='0']").is_disabled()

    shown.get_by_role("button", name="Start again").click()
    assert state(shown)["votes"] == [NONE] * (last + 1) and not result.is_visible()
    shown.locator("[data-vote='0']").click()
    for i in range(1, last + 1):
        page.keyboard.press("aBc"[i % 3])
    assert state(shown)["votes"] == [i % 3 for i in range(last + 1)]
    shown.get_by_role("button", name="Count the votes").click()
    wanted = tally(items, state(shown)["votes"])
    assert wanted["voted"] + wanted["planted"] == last + 1
    bars = {
        e["side"]: int(e["votes"])
        for e in shown.locator(".bl-judge-bar rect").evaluate_all("all => all.map(e => ({...e.dataset}))")
    }
    assert bars == {side: wanted[side] for side in ("model", "neither", "label") if wanted[side]}
    assert f"Of {wanted['planted']} labels" in result.inner_text() and f"against {wanted['caught']}." in result.inner_text()
    assert numbers(shown, ".bl-judge-list li", "item").tolist() == list(range(last + 1))
    planted = shown.locator(".bl-judge-planted").evaluate_all("all => all.map(e => +e.dataset.item)")
    assert planted == [i for i, item in enumerate(items) if item["planted"]]
    # Votes stay in the page: the address holds the place alone.
    page.wait_for_function("() => location.search.includes('judge.at')")
    assert "votes" not in page.evaluate("location.search") and "shown" not in page.evaluate("location.search")
    assert module(
        shown, "(m, given) => m.tally(given.items, given.votes)", {"items": items, "votes": [1] * (last + 1)}
    ) == tally(items, [1] * (last + 1))
    assert page.problems == []
