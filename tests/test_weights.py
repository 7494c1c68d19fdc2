"""Weight files: what is written comes back to the bit, and whatever does not fit is named before anything changes."""

import json
import re
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
import torch
from conftest import TINY, TINY_BN
from torch import nn

import bitlib
from bitlib import UserError, create_model, list_models, load_npz, model_info, save_npz, save_weights
from bitlib.resnet import ARCHS, Arch, ResNetV2
from bitlib.weights import WeightsError, info_of, load_weights, npz_key


def randomised(arch: Arch = TINY, classes: int = 5, seed: int = 0) -> ResNetV2:
    model, generator = ResNetV2(arch, classes, seed), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * 0.1 + (p.ndim == 1))
    return model


def equal(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(p, q) for p, q in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.fixture
def npz(tmp_path):
    save_npz(randomised(), tmp_path / "w.npz")
    return tmp_path / "w.npz"


def rewrite(path, change) -> None:
    with np.load(path) as file:
        arrays = dict(file)
    change(arrays)
    np.savez(path, **arrays)


def test_keys_of_the_official_layout():
    """The layout as documented, key by key, for the parts that differ from one another."""
    assert {
        npz_key(name)
        for name in (
            "root.conv.weight",
            "stage1.unit01.a.proj.weight",
            "stage4.unit03.b.norm.bias",
            "stage2.unit02.c.conv.weight",
            "norm.weight",
            "head.weight",
            "head.bias",
        )
    } == {
        "resnet/root_block/standardized_conv2d/kernel",
        "resnet/block1/unit01/a/proj/standardized_conv2d/kernel",
        "resnet/block4/unit03/b/group_norm/beta",
        "resnet/block2/unit02/c/standardized_conv2d/kernel",
        "resnet/group_norm/gamma",
        "resnet/head/conv2d/kernel",
        "resnet/head/conv2d/bias",
    }


@pytest.mark.parametrize("name, tensors", [("R50x1", 153), ("R101x3", 306), ("R152x4", 459)])
def test_every_parameter_has_a_key_of_its_own(name, tensors):
    with torch.device("meta"):
        names = [n for n, _ in ResNetV2(ARCHS[name], 10).named_parameters()]
    assert len({npz_key(n) for n in names}) == len(names) == tensors


def test_npz_round_trip_is_bit_exact(npz):
    fresh = ResNetV2(TINY, 5, seed=9)
    assert "head of 5 classes loaded" in load_npz(fresh, npz)
    assert equal(fresh, randomised())
    with np.load(npz) as file:
        kernel = file["resnet/root_block/standardized_conv2d/kernel"]
    assert kernel.shape == (3, 3, 3, 8)  # height, width, in, out
    assert kernel[1, 2, 0, 5] == randomised().root.conv.weight[5, 0, 1, 2].item()


def test_head_of_another_size_is_left_at_zero_and_said_so(npz):
    model = randomised(classes=7, seed=3)
    assert "starts at zero" in load_npz(model, npz)
    assert not model.head.weight.any() and not model.head.bias.any()
    assert torch.equal(model.root.conv.weight, randomised().root.conv.weight)


def test_numbered_keys(npz):
    numbers = iter(range(1, 99))
    rewrite(
        npz,
        lambda a: [
            a.__setitem__(k.replace("standardized_conv2d", f"standardized_conv2d_{next(numbers)}"), a.pop(k))
            for k in list(a)
            if "standardized" in k
        ],
    )
    model = ResNetV2(TINY, 5)
    load_npz(model, npz)
    assert equal(model, randomised())


KEY = "resnet/block2/unit01/b/standardized_conv2d/kernel"


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda a: a.pop(KEY), f"lacks the entry {KEY}"),
        (lambda a: a.update({"resnet/block9/x": np.zeros(3, np.float32)}), "has the entry resnet/block9/x"),
        (lambda a: a.update({KEY: a[KEY][..., :3]}), rf"{KEY} has the shape \(3, 3, 16, 3\), .* needs \(3, 3, 16, 16\)"),
        (lambda a: a.update({KEY: a[KEY] * np.nan}), f"{KEY} holds values that are not finite"),
        (lambda a: a.update({KEY: a[KEY].astype(object)}), "pickled objects"),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_loaded(npz, change, message):
    rewrite(npz, change)
    model = randomised(seed=4)
    with pytest.raises(WeightsError, match=message):
        load_npz(model, npz)
    assert equal(model, randomised(seed=4))


