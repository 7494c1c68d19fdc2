"""What all interactive figures of the built website share: links, folders, print, readers without scripts or sight."""

import pytest
from browser import FIGURES, HTML, figure, keys, state, violations

from bitlib.course import explore

NAMES = (
    "softmax",
    "norms",
    "standardize",
    "mixup",
    "hyperrule",
    "transfermap",
    "block",
    "sizes",
    "neighbors",
    "batch",
    "depth",
    "schedule",
    "search",
    "cost",
    "mask",
    "judge",
    "boxes",
)
pytestmark = pytest.mark.site


def test_settings_live_in_the_address(visit):
    page = visit(FIGURES)
    keys(figure(page, "softmax"), "temperature", "End")
    figure(page, "norms").locator('input[value="2"]').check()
    page.wait_for_function("() => location.search.includes('softmax.') && location.search.includes('norms.')")
    query = page.evaluate("location.search.slice(1)")
    assert "softmax.temperature=20" in query and "norms.groups=2" in query and "draws" not in query
    again = visit(f"{FIGURES}?{query}")
    assert state(figure(again, "softmax"))["temperature"] == 20 and state(figure(again, "norms"))["groups"] == 2
    assert figure(again, "norms").locator('input[value="2"]').is_checked()
    nonsense = visit(f"{FIGURES}?softmax.temperature=-3&softmax.logits=1&norms.groups=evil&norms.batch=3&hyperrule.step=1.5")
    assert state(figure(nonsense, "softmax"))["temperature"] == 2 and len(state(figure(nonsense, "softmax"))["logits"]) == 10
    assert (state(figure(nonsense, "norms"))["groups"], state(figure(nonsense, "norms"))["batch"]) == (4, 8)
    assert state(figure(nonsense, "hyperrule"))["step"] == 250
    assert nonsense.problems == []


@pytest.mark.parametrize(
    "name, trait, value",
    [
        ("softmax", "temperature", 5),
        ("norms", "batch", 32),
        ("standardize", "filter", 3),
        ("mixup", "alpha", 1),
        ("hyperrule", "examples", 3000),
        ("transfermap", "task", "digits"),
        ("block", "branch", 0.5),
        ("sizes", "depth", 152),
        ("neighbors", "query", 40),
        ("batch", "gamma", 0.5),
        ("depth", "depth", 2.5),
        ("schedule", "first", 0.25),
        ("search", "trials", 20),
        ("cost", "card", 24),
        ("mask", "first", 3),
        ("judge", "at", 5),
        ("boxes", "iou", 0.75),
    ],
)
def test_a_teachers_link_opens_at_the_figure_with_its_settings(visit, name, trait, value):
    page = visit(f"{FIGURES}?{name}.{trait}={value}#figure-{name}")
    shown = page.locator(f"#figure-{name}")
    page.wait_for_selector(f"#figure-{name}[data-state=ready]")
    assert state(shown)[trait] == value
    page.wait_for_function("e => Math.abs(e.getBoundingClientRect().top) < 300", arg=shown.element_handle())


def test_all_work_from_a_folder(visit):
    page = visit(FIGURES, base=HTML.as_uri())
    for name in NAMES:
        figure(page, name)
    # A folder has no address to keep settings in, and the browser may refuse; wait for the attempt.
    page.evaluate("""() => {
        const replace = history.replaceState;
        history.replaceState = (...given) => { window.attempted = true; return replace.apply(history, given); };
    }""")
    keys(figure(page, "softmax"), "temperature", "End")
    page.wait_for_function("() => window.attempted")
    assert page.problems == []


@pytest.mark.parametrize("width, scheme", [(1280, "light"), (375, "dark")])
def test_accessible(visit, width, scheme):
    page = visit(FIGURES, width=width, scheme=scheme)
    for name in NAMES:
        shown = figure(page, name)
        assert violations(page, f"#figure-{name}") == []
        sides = shown.evaluate("e => [e.getBoundingClientRect().right, e.scrollWidth - e.clientWidth]")
        assert sides[0] <= width and sides[1] <= 1


def test_nothing_moves_by_itself_and_print_shows_no_controls(visit):
    page = visit(FIGURES, reduced_motion="reduce")
    for name in NAMES:
        figure(page, name)
    assert page.evaluate("document.getAnimations().length") == 0
    page.emulate_media(media="print")
    assert page.locator(".bl-explorable input:visible, .bl-explorable button:visible").count() == 0
    assert page.locator(".bl-explorable svg:visible").count() >= 5
    assert page.locator("#figure-norms .bl-x-choice label:visible").all_inner_texts() == ["4"]  # what was chosen


def test_without_scripts_and_with_a_broken_one_the_picture_stays(visit, new_page, site):
    page = visit(FIGURES, java_script_enabled=False)
    shown = page.locator(".bl-explorable .bl-fallback")
    assert shown.count() == len(NAMES)
    for i in range(shown.count()):
        assert shown.nth(i).locator(".bl-plot svg:visible, img:visible, table:visible").count() >= 1
    broken = new_page()
    script = (HTML / "_static" / "explorables.js").read_text().replace("export function pull", "export fun pull")
    broken.route("**/explorables.js*", lambda route: route.fulfill(body=script, content_type="text/javascript"))
    broken.goto(f"{site}/{FIGURES}.html")
    broken.wait_for_selector("#figure-softmax[data-state=error]")
    assert broken.locator("#figure-softmax .bl-fallback").is_visible()


def test_every_figure_of_the_library_is_on_the_page():
    names = [*NAMES, "predict"]  # which asks in the notebooks, and has its tests in test_predict.py
    kinds = [
        kind
        for kind in vars(explore).values()
        if isinstance(kind, type) and issubclass(kind, explore.Explorable) and kind is not explore.Explorable
    ]
    assert sorted(kind.module for kind in kinds) == sorted(names)
    assert sorted(p.stem for p in explore.base.FOLDER.glob("*.mjs")) == sorted((*names, "kit"))
    for kind in kinds:
        assert set(kind().limits) <= set(kind.class_trait_names())


def test_static_html_cannot_be_broken_out_of():
    evil = explore.Softmax(logits=[0.0, 1.0], student=[0.0, 0.0], labels=["</script><b>", "x"]).static_html()
    assert "</script><b>" not in evil and evil.count("</script>") == 1
    assert explore.Rule.example().static_html() == explore.Rule.example().static_html()


@pytest.mark.parametrize("width", [320, 375, 1280])
def test_figures_fit_and_can_be_read(visit, width):
    page = visit(FIGURES, width=width)
    for name in ("block", "sizes", "neighbors", "batch", "depth", "schedule", "search", "cost", "mask", "judge", "boxes"):
        shown = figure(page, name)
        assert shown.evaluate("e => e.scrollWidth - e.clientWidth") <= 1
        small = shown.evaluate("""f => [...f.querySelectorAll('text, p, small, span, dd, dt, button, label')].filter((e) =>
            e.textContent.trim() && parseFloat(getComputedStyle(e).fontSize) < 12).map((e) => e.textContent)""")
        assert small == []
        # No text of an SVG reaches out of the figure.
        out = shown.evaluate("""f => {
            const box = f.getBoundingClientRect(), rect = (e) => e.getBoundingClientRect();
            const outside = (e) => rect(e).left < box.left || rect(e).right > box.right;
            return [...f.querySelectorAll('svg text')].filter(outside).map((e) => e.textContent);
        }""")
        assert out == []
