"""Predict, then look: on a page made of the stored output alone, in a real browser."""

import base64
import html
import json
import re

import pytest
import torch
from browser import drag, figure, spot, state, violations

from bitlib.course.explore import Predict, asked

WHY = "Two images have *noisy* means."
NUMBER = Predict.number(
    "How much accuracy has `glyphs-L-bn` left?",
    answer=torch.tensor(15.2),
    low=0,
    high=100,
    unit="%",
    spread=2.1,
    why=WHY,
    xlabel="test accuracy",
)
CHOICE = Predict.choice("What is group norm with *one* group?", ["layer norm", "instance norm", "`<b>`"], answer=0, why=WHY)
LINE = Predict.line(
    "Draw the accuracy you expect",
    x=[64, 16, 4, 2],
    answer=torch.tensor([66.2, 63.1, 47.1, 15.2]),
    low=0,
    high=100,
    xlabel="images per device",
    ylabel="test accuracy (%)",
    spread=[0.5, 0.8, 1.9, 2.1],
    given={64: 66.2},
    why=WHY,
)
ALL = (NUMBER, CHOICE, LINE)
SECRETS = ("15.2", "63.1", "47.1", "noisy")


@pytest.fixture
def ask(site, new_page):
    """ask(questions, ...) -> a page that holds them and the website's script, in a browser that keeps what it is given."""

    def open_page(*questions, **options):
        page = new_page(**options)
        styles = "".join(f'<link rel="stylesheet" href="_static/{s}.css">' for s in ("palette", "css/course", "explorables"))
        body = (
            f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
            f"<title>Predict</title>{styles}<style>body{{background:var(--bl-paper);color:var(--bl-ink)}}</style></head>"
            f"<body><main><h1>Predict</h1>{''.join(q.static_html() for q in questions)}</main>"
            f'<script src="_static/explorables.js" defer></script></body></html>'
        )
        page.route("**/asked.html", lambda route: route.fulfill(body=body, content_type="text/html"))
        page.goto(f"{site}/asked.html")
        return page

    return open_page


def alive(page, number: int = 1):
    return figure(page, "predict" if number == 1 else f"predict-{number}")


def pull(page, shown, *way: tuple[float, float]) -> None:
    """Drag along points given as shares of the picture's width, and as pixels from its upper edge."""
    box = shown.locator("svg").bounding_box()
    drag(page, *[(box["x"] + share * box["width"], box["y"] + y) for share, y in way], steps=1)


def reveal(shown) -> str:
    shown.get_by_role("button", name=re.compile("^Show")).click()
    return shown.locator(".bl-x-result").inner_text()


def test_words_come_from_the_chapters_file():
    found = asked("07/fifty-steps", probe=97.84, tuned=96.2, head=93.9)
    assert "reads 97.8 %" in found["prompt"] and "96.2 %" in found["prompt"] and "93.9" in found["why"]
    assert len(found["options"]) == 3 and "answer" not in found  # it is measured
    found = asked("04/one-group")
    assert found["options"][found["answer"]] == "layer norm, then instance norm" and "[" not in "".join(found["options"])
    with pytest.raises(ValueError, match="07.md has no question 'nothing'; it has frozen"):
        asked("07/nothing")
    with pytest.raises(KeyError, match="told"):
        asked("07/linear-probe")


@pytest.mark.site
def test_nothing_gives_the_answer_away(ask):
    page = ask(*ALL)
    for i in (1, 2, 3):
        shown = alive(page, i)
        seen = shown.locator(".bl-x").evaluate("e => e.outerHTML")
        assert not any(secret in seen for secret in SECRETS)
        assert shown.get_by_role("button").all_inner_texts() == ["Show the answer" if i == 2 else "Show what was measured"]
        assert shown.get_by_role("button").is_disabled()  # first a guess
    assert page.locator(".bl-fallback").count() == 0
    assert page.locator(".bl-x-prompt code").first.inner_text() == "glyphs-L-bn"
    assert page.problems == []


