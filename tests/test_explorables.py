"""The interactive figures of the built website, in a real browser: what they draw against what bitlib computes."""

import itertools
import json
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from axe_playwright_python.sync_playwright import Axe
from browser import HTML, PATIENCE

import bitlib
from bitlib.course import explore
from bitlib.norm import standardize_weight

ROOT = Path(__file__).resolve().parent.parent
PAGE = "book/figures"
NAMES = ("softmax", "norms", "standardize", "mixup", "hyperrule", "transfermap")
pytestmark = pytest.mark.site


def figure(page, name: str):
    """The figure, once it is alive."""
    found = page.locator(f"#figure-{name}")
    found.scroll_into_view_if_needed()
    page.wait_for_selector(f"#figure-{name}[data-state=ready]")
    return found


def state(shown) -> dict:
    return shown.evaluate("figure => figure.model.state")


def drag(page, shown, trait: str, share: float) -> None:
    """Drag a slider with the mouse to that share of its way."""
    slider = shown.locator(f'input[type=range][data-trait="{trait}"]')
    slider.scroll_into_view_if_needed()
    box = slider.bounding_box()
    y = box["y"] + box["height"] / 2
    low, high, value = (slider.evaluate(f"e => +e.{name}") for name in ("min", "max", "value"))
    page.mouse.move(box["x"] + 8 + (box["width"] - 16) * (value - low) / (high - low), y)
    page.mouse.down()
    page.mouse.move(box["x"] + 8 + (box["width"] - 16) * share, y, steps=5)
    page.mouse.up()


def keys(page, shown, trait: str, key: str, times: int = 1) -> None:
    shown.locator(f'[data-trait="{trait}"]').first.focus()
    for _ in range(times):
        page.keyboard.press(key)


def numbers(shown, selector: str, name: str) -> torch.Tensor:
    """The attribute data-NAME of all elements of a figure that the selector finds, float64."""
    return torch.tensor(shown.locator(selector).evaluate_all(f"all => all.map(e => +e.dataset.{name})"), dtype=torch.float64)


