"""Detectors: any backbone by name, frozen parts, training and resuming, files, average precision, COCO folders, commands."""

import csv
import json
import sys
from dataclasses import replace

import pytest
import torch
from conftest import QUIET, TINY, quiet
from PIL import Image
from torchvision.ops import box_iou

import bitlib
from bitlib.cli import main
from bitlib.data.boxes import NOTHING, BoxBatches, Boxed, BoxTask, mirrored
from bitlib.data.coco import load_boxes, load_coco
from bitlib.data.scenes import MOST, draw_scenes, load_scenes
from bitlib.detection import (
    SMALL,
    Design,
    Detector,
    Recipe,
    average_precision,
    create_detector,
    detect,
    load_detector,
    save_detector,
    train_detector,
)
from bitlib.norm import norm_relu
from bitlib.resnet import STAGES, ResNetV2
from bitlib.trainer import Interrupted
from bitlib.weights import WeightsError

OFFICIAL = [f"BiT-{s}-{size}" for s in "SM" for size in ("R50x1", "R50x3", "R101x1", "R101x3", "R152x2", "R152x4")]
NAMES = tuple("0123456789")
SIDE = 64
FEW = replace(SMALL, width=16)


@pytest.fixture(scope="module")
def scenes() -> BoxTask:
    return load_scenes(12, 0, SIDE, (4, 4))


def detector(seed: int = 0, design: Design = FEW, arch=TINY) -> Detector:
    return Detector(ResNetV2(arch, 1, seed), NAMES, SIDE, design, seed)


# --- the backbone ---


