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
NAMES = ("softmax", "norms", "standardize", "mixup", "hyperrule", "transfermap", "block", "neighbors")
RECORDS = ("cifar10", "cifar10_scales", "transfer_map", "digits", "freezing", "pretrain_photos-S")
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


def pull_by(page, shown, selector: str, dx: float, dy: float = 0) -> None:
    """Drag the middle of something in a picture by so many pixels."""
    thing = shown.locator(selector)
    thing.scroll_into_view_if_needed()
    box = thing.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + dx, y + dy, steps=5)
    page.mouse.up()


def test_hyperrule(visit):
    page = visit(PAGE)
    shown = figure(page, "hyperrule")
    sizes, steps, corner = (shown.locator(f"[role=slider] >> nth={i}") for i in range(3))

    def check():
        now = state(shown)
        rule = bitlib.HyperRule(now["examples"], (now["side"], now["side"]), now["variant"])
        seen = shown.locator(".bl-x-answer").evaluate("e => ({...e.dataset})")
        assert (seen["task"], int(seen["steps"])) == (rule.task_size, rule.total_steps)
        assert float(seen["epochs"]) == pytest.approx(rule.epochs, rel=1e-6)
        assert (int(seen["warmup"]), float(seen["alpha"])) == (rule.warmup_steps, rule.mixup_alpha)
        assert tuple(map(int, seen["boundaries"].split())) == rule.boundaries
        assert shown.locator(".bl-x-band.bl-x-on").get_attribute("data-zone") == rule.task_size
        assert shown.locator("[role=slider] >> nth=0").get_attribute("aria-valuenow") == str(now["examples"])
        side = dict(shown.locator("rect[data-resize], rect[data-crop]").evaluate_all(
            "all => all.filter(e => !e.matches('.bl-x-ghost')).map(e => [Object.keys(e.dataset)[0], "
            "[+Object.values(e.dataset)[0], +e.getAttribute('width')]])"
        ))  # fmt: skip
        assert (side["resize"][0], side["crop"][0]) == (rule.resize, rule.crop)
        assert side["crop"][1] / side["resize"][1] == pytest.approx(rule.crop / rule.resize, rel=1e-6)  # drawn to scale
        for variant in ("code", "paper"):
            dot, other = f'circle[data-variant="{variant}"]', bitlib.HyperRule(now["examples"], (32, 32), variant)
            step = int(numbers(shown, dot, "step")[0])
            assert numbers(shown, dot, "value")[0].item() == pytest.approx(other.lr(step), rel=1e-6)
        return now

    assert check() == state(shown) and state(shown)["examples"] == 50_000
    for name, n in state(shown)["named"]:
        shown.get_by_role("button", name=f"{name}, {n:,} images", exact=True).press("Enter")
        assert check()["examples"] == n
    pull_by(page, shown, ".bl-x-grip >> nth=0 >> circle", -200)
    few = check()["examples"]
    assert 10 < few < 20_000
    sizes.focus()
    page.keyboard.press("ArrowRight")
    assert few < check()["examples"] < 1.2 * few
    page.keyboard.press("Home")
    assert check()["examples"] == 10
    for n in range(11, 15):  # no key press is swallowed, even where one image is a large step
        page.keyboard.press("ArrowRight")
        assert check()["examples"] == n
    page.keyboard.press("ArrowUp")
    assert check()["examples"] == 100  # the next named size
    page.keyboard.press("End")
    assert check()["examples"] == 20_000_000

    steps.focus()
    page.keyboard.press("Home")
    assert check()["step"] == 0
    for wanted in (500, 6000, 12_000, 18_000, 19_999):
        page.keyboard.press("ArrowUp")
        assert check()["step"] == wanted
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Shift+ArrowLeft")
    assert check()["step"] == 19_988
    pull_by(page, shown, ".bl-x-grip >> nth=1 >> circle >> nth=0", -300)
    assert check()["step"] < 12_000

    assert check()["side"] == 32
    pull_by(page, shown, ".bl-x-grip >> nth=2 >> circle >> nth=1", 60, -60)
    large = check()["side"]
    assert large > 150
    corner.focus()
    page.keyboard.press("ArrowDown")
    assert check()["side"] == large - 1
    shown.locator('input[value="paper"]').check()
    check()

    # The warm-up is drawn as one straight line up to the full rate.
    line = shown.locator('polyline[data-variant="code"]').get_attribute("points").split()
    (x0, _), (x1, y1), (x2, y2), *_, (end, _) = (map(float, point.split(",")) for point in line)
    assert (x1 - x0) / (end - x0) == pytest.approx(500 / 19_999, rel=1e-6) and x2 > x1 and y1 == y2
    labels = shown.locator(".bl-x-label").all_text_contents()
    for wanted in ("Labelled training images", "Epochs", "Learning rate", "Step (20,000 in all)", "Resolution"):
        assert wanted in labels
    assert "The number of classes does not matter." in shown.inner_text()
    linked = visit(f"{PAGE}?hyperrule.examples=3680&hyperrule.variant=paper&hyperrule.side=95#figure-hyperrule")
    shown = figure(linked, "hyperrule")
    assert shown.locator(".bl-x-flag.bl-x-on").text_content() == "Pets" and check()["variant"] == "paper"
    assert page.problems == linked.problems == []
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
    shown = figure(page, "transfermap")
    stored = {name: json.loads((ROOT / "results" / f"{name}.json").read_text()) for name in RECORDS}

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
        now, seen = state(shown), shown.locator(".bl-x-answer").evaluate("e => ({...e.dataset})")
        here, other = (cells(now["task"], seen[key])[int(seen["shot"])] for key in ("row", "other"))
        assert float(seen["value"]) == pytest.approx(fmean(here), rel=1e-6)
        assert float(seen["spread"]) == pytest.approx(stdev(here), rel=1e-6)
        pairs = [a - b for a, b in zip(here, other, strict=True)]
        assert float(seen["gain"]) == pytest.approx(fmean(pairs), rel=1e-6, abs=1e-9)
        assert float(seen["gainSpread"]) == pytest.approx(stdev(pairs), rel=1e-6)
        close(numbers(shown, f'.bl-x-draws[data-row="{seen["row"]}"] circle', "value"), torch.tensor(here, dtype=torch.float64))
        close(numbers(shown, f'.bl-x-seed[data-shot="{seen["shot"]}"]', "value"), torch.tensor(pairs, dtype=torch.float64))
        assert shown.locator("td.bl-x-here").inner_text() == f"{100 * fmean(here):.1f}"
        assert shown.locator("td[aria-selected=true]").get_attribute("data-row") == seen["row"]
        return seen["row"], int(seen["shot"])

    assert check() == ("everything/photos-L", 10)
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
    pull_by(page, shown, ".bl-x-grip circle", -400)
    assert check() == ("fitted/photos-L", 1)
    shown.get_by_role("slider").press("ArrowRight")
    assert check() == ("fitted/photos-L", 5)
    labels = shown.locator(".bl-x-label").all_text_contents()
    for wanted in ("Test accuracy (%)", "Training images per class", "Gain over “Everything” (points)"):
        assert wanted in labels
    photos = stored["pretrain_photos-S"]
    assert f"{photos['n_train']:,}" in shown.inner_text() and f"of {photos['classes']} classes" in shown.inner_text()
    linked = visit(f"{PAGE}?transfermap.task=tiles&transfermap.row=fitted/photos-L&transfermap.shot=50#figure-transfermap")
    shown = figure(linked, "transfermap")
    assert check() == ("fitted/photos-L", 50)
    assert page.problems == linked.problems == []


