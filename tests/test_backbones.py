"""Networks of torchvision and timm through everything that bitlib does with its own, with random weights."""

import hashlib
import importlib
import io
import json
import pickle
import sys
from dataclasses import replace

import onnxruntime
import pytest
import timm
import torch
from conftest import QUIET, quiet, toy_task
from PIL import Image
from safetensors.torch import save_file
from test_download import Server
from torch import nn
from torchvision import models
from torchvision.transforms import functional as T

import bitlib
from bitlib import HyperRule, UserError, create_model, finetune, freeze, linear_probe
from bitlib.backbones import BackboneArch, stated_hash
from bitlib.cli import main
from bitlib.export import export_onnx
from bitlib.files import cache_dir
from bitlib.transfer import default_rule, seconds_of
from bitlib.weights import WeightsError, _sketch, load_weights, model_info, save_npz

SIX = ("alexnet", "densenet121", "efficientnet_b0", "googlenet", "mobilenet_v3_small", "resnet50")
MIDDLE = {"alexnet": "features.6", "densenet121": "features.denseblock4", "efficientnet_b0": "features.7"}
MIDDLE |= {"googlenet": "inception5a", "mobilenet_v3_small": "features.10", "resnet50": "layer4"}
SIDE = 32
backbones = importlib.import_module("bitlib.backbones")


def rule(task, steps: int = 2) -> HyperRule:
    return HyperRule(len(task.train), task.image_size, steps=steps, batch_size=6, base_lr=0.02, resolution=(SIDE, SIDE))


def state_of(model) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def moved(model, before: dict) -> set[str]:
    return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


@pytest.fixture
def server():
    s = Server()
    yield s
    s.shutdown()
    s.server_close()


@pytest.mark.parametrize("network", SIX)
def test_freeze_probe_finetune_save_load_predict_export(network, tmp_path, capsys):
    name, task = f"torchvision/{network}", toy_task(12, side=SIDE)
    model = create_model(name, 3, seed=1)
    before = state_of(model)

    # Frozen up to the head: no weight, statistic or counter of the body moves, and nothing is dropped out.
    run = finetune(freeze(model, "head"), task, rule(task, 3), loop=QUIET)
    assert moved(model, before) == {"head.weight", "head.bias"} and run.config["frozen"][0] == model.parts[0]
    x = torch.rand(2, 3, SIDE, SIDE) * 2 - 1
    assert torch.equal(model.train()(x), model.eval()(x))

    # Frozen up to the middle: what comes before stands still, what comes after learns, statistics included.
    until, before = MIDDLE[network], state_of(model)
    finetune(freeze(model, until), task, rule(task), loop=QUIET)
    fixed = tuple(f"net.{part}." for part in model.parts[: model.parts.index(until)])
    changed = moved(model, before)
    assert changed and not any(key.startswith(fixed) for key in changed)
    learning = {key for key in before if not key.startswith(fixed)}
    assert {key for key in learning if key.endswith("running_mean")} <= changed
    assert {key for key in learning if key.startswith("net.") and key.endswith(("weight", "bias"))} & changed

    # A probe moves the head alone, though nothing is frozen.
    freeze(model, None)
    before = state_of(model)
    linear_probe(model, task, rule(task), QUIET)
    assert moved(model, before) == {"head.weight", "head.bias"}

    # The whole network, saved as a run; loaded again, no weight and no statistic differs.
    out = tmp_path / "out"
    finetune(model, task, rule(task), loop=quiet(out=out))
    _, meta = load_weights(out / "model.safetensors")
    assert meta["arch"] == {"library": "torchvision", "network": network, "version": model.arch.version}
    again = create_model(str(out / "model.safetensors"), pretrained=True).eval()
    assert again.info.name == name and not moved(again, state_of(model))
    with torch.no_grad():
        wanted = model.eval()(x)
        torch.testing.assert_close(again(x), wanted, rtol=1e-4, atol=1e-6)  # the other one is laid out channels last

    # The command line gives what the network gives, and so does the exported file.
    pixels = ((x[0] + 1) * 127.5).round().to(torch.uint8)
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(tmp_path / "x.png")
    capsys.readouterr()
    assert main(["predict", str(out), str(tmp_path / "x.png"), "--json", "--top", "3", "--device", "cpu"]) == 0
    found = json.loads(capsys.readouterr().out)["classes"]
    with torch.no_grad():
        shares = again(bitlib.data.to_input(pixels[None])).softmax(1)[0].tolist()
    assert found == pytest.approx(dict(zip("abc", shares)), abs=1e-4)
    assert main(["export", str(out), str(tmp_path / "m.onnx")]) == 0
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    torch.testing.assert_close(torch.from_numpy(session.run(None, {"x": x.numpy()})[0]), wanted, rtol=1e-3, atol=1e-5)