@pytest.mark.parametrize("name", [*OFFICIAL, "glyphs-L", "glyphs-L-bn", "photos-S", "tiny"])
def test_any_backbone_gives_a_pyramid_by_name(name):
    with torch.device("meta"):
        net = create_detector(name, ["thing", "other"], 512, pretrained=False)
        x = torch.empty(1, 3, 512, 512)
        entering, leaving = net.backbone.stage_features(x), [*net.backbone(x).values()]
    width, design = net.backbone.body.arch.root_width, net.design
    assert [*entering] == [*design.levels]
    for level, features in entering.items():
        assert features.shape[1] == 4 * width * 2 ** STAGES.index(level)
    assert [512 // f.shape[2] for f in leaving] == net.backbone.strides
    assert all(f.shape[1] == design.width for f in leaving) and len(leaving) == len(design.levels) + 2 * design.extra
    if name in OFFICIAL:
        assert net.backbone.strides == [8, 16, 32, 64, 128]  # P3 to P7, as in RetinaNet


def test_a_step_of_an_official_size_by_name():
    """The paper's backbone by its name: one step at 64 pixels moves it."""
    net = create_detector("BiT-M-R101x3", NAMES, SIDE, pretrained=False, design=Design(width=64))
    before = net.backbone.body.stage4.unit01.b.conv.weight[:4].clone()
    task = load_scenes(1, 0, SIDE, (1, 1))
    run = train_detector(net, task, Recipe(steps=1, batch_size=1, warmup_steps=0, lr=0.01), loop=QUIET)
    assert not torch.equal(before, net.backbone.body.stage4.unit01.b.conv.weight[:4])
    assert run.history.rows[0]["loss"] > 0


@pytest.mark.parametrize("taps", ["activated", "raw"])
def test_features_are_those_that_the_network_reads(taps):
    net = detector(design=replace(FEW, taps=taps, levels=("stage2", "stage3", "stage4")))
    x, body = torch.rand(2, 3, SIDE, SIDE) * 2 - 1, net.backbone.body
    found, raw = net.backbone.stage_features(x), body.stage_features(x)
    if taps == "raw":
        assert all(torch.equal(found[level], raw[level]) for level in found)
    else:
        assert torch.equal(found["stage4"], body.forward_features(x))
        assert torch.equal(found["stage2"], norm_relu(body.stage3.unit01.a.norm, raw["stage2"]))


def test_pixels_reach_the_backbone_in_its_range():
    seen = []
    net = detector().eval()
    net.backbone.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    pixels = torch.zeros(1, 3, SIDE, SIDE, dtype=torch.uint8)
    pixels[:, 0], pixels[:, 1] = 255, 51
    net(pixels)
    torch.testing.assert_close(seen[0][0, :, 0, 0], torch.tensor([1.0, -0.6, -1.0]))
    assert seen[0].shape == (1, 3, SIDE, SIDE)


@pytest.mark.parametrize(
    "change",
    [
        {"levels": ("stage2", "stage4")},
        {"levels": ()},
        {"levels": ("stage5",)},
        {"width": 20},
        {"taps": "cooked"},
        {"scales": ()},
        {"ratios": (0.0,)},
        {"size": float("nan")},
        {"depth": 9},
    ],
)
def test_designs_out_of_range_are_refused(change):
    with pytest.raises(bitlib.UserError, match=next(iter(change))):
        replace(FEW, **change)


@pytest.mark.parametrize("until", [None, "stage2", "stage4", "pyramid"])
def test_frozen_parts_do_not_move_and_the_others_do(scenes, until):
    net = detector(arch=replace(TINY, norm="bn", standardize=False))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    train_detector(net, scenes, Recipe(steps=2, batch_size=2, lr=0.05, warmup_steps=0, freeze=until), loop=QUIET)
    moved = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
    order = ["root", *STAGES]
    still = order if until == "pyramid" else order[: order.index(until)] if until else []
    for part in order:
        inside = any(name.startswith(f"backbone.body.{part}.") for name in moved)
        assert inside == (part not in still), part  # statistics too
    assert any(name.startswith("backbone.fpn") for name in moved) and any(name.startswith("head") for name in moved)


def test_an_unknown_part_cannot_be_frozen():
    with pytest.raises(bitlib.UserError, match="stage1, stage2, stage3, stage4, pyramid"):
        create_detector("tiny", NAMES, SIDE, pretrained=False, freeze="head")


# --- scenes and batches ---


def test_scenes_are_as_promised_and_splits_share_nothing():
    one, again = draw_scenes("train", 6, 3), draw_scenes("train", 4, 3)
    assert torch.equal(one.images[:4], again.images) and one.images.shape == (6, 3, 96, 96)
    assert not torch.equal(one.images, draw_scenes("train", 6, 4).images)
    assert not torch.equal(one.images, draw_scenes("val", 6, 3).images)
    for boxes, labels in zip(one.boxes, one.labels):
        assert 1 <= len(boxes) == len(labels) <= MOST
        assert (boxes >= 0).all() and (boxes <= 96).all() and (boxes[:, 2:] - boxes[:, :2] >= 4).all()


def test_batches_are_functions_of_the_step_and_mirror_boxes_with_their_images(scenes):
    batches = BoxBatches(scenes.train, 8, 0, True, torch.device("cpu"))
    plain = BoxBatches(scenes.train, 8, 0, False, torch.device("cpu"))
    pixels, boxes, labels = batches(5)
    assert all(torch.equal(a, b) for a, b in zip(batches(5), (pixels, boxes, labels)))
    turned = [not torch.equal(a, b) for a, b in zip(pixels, plain(5)[0])]
    assert 0 < sum(turned) < 8
    for i, turn in enumerate(turned):
        there = labels[i] != NOTHING
        own = boxes[i][there]
        back = mirrored(pixels[i], own)[1] if turn else own
        assert torch.equal(back, plain(5)[1][i][there]) and (own[:, 2:] > own[:, :2]).all()


def test_micro_batches_do_not_change_the_result(scenes):
    recipe = Recipe(steps=3, batch_size=4, lr=0.02, warmup_steps=0)
    runs = [train_detector(detector(), scenes, recipe, loop=quiet(micro_batches=m)) for m in (1, 4)]
    for a, b in zip(*(run.model.state_dict().values() for run in runs)):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-3)


# --- training ---


def test_training_lowers_the_loss_and_finds_what_it_has_seen():
    scenes = load_scenes(4, 1, SIDE, (2, 2))
    scenes = replace(scenes, val=scenes.train)
    net = create_detector("glyphs-S", NAMES, SIDE, design=FEW)
    run = train_detector(net, scenes, Recipe(steps=60, batch_size=4, lr=0.02, warmup_steps=5), loop=QUIET)
    losses = run.history.column("loss")[1]
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])
    assert run.evaluate("train")["ap50"] > 0.2