def test_transfer_map_leaves_out_what_was_measured_on_other_draws():
    stored = {name: json.loads((ROOT / "results" / f"{name}.json").read_text()) for name in RECORDS}
    alone = explore.TransferMap.of(stored["transfer_map"])
    assert list(alone.tasks) == ["digits"] and len(alone.tasks["digits"]["rows"]) == 13 and alone.models == {}
    both = explore.TransferMap.of(stored["transfer_map"], stored["freezing"], task="tiles")
    assert both.tasks["digits"] == alone.tasks["digits"] and both.row in both.limits["row"]["of"]
    assert both.row == "everything/glyphs-L" and both.picture()


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
    nonsense = visit(f"{PAGE}?softmax.temperature=-3&softmax.logits=1&norms.groups=evil&norms.batch=3&hyperrule.step=1.5")
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
        ("neighbors", "query", 40),
    ],
)
def test_a_teachers_link_opens_at_the_figure_with_its_settings(visit, name, trait, value):
    page = visit(f"{PAGE}?{name}.{trait}={value}#figure-{name}")
    shown = page.locator(f"#figure-{name}")
    page.wait_for_selector(f"#figure-{name}[data-state=ready]")
    assert state(shown)[trait] == value
    page.wait_for_function("e => Math.abs(e.getBoundingClientRect().top) < 300", arg=shown.element_handle())


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
    assert page.locator("#figure-norms .bl-x-choice label:visible").all_inner_texts() == ["4"]  # what was chosen


