"""The interactive figures of the built website, in a real browser: what they draw against what bitlib computes."""

import itertools
import json
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


def test_softmax(visit):
    page = visit(PAGE)
    shown = figure(page, "softmax")

    def check():
        now = state(shown)
        teacher = torch.tensor([now["logits"]], dtype=torch.float64)
        student = torch.tensor([now["student"]], dtype=torch.float64, requires_grad=True)
        p = bitlib.soften(teacher, now["temperature"])[0]
        close(numbers(shown, "td[data-p]", "p"), p)
        close(numbers(shown, ".bl-x-answer", "entropy")[0], -(p * p.log()).sum())
        loss = bitlib.distillation_loss(student, teacher, temperature=now["temperature"])
        gradient = torch.autograd.grad(loss, student)[0][0] / (1 if now["scaled"] else now["temperature"] ** 2)
        close(numbers(shown, "td[data-pull]", "pull"), -gradient)
        return now["temperature"]

    assert check() == 1
    drag(page, shown, "temperature", 0.9)
    hot = check()
    assert hot > 8
    keys(page, shown, "temperature", "ArrowLeft", 5)
    assert 1 < check() < hot
    keys(page, shown, "temperature", "Home")
    assert check() == 0.25
    keys(page, shown, "scaled", "Space")
    assert state(shown)["scaled"] is False
    check()
    assert page.problems == []


def pull(page, handle, x: float, y: float | None = None, steps: int = 6) -> None:
    """Drag something in a picture with the mouse, to a place in its SVG's own units."""
    handle.scroll_into_view_if_needed()
    to_screen = (
        "([e, x, y]) => { const p = new DOMPoint(x, y).matrixTransform(e.ownerSVGElement.getScreenCTM()); return [p.x, p.y]; }"
    )
    box = handle.bounding_box()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    to = page.evaluate(to_screen, [handle.element_handle(), x, y or 0])
    page.mouse.move(*middle)
    page.mouse.down()
    page.mouse.move(to[0], middle[1] if y is None else to[1], steps=steps)
    page.mouse.up()


def cell_of(shown) -> str:
    """The cell that is framed in the figure of the norms, as a screen reader says it."""
    return shown.get_by_role("slider", name="Batch norm: the chosen cell").get_attribute("aria-valuetext")


