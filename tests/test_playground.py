"""Few-shot learning in the browser: the real page, the real network, drawings and digits."""

import io
import json
from pathlib import Path

import pytest
import torch
from browser import HTML, drag, pixels, spot, violations
from PIL import Image

import bitlib
from bitlib.course.notebook import probe_accuracy
from bitlib.data import resize, to_input

pytestmark = pytest.mark.site
PAGE = "book/playground"


@pytest.fixture
def play(visit):
    def opened(**options):
        page = visit(PAGE, **options)
        page.wait_for_selector(".bl-playground[data-state=ready]")
        return page

    return opened


def part(page, name: str):
    return page.locator(f'[data-part="{name}"]')


def fits(page) -> int:
    return int(page.locator(".bl-playground").get_attribute("data-fitted"))


def after_fit(page, act) -> None:
    """Do something, and wait until the head was fitted anew."""
    before = fits(page)
    act()
    page.wait_for_function("before => document.querySelector('.bl-playground').dataset.fitted > before", arg=before)


def draw(page, canvas, *strokes) -> None:
    """Strokes are lists of points, in shares of the canvas."""
    for stroke in strokes:
        drag(page, *[spot(canvas, *point) for point in stroke])


def test_features_equal_those_of_torch(play):
    page, images = play(), resize(bitlib.load_task("digits").val.images[:16], 32)
    colours = torch.randint(0, 256, (16, 3, 32, 32), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    images = torch.cat([images, colours])
    seen = page.locator(".bl-playground").evaluate(
        """async (root, pixels) =>
        [...(await root.ask("features", {pixels: Uint8Array.from(pixels)})).features]""",
        images.flatten().tolist(),
    )
    model = bitlib.create_model("glyphs-L", pretrained=True).eval()
    with torch.no_grad():
        wanted = model.forward_head(model.forward_features(to_input(images)), pre_logits=True)
    assert wanted.std() > 0.1
    torch.testing.assert_close(torch.tensor(seen).view_as(wanted), wanted, rtol=0, atol=1e-3)
    assert page.problems == []


def test_the_page_is_under_20_megabytes(visit):
    page = visit("index")
    sizes = []
    page.context.on("response", lambda r: sizes.append(int(r.headers.get("content-length", 0))))
    page.goto(page.url.replace("index.html", f"{PAGE}.html"))
    page.wait_for_selector(".bl-playground[data-state=ready]")
    assert 5e6 < sum(sizes) < 20e6  # with the network and its runtime


def test_five_real_digits_a_class_as_in_python(play):
    page = play()
    for _ in range(4):
        after_fit(page, part(page, "add-digits").click)
    assert "50 examples of 10 classes" in part(page, "status").inner_text()
    seen = {kind: float(part(page, "result").get_attribute(f"data-{kind}")) for kind in ("network", "pixels")}
    task, model = bitlib.load_task("digits"), bitlib.create_model("glyphs-L", pretrained=True)
    labels = {"train": task.train.labels, "test": task.test.labels}
    features = {s: bitlib.cache_features(model, getattr(task, s), 32) for s in labels}
    # What the page calls pixels: the enlarged digit, averaged over blocks, three equal planes.
    pixels = {s: torch.nn.functional.avg_pool2d(resize(getattr(task, s).images, 32).float(), 4).flatten(1) for s in labels}
    assert seen["network"] == pytest.approx(probe_accuracy(features, labels, 5, 0, on="test"), abs=0.01)
    assert seen["pixels"] == pytest.approx(probe_accuracy(pixels, labels, 5, 0, on="test"), abs=0.01)
    assert seen["network"] > seen["pixels"] + 0.05
    assert part(page, "chart").locator("circle.bl-x-dot").count() == 5


def test_a_digit_that_was_removed_can_be_added_again(play):
    """All 25 digits of each class are there; one of each is removed, and one of each is added."""
    page = play()
    add, result = part(page, "add-digits"), part(page, "result")
    for digit in range(2, 10):
        after_fit(page, page.get_by_role("button", name=f"Remove the class {digit}").click)
    for _ in range(24):
        after_fit(page, add.click)
    full = result.inner_text()
    assert "50 examples of 2 classes" in part(page, "status").inner_text() and add.is_disabled()
    for digit in range(2):
        after_fit(page, page.get_by_role("button", name=f"Remove this example of {digit}").first.click)
    after_fit(page, add.click)
    assert "50 examples of 2 classes" in part(page, "status").inner_text() and add.is_disabled()
    brightest = [pixels(canvas)[..., :3].max() for canvas in page.locator(".bl-shelf canvas").all()]
    assert len(brightest) == 24 and min(brightest) > 200  # a real digit has ink
    assert result.inner_text() == full  # the same examples, so the same head


def test_draw_teach_and_try(play):
    page = play()
    assert part(page, "guesses").locator("tr").count() == 5  # a digit stands there from the beginning
    page.get_by_role("button", name="Start with my own classes").click()
    page.wait_for_function("() => document.querySelectorAll('.bl-classes > li').length === 2")
    lying, upright = page.locator(".bl-classes .bl-pad").all()
    part(page, "classes").locator("input[type=text]").first.fill("lying")
    part(page, "classes").locator("input[type=text]").first.press("Enter")
    draw(page, lying, [(0.1, 0.5), (0.9, 0.5)])
    page.locator(".bl-shelf canvas").first.wait_for()
    after_fit(page, lambda: draw(page, upright, [(0.5, 0.1), (0.5, 0.9)]))
    assert "2 examples of 2 classes" in part(page, "status").inner_text()
    draw(page, part(page, "try"), [(0.2, 0.45), (0.8, 0.5)])
    page.wait_for_function("() => document.querySelector('[data-part=verdict]').textContent.startsWith('lying')")
    p = part(page, "guesses").locator("td[data-p]").evaluate_all("all => all.map(e => +e.dataset.p)")
    assert sum(p[::2]) == pytest.approx(1, abs=1e-6) and p[0] > 0.6
    part(page, "clear").click()
    draw(page, part(page, "try"), [(0.45, 0.2), (0.5, 0.8)])
    page.wait_for_function("() => document.querySelector('[data-part=verdict]').textContent.startsWith('class 2')")
    # Two strokes are one drawing. The page's clock stands still meanwhile: on a slow machine they are far apart.
    page.clock.install(time=0)
    page.clock.pause_at(1)
    draw(page, lying, [(0.1, 0.4), (0.9, 0.4)], [(0.1, 0.6), (0.9, 0.6)])
    after_fit(page, page.clock.resume)
    assert page.locator(".bl-shelf").first.locator("canvas").count() == 2
    page.get_by_role("button", name="Remove this example of lying").first.click()
    page.wait_for_function("() => document.querySelector('.bl-shelf').childElementCount === 1")
    page.get_by_role("button", name="Remove the class lying").click()
    page.wait_for_function("() => document.querySelector('[data-part=status]').textContent === 'Add a second class.'")
    assert part(page, "guesses").locator("tr").count() == 0
    assert page.problems == []


def png(colour) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (60, 40), colour).save(buffer, "PNG")
    return buffer.getvalue()


