"""Weights on disk: the official .npz files, the course's .safetensors files, and the registry of models.

Holds names, formats and checks; `download` fetches the files. Nothing is unpickled here, and no file is trusted: its names,
shapes and settings are read from the headers and compared with the network before any memory is allocated, and its numbers
are checked before any tensor of the model changes.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import json
import math
import re
import reprlib
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from .backbones import LIBRARIES, Backbone, BackboneArch, stated_hash
from .download import download
from .files import UserError, atomic_path, cache_dir
from .resnet import ARCHS, Arch, ResNetV2, count_parameters

OFFICIAL_URL = "https://storage.googleapis.com/bit_models/{name}.npz"
OFFICIAL_CLASSES = {"S": 1000, "M": 21_843}
PACKAGE = Path(__file__).parent / "pretrained"
MAX_CLASSES = 1_000_000
LARGEST = 1e6  # far beyond any trained weight; larger values, though finite, overflow inside the network


class WeightsError(UserError, ValueError):
    """A weight file cannot be read, or does not fit the network."""


# --- the official .npz layout -----------------------------------------------------------------------------------------


def npz_key(name: str) -> str:
    """The key of a parameter in the official files: "stage1.unit01.a.conv.weight" ->
    "resnet/block1/unit01/a/standardized_conv2d/kernel"."""
    if name.startswith("head."):
        return "resnet/head/conv2d/" + {"weight": "kernel", "bias": "bias"}[name[5:]]
    *path, layer, kind = name.replace("root.", "root_block.").split(".")
    path = [re.sub(r"^stage(\d)$", r"block\1", part) for part in path]
    if layer == "norm":
        tail = ["group_norm", {"weight": "gamma", "bias": "beta"}[kind]]
    else:
        tail = (["proj"] if layer == "proj" else []) + ["standardized_conv2d", "kernel"]
    return "/".join(["resnet", *path, *tail])


def _as_npz(name: str, tensor: Tensor) -> Tensor:
    """A writable view of a parameter in the official layout: HWIO, and the head as a 1x1 convolution."""
    if name == "head.weight":
        return tensor.t()[None, None]
    return tensor.permute(2, 3, 1, 0) if tensor.ndim == 4 else tensor


def _check_group_norm(model: ResNetV2) -> None:
    arch = model.arch
    if not isinstance(arch, Arch) or arch.norm != "gn" or not arch.standardize:
        kind = "group norm with weight standardisation"
        raise WeightsError(f"the official .npz format is only for {kind}; use such a network, or save_weights")


def load_npz(model: ResNetV2, path: str | Path) -> str:
    """Copy an official weight file into `model`; returns a sentence about what happened to the head.

    If the file's head has a different number of classes, the model's head is set to zeros, as the paper does for a new task.
    Also reads files with numbered keys (standardized_conv2d_17). Raises WeightsError, naming the key, for an entry that is
    missing, extra, of the wrong shape, or that holds NaN, infinity or absurdly large numbers; and for a file that is damaged
    or holds pickled objects. The model is then unchanged. Shapes are compared by the headers, so entries larger than the
    network's are never decompressed.
    """
    _check_group_norm(model)
    path = Path(path)
    with _reading(path), zipfile.ZipFile(path) as archive:
        return _copy_npz(model, path, archive)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn any error while reading `path` into a WeightsError of one clear line.

    Catches all exceptions: a damaged file can fail in zipfile, zlib, struct, the tokenizer or json, or run out of memory.
    """
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError:
        raise WeightsError(f"{path} does not exist") from None
    except (PermissionError, IsADirectoryError) as error:
        raise WeightsError(f"{path} cannot be read ({error.strerror})") from None
    except Exception as error:
        reason = (str(error) or type(error).__name__).splitlines()[0][:200]  # some libraries quote the file at length
        raise WeightsError(f"{path} is not a readable weight file (damaged or cut short: {reason}); get it again") from None