def test_the_notes_network_counted():
    """The notes' Keras model prints 23,591,810 weights, 53,120 of them not trainable, over a comment that none should be."""
    with torch.device("meta"):
        model = BackboneArch("torchvision", "resnet50").build(2)
    norms = sum(m.num_features for m in model.modules() if isinstance(m, nn.BatchNorm2d))
    body, head = (sum(p.numel() for p in part.parameters()) for part in (model.net, model.head))
    biases = norms  # Keras has one in front of every batch norm, which has no effect there
    assert 2 * norms == 53_120 and body + biases + 2 * norms == 23_587_712 and head == 4_098
    assert body + biases + head == 23_538_690  # what they call trainable is the whole network
    freeze(model, "head")
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == head


def test_without_gradients_is_not_frozen():
    """The statistics of batch norm move in train mode, gradient or not, unless `freeze` keeps them in evaluation mode."""
    x, found = torch.randn(4, 3, 32, 32), {}
    for way in ("gradients off", "frozen"):
        model = create_model("torchvision/resnet18", 2).train()
        freeze(model, "head") if way == "frozen" else model.net.requires_grad_(False)
        before = state_of(model)
        model(x)
        found[way] = moved(model, before)
    assert len(found["gradients off"]) == 3 * 20 and not found["frozen"]  # mean, variance and count of twenty batch norms


def test_every_network_of_torchvision_has_parts_and_a_head():
    """Built without memory: the names differ from family to family, the interface does not."""
    others = ["convnext_tiny", "inception_v3", "maxvit_t", "mnasnet0_5", "regnet_x_400mf", "shufflenet_v2_x0_5", "swin_t"]
    for network in (*SIX, *others, "vgg11", "vit_b_32", "mobilenet_v2", "resnext50_32x4d"):
        model = _sketch(BackboneArch("torchvision", network), 3)
        for until in (None, *model.freeze_points):
            freeze(model, until)
            learning = sum(p.requires_grad for p in model.parameters())
            assert learning == (2 if until == "head" else learning) > 0 and model.head.weight.requires_grad
        assert model.head.weight.shape == (3, model.num_features) and len(model.freeze_points) >= 5
        assert set(model.freeze_points) <= set(model.parts)
    with pytest.raises(ValueError, match="choose one of conv1, bn1, layer1, layer2, layer3, layer4, head, or None"):
        freeze(create_model("torchvision/resnet18", 2), "stage2")


@pytest.mark.parametrize("network", ["resnet18", "googlenet", "mobilenet_v3_small"])
def test_our_images_become_what_the_authors_prepare(network):
    """Their own network on their own preprocessing, and ours on [-1, 1]; googlenet's undoes part of what was done."""
    theirs_options = {"transform_input": True, "aux_logits": False, "init_weights": True} if network == "googlenet" else {}
    ours, theirs = create_model(f"torchvision/{network}", seed=3), models.get_model(network, **theirs_options)
    theirs.load_state_dict({k.removeprefix("net."): v for k, v in ours.net.state_dict().items()}, strict=False)
    last = [m for m in theirs.modules() if isinstance(m, nn.Linear)][-1]
    nn.init.normal_(last.weight)
    with torch.no_grad():
        ours.head.weight.copy_(last.weight)
        ours.head.bias.copy_(last.bias)
    pixels = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    how = models.get_model_weights(network).DEFAULT.transforms()
    prepared = T.normalize(T.convert_image_dtype(pixels), how.mean, how.std)
    with torch.no_grad():
        wanted = theirs.eval()(prepared)
        torch.testing.assert_close(ours.eval()(bitlib.data.to_input(pixels)), wanted, rtol=1e-3, atol=1e-4)


