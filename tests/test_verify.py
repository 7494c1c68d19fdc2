"""`bitlib verify` against a server on this machine: files of the official layout with random weights, whole and spoilt.

The real download has never been seen from here; everything around it is.
"""

import json
import pickle
import resource
import signal

import numpy as np
import pytest
import torch
from test_download import Server
from test_vision import approve
from torchvision import datasets

from bitlib import UserError, create_model, save_npz
from bitlib import verify as module
from bitlib import weights as weights_module
from bitlib.cli import main
from bitlib.data import ArrayImages
from bitlib.resnet import ARCHS, Arch, ResNetV2
from bitlib.verify import Claim, differ, fingerprint_of, generated_input, reference, verify
from bitlib.weights import WeightsError


def spread(model: ResNetV2, seed: int = 1) -> ResNetV2:
    """The model with random weights everywhere, the head and the norms included."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            noise = torch.randn(p.shape, generator=generator)
            p.copy_(1 + 0.2 * noise if p.ndim == 1 and len(p) > model.num_classes else 0.05 * noise)
    return model.eval()


@pytest.fixture
def small(monkeypatch, tmp_path):
    """(what to verify, a network of that kind, its file): a BiT so small that it takes no time."""
    monkeypatch.setitem(ARCHS, "bitsy", Arch((1, 1, 1, 1), 32))
    model = spread(create_model("bitsy", 10))
    save_npz(model, path := tmp_path / "bitsy.npz")
    return Claim("bitsy-CIFAR10", "bitsy", 10, 32), model, path


@pytest.fixture
def server(monkeypatch, tmp_path):
    s = Server()
    monkeypatch.setattr(weights_module, "OFFICIAL_URL", f"http://127.0.0.1:{s.server_port}/{{name}}.npz")
    monkeypatch.setenv("BITLIB_HOME", str(tmp_path / "home"))
    yield s
    s.shutdown()
    s.server_close()


def images_that(model: ResNetV2, right: int, of: int = 40, side: int = 32) -> ArrayImages:
    """Random images whose labels the model gets right so many times."""
    pixels = torch.randint(0, 256, (of, 3, side, side), generator=torch.Generator().manual_seed(3)).byte()
    with torch.no_grad():
        predicted = model(pixels / 127.5 - 1).argmax(1)
    return ArrayImages(pixels, torch.where(torch.arange(of) < right, predicted, (predicted + 1) % 10))


def run(small, server=None, right=39, **options) -> tuple[dict, list[str]]:
    """(record, lines) of a verification that expects 39 of 40 images right."""
    what, model, path = small
    said: list[str] = []
    what = Claim(what.name, what.arch, what.classes, what.side, published=39 / 40)
    options = {"device": "cpu", "images": images_that(model, right), "say": said.append, "progress": False} | options
    return verify(what, None if server else path, **options), said


def test_downloaded_from_a_server_that_cuts_off_once(small, server):
    server.body, server.cut_after = small[2].read_bytes(), 100_000
    record, said = run(small, server)
    assert record["holds"] and record["accuracy"] == pytest.approx(39 / 40) and record["images"] == 40
    assert len(server.requests) == 2 and server.requests[1] == "bytes=100000-"
    assert record["url"].endswith("/bitsy-CIFAR10.npz") and record["file"]["bytes"] == len(server.body)
    assert "as published" in said[-1] and "none yet" in " ".join(said)
    run(small, server)
    assert len(server.requests) == 2  # from the cache
    json.dumps(record)


def test_a_wrong_checksum_evaluates_nothing_and_leaves_nothing(small, server, tmp_path):
    server.body, server.md5 = small[2].read_bytes(), b"0" * 16
    with pytest.raises(UserError, match="its MD5 is .* the server states"):
        run(small, server)
    assert not [p for p in (tmp_path / "home" / "weights").iterdir() if not p.name.endswith(".lock")]


def test_a_full_disk_says_so_and_the_next_call_resumes(small, server, tmp_path):
    """A real limit on the size of files, which the system reports as a full disk is reported."""
    server.body = small[2].read_bytes()
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))
    try:
        with pytest.raises(UserError, match="no space left .* set BITLIB_HOME"):
            run(small, server)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert not (tmp_path / "home" / "weights" / "bitsy-CIFAR10.npz").exists()
    assert run(small, server)[0]["holds"]


def test_no_network_names_the_place_for_the_file(small, server):
    server.shutdown()
    server.server_close()
    with pytest.raises(UserError, match="cannot reach .* put it at .*bitsy-CIFAR10.npz"):
        run(small, server)


def test_another_accuracy_does_not_hold(small):
    record, said = run(small, right=38)
    assert not record["holds"] and "NOT as published" in said[-1]
    assert run(small, right=40)[0]["holds"] is False  # better than published is not as published, either


def test_a_file_with_another_head_or_a_nan_is_refused(small, tmp_path):
    what, model, _ = small
    save_npz(spread(create_model("bitsy", 12)), other := tmp_path / "other.npz")
    with pytest.raises(UserError, match="not a network fine-tuned to 10 classes"):
        verify(what, other, device="cpu", images=images_that(model, 1))
    with torch.no_grad():
        model.stage1.unit01.a.conv.weight[0, 0] = float("nan")
    save_npz(model, other)
    with pytest.raises(WeightsError, match="not finite"):
        verify(what, other, device="cpu", images=images_that(spread(model), 1))


def test_a_record_becomes_the_reference_of_later_runs(small, tmp_path):
    first, _ = run(small)
    (tmp_path / "verified.json").write_text(json.dumps(first))
    known = reference(tmp_path / "verified.json")
    again, said = run(small, known=known)
    assert again["reference"]["same file"] and again["reference"]["difference"] < 1e-5 and again["agrees"]
    assert "the same file, features" in " ".join(said)
    # One kernel mirrored: everything loads, and features give it away.
    what, model, path = small
    with torch.no_grad():
        weight = model.stage2.unit01.b.conv.weight
        weight.copy_(weight.transpose(2, 3).clone())
    save_npz(model, path)
    changed, said = run((what, model, path), known=known)
    assert changed["holds"] and not changed["agrees"] and not changed["reference"]["same file"]
    assert changed["reference"]["difference"] > 10 * module.SAME and "DIFFERENT" in " ".join(said)


def test_no_reference_and_a_damaged_one(tmp_path):
    assert reference(tmp_path / "verified.json") is None
    for text in ("{", "[]", '{"accuracy": 1}'):
        (tmp_path / "verified.json").write_text(text)
        with pytest.raises(UserError, match="is not a record of `bitlib verify`"):
            reference(tmp_path / "verified.json")


def test_fingerprints_are_of_the_whole_network_and_of_no_device(small):
    _, model, _ = small
    assert generated_input(32).equal(generated_input(32)) and generated_input(64).abs().max() <= 1
    first = fingerprint_of(model.train(), 32)
    assert model.training and differ(first, fingerprint_of(model, 32)) == 0
    assert len(first["features"]) == 8 and len(first["features"][0]) == 16 and len(first["logits"][0]) == 10
    for name, p in model.named_parameters():
        with torch.no_grad():
            before = p.clone()
            p[0] = 2 * p[0] + 1  # no factor alone: a standardised filter would not notice
            if p.ndim == 4:
                p[0].flatten()[0] += 5 * before.std()
            changed = fingerprint_of(model, 32)
            p.copy_(before)
        assert differ(first, changed) > 1e-5, name
    assert differ(first, {**first, "logits": first["logits"][:7]}) == float("inf")


def test_the_command_from_end_to_end_on_the_real_architecture(server, tmp_path, monkeypatch, capsys):
    """R50x1 with random weights, timm as the second implementation, CIFAR-10 in its official layout, twenty test images."""
    pytest.importorskip("timm")
    model = spread(create_model("R50x1", 10))
    save_npz(model, tmp_path / "w.npz")
    server.body = (tmp_path / "w.npz").read_bytes()
    base = tmp_path / "home" / "data" / datasets.CIFAR10.base_folder
    base.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for files, n in ((datasets.CIFAR10.train_list, 10), (datasets.CIFAR10.test_list, 20)):
        for name, _ in files:
            data = {"data": rng.integers(0, 256, (n, 3072), dtype=np.uint8), "labels": [i % 10 for i in range(n)]}
            (base / name).write_bytes(pickle.dumps(data))
    (base / datasets.CIFAR10.meta["filename"]).write_bytes(pickle.dumps({"label_names": [*"abcdefghij"]}))
    approve(monkeypatch, datasets.CIFAR10, base)
    # A packed copy, perhaps of lossy files, is not what the figure was published for.
    (tmp_path / "home" / "data" / "cifar10.npz").write_bytes(b"not even a file of NumPy")
    out = tmp_path / "verified.json"
    assert main(["verify", "--json", str(out), "--quiet", "--device", "cpu"]) == 1  # random weights are not as published
    said = capsys.readouterr().out
    record = json.loads(out.read_text())
    assert record["images"] == 20 and record["holds"] is False and record["agrees"] is True
    assert record["timm"]["difference"] < 1e-4 and "the same up to rounding" in said and "NOT as published" in said
    assert record["model"] == "BiT-M-R50x1-CIFAR10" and record["file"]["bytes"] == len(server.body)
    assert record["variances"]["filters"] > 10_000 and record["device"] and record["torch"]


def test_mistakes_are_one_line(tmp_path, capsys, server):
    server.status = 404
    assert main(["verify", "--json", str(tmp_path / "v.json"), "--quiet", "--device", "cpu"]) == 2
    err = capsys.readouterr().err
    assert "answered 404" in err and err.count("\n") == 1 and not (tmp_path / "v.json").exists()
    assert main(["verify", "--weights", str(tmp_path / "no.npz"), "--json", str(tmp_path / "v.json"), "--device", "cpu"]) == 2
    assert "does not exist" in capsys.readouterr().err


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_on_a_gpu(small, precision):
    record, _ = run(small, device="cuda", precision=precision, right=39)
    assert record["images"] == 40 and record["precision"] == precision