def _shown(key: str) -> str:
    """A key from a file, shortened to fit on one line."""
    return repr(key[:100])[1:-1]


def _check_entries(path: Path, found: Iterable[str], wanted: Iterable[str]) -> None:
    """Raise WeightsError if the file's entries are not those of the network."""
    for key in sorted({*found} ^ {*wanted}):
        has, does = ("lacks", "needs") if key in wanted else ("has", "lacks")
        raise WeightsError(f"{path} {has} the entry {_shown(key)}, which this network {does}; is it for another architecture?")


def _check_values(path: Path, key: str, tensor: Tensor) -> None:
    """Raise WeightsError for numbers that would keep the network's output from being finite."""
    if tensor.is_floating_point() and not tensor.abs().max() <= LARGEST:  # also true for NaN
        raise WeightsError(f"{path}: {key} holds values that are not finite or far too large; download the file again")
    if key.endswith("running_var") and (tensor < 0).any():
        raise WeightsError(f"{path}: {key} holds a variance below 0; download the file again")


def _shape_error(path: Path, key: str, found: tuple[int, ...], wanted: tuple[int, ...]) -> WeightsError:
    return WeightsError(f"{path}: {key} has the shape {reprlib.repr(found)}, but this network needs {wanted}")


def _header(path: Path, archive: zipfile.ZipFile, key: str) -> tuple[int, ...]:
    """Shape of one entry, after checking that it holds exactly that many floats; reads no more than the header."""

    def need(ok: bool, otherwise: str) -> None:
        if not ok:
            raise WeightsError(f"{path}: {key} {otherwise}")

    entry, plain = archive.getinfo(f"{key}.npy"), (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
    need(entry.compress_type in plain, "is compressed in a way that NumPy does not use; download the file again")
    with archive.open(entry) as file:
        # Later versions are for structured arrays, whose headers may have any length.
        need(np.lib.format.read_magic(file) == (1, 0), "is not a plain NumPy array; download the file again")
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        need(not dtype.hasobject, "holds pickled objects, which could run any code; get the file from its source")
        floating = dtype.kind == "f" and dtype.itemsize <= 8
        need(floating, f"holds {reprlib.repr(str(dtype))}, not floating-point numbers")
        size = file.tell() + math.prod(shape) * dtype.itemsize
        need(entry.file_size == size, f"declares {entry.file_size} bytes, but its shape needs {size}; download the file again")
    return shape


def _copy_npz(model: ResNetV2, path: Path, archive: zipfile.ZipFile) -> str:
    params = dict(model.named_parameters())
    wanted = {npz_key(name): name for name in params}
    keys: dict[str, str] = {}
    for found in (entry.removesuffix(".npy") for entry in archive.namelist()):
        key = re.sub(r"standardized_conv2d_\d+", "standardized_conv2d", found)
        if key in keys:
            raise WeightsError(f"{path} has both {_shown(keys[key])} and {_shown(found)}, two names for the same entry")
        keys[key] = found
    _check_entries(path, keys, wanted)
    found_classes = math.prod(_header(path, archive, keys["resnet/head/conv2d/bias"]))
    keep_head = found_classes == model.num_classes
    for key, name in wanted.items():
        shape = params[name].shape
        if name.startswith("head."):
            shape = (found_classes, *shape[1:])
        fitting = tuple(_as_npz(name, torch.empty(shape, device="meta")).shape)
        if (found := _header(path, archive, keys[key])) != fitting:
            raise _shape_error(path, keys[key], found, fitting)
    loaded: dict[str, Tensor] = {}
    for key, name in wanted.items():
        if name.startswith("head.") and not keep_head:
            continue
        with archive.open(f"{keys[key]}.npy") as file, np.errstate(over="ignore"):
            array = np.asarray(np.lib.format.read_array(file, allow_pickle=False), np.float32)
        loaded[name] = torch.from_numpy(array)
        _check_values(path, keys[key], loaded[name])
    with torch.no_grad():
        for name in list(loaded):  # freeing each once it is copied: R152x4 has 4 GB of them
            _as_npz(name, params[name]).copy_(loaded.pop(name))
        if not keep_head:
            model.head.weight.zero_()
            model.head.bias.zero_()
    if keep_head:
        return f"head of {found_classes} classes loaded"
    return f"the file's head has {found_classes} classes; the new head of {model.num_classes} starts at zero"


def save_npz(model: ResNetV2, path: str | Path) -> None:
    """Write `model` in the official format (float32), atomically. Loading it again gives the same bits."""
    _check_group_norm(model)
    with atomic_path(Path(path)) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED, allowZip64=True) as z:
        for name, p in model.named_parameters():  # one tensor in memory at a time: R152x4 has 4 GB of them
            with z.open(f"{npz_key(name)}.npy", "w", force_zip64=True) as entry:
                array = _as_npz(name, p.detach().float().cpu()).contiguous().numpy()
                np.lib.format.write_array(entry, array, allow_pickle=False)