def test_sizes():
    """Images that are too small are enlarged; the rule gives large ones the size that the network was made for."""
    model = create_model("torchvision/alexnet", 2)
    assert model.prepare(torch.zeros(1, 3, 32, 80)).shape == (1, 3, 63, 80)
    for network, side in (("alexnet", 224), ("inception_v3", 299), ("efficientnet_b1", 240)):
        with torch.device("meta"):
            model = BackboneArch("torchvision", network).build(3)
        large, small = (default_rule(model, toy_task(side=px)) for px in (300, 24))
        assert (large.crop, small.crop) == (side, 128) and large.resize == round(side * 8 / 7)
    with torch.device("meta"):
        model = BackboneArch("torchvision", "vit_b_16").build(3)
    assert default_rule(model, toy_task()).crop == 224
    assert model.prepare(torch.zeros(1, 3, 128, 128, device="meta")).shape[2:] == (224, 224)
    with pytest.raises(UserError, match="alexnet has no gradient checkpointing; use --micro-batches"):
        create_model("torchvision/alexnet", 2).grad_checkpointing = True


def published(network: str, seed: int = 5) -> tuple[bytes, dict]:
    """A weight file as torchvision publishes it, and the weights in it."""
    torch.manual_seed(seed)
    state = models.get_model(network).state_dict()
    stream = io.BytesIO()
    torch.save(state, stream)
    return stream.getvalue(), state


@pytest.fixture
def offered(server, monkeypatch):
    """A server with a file of a mobilenet, where `create_model` looks for it."""
    server.body, state = published("mobilenet_v3_small")
    digest = hashlib.sha256(server.body).hexdigest()[:8]
    spec = BackboneArch("torchvision", "mobilenet_v3_small").spec
    file = f"mobilenet_v3_small-{digest}.pth"
    elsewhere = replace(spec, url=server.url.replace("w.npz", file), file=file)
    monkeypatch.setattr(backbones, "_spec", lambda *_: elsewhere)
    return state


def test_weights_are_downloaded_verified_and_cached(server, offered):
    name = "torchvision/mobilenet_v3_small"
    model = create_model(name, pretrained=True)
    assert model.num_classes == 1000 and model.info.class_names[1] == "goldfish" and model.info.path.exists()
    assert torch.equal(model.head.weight, offered["classifier.3.weight"])
    assert torch.equal(model.head.bias, offered["classifier.3.bias"])
    assert torch.equal(model.net.features[0][0].weight, offered["features.0.0.weight"])
    new = create_model(name, 4, pretrained=True)
    assert not new.head.weight.any() and torch.equal(new.net.features[0][0].weight, offered["features.0.0.weight"])
    assert len(server.requests) == 1  # the second time it came from the cache
    info = model_info(name)
    assert info.location == str(info.path) and str(cache_dir()) in info.location


def test_a_download_that_is_not_what_its_name_promises(server, offered):
    server.body = server.body[:-1] + bytes([server.body[-1] ^ 1])
    name = "torchvision/mobilenet_v3_small"
    with pytest.raises(UserError, match="its SHA-256 begins with .*has been removed; run the same command again"):
        create_model(name, pretrained=True)
    path = model_info(name).path
    assert not path.exists() and not [p for p in path.parent.iterdir() if p.suffix != ".lock"]
    path.write_bytes(server.body)  # put there by hand
    with pytest.raises(UserError, match=r"is damaged \(its SHA-256 begins with .*delete it"):
        create_model(name, pretrained=True)