def test_a_resumed_run_ends_as_an_uninterrupted_one(scenes, tmp_path, monkeypatch):
    recipe = Recipe(steps=6, batch_size=4, lr=0.02, warmup_steps=2)
    whole = train_detector(detector(), scenes, recipe, 3, quiet(out=tmp_path / "whole"))
    import bitlib.detection as home

    calls, loss = [], home.detection_loss

    def stopped(net, *part):
        calls.append(1)
        if len(calls) == 4:
            import os
            import signal

            os.kill(os.getpid(), signal.SIGINT)
        return loss(net, *part)

    monkeypatch.setattr(home, "detection_loss", stopped)
    with pytest.raises(Interrupted):
        train_detector(detector(), scenes, recipe, 3, quiet(out=tmp_path / "parts"))
    monkeypatch.undo()
    resumed = train_detector(detector(), scenes, recipe, 3, quiet(out=tmp_path / "parts", resume=True))
    assert all(torch.equal(a, b) for a, b in zip(whole.model.state_dict().values(), resumed.model.state_dict().values()))
    assert [r["loss"] for r in whole.history.rows] == [r["loss"] for r in resumed.history.rows]
    with pytest.raises(bitlib.UserError, match="lr"):
        train_detector(detector(), scenes, replace(recipe, lr=0.03), 3, quiet(out=tmp_path / "parts", resume=True))


def test_classes_and_sides_that_differ_are_refused(scenes):
    wrong = Detector(ResNetV2(TINY, 1), ("a", "b"), SIDE, FEW)
    with pytest.raises(bitlib.UserError, match="classes"):
        train_detector(wrong, scenes, loop=QUIET)
    with pytest.raises(bitlib.UserError, match="64 px, the detector takes 96"):
        train_detector(Detector(ResNetV2(TINY, 1), NAMES, 96, FEW), scenes, loop=QUIET)


def test_the_schedule_is_the_paper_s_in_shares():
    recipe = Recipe(steps=300, batch_size=256, warmup_steps=10)
    assert recipe.base_lr == pytest.approx(0.08)  # appendix E
    assert recipe.learning_rate(0) == pytest.approx(0.008) and recipe.learning_rate(159) == pytest.approx(0.08)
    assert recipe.learning_rate(160) == pytest.approx(0.008) and recipe.learning_rate(220) == pytest.approx(0.0008)
    with pytest.raises(bitlib.UserError, match="milestones"):
        Recipe(milestones=(0.9, 0.5))


def test_drawing_weights_leaves_the_global_generator_alone():
    backbones = [ResNetV2(TINY, 1, 5) for _ in range(2)]
    torch.manual_seed(1)
    wanted = torch.rand(3)
    torch.manual_seed(1)
    first, second = (Detector(backbone, NAMES, SIDE, FEW, 5) for backbone in backbones)
    assert torch.equal(torch.rand(3), wanted)
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values()))


# --- average precision ---


def perfect(images: Boxed) -> list[dict]:
    return [
        {"boxes": b / s, "labels": y, "scores": torch.ones(len(y))}
        for b, y, s in zip(images.boxes, images.labels, images.scales)
    ]


def test_ap_of_the_truth_is_one_and_of_shifted_boxes_less(scenes):
    truth, found = scenes.val.truth(), perfect(scenes.val)
    assert average_precision(truth, found)["ap"] == pytest.approx(1)
    last = 1.0
    for shift in (2, 4, 12):
        now = average_precision(truth, [one | {"boxes": one["boxes"] + shift} for one in found])["ap"]
        assert now < last
        last = now
    swapped = [one | {"labels": (one["labels"] + 1) % 10} for one in found]
    assert average_precision(truth, swapped)["ap"] < 0.2
    nothing = {"boxes": torch.zeros(0, 4), "scores": torch.zeros(0), "labels": torch.zeros(0, dtype=torch.long)}
    assert average_precision(truth, [nothing] * 4)["ap"] == 0.0