# --- the course's own format ------------------------------------------------------------------------------------------


def save_weights(
    model: ResNetV2, path: str | Path, meta: dict, dtype: torch.dtype = torch.float32, state: dict[str, Tensor] | None = None
) -> None:
    """Write weights, statistics, architecture and `meta` (JSON-able) to one .safetensors file, atomically.

    dtype: how floating-point tensors are stored; torch.float16 halves the file, and loading gives float32 again. state: the
    weights to write, if the model itself is sharded. Raises WeightsError, naming the tensor, for numbers that `dtype` cannot
    hold, and, naming the field, for metadata with which the file could not be opened again.
    """
    from safetensors.torch import save_file

    meta = {**meta, "arch": asdict(model.arch), "num_classes": model.num_classes}
    try:
        _check_meta(meta)
    except ValueError as error:
        raise WeightsError(f"cannot write {path}: {error}") from None
    stored = {}
    for name, tensor in (state or model.state_dict()).items():
        stored[name] = tensor.detach().to(dtype if tensor.is_floating_point() else tensor.dtype).cpu().contiguous()
        if dtype == torch.float16 and not stored[name].isfinite().all():
            raise WeightsError(f"{name} holds numbers too large for {dtype}; store {Path(path).name} as float32")
    header = {"bitlib": json.dumps(meta, ensure_ascii=False)}
    with atomic_path(Path(path)) as temporary:
        save_file(stored, temporary, header)


# How a file may adapt the HyperRule to its model: key -> (type, smallest, largest).
_RECIPE = {
    "shrink": (int, 1, 500),  # the shortest schedule has 500 steps, of which at least one must remain
    "steps": (int, 1, 100_000_000),
    "batch_size": (int, 1, 1_000_000),
    "base_lr": (float, 1e-12, 1e6),
    "momentum": (float, 0, 1),
    "weight_decay": (float, 0, 1e6),
    "alpha": (float, 0, 1e6),
}
_SIDE = (int, 1, 4096)


def _is_number(value, kind: type, least: float, largest: float) -> bool:
    """Whether `value` is of this type (an int counts as a float, a bool as neither) and in range, which NaN never is."""
    return type(value) in (int, kind) and least <= value <= largest


def _is_text(value) -> bool:
    """Whether `value` is a string that can be printed: JSON can hold lone surrogates, which UTF-8 cannot encode."""
    return isinstance(value, str) and not re.search("[\ud800-\udfff]", value)