@pytest.mark.parametrize("kind", ["pickle", "of another network"])
def test_a_file_that_would_run_code_or_is_of_another_network(kind, monkeypatch):
    content = pickle.dumps({"a": Loud()}, 2) if kind == "pickle" else published("resnet18")[0]
    file = f"mobilenet_v3_small-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    spec = replace(BackboneArch("torchvision", "mobilenet_v3_small").spec, file=file)
    monkeypatch.setattr(backbones, "_spec", lambda *_: spec)
    path = model_info("torchvision/mobilenet_v3_small").path
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(UserError, match="is not the weight file of torchvision/mobilenet_v3_small"):
        create_model("torchvision/mobilenet_v3_small", pretrained=True)
    assert not Loud.heard


class Loud:
    """Something that leaves a trace when it is unpickled."""

    heard: list = []

    def __reduce__(self):
        return Loud.heard.append, (1,)


def test_hashes_are_read_from_names():
    assert stated_hash("https://x.org/models/resnet50-11ad3fa6.pth") == "11ad3fa6"
    assert stated_hash("https://x.org/mnasnet0.5_top1_67.823-3ffadce67e.pth") == "3ffadce67e"
    assert stated_hash("https://x.org/BiT-M-R50x1.npz") == ""
    assert all(stated_hash(model_info(name).url) for name in bitlib.list_backbones("torchvision"))


def test_mistakes(tmp_path, capsys):
    for name, message in (
        ("torchvision/resnet51", "did you mean resnet50"),
        ("torchvision/squeezenet1_0", "has no network 'squeezenet1_0' for whole images"),
        ("torchvision/../x", "it must be a short name"),
        ("timm/resnet18.nothing", "did you mean resnet18"),
    ):
        with pytest.raises(UserError, match=message):
            create_model(name)
    model = create_model("torchvision/mobilenet_v3_small", 2)
    with pytest.raises(WeightsError, match="only for group norm with weight standardisation"):
        save_npz(model, tmp_path / "w.npz")
    with pytest.raises(UserError, match="this network has none; export with half=False"):
        export_onnx(model, tmp_path / "m.onnx", 32, half=True)
    with pytest.raises(UserError, match="the suite measures the course's small models"):
        bitlib.suite.Plan(["torchvision/resnet18"])
    assert main(["pretrain", "digits", "--arch", "torchvision/resnet18", "--out", str(tmp_path / "x")]) == 2
    assert "unknown architecture 'torchvision/resnet18'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        ({"library": "torchvision", "network": "resnet51", "version": ""}, "torchvision has no network"),
        ({"library": "os", "network": "system", "version": ""}, "library is 'os'"),
        ({"library": "torchvision", "network": ["resnet18"], "version": ""}, "network is"),
        ({"library": "torchvision", "network": "resnet18"}, "an object of library, network, version"),
        ({"library": "torchvision", "network": "resnet18", "version": "0", "more": 1}, "an object of library"),
        ({"library": "torchvision", "network": "resnet18", "version": "1"}, "this network needs"),
    ],
)
def test_files_are_not_trusted(tmp_path, arch, message):
    """As for the course's own: names, shapes and settings are compared with the network before anything is loaded."""
    file = tmp_path / "m.safetensors"
    state = {k: v.contiguous() for k, v in create_model("torchvision/mobilenet_v3_small", 2).state_dict().items()}
    if message == "this network needs":
        state = {k: v.contiguous() for k, v in create_model("torchvision/resnet18", 2).state_dict().items()}
        state["net.conv1.weight"] = torch.zeros(64, 3, 5, 5)
    save_file(state, file, {"bitlib": json.dumps({"arch": arch, "num_classes": 2})})
    with pytest.raises(UserError, match=message):
        create_model(str(file), pretrained=True)