def test_without_scripts_and_with_a_broken_one_the_picture_stays(visit, browser, site):
    page = visit(PAGE, java_script_enabled=False)
    shown = page.locator(".bl-explorable .bl-fallback")
    assert shown.count() == len(NAMES)
    for i in range(shown.count()):
        assert shown.nth(i).locator(".bl-plot svg:visible, img:visible, table:visible").count() >= 1
    context = browser.new_context()
    context.set_default_timeout(PATIENCE)
    broken = context.new_page()
    script = (HTML / "_static" / "explorables.js").read_text().replace("export function pull", "export fun pull")
    broken.route("**/explorables.js*", lambda route: route.fulfill(body=script, content_type="text/javascript"))
    broken.goto(f"{site}/{PAGE}.html")
    broken.wait_for_selector("#figure-softmax[data-state=error]")
    assert broken.locator("#figure-softmax .bl-fallback").is_visible()
    context.close()


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


def test_norms_need_enough_to_choose_from():
    with pytest.raises(ValueError, match="64 images and 8 channels are needed"):
        explore.Norms.of(torch.zeros(64, 6, 2, 2))


def test_static_html_cannot_be_broken_out_of():
    evil = explore.Softmax(logits=[0.0, 1.0], student=[0.0, 0.0], labels=["</script><b>", "x"]).static_html()
    assert "</script><b>" not in evil and evil.count("</script>") == 1
    assert explore.Rule.example().static_html() == explore.Rule.example().static_html()


def block_maps() -> list[list[torch.Tensor]]:
    """All channels after each step of the two units that the figure shows, and last the output, by bitlib's own modules."""
    from sklearn.datasets import load_sample_image

    from bitlib.data import resize, to_input

    image = torch.from_numpy(load_sample_image("china.jpg").copy()).permute(2, 0, 1)
    left = (image.shape[2] - image.shape[1]) // 2
    x = to_input(resize(image[None, :, :, left : left + image.shape[1]], 48)).double()
    model, found = bitlib.create_model("photos-L", pretrained=True).eval().double(), []
    with torch.no_grad():
        x = model.stage1(model.root(x))
        for unit in model.stage2:
            maps, y = [x], x
            for part in (unit.a, unit.b, unit.c):
                maps += [part.norm(y), part.norm(y).relu(), y := part(y)]
            maps += [x if unit.a.proj is None else unit.a.proj(maps[2]), x := unit(x)]
            found.append([m[0] for m in maps])
    return found