@pytest.mark.site
def test_number(ask):
    page = ask(NUMBER)
    shown = alive(page)
    handle = shown.get_by_role("slider")
    assert handle.get_attribute("aria-valuetext") == "no guess yet"
    handle.focus()
    page.keyboard.press("ArrowRight")
    assert state(shown)["guess"] == 51
    page.keyboard.press("Shift+ArrowDown")
    assert state(shown)["guess"] == 41
    page.keyboard.press("End")
    assert state(shown)["guess"] == 100 and handle.get_attribute("aria-valuetext") == "100 %"
    pull(page, shown, (0.5, 62), (0.4, 62), (0.3, 75))
    width = shown.locator("svg").bounding_box()["width"]
    wanted = round((0.3 * width - 16) / (width - 32) * 100)
    assert abs(state(shown)["guess"] - wanted) <= 1
    guess = state(shown)["guess"]
    said = reveal(shown)
    assert "Measured: 15.2 ± 2.1 %." in said
    assert f"Your guess of {guess} % is too high by {guess - 15.2:.1f} percentage points." in said and "noisy means" in said
    # Both are drawn where the axis has them.
    scale = (width - 32) / 100
    at = shown.locator(".bl-x-seen").evaluate("e => { const b = e.getBBox(); return b.x + b.width / 2; }")
    assert at == pytest.approx(16 + 15.2 * scale, abs=0.5)
    assert float(shown.locator("circle").get_attribute("cx")) == pytest.approx(16 + guess * scale, abs=0.5)
    bar = shown.locator(".bl-x-error").evaluate("e => e.getBBox().width")
    assert bar == pytest.approx(4.2 * scale, abs=0.5)
    assert shown.locator("svg").get_attribute("aria-label") == f"Your guess {guess}, measured 15.2 ± 2.1 %"
    assert "test accuracy (%)" in shown.locator("svg").text_content()
    pull(page, shown, (0.5, 62), (0.9, 62))  # what was guessed stays
    assert state(shown)["guess"] == guess
    assert "?" not in page.url and "#" not in page.url
    assert page.problems == []


@pytest.mark.site
@pytest.mark.parametrize(
    "answer, low, high, unit, spread, keys, said",
    [
        (50, 0, 100, "%", None, "ArrowRight", "Your guess of 51 % is close: too high by 1 percentage point."),
        (51, 0, 100, "images", None, "ArrowRight", "Your guess of 51 images is exactly that."),
        (53, 0, 100, "images", 3, "ArrowRight", "Your guess of 51 images lies within the spread of ± 3."),
        (12.5, 0, 20, "", None, "Home", "Your guess of 0 is too low by 12.5."),
        (-1234, -20000, 0, "steps", None, "Home", "Your guess of −20,000 steps is too low by 18,770 steps."),
        (0.0125, 0, 0.5, "×", None, "End", "Your guess of 0.5 × is too high by 0.4875."),
    ],
)
def test_number_in_words(ask, answer, low, high, unit, spread, keys, said):
    page = ask(Predict.number("How many?", answer=answer, low=low, high=high, unit=unit, spread=spread))
    shown = alive(page)
    shown.get_by_role("slider").press(keys)
    assert said in reveal(shown)


@pytest.mark.site
def test_choice(ask):
    page = ask(CHOICE, Predict.choice("Which is it?", ["a", "b"], answer=1))
    shown = alive(page)
    assert shown.get_by_role("radio").count() == 3 and shown.locator(".bl-x-option code").inner_text() == "<b>"
    assert shown.get_by_role("group", name="What is group norm").count() == 1
    shown.get_by_role("radio").nth(0).focus()
    page.keyboard.press("ArrowDown")
    assert state(shown)["guess"] == 1
    assert "The answer is: layer norm." in reveal(shown)
    assert shown.locator(".bl-x-tag").all_inner_texts() == ["✓ this is it", "✗ your guess", ""]
    assert shown.get_by_role("radio").nth(2).is_disabled()
    shown.get_by_role("button", name="Guess again").click()
    assert state(shown)["guess"] is None and not state(shown)["revealed"]
    assert shown.locator(".bl-x-result").inner_text() == "" and shown.locator(".bl-x-tag").all_inner_texts() == [""] * 3
    other = alive(page, 2)
    other.get_by_label("b", exact=True).check()
    assert state(shown)["guess"] is None  # each question has its own group of buttons
    assert "You guessed right: b." in reveal(other)
    assert other.locator(".bl-x-tag").all_inner_texts() == ["", "✓ your guess, and right"]