@pytest.mark.parametrize("content", ["cut", "text", "empty", "pickle", "array"])
def test_files_that_are_no_archive(npz, content):
    raw = npz.read_bytes()
    if content == "array":
        with open(npz, "wb") as f:
            np.save(f, np.zeros(3))
    else:
        import pickle

        npz.write_bytes(
            {"cut": raw[: len(raw) // 2], "text": b"hello", "empty": b"", "pickle": pickle.dumps({"a": 1})}[content]
        )
    with pytest.raises(WeightsError) as caught:
        load_npz(randomised(), npz)
    assert "w.npz" in str(caught.value) and "\n" not in str(caught.value)


def test_a_flipped_bit_inside_the_archive_is_noticed(npz):
    with zipfile.ZipFile(npz) as z:
        info = z.getinfo(f"{KEY}.npy")
        offset = info.header_offset + 400
    raw = bytearray(npz.read_bytes())
    raw[offset] ^= 0x40
    npz.write_bytes(raw)
    with pytest.raises(WeightsError, match="damaged"):
        load_npz(randomised(), npz)


def squeezed(path, entry: str, shape: tuple, content: int) -> None:
    """Replace one entry by an array of that shape, followed by so many compressed zeros."""
    with zipfile.ZipFile(path) as old:
        entries = {name: old.read(name) for name in old.namelist()}
    header = str({"descr": "<f4", "fortran_order": False, "shape": shape}).ljust(117) + "\n"
    entries[f"{entry}.npy"] = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + bytes(content)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as new:
        for name, raw in entries.items():
            new.writestr(name, raw)


@pytest.mark.parametrize(
    "entry, shape, content, message",
    [
        (KEY, (3, 3, 16, 16), 64 << 20, f"{KEY} declares 67108992 bytes, but its shape needs 9344"),
        (
            KEY,
            (10**9, 10**9, 1, 1),
            0,
            rf"{KEY} has the shape \(1000000000, .* needs \(3, 3, 16, 16\)|{KEY} declares 128 bytes",
        ),
        ("resnet/head/conv2d/bias", (16 << 20,), 64 << 20, r"head/conv2d/kernel has the shape \(1, 1, 256, 5\)"),
    ],
)
def test_an_entry_larger_than_the_network_is_not_decompressed(npz, entry, shape, content, message):
    squeezed(npz, entry, shape, content)
    model = ResNetV2(TINY, 5)
    tracemalloc.start()
    try:
        with pytest.raises(WeightsError, match=message):
            load_npz(model, npz)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20  # at its peak; NumPy and zlib are counted
    finally:
        tracemalloc.stop()


def test_half_precision_files_are_read(npz):
    rewrite(npz, lambda a: a.update({k: v.astype(np.float16) for k, v in a.items()}))
    model = ResNetV2(TINY, 5)
    load_npz(model, npz)
    assert model.root.conv.weight.dtype == torch.float32
    torch.testing.assert_close(model.root.conv.weight, randomised().root.conv.weight, rtol=1e-3, atol=1e-3)


def test_batch_norm_has_no_official_layout(tmp_path):
    with pytest.raises(WeightsError, match="group norm"):
        save_npz(ResNetV2(TINY_BN, 3), tmp_path / "w.npz")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("arch", [TINY, TINY_BN])
def test_safetensors_round_trip(tmp_path, arch):
    model, path = randomised(arch), tmp_path / "m.safetensors"
    save_weights(model, path, {"name": "mine", "class_names": list("äbcde"), "crop": 32})
    again = create_model(str(path), pretrained=True)
    assert equal(model, again) and again.arch == arch
    assert again.info.class_names == tuple("äbcde") and again.info.crop == 32 and again.info.name == "mine"
    assert not create_model(str(path), 9, pretrained=True).head.weight.any()


def test_sixteen_bit_storage_is_loaded_as_float32(tmp_path):
    model, full, half = randomised(), tmp_path / "full.safetensors", tmp_path / "half.safetensors"
    save_weights(model, full, {})
    save_weights(model, half, {}, dtype=torch.float16)
    assert half.stat().st_size < 0.6 * full.stat().st_size
    state, _ = load_weights(half)
    for name, p in model.state_dict().items():
        assert state[name].dtype == torch.float32
        torch.testing.assert_close(state[name], p, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda p: p.write_bytes(p.read_bytes()[:-100]), "damaged or cut short"),
        (lambda p: p.write_bytes(b"x"), "damaged"),
        (lambda p: p.unlink(), "does not exist"),
    ],
)
def test_damaged_safetensors(tmp_path, spoil, message):
    path = tmp_path / "m.safetensors"
    save_weights(randomised(), path, {})
    spoil(path)
    with pytest.raises(UserError, match=message):
        create_model(str(path), pretrained=True)