def test_block(visit):
    page = visit(PAGE)
    shown = figure(page, "block")
    truth = block_maps()
    computed = shown.evaluate("""async (figure) => {
        const module = await import(URL.createObjectURL(new Blob([BL_KIT, BL_MODULES.block], {type: "text/javascript"})));
        return [0, 1].map((b) => module.maps(figure.model.get("blocks"), b).map((maps) => maps.map((v) => [...v])));
    }""")
    units = bitlib.create_model("photos-L", pretrained=True).stage2
    for unit, block, seen, wanted in zip(units, state(shown)["blocks"], computed, truth):
        for step, maps, whole in zip(block["steps"], seen, wanted, strict=False):
            assert list(whole.shape) == step["shape"]
            close(torch.tensor(maps, dtype=torch.float64), whole[step["channels"]].flatten(1))
        assert sum(step["parameters"] for step in block["steps"]) == sum(p.numel() for p in unit.parameters())
        total = torch.tensor(seen[9], dtype=torch.float64) + torch.tensor(seen[10], dtype=torch.float64)
        close(total, wanted[11][block["steps"][9]["channels"]].flatten(1))

    def check():
        now = state(shown)
        steps, maps, a = now["blocks"][now["block"]]["steps"], truth[now["block"]], now["branch"]
        for s in range(11):
            close(numbers(shown, f"[data-step='{s}'] canvas", "mean"), maps[s][steps[s]["channels"]].mean((1, 2)))
        branch, shortcut = (maps[s][steps[s]["channels"]] for s in (9, 10))
        close(numbers(shown, ".bl-block-pick canvas", "mean"), (shortcut + a * branch).mean((1, 2)))
        left, middle = (m[now["channel"], now["row"], now["column"]] for m in (shortcut, branch))
        close(numbers(shown, ".bl-block-value", "value"), torch.stack([left, a * middle, left + a * middle]))
        close(numbers(shown, ".bl-x-answer", "ratio")[0], a * branch.square().mean().sqrt() / shortcut.square().mean().sqrt())
        # The drawn output: what is positive is drawn without colour, what is negative in orange, where it is not too faint.
        drawn = torch.tensor(
            shown.locator(".bl-block-pick canvas")
            .nth(0)
            .evaluate("c => [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]")
        ).view(12, 12, 4)
        output = (shortcut + a * branch)[0]
        strong = output.abs() > 0.2 * (shortcut + branch).abs().max()
        assert strong.sum() > 5 and ((drawn[..., 0] - drawn[..., 2] > 20) == (output < 0))[strong].all()
        return now

    assert check()["branch"] == 1
    knob = shown.get_by_role("slider", name="Scale a of the branch")
    knob.scroll_into_view_if_needed()
    track = shown.locator(".bl-block-track").bounding_box()
    page.mouse.move(track["x"] + track["width"], track["y"] + track["height"] / 2)
    page.mouse.down()
    page.mouse.move(track["x"] + 0.3 * track["width"], track["y"] + 5, steps=5)
    page.mouse.up()
    assert check()["branch"] == pytest.approx(0.3, abs=0.02)
    knob.press("ArrowRight")
    assert check()["branch"] == pytest.approx(0.35, abs=0.02)
    knob.press("Home")
    assert check()["branch"] == 0 and "the reshaped input" in shown.locator(".bl-x-answer").inner_text()
    knob.press("End")
    # A pixel and a channel of the sum.
    image = shown.locator(".bl-block-sum image").nth(2).bounding_box()
    page.mouse.click(image["x"] + image["width"] * 2.5 / 12, image["y"] + image["height"] * 10.5 / 12)
    assert [check()[k] for k in ("row", "column")] == [10, 2]
    shown.get_by_role("slider", name="Pixel").press("ArrowUp")
    assert [check()[k] for k in ("row", "column")] == [9, 2]
    shown.locator(".bl-block-pick").nth(3).click()
    assert check()["channel"] == 3
    # Steps: their shapes and numbers of parameters.
    shown.locator("[data-step='10']").click()
    assert "18,432" in shown.locator(".bl-block-detail").inner_text() and state(shown)["step"] == 10
    page.keyboard.press("ArrowUp")
    assert "9,216" in shown.locator(".bl-block-detail").inner_text() and state(shown)["step"] == 9
    shown.locator("input[type=radio]").nth(1).check()
    assert check()["block"] == 1
    shown.locator("[data-step='10']").press("Enter")
    assert "none" in shown.locator(".bl-block-detail").inner_text()
    assert page.problems == []
    linked = visit(f"{PAGE}?block.block=1&block.branch=0&block.step=3&block.channel=2#figure-block", width=375)
    shown = figure(linked, "block")
    assert [check()[k] for k in ("block", "branch", "step", "channel")] == [1, 0, 3, 2]
    assert "its input unchanged" in shown.locator(".bl-x-answer").inner_text()
    # On a phone the explanation stands below its step.
    assert shown.evaluate("f => f.querySelector('[data-step=\"3\"]').nextElementSibling.className") == "bl-block-detail"
    assert linked.problems == []


def test_block_follows_the_theme(visit):
    page = visit(PAGE)
    shown = figure(page, "block")
    corner = (
        "c => [...c.getContext('2d').getImageData(0, 0, 12, 12).data].filter((v, i) => i % 4 < 3).reduce((a, b) => a + b) / 432"
    )
    canvas = shown.locator(".bl-block-pick canvas").nth(0)
    assert canvas.evaluate(corner) > 150  # most values are near zero, which is the colour of the ground
    page.emulate_media(color_scheme="dark")
    page.evaluate("document.documentElement.dataset.theme = 'dark'")
    page.wait_for_function("() => true")
    assert canvas.evaluate(corner) < 100