def test_picture_files(play):
    page = play()
    files = page.locator(".bl-classes input[type=file]").first
    after_fit(
        page,
        lambda: files.set_input_files(
            [{"name": f"{c}.png", "mimeType": "image/png", "buffer": png(c)} for c in ("red", "blue")]
        ),
    )
    assert "12 examples" in part(page, "status").inner_text()
    red = page.locator(".bl-shelf").first.locator("canvas").nth(1)
    assert pixels(red, 16, 16, 1, 1).flatten().tolist() == [255, 0, 0, 255]
    files.set_input_files([{"name": "x.png", "mimeType": "image/png", "buffer": b"no picture"}])
    page.wait_for_function("() => document.querySelector('[data-part=status]').textContent.includes('cannot read that file')")
    assert page.locator(".bl-shelf").first.locator("canvas").count() == 3


def test_examples_as_a_file(play, tmp_path):
    page = play()
    after_fit(page, part(page, "add-digits").click)
    with page.expect_download() as download:
        part(page, "export").click()
    download.value.save_as(tmp_path / "examples.json")
    result = part(page, "result").inner_text()
    again = play()
    assert part(again, "result").inner_text() != result
    after_fit(again, lambda: part(again, "import").set_input_files(tmp_path / "examples.json"))
    assert part(again, "result").inner_text() == result
    content = json.loads((tmp_path / "examples.json").read_text())
    many = {**content, "classes": content["classes"] * 2}
    short = {**content, "classes": [{"name": "a", "examples": ["AAAA"]}]}
    for wrong, why in (
        ("{", "not a file of examples"),
        ("[]", "not a file of examples"),
        (json.dumps(many), "more than 10 classes"),
        (json.dumps(short), "32 by 32"),
    ):
        Path(tmp_path / "wrong.json").write_text(wrong)
        part(again, "import").set_input_files(tmp_path / "wrong.json")
        again.get_by_text("That failed: ").filter(has_text=why).wait_for()
        assert part(again, "classes").locator("li").count() == 10 and part(again, "result").inner_text() == result
    assert again.problems == []


@pytest.mark.parametrize("width, scheme", [(1280, "light"), (375, "dark")])
def test_accessible(play, width, scheme):
    page = play(width=width, scheme=scheme)
    assert violations(page, ".bl-playground") == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_from_a_folder_it_says_why_not(visit):
    page = visit(PAGE, base=HTML.as_uri())
    assert "web server" in part(page, "status").inner_text()