@pytest.mark.site
def test_line(ask):
    page = ask(LINE)
    shown = alive(page)
    width = shown.locator("svg").bounding_box()["width"]
    cell = (width - 52) / 4
    share = lambda i: (44 + cell * (i + 0.5)) / width  # noqa: E731
    height = lambda v: 240 - v / 100 * (240 - 58)  # noqa: E731

    assert shown.get_by_role("slider").count() == 3  # the given point is none
    shown.get_by_role("slider").nth(2).focus()
    page.keyboard.press("ArrowUp")
    assert state(shown)["guess"] == [66.2, None, None, 51]
    assert "2 points to go." in shown.inner_text() and shown.get_by_role("button").is_disabled()
    # One fast stroke over all of it: the point that it jumps over lies on its way.
    pull(page, shown, (share(0), height(10)), (share(1), height(60)), (share(3), height(40)))
    guess = state(shown)["guess"]
    assert guess[0] == 66.2 and guess[1:] == pytest.approx([60, 50, 40], abs=1)
    page.keyboard.press("Home")  # the stroke began at the given point, and the focus is on the one after it
    assert state(shown)["guess"] == [66.2, 0, *guess[2:]]
    pull(page, shown, (share(1), height(63.1)), (share(1), height(62)))
    guess = state(shown)["guess"]

    said = reveal(shown)
    off = [g - a for g, a in zip(guess[1:], (63.1, 47.1, 15.2))]
    average = float(f"{sum(map(abs, off)) / 3:.3g}")
    assert f"Your line is off by {average:g} percentage points on average." in said
    assert f"furthest off at 2 (images per device): too high by {off[2]:.1f} percentage points." in said
    seen = shown.locator(".bl-x-seen").evaluate_all(
        "all => all.map(e => { const b = e.getBBox(); return [b.x + b.width / 2, b.y + b.height / 2, +e.dataset.value]; })"
    )
    assert [v for _, _, v in seen] == [63.1, 47.1, 15.2]
    for i, (x, y, v) in enumerate(seen, 1):
        assert x == pytest.approx(share(i) * width, abs=0.5) and y == pytest.approx(height(v), abs=0.5)
    bars = shown.locator(".bl-x-error").evaluate_all("all => all.map(e => e.getBBox().height)")
    assert bars == pytest.approx([2 * s * 1.82 for s in (0.8, 1.9, 2.1)], abs=0.1)
    words = shown.locator("svg").text_content()
    assert all(w in words for w in ("test accuracy (%)", "images per device", "given 66.2", "◆ measured", "○ your guess"))
    assert "At 4: your guess" in shown.locator("svg").get_attribute("aria-label")
    assert page.problems == []


@pytest.mark.site
def test_by_touch(ask):
    page = ask(NUMBER, LINE, width=375, has_touch=True, is_mobile=True)
    number, line = alive(page), alive(page, 2)
    for shown, y in ((number, 62), (line, 120)):
        x, top = spot(shown.locator("svg"), 0.9, 0)
        page.touchscreen.tap(x, top + y)
    assert state(number)["guess"] > 80
    assert state(line)["guess"][:3] == [66.2, None, None] and state(line)["guess"][3] == pytest.approx(66, abs=1)


@pytest.mark.site
def test_a_reader_who_comes_back_finds_the_guess(ask):
    first = ask(*ALL)
    shown = alive(first)
    shown.get_by_role("slider").press("ArrowLeft")
    reveal(shown)
    alive(first, 2).get_by_role("radio").nth(2).check()
    again = ask(*ALL, context=first.context)
    assert "15.2" in alive(again).locator(".bl-x-result").inner_text() and state(alive(again))["guess"] == 49
    assert state(alive(again, 2))["guess"] == 2 and not state(alive(again, 2))["revealed"]
    assert state(alive(again, 3))["guess"] is None
    alive(again).get_by_role("button", name="Guess again").click()
    assert state(alive(ask(*ALL, context=first.context)))["guess"] is None
    # Another question on the same page is not answered by it, and what could not be a guess is none.
    again.evaluate("for (const key of Object.keys(localStorage)) localStorage.setItem(key, '{\"guess\": 7}')")
    assert state(alive(ask(*ALL, context=first.context), 2))["guess"] is None
    other = Predict.choice(CHOICE.prompt, ["a", "b", "c"], answer=0)
    assert state(alive(ask(other, context=first.context)))["guess"] is None