def test_foreign_safetensors(tmp_path):
    from safetensors.torch import save_file

    save_file({"w": torch.zeros(2)}, tmp_path / "m.safetensors")
    with pytest.raises(WeightsError, match="not written by bitlib"):
        create_model(str(tmp_path / "m.safetensors"))


def edit(path, change) -> None:
    """Change the JSON header of a .safetensors file, and within it the meta data that bitlib wrote."""
    raw = path.read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + length])
    meta = json.loads(header["__metadata__"]["bitlib"])
    change(meta, header)
    header["__metadata__"]["bitlib"] = json.dumps(meta)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + length :])


@pytest.mark.parametrize(
    "place, value, message",
    [
        ("class_names", ["a"], "the number of class_names is 1; it must be 0 or num_classes, 5"),
        ("class_names", "abcde", "class_names is 'abcde'; it must be a list of strings"),
        ("class_names", [1, 2, 3, 4, 5], "class_names is .* a list of strings"),
        ("class_names", list("abcd") + ["\ud800"], "class_names is .* a list of strings"),
        ("crop", 0, "crop is 0; it must be a whole number from 1 to 4,096"),
        ("crop", 32.0, "crop is 32.0; it must be a whole number"),
        ("crop", True, "crop is True"),
        ("crop", 10**9, "crop is 1000000000"),
        ("name", 7, "name is 7; it must be a string"),
        ("task", [], r"task is \[\]"),
        ("num_classes", 0, "num_classes is 0; it must be a whole number from 1 to 1,000,000"),
        ("num_classes", "5", "num_classes is '5'"),
        ("num_classes", 6, "the number of class_names is 5; it must be 0 or num_classes, 6"),
        ("arch units", [1, 1, 1], r"units is \(1, 1, 1\); it must be four whole numbers from 1 to 64"),
        ("arch units", [1, 1, 1, 10**6], "units is .* four whole numbers from 1 to 64"),
        ("arch root_width", -8, "root_width is -8; it must be a whole number from 1 to 4096"),
        ("arch root_width", 4000, r"root.conv.weight has the shape \(8, 3, 3, 3\), but this network needs \(4000, 3, 3, 3\)"),
        ("arch groups", 0, "groups is 0"),
        ("arch groups", 3, "groups is 3; it must be a divisor of root_width, 8"),
        ("arch stem", "smal", "stem is 'smal'; it must be 'imagenet' or 'small'"),
        ("arch norm", "ln", "norm is 'ln'; it must be 'gn' or 'bn'"),
        ("arch standardize", 1, "standardize is 1; it must be True or False"),
        ("arch", {}, r"arch is \{\}; it must be an object of units, root_width"),
        ("recipe", {"shrink": 0}, "recipe's shrink is 0; it must be a whole number from 1 to 500"),
        ("recipe", {"base_lr": float("nan")}, "recipe's base_lr is nan"),
        ("recipe", {"resolution": [32, 36]}, r"recipe's resolution is \[32, 36\]; .* crop <= resize"),
        ("recipe", {"num_examples": 1}, "recipe is .* an object of alpha, base_lr"),
        ("recipe", [], r"recipe is \[\]"),
    ],
)
@pytest.mark.parametrize("pretrained", [True, False])
def test_what_a_file_says_of_itself_is_checked(tmp_path, place, value, message, pretrained):
    path = tmp_path / "m.safetensors"
    save_weights(randomised(), path, {"class_names": list("abcde"), "crop": 12})

    def change(meta, _):
        *outer, field = place.split()
        (meta[outer[0]] if outer else meta)[field] = value

    edit(path, change)
    with pytest.raises(WeightsError, match=rf"m\.safetensors: {message}") as caught:
        create_model(str(path), pretrained=pretrained)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "key, number, message",
    [
        ("head.bias", 1e30, "head.bias holds values that are not finite or far too large"),
        ("head.bias", float("nan"), "head.bias holds values that are not finite"),
        ("norm.running_var", -1.0, "norm.running_var holds a variance below 0"),
    ],
)
def test_numbers_that_give_no_prediction_are_refused(tmp_path, key, number, message):
    model = randomised(TINY_BN)
    model.state_dict()[key][0] = number
    save_weights(model, tmp_path / "m.safetensors", {})
    with pytest.raises(WeightsError, match=message):
        create_model(str(tmp_path / "m.safetensors"), pretrained=True)