def close(seen: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(seen, wanted.double(), rtol=1e-6, atol=1e-6)


def pull_handle(page, handle, share: float) -> None:
    """Drag a handle in a picture with the mouse to that share of the ground that it moves on."""
    handle.scroll_into_view_if_needed()
    knob, ground = handle.locator(".bl-x-knob").bounding_box(), handle.locator(".bl-x-zone").bounding_box()
    y = knob["y"] + knob["height"] / 2
    page.mouse.move(knob["x"] + knob["width"] / 2, y)
    page.mouse.down()
    page.mouse.move(ground["x"] + share * ground["width"], y, steps=5)
    page.mouse.up()


def axis_names(shown) -> set[str]:
    return {text.split("; ")[0] for text in shown.locator("svg .bl-x-label").all_text_contents()}


def test_softmax(visit):
    page = visit(PAGE)
    shown = figure(page, "softmax")
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
    assert axis_names(shown) >= {"class", "probability", "temperature T", "norm of the student’s gradient"}
    assert page.problems == []
    linked = figure(visit(f"{PAGE}?softmax.temperature=5#figure-softmax"), "softmax")
    assert state(linked)["temperature"] == 5 and "T = 5" in linked.locator("svg").first.text_content()


def test_norms(visit):
    from bitlib.data import resize, to_input

    page = visit(PAGE)
    shown = figure(page, "norms")
    model = bitlib.create_model("glyphs-L", pretrained=True).eval()
    with torch.no_grad():
        x = model.stage_features(to_input(resize(bitlib.load_task("digits").val.images[:64], 32)))["stage4"][:, ::64].double()

    def check() -> float:
        now, channel = state(shown), 1
        dots, seen = ".bl-x-strip .bl-x-dot", numbers(shown, ".bl-x-strip .bl-x-dot", "value")
        for pictures, value in zip(shown.locator(dots).evaluate_all("all => all.map(e => e.dataset.pictures)"), seen):
            part = x[[int(i) for i in pictures.split()]]
            assert len(part) == now["batch"] and pictures.split()[0] == "0" and len(set(pictures.split())) == len(part)
            normed = {
                "bn": lambda v: F.batch_norm(v, None, None, training=True),
                "ln": lambda v: F.group_norm(v, 1),
                "in": lambda v: F.group_norm(v, 8),
                "gn": lambda v: F.group_norm(v, now["groups"]),
            }[now["kind"]](part)
            close(value, normed[0, channel].mean())
        spread = numbers(shown, ".bl-x-answer", "spread")[0]
        close(spread, seen.std(correction=0))
        return spread.item()

    few = check()
    drag(page, shown, "batch", 0.7)
    many = check()
    assert 0 < many < few / 2  # the point of the figure
    for kind in ("ln", "in", "gn"):
        shown.locator(f'input[value="{kind}"]').check()
        assert check() < 1e-12
    keys(page, shown, "groups", "ArrowLeft")
    assert state(shown)["groups"] == 2 and check() < 1e-12
    shown.locator('input[value="bn"]').check()
    before = numbers(shown, ".bl-x-dot", "value")
    shown.get_by_role("button").press("Enter")
    assert not torch.equal(before, numbers(shown, ".bl-x-dot", "value"))
    check()


def test_standardize(visit):
    page = visit(PAGE)
    shown = figure(page, "standardize")

    def check():
        now = state(shown)
        stored = torch.tensor(now["filters"][now["filter"]], dtype=torch.float64) * now["scale"] + now["shift"]
        close(numbers(shown, "svg >> nth=0 >> circle", "value"), stored)
        close(numbers(shown, "svg >> nth=1 >> circle", "value"), standardize_weight(stored[None])[0])
        assert numbers(shown, ".bl-x-answer", "change")[0] < 1e-6

    check()
    drag(page, shown, "shift", 0.1)
    drag(page, shown, "scale", 0.95)
    keys(page, shown, "filter", "ArrowRight", 3)
    assert state(shown)["filter"] == 3 and state(shown)["shift"] < -1 and state(shown)["scale"] > 3
    check()


def test_mixup(visit):
    import base64

    import numpy as np
    import scipy.stats

    page = visit(PAGE)
    shown = figure(page, "mixup")
    handle = shown.get_by_role("slider", name="Weight of the first image")
    first, second = (
        torch.frombuffer(bytearray(base64.b64decode(p)), dtype=torch.uint8).double() for p in state(shown)["images"]
    )
    side = round((len(first) / 3) ** 0.5)

    def module(call: str, given=None):
        return shown.evaluate(
            f"""async (figure, given) => {{
            const m = await import(URL.createObjectURL(new Blob([BL_KIT, BL_MODULES.mixup], {{type: "text/javascript"}})));
            return {call};
        }}""",
            given,
        )

    def check():
        now = state(shown)
        assert 0 <= now["weight"] <= 1
        close(numbers(shown, "rect[data-p]", "p"), torch.tensor([now["weight"], 1 - now["weight"]], dtype=torch.float64))
        close(numbers(shown, "canvas[data-mean]", "mean")[0], torch.lerp(second, first, now["weight"]).mean())
        at = numbers(shown, "circle.bl-x-dot", "at")[0]
        wanted = torch.distributions.Beta(*[torch.tensor(now["alpha"], dtype=torch.float64)] * 2).log_prob(at).exp()
        torch.testing.assert_close(numbers(shown, "circle.bl-x-dot", "value")[0], wanted, rtol=1e-6, atol=1e-6)
        # The middle pixel of the drawn canvas.
        centre = shown.locator("canvas[data-mean]").evaluate(
            "c => [...c.getContext('2d').getImageData(c.width / 2, c.height / 2, 1, 1).data].slice(0, 3)"
        )
        mixed = torch.lerp(second, first, now["weight"]).view(3, side, side)[:, side // 2, side // 2]
        assert (torch.tensor(centre) - mixed).abs().max() <= 0.51
        # The histogram, and what is said of it, are those of the hundred weights.
        weights = np.array(module("m.hundred(...given)", [now["alpha"], now["draws"]]))
        assert numbers(shown, "rect[data-count]", "count").tolist() == np.histogram(weights, 20, (0, 1))[0].tolist()
        lighter = np.minimum(weights, 1 - weights)
        said, real = shown.locator(".bl-x-answer").inner_text(), int((lighter >= 0.1).sum())
        assert said.startswith(f"{real} of these 100") and shown.locator(".bl-x-mixes").text_content() == f"{real} really mix"
        even = int((lighter >= min(now["weight"], 1 - now["weight"])).sum())
        assert re.search(rf"more\. {even} mix(es)? at least as evenly as now\.$", said)
        return weights

    usual = check()
    assert state(shown)["alpha"] == 0.1 and (np.minimum(usual, 1 - usual) >= 0.1).sum() < 30  # the point of the figure
    pull_handle(page, handle, 0.2)
    assert 0.1 < state(shown)["weight"] < 0.3
    check()
    handle.focus()
    before = state(shown)["weight"]
    page.keyboard.press("ArrowRight")
    assert state(shown)["weight"] == pytest.approx(before + 0.01)
    page.keyboard.press("End")
    assert state(shown)["weight"] == 1
    check()
    # Every press of a key moves alpha.
    for wanted in (0.2, 0.4, 0.7, 1):
        keys(page, shown, "alpha", "ArrowRight")
        assert state(shown)["alpha"] == wanted
    even = check()
    assert (np.minimum(even, 1 - even) >= 0.1).sum() > 65
    shown.get_by_role("button", name="Draw another 100").click()
    assert state(shown)["draws"] == 5 and not np.array_equal(check(), even)
    # A step is chosen from the strip, by click and by key; its tile shows its mixture.
    weights, film = check(), shown.locator(".bl-x-strip")
    picker = film.get_by_role("slider")
    film.scroll_into_view_if_needed()
    box = film.bounding_box()
    page.mouse.click(box["x"] + 3.5 / 20 * box["width"], box["y"] + 2.5 / 5 * box["height"])
    assert state(shown)["weight"] == pytest.approx(weights[43], abs=5.1e-4)
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowUp")
    assert picker.get_attribute("aria-valuenow") == "25"
    assert state(shown)["weight"] == pytest.approx(weights[24], abs=5.1e-4)
    tile = film.locator("canvas").evaluate(
        "c => [...c.getContext('2d').getImageData(4 * 32, 32, 32, 32).data].filter((_, i) => i % 4 < 3)"
    )
    assert np.mean(tile) == pytest.approx(torch.lerp(second, first, weights[24].item()).mean().item(), abs=2)
    check()
    for alpha in (0.1, 1, 3):
        drawn = module("Array.from({length: 2000}, (_, i) => m.drawWeight(given, i + 1))", alpha)
        assert scipy.stats.kstest(drawn, scipy.stats.beta(alpha, alpha).cdf).pvalue > 0.001
    assert axis_names(shown) == {"mixed label", "steps of 100", "weight λ of “temple”"}
    assert [p for p in page.problems if "getImageData" not in p] == []  # this test reads pixels often
    linked = figure(visit(f"{PAGE}?mixup.weight=0.9&mixup.alpha=2&mixup.draws=7#figure-mixup"), "mixup")
    assert [state(linked)[name] for name in ("weight", "alpha", "draws")] == [0.9, 2, 7]


def test_mixup_of_own_images(visit, tmp_path):
    from PIL import Image

    page = visit(PAGE)
    shown = figure(page, "mixup")
    Image.new("RGB", (300, 200), (200, 40, 80)).save(tmp_path / "my red cat.png")
    (tmp_path / "note.png").write_text("no image")
    sent = []
    page.on("request", lambda request: sent.append(request.url))
    shown.get_by_label("Your own first image").set_input_files(tmp_path / "my red cat.png")
    page.wait_for_function("() => document.querySelector('#figure-mixup svg').textContent.includes('my red cat')")
    pixel = shown.locator("canvas").first.evaluate("c => [...c.getContext('2d').getImageData(9, 9, 1, 1).data]")
    assert pixel == [200, 40, 80, 255]
    shown.get_by_label("Your own second image").set_input_files(tmp_path / "note.png")
    page.wait_for_function("() => document.querySelector('#figure-mixup .bl-x-answer').textContent.includes('note.png cannot')")
    assert all(url.startswith("blob:") for url in sent) and page.problems == []
    assert "cat" not in json.dumps(state(shown))  # nothing reaches a kernel


def test_hyperrule(visit):
    page = visit(PAGE)
    shown = figure(page, "hyperrule")

    def check():
        now = state(shown)
        rule = bitlib.HyperRule(now["examples"], (now["side"], now["side"]), now["variant"])
        seen = dict(shown.locator("td[data-name]").evaluate_all("all => all.map(e => [e.dataset.name, e.dataset.value])"))
        assert seen["task"] == rule.task_size
        assert (int(seen["steps"]), int(seen["batch"])) == (rule.total_steps, rule.batch_size)
        assert float(seen["each picture is seen"]) == pytest.approx(rule.epochs, rel=1e-6)
        assert int(seen["warm-up"]) == rule.warmup_steps and float(seen["MixUp"]) == rule.mixup_alpha
        assert tuple(map(int, seen["rate divided by ten after"].split())) == rule.boundaries
        assert tuple(map(int, seen["resize, then crop"].split())) == (rule.resize, rule.crop)
        step = int(numbers(shown, "circle.bl-x-dot", "step")[0])
        assert numbers(shown, "circle.bl-x-dot", "value")[0].item() == pytest.approx(rule.lr(step), rel=1e-6)

    check()
    drag(page, shown, "examples", 0.2)
    drag(page, shown, "side", 0.8)
    keys(page, shown, "at", "ArrowLeft", 20)
    check()
    shown.locator('input[value="paper"]').check()
    drag(page, shown, "examples", 1.0)
    check()
    # Every step of every size and variant, by the module's own functions.
    for variant, n in itertools.product(("code", "paper"), (50, 19_999, 20_000, 499_999, 500_000)):
        rule = bitlib.HyperRule(n, (96, 96), variant)
        steps = [
            s
            for b in (0, rule.warmup_steps, *rule.boundaries, rule.total_steps // 2, rule.total_steps - 1)
            for s in (b - 1, b, b + 1)
            if 0 <= s < rule.total_steps
        ]
        rates = shown.evaluate(
            """async (figure, [n, variant, steps]) => {
            const m = await import(URL.createObjectURL(new Blob([BL_KIT, BL_MODULES.hyperrule], {type: "text/javascript"})));
            return steps.map((s) => m.rate(m.rule(n, 96, 96, variant), s, variant));
        }""",
            [n, variant, steps],
        )
        assert rates == pytest.approx([rule.lr(s) for s in steps], rel=1e-9)


def test_transfer_map(visit):
    from statistics import fmean, stdev

    page = visit(PAGE)
    shown, results = figure(page, "transfermap"), json.loads((ROOT / "results" / "transfer_map.json").read_text())

    def check():
        now = state(shown)
        cell = results["accuracy"][now["scale"]][now["depth"]][now["shot"]]
        assert numbers(shown, ".bl-x-ring", "value")[0].item() == pytest.approx(fmean(cell), rel=1e-6)
        assert numbers(shown, ".bl-x-ring", "spread")[0].item() == pytest.approx(stdev(cell), rel=1e-6)
        assert shown.locator("td.bl-x-here").inner_text() == f"{100 * fmean(cell):.1f} ± {100 * stdev(cell):.1f}"
        assert shown.locator("tbody tr").count() == len(results["depths"]) + 1

    check()
    drag(page, shown, "depth", 1.0)
    keys(page, shown, "shot", "End")
    shown.get_by_label("S", exact=True).check()
    assert [state(shown)[k] for k in ("scale", "depth", "shot")] == [0, len(results["depths"]) - 1, len(results["shots"]) - 1]
    check()


def test_settings_live_in_the_address(visit):
    page = visit(PAGE)
    keys(page, figure(page, "softmax"), "temperature", "End")
    figure(page, "norms").locator('input[value="gn"]').check()
    page.wait_for_function("() => location.search.includes('softmax.') && location.search.includes('norms.')")
    query = page.evaluate("location.search.slice(1)")
    assert "softmax.temperature=20" in query and "norms.kind=gn" in query and "draws" not in query
    again = visit(f"{PAGE}?{query}")
    assert state(figure(again, "softmax"))["temperature"] == 20 and state(figure(again, "norms"))["kind"] == "gn"
    assert figure(again, "norms").locator('input[value="gn"]').is_checked()
    nonsense = visit(f"{PAGE}?softmax.temperature=-3&softmax.logits=1&norms.kind=evil&norms.batch=3&hyperrule.at=1.5")
    assert state(figure(nonsense, "softmax"))["temperature"] == 2 and len(state(figure(nonsense, "softmax"))["logits"]) == 10
    assert (state(figure(nonsense, "norms"))["kind"], state(figure(nonsense, "norms"))["batch"]) == ("bn", 2)
    assert state(figure(nonsense, "hyperrule"))["at"] == 50
    assert nonsense.problems == []


def test_all_work_from_a_folder(visit):
    page = visit(PAGE, base=HTML.as_uri())
    for name in NAMES:
        figure(page, name)
    # A folder has no address to keep settings in, and the browser may refuse; wait for the attempt.
    page.evaluate("""() => {
        const replace = history.replaceState;
        history.replaceState = (...given) => { window.attempted = true; return replace.apply(history, given); };
    }""")
    keys(page, figure(page, "softmax"), "temperature", "End")
    page.wait_for_function("() => window.attempted")
    assert page.problems == []


@pytest.mark.parametrize("width, scheme", [(1280, "light"), (375, "dark")])
def test_accessible(visit, width, scheme):
    page = visit(PAGE, width=width, scheme=scheme)
    for name in NAMES:
        figure(page, name)
        found = Axe().run(page, context=f"#figure-{name}").response["violations"]
        assert found == [], [(v["id"], [n["html"] for n in v["nodes"]]) for v in found]
        sides = page.locator(f"#figure-{name}").evaluate(
            "e => [e.getBoundingClientRect().right, e.scrollWidth - e.clientWidth]"
        )
        assert sides[0] <= width and sides[1] <= 1


def test_nothing_moves_by_itself_and_print_shows_no_controls(visit):
    page = visit(PAGE, reduced_motion="reduce")
    for name in NAMES:
        figure(page, name)
    assert page.evaluate("document.getAnimations().length") == 0
    page.emulate_media(media="print")
    assert page.locator(".bl-explorable input:visible, .bl-explorable button:visible").count() == 0
    assert page.locator(".bl-explorable svg:visible").count() >= 5
    assert page.locator("#figure-norms .bl-x-choice label:visible").all_inner_texts() == ["batch"]  # what was chosen


def test_without_scripts_and_with_a_broken_one_the_picture_stays(visit, browser, site):
    page = visit(PAGE, java_script_enabled=False)
    pictures = page.locator(".bl-explorable img.bl-fallback:visible")
    assert pictures.count() == len(NAMES)
    assert all(len(alt) > 30 for alt in pictures.evaluate_all("all => all.map(e => e.alt)"))
    context = browser.new_context()
    context.set_default_timeout(PATIENCE)
    broken = context.new_page()
    script = (HTML / "_static" / "explorables.js").read_text().replace("export function pull", "export fun pull")
    broken.route("**/explorables.js*", lambda route: route.fulfill(body=script, content_type="text/javascript"))
    broken.goto(f"{site}/{PAGE}.html")
    broken.wait_for_selector("#figure-softmax[data-state=error]")
    assert broken.locator("#figure-softmax img.bl-fallback").is_visible()
    context.close()


def test_every_figure_of_the_library_is_on_the_page():
    kinds = [
        kind
        for kind in vars(explore).values()
        if isinstance(kind, type) and issubclass(kind, explore.Explorable) and kind is not explore.Explorable
    ]
    assert sorted(kind.module for kind in kinds) == sorted(NAMES)
    assert sorted(p.stem for p in explore.base.FOLDER.glob("*.mjs")) == sorted((*NAMES, "kit"))
    for kind in kinds:
        assert set(kind().limits) <= set(kind.class_trait_names())


def test_norms_need_enough_to_choose_from():
    with pytest.raises(ValueError, match="64 pictures and 8 channels are needed"):
        explore.Norms.of(torch.zeros(64, 6, 2, 2))


def test_static_html_cannot_be_broken_out_of():
    evil = explore.Softmax(logits=[0.0, 1.0], student=[0.0, 0.0], labels=["</script><b>", "x"]).static_html()
    assert "</script><b>" not in evil and evil.count("</script>") == 1
    assert explore.Rule.example().static_html() == explore.Rule.example().static_html()