def test_norms(visit):
    from bitlib.data import resize, to_input
    from bitlib.norm import make_norm

    page = visit(PAGE)
    shown = figure(page, "norms")
    means, deviations = explore.Norms(**state(shown)).statistics()
    model, images = bitlib.create_model("glyphs-L", pretrained=True).eval(), bitlib.load_task("digits").train.images
    with torch.no_grad():
        real = model.stage_features(to_input(resize(images[:64], 32)))["stage4"][:, ::64].double()
    torch.testing.assert_close(means[:64], real.mean((2, 3)), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(deviations[:64], real.var((2, 3), correction=0).sqrt(), rtol=1e-3, atol=1e-4)
    assert len(means) == 512  # so many that subsets of 64 differ
    # Two pixels with the mean and the deviation that the figure holds.
    x = torch.stack([means - deviations, means + deviations], -1)[:, :, None]
    panels = dict(zip(("bn", "ln", "in", "gn"), shown.locator("svg.bl-x-norm").all()))

    def norms() -> dict:
        return {
            "bn": make_norm("bn", 8, 1).double().train(),
            "ln": lambda v: F.layer_norm(v, v.shape[1:]),
            "in": F.instance_norm,
            "gn": make_norm("gn", 8, state(shown)["groups"]).double(),
        }

    def check() -> dict[str, float]:
        now, spreads = state(shown), {}
        for kind, norm in norms().items():
            values, draws = numbers(panels[kind], ".bl-x-value", "value"), panels[kind].locator(".bl-x-value")
            assert len(values) == 40
            for draw, value in zip(draws.evaluate_all("all => all.map(e => e.dataset.images)"), values):
                part = [int(i) for i in draw.split()]
                assert len(part) == len(set(part)) == now["batch"] and part[0] == now["image"]
                close(value, norm(x[part]).detach()[0, now["channel"]].mean())
            # The coloured cells are those that the framed activation depends on.
            part = [int(i) for i in draws.first.get_attribute("data-images").split()]
            batch = x[part].requires_grad_()
            felt = torch.autograd.grad(norm(batch)[0, now["channel"], 0, 0], batch)[0].abs().amax((2, 3)) > 0
            coloured = torch.zeros_like(felt)
            data = panels[kind].evaluate("e => ({...e.dataset})")
            for image, channel in itertools.product(data["images"].split(), data["channels"].split()):
                coloured[part.index(int(image)), int(channel)] = True
            assert torch.equal(coloured, felt), kind
            spreads[kind] = float(data["spread"])
            assert spreads[kind] == pytest.approx(values.std(correction=0).item(), abs=1e-9)
            axes = panels[kind].locator(".bl-x-label").all_text_contents()
            assert [a.strip(" ↓→") for a in axes] == ["channel", "image", "normalised", "random subset"]
        assert max(spreads[kind] for kind in ("ln", "in", "gn")) < 1e-9
        return spreads

    eight = check()["bn"]
    assert state(shown)["batch"] == 8 and eight > 0.2  # the point of the figure

    # The edge of the batch: by mouse to the right end, by keys from there.
    edge = shown.get_by_role("slider", name="Images in the batch")
    pull(page, edge, 2000)
    assert state(shown)["batch"] == 64 and edge.get_attribute("aria-valuenow") == "64"
    assert 0.02 < check()["bn"] < eight / 2
    assert edge.evaluate("e => e === document.activeElement")
    page.keyboard.press("ArrowLeft")
    assert state(shown)["batch"] == 32
    page.keyboard.press("Home")
    assert state(shown)["batch"] == 1 and check()["bn"] < 1e-9
    assert "over itself alone" in shown.locator(".bl-x-panel.bl-x-bn").inner_text()
    assert "shares with itself: batch norm has become instance norm" in shown.locator(".bl-x-answer").inner_text()
    for _ in range(2):
        page.keyboard.press("ArrowRight")
    assert state(shown)["batch"] == 4

    # The row of images: a click on one watches it, a click on the scale sets the batch.
    row = shown.locator("svg.bl-x-batch")
    box = row.bounding_box()
    row.click(position={"x": (box["width"] - 14) * 3 / 7 * 0.85, "y": 20})
    assert cell_of(shown) == "image 4 of 4, channel 4"
    row.click(position={"x": (box["width"] - 14) * 6 / 7, "y": 64})
    assert state(shown)["batch"] == 32
    row.click(position={"x": (box["width"] - 14) * 6 / 7 * 0.1, "y": 40})  # the lower of two lines
    assert cell_of(shown) == "image 18 of 32, channel 4"
    check()
    row.click(position={"x": (box["width"] - 14) * 3 / 7, "y": 64})
    assert state(shown)["batch"] == 4 and cell_of(shown) == "image 1 of 4, channel 4"

    # A cell: by pointing, which only shows; by clicking; by keys.
    cell = shown.get_by_role("slider", name="Group norm: the chosen cell")
    box = cell.bounding_box()
    third, seventh = box["x"] + box["width"] * 2.5 / 4, box["y"] + box["height"] * 6.5 / 8
    before, was = state(shown), panels["gn"].get_attribute("data-channels")
    assert was == "2 3"
    page.mouse.move(third, seventh)
    assert panels["gn"].get_attribute("data-channels") == "6 7" and state(shown) == before
    page.mouse.move(0, 0)
    assert panels["gn"].get_attribute("data-channels") == "2 3"
    page.mouse.click(third, seventh)
    chosen = state(shown)
    assert chosen["channel"] == 6 and chosen["image"] != before["image"]
    assert cell_of(shown) == "image 3 of 4, channel 7"
    page.mouse.move(0, 0)
    check()
    page.keyboard.press("ArrowUp")
    page.keyboard.press("ArrowLeft")
    assert cell_of(shown) == "image 2 of 4, channel 6" and state(shown)["channel"] == 5
    page.keyboard.press("Home")
    assert cell_of(shown) == "image 1 of 4, channel 1" and state(shown)["channel"] == 0

    keys(page, shown, "groups", "ArrowLeft")
    shown.locator('input[data-trait="groups"][value="2"]').check()
    assert state(shown)["groups"] == 2 and panels["gn"].get_attribute("data-channels") == "0 1 2 3"
    before = numbers(panels["bn"], ".bl-x-value", "value")
    shown.get_by_role("button", name="Draw other companions").press("Enter")
    assert not torch.equal(before, numbers(panels["bn"], ".bl-x-value", "value"))
    check()
    assert page.problems == []

    linked = figure(visit(PAGE + "?norms.batch=2&norms.image=17&norms.channel=1#figure-norms"), "norms")
    assert [state(linked)[k] for k in ("batch", "image", "channel")] == [2, 17, 1]
    assert numbers(linked, "svg.bl-x-norm", "spread")[0] > 0.05


def test_standardize(visit):
    from bitlib.data import to_input

    page = visit(PAGE)
    shown = figure(page, "standardize")
    module = """async (figure, [name, ...given]) => {
        const m = await import(URL.createObjectURL(new Blob([BL_KIT, BL_MODULES.standardize], {type: "text/javascript"})));
        return Array.from(m[name](...given));
    }"""
    image = explore.Standardize(**state(shown)).image()
    x, side = to_input(image[None]).double(), image.shape[-1]
    left, right = (shown.locator("canvas.bl-x-output").nth(i) for i in (0, 1))

    def pixels(canvas) -> list[int]:
        # From a copy: Chromium warns of canvases that are read often.
        return canvas.evaluate("""c => {
            const copy = new OffscreenCanvas(c.width, c.height).getContext("2d", {willReadFrequently: true});
            copy.drawImage(c, 0, 0);
            return [...copy.getImageData(0, 0, c.width, c.height).data];
        }""")

    def check() -> dict:
        now = state(shown)
        stored = torch.tensor(now["filters"][now["filter"]], dtype=torch.float64) * now["scale"] + now["shift"]
        used = standardize_weight(stored[None])[0]
        trained = standardize_weight(torch.tensor([now["filters"][now["filter"]]], dtype=torch.float64))[0]
        limit = F.conv2d(x, trained.view(1, 3, 3, 3), padding=1).abs().flatten().sort()[0][int(0.98 * side**2)]
        for canvas, chart, w in ((left, 0, stored), (right, 1, used)):
            close(numbers(shown, f"svg >> nth={chart} >> circle[data-value]", "value"), w)
            out = F.conv2d(x, w.view(1, 3, 3, 3), padding=1)[0, 0]
            data = {name: float(value) for name, value in canvas.evaluate("e => ({...e.dataset})").items()}
            assert data["limit"] == pytest.approx(limit.item(), rel=1e-6)
            assert data["mean"] == pytest.approx(out.mean().item(), abs=1e-6 * limit.item())
            assert data["deviation"] == pytest.approx(out.std(correction=0).item(), rel=1e-6)
            assert data["lost"] == pytest.approx((out.abs() > 2 * limit).double().mean().item(), abs=1e-9)
            # Every pixel of the drawn canvas.
            drawn = pixels(canvas)
            grey = (127.5 + 127.5 * out / limit).clamp(0, 255).flatten()
            assert (torch.tensor(drawn, dtype=torch.float64).view(-1, 4)[:, :3] - grey[:, None]).abs().max() <= 0.51
        assert data["change"] < 1e-6
        return now

    check()
    assert numbers(shown, "canvas.bl-x-output", "lost")[0] > 0.3  # the point of the figure
    # The arithmetic itself, against PyTorch and bitlib.
    pixel_list = x.flatten().tolist()
    for filter in state(shown)["filters"]:
        for w in ([3 * v + 1 for v in filter], shown.evaluate(module, ["standardize", filter])):
            wanted = F.conv2d(x, torch.tensor(w, dtype=torch.float64).view(1, 3, 3, 3), padding=1)[0, 0].flatten()
            out = torch.tensor(shown.evaluate(module, ["convolve", pixel_list, side, w]), dtype=torch.float64)
            assert (out - wanted).abs().max() < 1e-6 * wanted.abs().max()

    before = pixels(left), pixels(right)
    mean = shown.get_by_role("slider", name="Mean of the stored weights")
    scale = shown.get_by_role("slider", name="Standard deviation of the stored weights")
    pull(page, mean, 60)
    assert state(shown)["shift"] < -0.5
    pull(page, scale, 2000)
    assert state(shown)["scale"] == 3 and scale.get_attribute("aria-valuetext") == "times 3.00"
    check()
    assert pixels(left) != before[0] and pixels(right) == before[1]  # the point of the figure
    scale.press("ArrowDown")
    mean.press("End")
    assert (state(shown)["scale"], state(shown)["shift"]) == (2.95, 1.5)
    assert mean.evaluate("e => e === document.activeElement")
    check()
    assert pixels(right) == before[1]
    shown.get_by_role("button", name="Back to the trained weights").click()
    assert (state(shown)["scale"], state(shown)["shift"]) == (1, 0)

    shown.get_by_role("button", name="Filter 4 of 12").click()
    assert check()["filter"] == 3 and pixels(right) != before[1]
    shown.get_by_role("button", name="Filter 9 of 12").press("Enter")
    assert check()["filter"] == 8
    assert shown.locator('[aria-pressed="true"]').get_attribute("aria-label") == "Filter 9 of 12"
    for chart in (0, 1):
        assert shown.locator(f"svg >> nth={chart} >> .bl-x-label").all_text_contents() == ["channel", "weight"]
        assert shown.locator(f"svg >> nth={chart} >> text[class^=bl-x-c]").all_text_contents() == ["R", "G", "B"]
    assert page.problems == []

    linked = figure(
        visit(PAGE + "?standardize.filter=2&standardize.shift=-1&standardize.scale=0.5#figure-standardize"), "standardize"
    )
    assert [state(linked)[k] for k in ("filter", "shift", "scale")] == [2, -1, 0.5]


def test_mixup(visit):
    import base64

    import scipy.stats

    page = visit(PAGE)
    shown = figure(page, "mixup")
    first, second = (
        torch.frombuffer(bytearray(base64.b64decode(p)), dtype=torch.uint8).double() for p in state(shown)["pictures"]
    )

    def check():
        now = state(shown)
        close(numbers(shown, "td[data-p]", "p"), torch.tensor([now["weight"], 1 - now["weight"]], dtype=torch.float64))
        close(numbers(shown, "canvas[data-mean]", "mean")[0], torch.lerp(second, first, now["weight"]).mean())
        at = numbers(shown, "circle.bl-x-dot", "at")[0]
        wanted = torch.distributions.Beta(*[torch.tensor(now["alpha"], dtype=torch.float64)] * 2).log_prob(at).exp()
        torch.testing.assert_close(numbers(shown, "circle.bl-x-dot", "value")[0], wanted, rtol=1e-6, atol=1e-6)
        # The middle pixel of the drawn canvas.
        centre = shown.locator("canvas[data-mean]").evaluate(
            "c => [...c.getContext('2d').getImageData(c.width / 2, c.height / 2, 1, 1).data].slice(0, 3)"
        )
        side = round((len(first) / 3) ** 0.5)
        mixed = torch.lerp(second, first, now["weight"]).view(3, side, side)[:, side // 2, side // 2]
        assert (torch.tensor(centre) - mixed).abs().max() <= 0.51

    check()
    drag(page, shown, "weight", 0.2)
    keys(page, shown, "alpha", "ArrowRight", 40)
    check()
    shown.get_by_role("button").click()
    assert state(shown)["draws"] == 1
    check()
    for alpha in (0.1, 1, 3):
        drawn = shown.evaluate(
            """async (figure, alpha) => {
            const module = await import(URL.createObjectURL(new Blob([BL_KIT, BL_MODULES.mixup], {type: "text/javascript"})));
            return Array.from({length: 2000}, (_, i) => module.drawWeight(alpha, i + 1));
        }""",
            alpha,
        )
        assert scipy.stats.kstest(drawn, scipy.stats.beta(alpha, alpha).cdf).pvalue > 0.001


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
    figure(page, "norms").locator('input[value="2"]').check()
    page.wait_for_function("() => location.search.includes('softmax.') && location.search.includes('norms.')")
    query = page.evaluate("location.search.slice(1)")
    assert "softmax.temperature=20" in query and "norms.groups=2" in query and "draws" not in query
    again = visit(f"{PAGE}?{query}")
    assert state(figure(again, "softmax"))["temperature"] == 20 and state(figure(again, "norms"))["groups"] == 2
    assert figure(again, "norms").locator('input[value="2"]').is_checked()
    nonsense = visit(f"{PAGE}?softmax.temperature=-3&softmax.logits=1&norms.groups=evil&norms.batch=3&hyperrule.at=1.5")
    assert state(figure(nonsense, "softmax"))["temperature"] == 1 and len(state(figure(nonsense, "softmax"))["logits"]) == 10
    assert (state(figure(nonsense, "norms"))["groups"], state(figure(nonsense, "norms"))["batch"]) == (4, 8)
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
    drag(page, figure(page, "softmax"), "temperature", 0.9)
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
    assert page.locator("#figure-norms .bl-x-choice label:visible").all_inner_texts() == ["4"]  # what was chosen


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
    assert sorted(p.stem for p in explore.FOLDER.glob("*.mjs")) == sorted((*NAMES, "kit"))
    for kind in kinds:
        assert set(kind().limits) <= set(kind.class_trait_names())


def test_norms_need_enough_to_choose_from():
    with pytest.raises(ValueError, match="64 images and 8 channels are needed"):
        explore.Norms.of(torch.zeros(64, 6, 2, 2))


def test_static_html_cannot_be_broken_out_of():
    evil = explore.Softmax(logits=[0.0, 1.0], student=[0.0, 0.0], labels=["</script><b>", "x"]).static_html()
    assert "</script><b>" not in evil and evil.count("</script>") == 1
    assert explore.Rule.example().static_html() == explore.Rule.example().static_html()