def _check_meta(meta) -> tuple[Arch | BackboneArch, int]:
    """(architecture, number of classes). Raises ValueError, with field, value and valid range, for the first invalid field."""

    def need(ok: bool, field: str, value, wanted: str) -> None:
        if not ok:
            raise ValueError(f"{field} is {reprlib.repr(value)}; it must be {wanted}")

    def need_number(field: str, value, kind: type, least: float, largest: float) -> None:
        wanted = f"a {'whole ' if kind is int else ''}number from {least:,} to {largest:,}"
        need(_is_number(value, kind, least, largest), field, value, wanted)

    arch, classes = meta["arch"], meta["num_classes"]
    kind = BackboneArch if isinstance(arch, dict) and "library" in arch else Arch
    known = [field.name for field in fields(kind)]
    need(isinstance(arch, dict) and set(arch) == set(known), "arch", arch, f"an object of {', '.join(known)}")
    arch = kind(**{key: tuple(value) if key == "units" and isinstance(value, list) else value for key, value in arch.items()})
    need_number("num_classes", classes, int, 1, MAX_CLASSES)
    for field in ("name", "task", "fingerprint"):
        need(_is_text(meta.get(field, "")), field, meta.get(field), "a string")
    names = meta.get("class_names", [])
    need(isinstance(names, list | tuple) and all(map(_is_text, names)), "class_names", names, "a list of strings")
    need(len(names) in (0, classes), "the number of class_names", len(names), f"0 or num_classes, {classes}")
    if (crop := meta.get("crop")) is not None:
        need_number("crop", crop, *_SIDE)
        smallest = arch.sides[0] if kind is Arch else 1  # the others enlarge what is too small
        need(crop >= smallest, "crop", crop, f"{smallest} or more if every group has one channel")
    if (recipe := meta.get("recipe")) is not None:
        known = {*_RECIPE, "resolution"}
        need(isinstance(recipe, dict) and recipe.keys() <= known, "recipe", recipe, f"an object of {', '.join(sorted(known))}")
        for field, value in recipe.items():
            if field != "resolution":
                need_number(f"recipe's {field}", value, *_RECIPE[field])
                continue
            ok = isinstance(value, list | tuple) and len(value) == 2 and all(_is_number(side, *_SIDE) for side in value)
            wanted = "[resize, crop], whole numbers from 1 to 4,096 with crop <= resize"
            need(ok and value[1] <= value[0], "recipe's resolution", value, wanted)
    seen = meta.get("seen") or {}
    texts = isinstance(seen, dict) and all(map(_is_text, seen.values()))
    need(texts and seen.keys() <= {"train", "val"}, "seen", seen, "an object of train and val, each a string")
    return arch, classes


@contextmanager
def _open_weights(path: Path) -> Iterator[tuple]:
    """(open file, meta, architecture, number of classes) of a .safetensors file, after checking its header."""
    from safetensors import safe_open

    with _reading(path), safe_open(path, "pt", device="cpu") as file:
        meta = json.loads((file.metadata() or {}).get("bitlib", "null"))
        if not isinstance(meta, dict) or not {"arch", "num_classes"} <= meta.keys():
            raise WeightsError(f"{path} was not written by bitlib, or by a newer version: it does not record an architecture")
        try:
            arch, classes = _check_meta(meta)
        except ValueError as error:
            raise WeightsError(f"{path}: {error}; download the file again, or write it again with save_weights") from None
        _check_tensors(path, file, arch, classes)
        yield file, meta, arch, classes


@functools.lru_cache(maxsize=32)
def _tensors_of(arch: Arch | BackboneArch, num_classes: int) -> dict[str, tuple[tuple[int, ...], bool]]:
    """name -> (shape, whether it is floating-point) of everything in a network's state; allocates no memory."""
    state = _sketch(arch, num_classes).state_dict()
    return {key: (tuple(t.shape), t.is_floating_point()) for key, t in state.items()}


def _sketch(arch: Arch | BackboneArch, num_classes: int) -> nn.Module:
    """The network without memory for its weights, except for those of timm's that cannot be built without."""
    try:
        with torch.device("meta"):
            return arch.build(num_classes)
    except (RuntimeError, NotImplementedError):
        return arch.build(num_classes)


