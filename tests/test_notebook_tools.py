"""The live controls of the notebooks: moving one computes anew."""

import pytest
import torch
from conftest import TINY, toy_task
from test_transfer import tiny

from bitlib.course import notebook
from bitlib.course.protocol import edges


def controls(box) -> list:
    return [child for child in box.children if hasattr(child, "description") and child.description]


def noise(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_companions_matter_to_batch_norm_only():
    x = noise(70, 8, 4, 4) + torch.arange(70).view(-1, 1, 1, 1) / 10
    assert notebook.companions_matter(x, 2) > 2 * notebook.companions_matter(x, 64) > 0
    assert notebook.companions_matter(x, 2, groups=4) < 1e-5


def test_mixup_control():
    black, white = torch.zeros(3, 12, 12, dtype=torch.uint8), torch.full((3, 12, 12), 255, dtype=torch.uint8)
    box = notebook.live_mixup(tiny(), white, black, "abc", ("white", "black"))
    picture = box.children[1].children[0].value
    controls(box)[0].value = 1.0
    assert box.children[1].children[0].value != picture
    assert box.children[1].children[1].value.startswith("100% white")


def test_probe_control():
    task = toy_task(60)
    features = {s: getattr(task, s).images.flatten(1).float() for s in ("train", "val")}
    box = notebook.live_probe(features, {s: getattr(task, s).labels for s in features}, shots=(1, 5, 20))
    shots, draw = controls(box)
    shots.value, draw.value = 20, 3
    assert box.children[-1].value.startswith("seed 3, 20-shot: ")


def test_freezing_control_trains(monkeypatch):
    def create(name, classes, pretrained):
        return tiny(TINY, classes)

    monkeypatch.setattr("bitlib.create_model", create)
    box = notebook.live_freezing("tiny", toy_task(90), steps=2)
    first = box.children[-1].value
    controls(box)[1].value = "everything"
    assert box.children[-1].value.startswith("100.0% of the weights trained") and not first.startswith("100.0%")


def test_saved_folder_comes_back(tmp_path):
    images, labels = toy_task().train.images[:6], toy_task().train.labels[:6]
    notebook.save_folder(images, labels, "abc", tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "c"]
    with pytest.raises(ValueError, match="only bitlib commands"):
        notebook.run_command("rm -r .", tmp_path)


def test_a_search_as_a_table():
    def arm(best, rates=(0.1, 0.2, 0.4)):
        trials = [{"setting": {"lr": rate}, "validation": [0.5 + 0.1 * (rate == best), 0.5]} for rate in rates]
        return trials, {"lr": best}, edges({"lr": best}, [trial["setting"] for trial in trials])

    shown = notebook.searched({"A": arm(0.2), "B": arm(0.4)})
    assert [shown.text.count(word) for word in ("rate 0.1", "rate 0.2", "55.0", "50.0")] == [1, 1, 2, 4]
    assert shown.html().startswith("<details>") and "<strong>55.0</strong>" in shown.html()
    assert "Chosen at an end of three or more values: B (rate 0.4)." in shown.html()
    mixed = notebook.searched({"A": arm(0.2), "B": arm(0.1, (0.01, 0.05, 0.1))})  # each its own rates
    assert "rate 0.01: 50.0" in mixed.text and "trial 3" in mixed.text