def test_without_pycocotools_the_error_names_it(scenes, monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools.coco", None)
    with pytest.raises(bitlib.UserError, match="pip install pycocotools"):
        average_precision(scenes.val.truth(), perfect(scenes.val))


def test_without_pycocotools_nothing_is_trained_for_hours_first(scenes, monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools.coco", None)
    net = detector()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(bitlib.UserError, match="pip install pycocotools"):
        train_detector(net, scenes, Recipe(steps=1, batch_size=2, warmup_steps=0), loop=QUIET)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


# --- files ---


def test_a_saved_detector_finds_the_same(scenes, tmp_path):
    net = detector().eval()
    net.score_thresh = 0.0
    save_detector(net, tmp_path / "model.safetensors")
    again = load_detector(tmp_path)
    again.score_thresh = 0.0
    assert (again.design, again.class_names, again.side) == (net.design, net.class_names, net.side)
    for a, b in zip(detect(net, scenes.val), detect(again, scenes.val)):
        assert all(torch.equal(a[key], b[key]) for key in a) and len(a["boxes"])
    run = train_detector(again, scenes, Recipe(steps=1, batch_size=2), loop=QUIET)  # it can be trained further
    assert run.history.rows


def test_files_that_are_no_detectors_are_refused(tmp_path):
    from safetensors.torch import save_file

    (tmp_path / "junk.safetensors").write_bytes(b"no weights")
    save_file({"x": torch.zeros(2)}, tmp_path / "other.safetensors")
    for name, words in (("junk", "not a readable weight file"), ("other", "holds no detector"), ("none", "does not exist")):
        with pytest.raises(WeightsError, match=words):
            load_detector(tmp_path / f"{name}.safetensors")
    about = {"arch": {"units": [1, 1, 1, 1]}, "design": {}, "class_names": ["a"], "side": 64}
    save_file({"x": torch.zeros(2)}, tmp_path / "odd.safetensors", {"bitlib_detector": json.dumps(about)})
    with pytest.raises(WeightsError, match="settings"):
        load_detector(tmp_path / "odd.safetensors")
    state = detector().state_dict()
    good = tmp_path / "good.safetensors"
    save_detector(detector(), good, state=state | {"head.classification_head.cls_logits.bias": torch.full((20,), float("nan"))})
    with pytest.raises(WeightsError, match="finite"):
        load_detector(good)


# --- folders in COCO's format ---


def write_coco(folder, content=None, count: int = 3):
    """A folder of `count` images of 60 x 40 pixels with one bright box each; returns the content of its file."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    images, notes = [], []
    for i in range(count):
        picture = Image.new("RGB", (60, 40), (i, 0, 0))
        picture.paste((250, 250, 0), (10, 5, 40, 30))
        picture.save(folder / "images" / f"{i}.png")
        images.append({"id": 10 + i, "file_name": f"{i}.png", "width": 60, "height": 40})
        notes.append({"id": i, "image_id": 10 + i, "category_id": 7, "bbox": [10, 5, 30, 25], "area": 750, "iscrowd": 0})
    whole = {"images": images, "annotations": notes, "categories": [{"id": 7, "name": "thing"}, {"id": 3, "name": "part"}]}
    whole = content(whole) or whole if content else whole
    (folder / "annotations.json").write_text(whole if isinstance(whole, str) else json.dumps(whole))
    return whole


def test_a_coco_folder_keeps_its_boxes(tmp_path):
    whole = write_coco(tmp_path)
    found = load_coco(tmp_path, 30)
    assert found.class_names == ("part", "thing") and found.images.shape == (3, 3, 30, 30)  # in the order of the ids
    torch.testing.assert_close(found.boxes[0], torch.tensor([[5.0, 2.5, 20.0, 15.0]]))
    assert found.labels[0].tolist() == [1]
    bright = found.images[0, 1].float() > 140
    rows, columns = bright.any(1).nonzero(), bright.any(0).nonzero()
    assert (int(columns.min()), int(columns.max()) + 1) == (5, 20) and int(rows.max()) + 1 in (15, 16)
    assert (found.images[:, :, 20:] == 128).all()  # the rest of the square
    truth = found.truth()
    assert [note["bbox"] for note in truth["annotations"]] == [note["bbox"] for note in whole["annotations"]]
    assert average_precision(truth, perfect(found))["ap"] == pytest.approx(1)


def test_coco_s_own_layout_and_crowds(tmp_path):
    def crowded(whole):
        whole["annotations"].append(whole["annotations"][0] | {"id": 99, "iscrowd": 1, "bbox": [0, 0, 60, 40]})

    write_coco(tmp_path, crowded)
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations.json").rename(tmp_path / "annotations" / "instances_train2017.json")
    (tmp_path / "images").rename(tmp_path / "train2017")
    found = load_coco(tmp_path / "annotations" / "instances_train2017.json", 60)
    assert len(found.boxes[0]) == 1 and len(found.notes[0]) == 2  # not trained on, but known to the evaluation
    task = load_boxes(str(tmp_path / "annotations" / "instances_train2017.json"), 60)
    assert len(task.train) + len(task.val) == 3 and len(task.val) >= 1


def note(**changes):
    def change(whole):
        whole["annotations"][1] |= changes

    return change


def entry(kind: str, **changes):
    def change(whole):
        whole[kind][0] |= changes

    return change


def without(kind: str):
    def change(whole):
        del whole[kind]

    return change


BROKEN = {
    "negative width": (note(bbox=[10, 5, -3, 9]), "annotation 1 has the bbox [10, 5, -3, 9], whose width and height"),
    "no height": (note(bbox=[10, 5, 3, 0]), "must be above 0"),
    "outside": (note(bbox=[40, 5, 30, 10]), "reaches out of its image of 60 x 40 pixels"),
    "two corners": (note(bbox=[30, 20, 55, 38]), "not two corners"),
    "left of it": (note(bbox=[-9, 5, 30, 10]), "reaches out"),
    "NaN": (note(bbox=[10, float("nan"), 3, 9]), "not finite"),
    "infinite": (note(bbox=[10, 5, float("inf"), 9]), "not finite"),
    "no list": (note(bbox="10,5,3,9"), "a box is a list of four numbers"),
    "three numbers": (note(bbox=[1, 2, 3]), "a box is a list of four numbers"),
    "booleans": (note(bbox=[True, 2, 3, 4]), "a box is a list of four numbers"),
    "no box": (note(bbox=None), "a box is a list of four numbers"),
    "unknown class": (note(category_id=8), "has category_id 8, but there is no such category"),
    "unknown image": (note(image_id=99), "has image_id 99, but there is no such image"),
    "a list for an id": (note(image_id=[1]), "no such image"),
    "an id twice": (note(id=0), "two of its annotations have the id 0"),
    "no id": (note(id=None), "annotation number 2 has no whole number as its id"),
    "an image twice": (entry("images", id=11), "two of its images have the id 11"),
    "a class twice": (entry("categories", id=3), "two of its categories have the id 3"),
    "a class without a name": (entry("categories", name=5), "category 7 has no name"),
    "no file name": (entry("images", file_name=None), "image 10 has no file_name"),
    "out of the folder": (entry("images", file_name="../../etc/passwd"), "leads out of the folder"),
    "a missing image": (entry("images", file_name="gone.png"), "names the image gone.png, which is not in"),
    "another size": (entry("images", width=61), "has 60 x 40 pixels, but its entry says 61 x 40"),
    "no size": (entry("images", height=0), "both must be above 0"),
    "no categories": (without("categories"), "no list of objects called 'categories'"),
    "no boxes": (lambda whole: whole["annotations"].clear(), "holds no usable boxes"),
    "no JSON": (lambda whole: "{", "is not JSON"),
    "a list": (lambda whole: "[]", "holds a list"),
    "deep": (lambda whole: "[" * 100_000, "is not JSON"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_bad_annotations_give_one_line_status_2_and_nothing_on_disk(name, tmp_path, capsys):
    change, words = BROKEN[name]
    write_coco(tmp_path / "data", change)
    assert (
        main(
            [
                "detect",
                "train",
                str(tmp_path / "data"),
                "--model",
                "tiny",
                "--scratch",
                "--out",
                str(tmp_path / "out"),
                "--quiet",
            ]
        )
        == 2
    )
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1 and said.startswith("bitlib detect: ")
    assert not (tmp_path / "out").exists()


def test_bad_images_and_missing_files_are_named(tmp_path, capsys):
    write_coco(tmp_path)
    (tmp_path / "images" / "1.png").write_bytes(b"no image")
    with pytest.raises(bitlib.UserError, match="1.png is not a readable image"):
        load_coco(tmp_path, 30)
    with pytest.raises(bitlib.UserError, match="does not exist"):
        load_coco(tmp_path / "nowhere", 30)
    (tmp_path / "empty").mkdir()
    with pytest.raises(bitlib.UserError, match="holds no annotations.json"):
        load_coco(tmp_path / "empty", 30)
    assert len(load_coco(tmp_path, 30, skip_bad=True)) == 2
    write_coco(tmp_path, note(bbox=[0, 0, -1, 2]))
    assert [len(boxes) for boxes in load_coco(tmp_path, 30, skip_bad=True).boxes] == [1, 0, 1]
    assert "left out 1 bad" in capsys.readouterr().err


# --- the commands ---


def test_train_and_predict_from_the_command_line(tmp_path, capsys):
    write_coco(tmp_path / "train", count=6)
    write_coco(tmp_path / "val", count=2)
    out = tmp_path / "out"
    common = [
        "--model",
        "tiny",
        "--scratch",
        "--side",
        "64",
        "--batch-size",
        "2",
        "--device",
        "cpu",
        "--precision",
        "fp32",
        "--quiet",
    ]
    line = ["detect", "train", str(tmp_path), "--out", str(out), "--steps", "120", "--lr", "0.02", "--no-flip", *common]
    assert main(line) == 0
    said = capsys.readouterr().out
    assert "6 training images with 6 boxes, 2 classes" in said and "validation AP" in said
    record = json.loads((out / "run.json").read_text())
    assert record["steps"] == 120 and 0 <= record["val_ap"] <= 1 and record["model"] == "tiny"
    assert len(list(csv.DictReader(open(out / "history.csv")))) == 120
    images = [str(tmp_path / "val" / "images" / f"{i}.png") for i in range(2)]
    files = ["--csv", str(tmp_path / "found.csv"), "--draw", str(tmp_path / "drawn"), "--device", "cpu", "--quiet"]
    assert main(["detect", "predict", str(out), *images, "--score", "0.05", "--json", *files]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["image"] for line in lines] == images
    best = lines[0]["objects"][0]
    assert best["class"] == "thing"
    found = torch.tensor([[one[key] for key in ("x1", "y1", "x2", "y2")] for one in lines[0]["objects"]])
    assert box_iou(found, torch.tensor([[10.0, 5.0, 40.0, 30.0]])).max() > 0.5  # in pixels of the original
    rows = list(csv.DictReader(open(tmp_path / "found.csv")))
    assert len(rows) == sum(len(line["objects"]) for line in lines)
    assert Image.open(tmp_path / "drawn" / "0.png").size == (60, 40)
    assert main(line) == 2  # a finished run is not overwritten
    assert "already holds a finished run" in capsys.readouterr().err


@pytest.mark.parametrize(
    "line, words",
    [
        (["train", "scenes", "--out", "OUT", "--model", "tiny", "--scratch", "--freeze", "head"], "cannot freeze until 'head'"),
        (["train", "scenes", "--out", "OUT", "--model", "glyphs-XL"], "unknown model"),
        (["train", "nowhere", "--out", "OUT", "--model", "tiny"], "nowhere does not exist"),
        (["train", "scenes", "--out", "OUT", "--model", "tiny", "--lr", "-1"], "lr is -1.0"),
        (["predict", "nowhere", "x.png"], "does not exist"),
    ],
)
def test_mistakes_on_the_command_line(line, words, tmp_path, capsys):
    given = [part.replace("OUT", str(tmp_path / "out")) for part in line]
    assert main(["detect", *given]) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1
    assert not (tmp_path / "out").exists()