def _check_tensors(path: Path, file, arch: Arch | BackboneArch, num_classes: int) -> None:
    """Raise WeightsError, from the header alone, if a file's tensors are not those of the network; allocates nothing."""
    wanted = _tensors_of(arch, num_classes)
    _check_entries(path, file.keys(), wanted)
    for key, (shape, floating) in wanted.items():
        view = file.get_slice(key)
        if tuple(view.get_shape()) != shape:
            raise _shape_error(path, key, tuple(view.get_shape()), shape)
        kinds = ("F16", "BF16", "F32", "F64") if floating else ("I64",)
        if (kind := view.get_dtype()) not in kinds:
            raise WeightsError(f"{path}: {key} is stored as {kind}; it must be one of {', '.join(kinds)}; get the file again")


def load_weights(path: str | Path) -> tuple[dict[str, Tensor], dict]:
    """(state dict in float32, meta) from a file written by `save_weights`. Raises WeightsError if it cannot be read."""
    path = Path(path)
    with _open_weights(path) as (file, meta, *_):
        state = {key: file.get_tensor(key) for key in file.keys()}
    state = {k: t.float() if t.is_floating_point() else t for k, t in state.items()}
    for key, tensor in state.items():
        _check_values(path, key, tensor)
    return state, meta


# --- the registry -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ModelInfo:
    """What is known about a model without loading it.

    source: "official", "course" (in the package), "torchvision", "timm", "file", or "architecture" (no weights). num_classes:
    of the pre-trained head. crop: side in pixels of its test images; None lets the HyperRule decide. recipe: how the HyperRule
    is adapted to it. seen: short hashes of the images it was trained ("train") and validated ("val") on, if these were files.
    """

    name: str
    arch: Arch | BackboneArch
    num_classes: int
    source: str
    path: Path | None = None
    url: str | None = None
    class_names: tuple[str, ...] = ()
    crop: int | None = None
    recipe: dict | None = None
    seen: dict | None = None

    @property
    def num_parameters(self) -> int:
        return count_parameters(_sketch(self.arch, self.num_classes))

    @property
    def location(self) -> str:
        """Where the weights are, or where they would be downloaded from."""
        if self.url:
            return str(self.path) if self.path.exists() else self.url
        return "in the package" if self.source == "course" else str(self.path)


def _official() -> dict[str, ModelInfo]:
    infos, folder = {}, cache_dir() / "weights"
    for scale, classes in OFFICIAL_CLASSES.items():
        for arch in ("R50x1", "R50x3", "R101x1", "R101x3", "R152x2", "R152x4"):
            name = f"BiT-{scale}-{arch}"
            url = OFFICIAL_URL.format(name=name)
            infos[name] = ModelInfo(name, ARCHS[arch], classes, "official", folder / f"{name}.npz", url)
    return infos


@functools.cache
def _file_info(path: Path, source: str, _modified: float) -> ModelInfo:
    with _open_weights(path) as (_, meta, arch, classes):
        names, crop, recipe = tuple(meta.get("class_names", ())), meta.get("crop"), meta.get("recipe")
    name, seen = meta.get("name") or path.stem, meta.get("seen")
    recipe = arch.recipe if recipe is None else recipe
    return ModelInfo(name, arch, classes, source, path, None, names, crop, recipe, seen)


def _course() -> dict[str, ModelInfo]:
    return {p.stem: _file_info(p, "course", p.stat().st_mtime) for p in sorted(PACKAGE.glob("*.safetensors"))}


def list_models() -> list[str]:
    """Names of all models with weights: the official ones, then the course's own."""
    return [*_official(), *_course()]


def is_cached(name: str) -> bool:
    """Whether the weight file of an official model is in the cache."""
    return _official()[name].path.exists()