def test_neighbors(visit):
    from bitlib.course.explore.neighbors import letters
    from bitlib.data import to_input

    page = visit(PAGE)
    shown = figure(page, "neighbors")
    images, names = letters()
    x, stages = to_input(images).double(), ["pixels", "stage1", "stage2", "stage3", "stage4"]
    own = torch.arange(200) // 10
    wanted = {}
    for name in ("glyphs-L", "photos-L"):
        with torch.no_grad():
            features = {"pixels": x, **bitlib.create_model(name, pretrained=True).eval().double().stage_features(x)}
        for stage in stages:
            f = features[stage].flatten(1) if stage == "pixels" else features[stage].mean((2, 3))
            likeness = F.cosine_similarity(f[:, None], f[None], dim=2)
            order = likeness.argsort(1, descending=True)
            wanted[name, stage] = torch.stack([row[row != i][:6] for i, row in enumerate(order)])
    assert state(shown)["classes"] == names and state(shown)["stages"] == stages

    def check():
        now = state(shown)
        for stage in stages:
            row = f".bl-near-row[data-stage={stage}] .bl-near-thumb"
            near = wanted[now["network"], stage][now["query"]]
            assert numbers(shown, row, "image").tolist() == near.tolist()
            framed = shown.locator(row).evaluate_all("all => all.map(e => e.classList.contains('bl-near-same'))")
            assert framed == (own[near] == own[now["query"]]).tolist()
        near = wanted[now["network"], now["stage"]]
        marked = numbers(shown, ".bl-near-map rect", "image").long().tolist()
        assert marked == [*near[now["query"]].tolist(), now["query"]]
        close(numbers(shown, ".bl-x-answer", "share")[0], (own[near] == own[:, None]).double().mean())
        return now

    # The lists of all images, and the chart.
    for name in ("glyphs-L", "photos-L"):
        lists = shown.evaluate(
            "(f, n) => f.model.get('nearest')[n].map((row) => [...atob(row)].map((c) => c.charCodeAt(0)))", name
        )
        for stage, seen in zip(stages, lists):
            assert torch.tensor(seen).view(200, 6).equal(wanted[name, stage])
        shares = torch.stack([(own[wanted[name, stage]] == own[:, None]).double().mean() for stage in stages])
        close(numbers(shown, f"circle[data-network={name}]", "share"), shares)
    now = check()
    same = [(own[wanted["glyphs-L", stage][now["query"]]] == own[now["query"]]).sum().item() for stage in stages]
    assert same[0] == 0 and same[-1] == 6  # the point of the figure
    labels = " ".join(shown.locator(".bl-x-label").all_text_contents())
    assert "same letter, all 200 images (%)" in labels and "features after stage" in labels

    shown.locator(".bl-near-row[data-stage=pixels] .bl-near-thumb").nth(1).click()
    assert check()["query"] == wanted["glyphs-L", "pixels"][now["query"], 1] and state(shown)["stage"] == "pixels"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowRight")
    before = state(shown)["query"]
    page.keyboard.press("Enter")
    assert check()["query"] == wanted["glyphs-L", "stage1"][before, 2] and state(shown)["stage"] == "stage1"
    grid = shown.locator(".bl-near-map")
    grid.scroll_into_view_if_needed()
    box = grid.bounding_box()
    cell = box["width"] / 20
    page.mouse.move(box["x"] + 3.5 * cell, box["y"] + 2.5 * cell)
    page.mouse.down()
    assert check()["query"] == 32
    page.mouse.move(box["x"] + 5.5 * cell, box["y"] + 4.5 * cell, steps=4)
    page.mouse.up()
    assert check()["query"] == 54
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowUp")
    assert check()["query"] == 43
    page.keyboard.press("End")
    assert check()["query"] == 199
    shown.get_by_label("photographs").check()
    shown.get_by_role("button", name="stage 3", exact=True).click()
    assert check()["network"] == "photos-L" and state(shown)["stage"] == "stage3"
    linked = visit(f"{PAGE}?neighbors.query=120&neighbors.network=photos-L&neighbors.stage=stage2#figure-neighbors")
    shown = figure(linked, "neighbors")
    assert [check()[k] for k in ("query", "network", "stage")] == [120, "photos-L", "stage2"]
    assert page.problems == linked.problems == []


def test_neighbors_need_classes_of_one_size():
    with pytest.raises(ValueError, match="the same number of each class"):
        explore.Neighbors.of(torch.zeros(7, 3, 4, 4, dtype=torch.uint8), ["a", "b"], {})


@pytest.mark.parametrize("width", [320, 375, 1280])
def test_block_and_neighbors_fit_and_can_be_read(visit, width):
    page = visit(PAGE, width=width)
    for name in ("block", "neighbors"):
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