@pytest.mark.site
def test_a_browser_that_keeps_nothing(ask):
    page = ask(CHOICE)
    page.add_init_script("Object.defineProperty(window, 'localStorage', { get() { throw new Error('denied'); } });")
    page.reload()
    shown = alive(page)
    shown.get_by_role("radio").nth(0).check()
    assert "You guessed right" in reveal(shown) and page.problems == []


@pytest.mark.site
@pytest.mark.parametrize("width, scheme", [(1280, "light"), (320, "dark")])
def test_accessible_at_every_width(ask, width, scheme):
    page = ask(*ALL, width=width, scheme=scheme, reduced_motion="reduce")
    for revealed in (False, True):
        for i in (1, 2, 3):
            shown = alive(page, i)
            if revealed:
                for slider in shown.get_by_role("slider").all():
                    slider.press("ArrowUp")
                for radio in shown.get_by_role("radio").all()[:1]:
                    radio.check()
                reveal(shown)
            # No word leaves the picture, and none is small.
            out = shown.locator("svg text").evaluate_all(
                """all => all.filter(e => {
                    const t = e.getBoundingClientRect(), s = e.ownerSVGElement.getBoundingClientRect();
                    return t.left < s.left - 1 || t.right > s.right + 1 || parseFloat(getComputedStyle(e).fontSize) < 12;
                }).map(e => e.textContent)"""
            )
            assert out == []
        assert violations(page) == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.evaluate("document.getAnimations().length") == 0


@pytest.mark.site
def test_on_paper_and_without_scripts(ask):
    page = ask(*ALL)
    for i in (1, 2, 3):
        alive(page, i)
    page.emulate_media(media="print")
    assert page.locator("button:visible, .bl-x-unset:visible").count() == 0
    assert page.locator(".bl-x-prompt:visible").count() == 3 and page.locator(".bl-x-option:visible").count() == 3
    plain = ask(*ALL, java_script_enabled=False)
    seen = plain.locator("main").inner_text()
    assert "How much accuracy has glyphs-L-bn left?" in seen and "instance norm" in seen
    assert not any(secret in seen for secret in SECRETS)
    plain.locator("summary").first.click()
    assert "15.2 ± 2.1 %. Two images have noisy means." in plain.locator("main").inner_text()


def test_the_stored_output():
    stored = NUMBER.static_html()
    assert not any(secret in stored for secret in SECRETS)
    assert all(secret in html.unescape(LINE.static_html()) for secret in SECRETS[:3])
    assert stored == Predict.number(**ARGUMENTS).static_html()  # the same each time that a notebook is run
    assert json.loads(base64.b64decode(NUMBER.sealed)) == {"answer": 15.2, "spread": 2.1, "why": WHY}
    assert NUMBER._repr_mimebundle_()[0]["text/plain"] == "Predict: How much accuracy has `glyphs-L-bn` left?"
    evil = Predict.choice("</script><img> *a*b* 2 * 3 * 4", ["<b>", "`<i>`"], answer=1, why="</details>").static_html()
    assert evil.count("</script>") == 1 and not re.search("<img|<b>|<i>", evil) and evil.count("</details>") == 1
    assert "2 * 3 * 4" in evil and "<code>&lt;i&gt;</code>" in evil
    mine = Predict.number(**ARGUMENTS)
    mine.guess, mine.revealed = 4, True
    assert mine.static_html() == stored  # nobody else's guess


ARGUMENTS = dict(
    prompt="How much accuracy has `glyphs-L-bn`\n   left?",
    answer=15.2000001,
    low=0,
    high=100,
    unit="%",
    spread=2.1,
    why=WHY,
    xlabel="test accuracy",
)


def test_questions_that_cannot_be_asked():
    with pytest.raises(ValueError, match="do not lie on an axis"):
        Predict.number("?", answer=101, low=0, high=100)
    with pytest.raises(ValueError, match="do not lie on an axis"):
        Predict.number("?", answer=float("nan"), low=0, high=100)
    with pytest.raises(ValueError, match="index of none of the 2 options"):
        Predict.choice("?", ["a", "b"], answer=2)
    line = dict(x=[1, 2], low=0, high=10, xlabel="x", ylabel="y")
    with pytest.raises(ValueError, match="need as many"):
        Predict.line("?", answer=[1], **line)
    with pytest.raises(ValueError, match="not among x"):
        Predict.line("?", answer=[1, 2], given={3: 1}, **line)
