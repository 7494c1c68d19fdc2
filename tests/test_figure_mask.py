"""Hidden words: guesses against the network itself, and everything that can be hidden."""

import pytest
import torch
from browser import close, dataset, module, open_figure, state

from bitlib.course import text
from bitlib.course.explore.mask import BEST, NONE, SENTENCES, Mask


@pytest.fixture(scope="module")
def figure() -> Mask:
    return Mask.example()


def test_guesses_are_those_of_the_network(figure):
    model = text.load_transformer().eval()
    for shown, (sentence, start) in zip(figure.sentences, SENTENCES):
        assert shown["words"][shown["start"]] == start and set(shown["both"]) == set(shown["left"])
        ids = model.vocabulary.encode([sentence])
        assert (ids != text.UNKNOWN).all()  # a word that is not in the vocabulary could not be guessed
        for key in list(shown["both"])[::7]:
            places = [int(i) for i in key.split(",")]
            for side in ("both", "left"):
                for place, guesses in zip(places, shown[side][key]):
                    seen = ids.clone()
                    seen[0, [i + 1 for i in places]] = text.MASK
                    if side == "left":
                        seen[0, place + 1 :] = text.MASK
                    with torch.no_grad():
                        p = model.scores(model(seen)[0, place + 1]).softmax(0)
                    assert len(guesses) == BEST
                    close([v for _, v in guesses], [round(p[model.vocabulary.number[w]].item(), 4) for w, _ in guesses])
                    assert guesses[0][1] >= p[len(text.SPECIAL) :].max().item() - 1e-4


def test_the_default_makes_its_point(figure):
    """What comes after the gap settles it, and what comes before does not."""
    shown = figure.sentences[figure.sentence]
    (both,), (left,) = (shown[side][str(figure.first)] for side in ("both", "left"))
    assert both[0][0] == "an" and both[0][1] > 0.8 and dict(left).get("an", 0) < 0.5
    assert "[MASK]" in figure.picture().text and "an" in figure.picture().text


@pytest.mark.site
def test_mask(visit):
    page, shown = open_figure(visit, "mask")

    def check(*hidden: int) -> None:
        now, answer = state(shown), shown.locator(".bl-x-answer")
        sentence, key = now["sentences"][now["sentence"]], ",".join(map(str, hidden))
        assert {now["first"], now["second"]} - {NONE} == set(hidden) and dataset(answer)["hidden"] == key
        pressed = shown.locator('.bl-mask-word[aria-pressed="true"]')
        assert pressed.all_inner_texts() == ["[MASK]"] * len(hidden)
        for i, place in enumerate(hidden):
            for side in ("both", "left"):
                rows = shown.locator(f'.bl-mask-place[data-place="{place}"] table[data-side="{side}"] tbody tr')
                wanted = sentence[side][key][i]
                assert rows.locator("th").all_inner_texts() == [word for word, _ in wanted]
                close(
                    [float(v) for v in rows.locator("td").evaluate_all("all => all.map(e => e.dataset.p)")],
                    [p for _, p in wanted],
                )

    first = state(shown)["first"]
    check(first)
    word = shown.locator(".bl-mask-word")
    word.nth(4).click()
    check(*sorted([first, 4]))
    word.nth(6).click()  # a third one shows the oldest again
    check(4, 6)
    word.nth(4).click()
    check(6)
    word.nth(6).focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    check(6, 7)
    page.keyboard.press("Home")
    page.keyboard.press(" ")
    check(0, 7)
    for place in (0, 7):
        word.nth(place).click()
    assert "Tap a word" in shown.locator(".bl-x-answer").inner_text()
    assert shown.locator(".bl-mask-word:not([role])").all_inner_texts() == ["."]  # nothing to hide there
    shown.locator('input[data-trait="sentence"][value="2"]').check()
    check(state(shown)["sentences"][2]["start"])
    ways = [[[], 3], [[3], 3], [[3, 5], 1], [[3, 5], 3]]
    assert module(shown, "(m, all) => all.map(([hidden, place]) => m.tapped(hidden, place))", ways) == [[3], [], [5, 1], [5]]
    linked, shown = open_figure(visit, "mask", width=375, sentence=1, first=2, second=5)
    assert (state(shown)["first"], state(shown)["second"]) == (2, 5)
    check(2, 5)
    assert page.problems == linked.problems == []