def model_info(name: str) -> ModelInfo:
    """What is known about a model, by name or by the path of a weight file (.safetensors, or an official .npz not renamed).

    "torchvision/NAME" and "timm/NAME" are networks of other libraries. Raises UserError for an unknown name, with the closest
    known ones, or a file that cannot be used.
    """
    models = _official() | _course()
    if name in models:
        return models[name]
    path = Path(name)
    if path.suffix == ".safetensors":
        if not path.exists():
            raise UserError(f"the model file {path} does not exist")
        return _file_info(path, "file", path.stat().st_mtime)
    if path.suffix == ".npz" and path.exists():
        if path.stem in _official():
            return replace(models[path.stem], source="file", path=path)
        todo = "rename it to its official name, such as BiT-M-R50x1.npz"
        in_python = "in Python pass an architecture and pretrained=PATH to create_model"
        raise UserError(f"the name {path} does not tell the architecture: {todo}, or {in_python}")
    if name in ARCHS:
        return ModelInfo(name, ARCHS[name], 1000, "architecture")
    library, _, network = name.partition("/")
    if library in LIBRARIES and network:
        try:
            arch = BackboneArch(library, network)
        except ValueError as error:
            raise UserError(f"{name}: {error}") from None
        spec = arch.spec
        return ModelInfo(
            arch.name, arch, spec.num_classes, library, arch.path, spec.url, spec.class_names, spec.side, arch.recipe
        )
    close = difflib.get_close_matches(name, [*models, *ARCHS], 3, 0.4)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    raise UserError(f"unknown model {name!r}; {hint}`bitlib models` lists them all")


def create_model(
    name: str,
    num_classes: int | None = None,
    pretrained: bool | str | Path = False,
    seed: int = 0,
    device: str | torch.device | None = None,
) -> ResNetV2 | Backbone:
    """A network by name: official, the course's, an architecture ("small", "R50x1"), or the path of a weight file; or
    "torchvision/NAME" or "timm/NAME", which return a `Backbone`.

    num_classes: outputs of the head; None for as many as the pre-trained one. pretrained: False for random weights, drawn by
    `seed`; True for the model's own weights (official ones are downloaded into the cache if needed); or the path of an .npz
    or .safetensors file. A head that differs in size from the file's starts at zero. The model's `info` is a ModelInfo.
    device: where to put the model; None for the CPU. Raises UserError for an unknown name, and WeightsError for a file that
    does not fit.
    """
    info = model_info(str(name))
    classes = info.num_classes if num_classes is None else num_classes
    if classes < 1:
        raise UserError(f"num_classes is {classes}; it must be 1 or more")
    if not pretrained:
        model = info.arch.build(classes, seed)
    else:
        path = info.path if pretrained is True else Path(pretrained)
        published = info.source in LIBRARIES and pretrained is True
        if path is None:
            raise UserError(f"{name} is an architecture without weights; `bitlib models` lists the models that have them")
        if published and not info.url:
            raise UserError(f"{name} has no weights as .safetensors; choose one that `bitlib models {info.source}` lists")
        if info.url and path == info.path and not path.exists():
            download(info.url, path, sha256=stated_hash(info.url))
        if published:
            model = Backbone(info.arch, classes, seed, path)
        else:
            model = info.arch.build(classes, None)
            load = _load_state if path.suffix == ".safetensors" else load_npz
            load(model, path)
    model.info = info
    return model.to(device)


def _load_state(model: ResNetV2, path: Path) -> None:
    """Copy a .safetensors file into `model`; a head with a different number of classes is set to zeros."""
    with _open_weights(path) as (file, _, _, classes):
        _check_tensors(path, file, model.arch, classes)
    state, _ = load_weights(path)
    if classes != model.num_classes:
        own = model.state_dict()
        state |= {name: torch.zeros_like(own[name]) for name in ("head.weight", "head.bias")}
    model.load_state_dict(state)


def info_of(model: ResNetV2) -> ModelInfo:
    """A model's `info`; for a model built by hand, a ModelInfo with its architecture and the name "custom"."""
    return getattr(model, "info", None) or ModelInfo("custom", model.arch, model.num_classes, "architecture")


def weights_digest(model: nn.Module) -> str:
    """A short hash of all weights and batch-norm statistics: 16 hex digits."""
    h = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        h.update(name.encode())
        h.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return h.hexdigest()[:16]