def test_choose_distill_and_time(tmp_path, monkeypatch):
    """The rest of what takes a model: the search of `bitlib finetune`, teacher and student, the estimate before a run."""
    choosing = importlib.import_module("bitlib.choose")
    monkeypatch.setattr(choosing, "SIDES", (112,))
    monkeypatch.setattr(choosing, "PENALTIES", (0.01,))
    monkeypatch.setattr(choosing, "STEPS", ())
    monkeypatch.setattr(choosing, "_pixels_per_second", lambda *how: 1e5)
    task = toy_task(12)
    model = create_model("torchvision/mobilenet_v3_small", 3)
    run = bitlib.choose(model, task, loop=quiet(out=tmp_path / "teacher"))
    assert run.crop == 112 and run.model is model
    before = state_of(model)
    assert seconds_of(model, rule(task)) > 0 and not moved(model, before)
    freeze(model, "head")
    assert seconds_of(model, rule(task)) > 0
    student = create_model("torchvision/shufflenet_v2_x0_5", 3)
    done = bitlib.distill(student, freeze(model, None), task, rule(task), loop=QUIET)
    assert done.config["teacher"] == "torchvision/mobilenet_v3_small" and done.config["model"] == student.info.name
    features = bitlib.cache_features(student, task.test, 32)
    assert features.shape == (12, student.num_features)
    stages = student.stage_features(torch.zeros(1, 3, 64, 64))
    assert [*stages] == ["conv1", "stage2", "stage3", "stage4", "conv5"] and stages["stage4"].shape == (1, 192, 2, 2)


def test_lists(capsys):
    assert main(["models"]) == 0 and "`bitlib models torchvision` lists them" in capsys.readouterr().out
    assert main(["models", "torchvision"]) == 0
    text = capsys.readouterr().out
    assert (
        "torchvision/resnet50 " in text
        and "25,557,032" in text
        and "resnet50-11ad3fa6.pth" in text
        and "squeezenet" not in text
    )
    assert main(["models", "timm", "--json"]) == 0
    assert any(row["name"] == "timm/resnet18.a1_in1k" for row in json.loads(capsys.readouterr().out))


def test_timm(tmp_path, server, monkeypatch):
    """A small network of timm, with weights in timm's own format from a server, then as a file of ours."""
    theirs = timm.create_model("test_resnet")
    save_file(theirs.state_dict(), tmp_path / "w.safetensors")
    server.body = (tmp_path / "w.safetensors").read_bytes()
    monkeypatch.setattr(backbones, "HUB", server.url + "?{repository}/{file}")
    backbones._spec.cache_clear()
    model = create_model("timm/test_resnet", pretrained=True).eval()
    x = torch.rand(2, 3, 64, 64) * 2 - 1
    spec = model.arch.spec
    prepared = T.normalize((x + 1) / 2, spec.mean, spec.std)
    with torch.no_grad():
        torch.testing.assert_close(model(x), theirs.eval()(prepared), rtol=1e-4, atol=1e-4)
    task = toy_task(12)
    before = state_of(model)
    model = create_model("timm/test_resnet", 3, pretrained=True)
    finetune(freeze(model, "layer3"), task, rule(task), loop=quiet(out=tmp_path / "out"))
    changed = moved(model, before | {k: v for k, v in model.state_dict().items() if k.startswith("head.")})
    assert changed and all(key.startswith(("net.layer3", "net.layer4")) for key in changed)
    again = create_model(str(tmp_path / "out" / "model.safetensors"), pretrained=True)
    assert (
        not moved(again, state_of(model))
        and load_weights(tmp_path / "out" / "model.safetensors")[1]["arch"]["library"] == "timm"
    )
    backbones._spec.cache_clear()


def test_without_timm(monkeypatch, capsys):
    """timm is not needed for anything else; without it there is one line that says what to install."""
    monkeypatch.setitem(sys.modules, "timm", None)
    backbones._known.cache_clear()
    assert main(["models", "timm"]) == 2
    assert capsys.readouterr().err == "bitlib models: timm's networks need the package 'timm'; pip install timm\n"
    assert main(["models", "torchvision"]) == 0
