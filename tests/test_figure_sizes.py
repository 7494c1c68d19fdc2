"""The sizes: parameters and multiply-adds of every published network, and of others, against PyTorch's own counting."""

from dataclasses import replace

import pytest
import torch
from browser import close, dataset, labels, module, numbers, open_figure, state
from torch.utils.flop_counter import FlopCounterMode

from bitlib.course.explore.sizes import OFFICIAL, UNITS, Sizes, costs
from bitlib.resnet import ARCHS, STAGES, Arch, ResNetV2, count_parameters


def counted(arch: Arch, side: int, classes: int) -> tuple[list[int], list[int]]:
    """(parameters, multiply-adds) of stem, units and head, counted by PyTorch as a network without memory runs."""
    with torch.device("meta"):
        model = ResNetV2(arch, classes).eval()
        x = torch.empty(1, 3, side, side)
    parts = [model.root, *(unit for stage in STAGES for unit in getattr(model, stage)), model.head]
    parameters = [count_parameters(part) for part in parts]
    parameters[-1] += count_parameters(model.norm)
    macs = []

    def count(part: torch.nn.Module, given: torch.Tensor) -> torch.Tensor:
        with FlopCounterMode(display=False) as counter:
            out = part(given)
        macs.append(counter.get_total_flops() // 2)
        return out

    with torch.no_grad():
        for part in parts[:-1]:
            x = count(part, x)
        count(model.head, x.mean((2, 3)))
        with FlopCounterMode(display=False) as counter:
            model(torch.empty(1, 3, side, side, device="meta"))
    assert sum(macs) == counter.get_total_flops() // 2 and sum(parameters) == count_parameters(model)
    return parameters, macs


OTHERS = {f"R{depth}x{width}": Arch(UNITS[depth], 64 * width) for depth, width in ((50, 2), (101, 4), (152, 1))}
CASES = [(name, 224, 1000) for name in OFFICIAL]
CASES += [("R50x1", 480, 21_843), ("R152x4", 32, 10), ("R101x3", 176, 10), ("small", 32, 10), ("medium", 33, 7)]
CASES += [(name, 128, 1000) for name in OTHERS]


@pytest.mark.parametrize("name, side, classes", CASES)
def test_costs_are_what_pytorch_counts(name, side, classes):
    found = costs({**ARCHS, **OTHERS}[name], side, classes)
    assert ([part["parameters"] for part in found], [part["macs"] for part in found]) == counted(
        {**ARCHS, **OTHERS}[name], side, classes
    )


def test_shapes_are_those_of_the_network():
    for stem in ("imagenet", "small"):
        arch = replace(ARCHS["small"], stem=stem)
        with torch.device("meta"), torch.no_grad():
            stages = ResNetV2(arch, 2).eval().stage_features(torch.empty(1, 3, 50, 50))
        last = {part["part"]: [part["channels"], part["to"]] for part in costs(arch, 50, 2)}
        assert [last[f"stage {s}"] for s in (1, 2, 3, 4)] == [list(y.shape[1:3]) for y in stages.values()]


def test_the_picture_names_every_published_size():
    said = Sizes.example().picture().text
    assert all(name in said for name in OFFICIAL) and "936.5" in said
    assert {(ARCHS[name].units, ARCHS[name].root_width) for name in OFFICIAL} <= {
        (units, 64 * width) for units in UNITS.values() for width in (1, 2, 3, 4)
    }


@pytest.mark.site
def test_sizes(visit):
    page, shown = open_figure(visit, "sizes")

    def truth(now: dict) -> list[dict]:
        return costs(Arch(UNITS[now["depth"]], 64 * now["width"]), now["side"], now["classes"])

    def check() -> dict:
        now, answer = state(shown), dataset(shown.locator(".bl-x-answer"))
        found = truth(now)
        for what in ("parameters", "macs"):
            close(numbers(shown, f".bl-sizes-{what}", what), [part[what] for part in found])
            close(float(answer[what]), sum(part[what] for part in found))
            by_part: dict[str, int] = {}
            for part in found:
                by_part[part["part"]] = by_part.get(part["part"], 0) + part[what]
            close(numbers(shown, "tr[data-part]", what), [*by_part.values(), sum(by_part.values())])
        own = shown.locator(".bl-sizes-own")
        assert own.get_attribute("data-name") == f"R{now['depth']}x{now['width']}"
        # Bars are drawn to scale.
        for what in ("parameters", "macs"):
            heights = shown.locator(f".bl-sizes-{what}").evaluate_all("all => all.map(e => +e.getAttribute('height'))")
            heights, values = torch.tensor(heights, dtype=torch.float64), torch.tensor([float(p[what]) for p in found])
            close(heights / heights.max(), values.double() / values.max())
        return now

    assert check() == state(shown) and (state(shown)["depth"], state(shown)["width"]) == (50, 1)
    shown.locator('input[data-trait="depth"][value="152"]').check()
    shown.locator('input[data-trait="width"][value="4"]').check()
    assert check()["width"] == 4 and "937 million" in shown.locator(".bl-x-answer").inner_text()
    slider = shown.locator('input[data-trait="side"]')
    slider.press("ArrowRight")
    assert check()["side"] == 240
    slider.press("End")
    assert check()["side"] == 512
    shown.locator('input[data-trait="classes"][value="21843"]').check()
    check()
    shown.locator('[data-name="R50x2"]').click()
    assert (check()["depth"], state(shown)["width"]) == (50, 2) and "not one of the published sizes" in shown.inner_text()
    shown.locator('[data-name="R101x3"]').press("Enter")
    assert (check()["depth"], state(shown)["width"]) == (101, 3)
    assert shown.evaluate("f => document.activeElement.dataset.name") == "R101x3"  # the focus stays where it was
    for depth in UNITS:
        for width in (1, 2, 3, 4):
            dot = dataset(shown.locator(f'[data-name="R{depth}x{width}"]'))
            found = truth(state(shown) | {"depth": depth, "width": width})
            for what in ("parameters", "macs"):
                close(float(dot[what]), sum(part[what] for part in found))
    assert {"Multiply-adds per unit", "Parameters per unit", "Multiply-adds", "Parameters"} <= set(labels(shown))
    both = "(m, [units, width, side, classes]) => m.parts(units, width, side, classes)"
    for name, side in (("R152x2", 90), ("R50x1", 37)):  # sizes that no slider has
        arch = ARCHS[name]
        assert module(shown, both, [list(arch.units), arch.root_width // 64, side, 12]) == costs(arch, side, 12)
    linked, shown = open_figure(visit, "sizes", width=375, depth=101, side=480)
    check()
    assert page.problems == linked.problems == []