def test_numbers_of_another_kind_are_refused(tmp_path):
    save_weights(randomised(), tmp_path / "m.safetensors", {})
    edit(tmp_path / "m.safetensors", lambda _, header: header["head.bias"].update(dtype="I32"))
    with pytest.raises(WeightsError, match="head.bias is stored as I32; it must be one of F16, BF16, F32, F64"):
        create_model(str(tmp_path / "m.safetensors"), pretrained=True)


def test_what_could_not_be_opened_again_is_not_written(tmp_path):
    with pytest.raises(WeightsError, match="cannot write .*number of class_names is 2; it must be 0 or num_classes, 5"):
        save_weights(randomised(), tmp_path / "m.safetensors", {"class_names": ["a", "b"]})
    assert not list(tmp_path.iterdir())


def test_a_network_built_by_hand_is_known_as_custom():
    info = info_of(ResNetV2(TINY, 4))
    assert (info.name, info.arch, info.num_classes, info.recipe) == ("custom", TINY, 4, None)
    assert info_of(create_model("glyphs-S")).name == "glyphs-S"


def test_wrong_architecture_is_named(tmp_path):
    save_weights(randomised(), tmp_path / "m.safetensors", {})
    with pytest.raises(WeightsError, match="entry stage1.unit02"):
        create_model("small", 5, pretrained=tmp_path / "m.safetensors")


def test_the_registry():
    official = {f"BiT-{s}-{a}" for s in "SM" for a in ("R50x1", "R50x3", "R101x1", "R101x3", "R152x2", "R152x4")}
    assert official <= set(list_models())
    info = model_info("BiT-M-R50x1")
    assert info.num_classes == 21_843 and info.num_parameters == 68_256_659
    assert info.url == "https://storage.googleapis.com/bit_models/BiT-M-R50x1.npz"
    assert model_info("BiT-S-R152x4").num_parameters == 936_533_224
    with pytest.raises(UserError, match="unknown model 'BiT-M-R50x2'; did you mean .*BiT-M-R50x1"):
        create_model("BiT-M-R50x2")
    with pytest.raises(UserError, match="'small' is an architecture|small is an architecture"):
        create_model("small", pretrained=True)
    assert create_model("BiT-S-R50x1", 3).info.name == "BiT-S-R50x1"


def test_the_package_ships_its_models_with_cards():
    names = [n for n in list_models() if not n.startswith("BiT-")]
    assert {"glyphs-S", "glyphs-M", "glyphs-L", "glyphs-L-bn"} <= set(names)
    x = torch.rand(2, 3, 32, 32) * 2 - 1
    for name in names:
        info = model_info(name)
        model = create_model(name, pretrained=True).eval()
        assert len(info.class_names) == model.num_classes and model(x).isfinite().all() and model(x).std() > 0
        card = info.path.with_suffix(".md").read_text("utf8")
        assert f"# {name}" in card and f"{info.num_parameters:,}" in card
        assert "Were digits among the upstream classes?** No" in card or not name.startswith("glyphs")
        assert not re.search(r"[0-9]", "".join(info.class_names))
        assert info.path.stat().st_size < 8e6
    assert len(model_info("glyphs-L").class_names) > 2000


def test_official_names_are_fetched_into_the_cache_or_explained(monkeypatch):
    import urllib.error
    import urllib.request

    def refuse(*args, **kwargs):
        raise urllib.error.URLError(OSError("Network is unreachable"))

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    with pytest.raises(UserError) as caught:
        create_model("BiT-M-R50x1", 10, pretrained=True)
    text = str(caught.value)
    assert "https://storage.googleapis.com/bit_models/BiT-M-R50x1.npz" in text and "\n" not in text
    assert str(bitlib.files.cache_dir() / "weights" / "BiT-M-R50x1.npz") in text
