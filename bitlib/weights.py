"""Weights on disk: the official .npz files, the course's .safetensors, and the registry of models.

Owns names, formats and checks; `download` fetches. Nothing is ever unpickled. A file is checked as a whole before the
first tensor of a model changes.
"""

from __future__ import annotations

import difflib
import functools
import hashlib
import json
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from .download import download
from .files import UserError, atomic_path, cache_dir
from .resnet import ARCHS, Arch, ResNetV2, count_parameters

OFFICIAL_URL = "https://storage.googleapis.com/bit_models/{name}.npz"
OFFICIAL_CLASSES = {"S": 1000, "M": 21_843}
PACKAGE = Path(__file__).parent / "pretrained"


class WeightsError(UserError, ValueError):
    """A weight file that cannot be read, or does not fit the network."""


# --- the official .npz layout -----------------------------------------------------------------------------------------


def npz_key(name: str) -> str:
    """The official file's name for a parameter: "stage1.unit01.a.conv.weight" ->
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


def _to_npz(name: str, tensor: Tensor) -> np.ndarray:
    if name == "head.weight":  # [C, F] -> 1x1 convolution, HWIO
        return tensor.t()[None, None].contiguous().numpy()
    return (tensor.permute(2, 3, 1, 0) if tensor.ndim == 4 else tensor).contiguous().numpy()  # OIHW -> HWIO


def _npz_shape(name: str, shape: torch.Size) -> tuple[int, ...]:
    if name == "head.weight":
        return 1, 1, shape[1], shape[0]
    return (shape[2], shape[3], shape[1], shape[0]) if len(shape) == 4 else tuple(shape)


def _from_npz(name: str, array: np.ndarray) -> Tensor:
    tensor = torch.from_numpy(array)
    if name == "head.weight":
        return tensor[0, 0].t()
    return tensor.permute(3, 2, 0, 1) if tensor.ndim == 4 else tensor


def _check_group_norm(model: ResNetV2) -> None:
    if model.arch.norm != "gn" or not model.arch.standardize:
        raise WeightsError(
            "the official .npz layout holds group norm with weight standardisation only; "
            "use a network of that kind, or save_weights"
        )


def load_npz(model: ResNetV2, path: str | Path) -> str:
    """Copy an official weight file into `model`; returns a line that says what was done with the head.

    A head of another number of classes than the file's is left at zeros, as the paper does for a new task. Also reads
    files whose keys carry a number (standardized_conv2d_17). Raises WeightsError, naming the key, for a missing, extra
    or wrongly shaped entry or one with NaN or infinity; and for a file that is damaged or holds pickled objects. The
    model is then as it was before.
    """
    _check_group_norm(model)
    path = Path(path)
    with _reading(path):
        file = np.load(path, allow_pickle=False)
    if not hasattr(file, "files"):
        raise WeightsError(f"{path} holds a single array, not a .npz archive of weights")
    with file:
        return _copy_npz(model, path, file)


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn whatever goes wrong while NumPy reads `path` into one clear line.

    All exceptions: a damaged archive fails in zipfile, zlib, struct, the tokenizer, or for want of memory.
    """
    try:
        yield
    except WeightsError:
        raise
    except FileNotFoundError:
        raise WeightsError(f"{path} does not exist") from None
    except (PermissionError, IsADirectoryError) as error:
        raise WeightsError(f"{path} cannot be read ({error.strerror})") from None
    except Exception as error:
        text = (str(error) or type(error).__name__).splitlines()[0]
        reason = (
            "it holds pickled objects, which could run any code"
            if "pickle" in text.lower()
            else f"damaged or cut short: {text}"
        )
        raise WeightsError(f"{path} is not a readable weight file ({reason}); get it again") from None


def _entry(path: Path, file, key: str) -> np.ndarray:
    """One entry as finite float32."""
    with _reading(path):
        array = file[key]
    if not isinstance(array, np.ndarray) or array.dtype.kind != "f":
        kind = array.dtype if isinstance(array, np.ndarray) else "no array"
        raise WeightsError(f"{path}: {key} holds {kind}, not floating-point numbers")
    with np.errstate(over="ignore"):
        array = np.asarray(array, np.float32)
    if not np.isfinite(array).all():
        raise WeightsError(f"{path}: {key} holds values that are not finite numbers; get the file again")
    return array


def _copy_npz(model: ResNetV2, path: Path, file) -> str:
    params = dict(model.named_parameters())
    wanted = {npz_key(name): name for name in params}
    keys: dict[str, str] = {}
    for found in file.files:
        key = re.sub(r"standardized_conv2d_\d+", "standardized_conv2d", found)
        if key not in wanted or key in keys:
            raise WeightsError(
                f"{path} has the entry {found}, which this network lacks; is it a file of another architecture?"
                if key not in wanted
                else f"{path} has both {keys[key]} and {found}: one too many"
            )
        keys[key] = found
    for key in wanted:
        if key not in keys:
            raise WeightsError(f"{path} lacks the entry {key}; is it a file of another architecture?")
    found_classes = _entry(path, file, keys["resnet/head/conv2d/bias"]).size
    keep_head = found_classes == model.num_classes
    loaded: dict[str, Tensor] = {}
    for key, name in wanted.items():
        if name.startswith("head.") and not keep_head:
            continue
        array, shape = _entry(path, file, keys[key]), _npz_shape(name, params[name].shape)
        if array.shape != shape:
            raise WeightsError(f"{path}: {keys[key]} has the shape {array.shape}, this network needs {shape}")
        loaded[name] = _from_npz(name, array)
    with torch.no_grad():
        for name in list(loaded):  # giving each back once it is copied: R152x4 has 4 GB of them
            params[name].copy_(loaded.pop(name))
        if not keep_head:
            model.head.weight.zero_()
            model.head.bias.zero_()
    return (
        f"head of {found_classes} classes loaded"
        if keep_head
        else f"the file's head has {found_classes} classes; the new head of {model.num_classes} starts at zero"
    )


def save_npz(model: ResNetV2, path: str | Path) -> None:
    """Write `model` in the official layout (float32), atomically. Loading it again gives the same bits."""
    _check_group_norm(model)
    with atomic_path(Path(path)) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED, allowZip64=True) as z:
        for name, p in model.named_parameters():  # one tensor in memory at a time: R152x4 has 4 GB of them
            with z.open(f"{npz_key(name)}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, _to_npz(name, p.detach().float().cpu()), allow_pickle=False)


# --- the course's own format ------------------------------------------------------------------------------------------


def save_weights(
    model: ResNetV2, path: str | Path, meta: dict, dtype: torch.dtype = torch.float32, state: dict[str, Tensor] | None = None
) -> None:
    """Write weights, statistics, architecture and `meta` (JSON-able) to one .safetensors file, atomically.

    dtype: storage of floating-point tensors; torch.float16 halves the file, and loading gives float32 again. state: the
    weights, where the model itself holds only parts of them. Raises WeightsError, naming the tensor, for a number that `dtype`
    cannot hold.
    """
    from safetensors.torch import save_file

    state = {
        name: (t.detach().to(dtype) if t.is_floating_point() else t.detach()).cpu().contiguous()
        for name, t in (state or model.state_dict()).items()
    }
    for name, tensor in state.items():
        if dtype == torch.float16 and tensor.is_floating_point() and not tensor.isfinite().all():
            raise WeightsError(f"{name} holds numbers beyond {dtype}; store {Path(path).name} as float32")
    header = {"bitlib": json.dumps({**meta, "arch": asdict(model.arch), "num_classes": model.num_classes}, ensure_ascii=False)}
    with atomic_path(Path(path)) as temporary:
        save_file(state, temporary, header)


@contextmanager
def _open_weights(path: Path) -> Iterator[tuple]:
    """(open file, meta) of a .safetensors file; the meta data have a valid "arch" and "num_classes"."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt", device="cpu") as file:
            meta = json.loads(file.metadata()["bitlib"])
            _arch_of(meta)
            yield file, meta
    except FileNotFoundError:
        raise WeightsError(f"{path} does not exist") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"{path} is not a readable .safetensors file (damaged or cut short: {error})") from None
    except (KeyError, TypeError):
        raise WeightsError(f"{path} was not written by bitlib, or by a newer one: it does not say its architecture") from None


def _arch_of(meta: dict) -> tuple[Arch, int]:
    return Arch(**{**meta["arch"], "units": tuple(meta["arch"]["units"])}), int(meta["num_classes"])


def load_weights(path: str | Path) -> tuple[dict[str, Tensor], dict]:
    """(state in float32, meta) of a file that `save_weights` wrote. Raises WeightsError where it cannot be read."""
    with _open_weights(Path(path)) as (file, meta):
        state = {key: file.get_tensor(key) for key in file.keys()}
    return {k: t.float() if t.is_floating_point() else t for k, t in state.items()}, meta


def read_meta(path: str | Path) -> dict:
    """Only the meta data of such a file, from its header."""
    with _open_weights(Path(path)) as (_, meta):
        return meta


# --- the registry -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ModelInfo:
    """What is known of a model without loading it.

    source: "official", "course" (in the package) or "file". num_classes: of the pre-trained head. crop: side in pixels
    of its test pictures, None where the HyperRule decides. recipe: how the HyperRule is adapted to it.
    """

    name: str
    arch: Arch
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
        with torch.device("meta"):
            return count_parameters(ResNetV2(self.arch, self.num_classes))

    @property
    def location(self) -> str:
        """Where the weights are, or would come from."""
        if self.source == "official":
            return str(self.path) if self.path.exists() else self.url
        return "in the package" if self.source == "course" else str(self.path)


def _official() -> dict[str, ModelInfo]:
    infos = {}
    for scale, classes in OFFICIAL_CLASSES.items():
        for arch in ("R50x1", "R50x3", "R101x1", "R101x3", "R152x2", "R152x4"):
            name = f"BiT-{scale}-{arch}"
            infos[name] = ModelInfo(
                name, ARCHS[arch], classes, "official", cache_dir() / "weights" / f"{name}.npz", OFFICIAL_URL.format(name=name)
            )
    return infos


@functools.cache
def _file_info(path: Path, source: str, _modified: float) -> ModelInfo:
    meta = read_meta(path)
    return ModelInfo(
        meta.get("name") or path.stem,
        *_arch_of(meta),
        source,
        path,
        class_names=tuple(meta.get("class_names", ())),
        crop=meta.get("crop"),
        recipe=meta.get("recipe"),
        seen=meta.get("seen"),
    )


def _course() -> dict[str, ModelInfo]:
    return {p.stem: _file_info(p, "course", p.stat().st_mtime) for p in sorted(PACKAGE.glob("*.safetensors"))}


def list_models() -> list[str]:
    """Names of all models with weights: the official ones, then the course's own."""
    return [*_official(), *_course()]


def is_cached(name: str) -> bool:
    """Whether an official model's file is in the cache already."""
    return _official()[name].path.exists()


def model_info(name: str) -> ModelInfo:
    """What is known of a model: by name, or by the path of a .safetensors file or of an official .npz under its own name.

    Raises UserError, with the closest names, for one that is not known.
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
        raise UserError(
            f"{path} does not say its architecture: rename it to its official name, such as BiT-M-R50x1.npz, "
            "or in Python give create_model an architecture and pretrained=PATH"
        )
    if name in ARCHS:
        return ModelInfo(name, ARCHS[name], 1000, "architecture")
    close = difflib.get_close_matches(name, [*models, *ARCHS], 3, 0.4)
    hint = f"did you mean {' or '.join(close)}? " if close else ""
    raise UserError(f"unknown model {name!r}; {hint}`bitlib models` lists them all")


def create_model(
    name: str,
    num_classes: int | None = None,
    pretrained: bool | str | Path = False,
    seed: int = 0,
    device: str | torch.device | None = None,
) -> ResNetV2:
    """A network by name: official, the course's, an architecture ("small", "R50x1"), or the path of a weight file.

    num_classes: size of the head; None for the pre-trained one. pretrained: False for random weights drawn from `seed`;
    True for the model's own (an official file is downloaded into the cache if it is not there); or the path of an .npz
    or .safetensors file. A head whose size differs from the file's starts at zero. The result has `info`, a ModelInfo.
    Raises UserError for an unknown name, and WeightsError for a file that does not fit.
    """
    info = model_info(str(name))
    classes = info.num_classes if num_classes is None else num_classes
    if classes < 1:
        raise UserError(f"num_classes is {classes}; it must be 1 or more")
    if pretrained and pretrained is not True:
        path = Path(pretrained)
    elif pretrained and info.source == "architecture":
        raise UserError(f"{name} is an architecture without weights of its own; `bitlib models` lists those that have them")
    else:
        path = info.path
    if not pretrained:
        model = ResNetV2(info.arch, classes, seed)
    else:
        if info.source == "official" and path == info.path and not path.exists():
            download(info.url, path)
        with torch.device("meta"):  # nothing is drawn at random, and no memory touched, for what is then overwritten
            model = ResNetV2(info.arch, classes)
        model.to_empty(device="cpu")
        load = _load_state if path.suffix == ".safetensors" else load_npz
        load(model, path)
    model.info = info
    return model.to(device)


def _load_state(model: ResNetV2, path: Path) -> None:
    """Copy every tensor of a .safetensors file; a head of another number of classes is left at zeros."""
    state, meta = load_weights(path)
    own = model.state_dict()
    if _arch_of(meta)[1] != model.num_classes:
        state |= {name: torch.zeros_like(own[name]) for name in ("head.weight", "head.bias")}
    for key in sorted(own.keys() ^ state.keys()):
        raise WeightsError(
            f"{path} {'lacks' if key in own else 'has'} the entry {key}, "
            f"which this network {'needs' if key in own else 'lacks'}; is it of another architecture?"
        )
    for key, tensor in own.items():
        if state[key].shape != tensor.shape:
            raise WeightsError(
                f"{path}: {key} has the shape {tuple(state[key].shape)}, this network needs {tuple(tensor.shape)}"
            )
        if not state[key].isfinite().all():
            raise WeightsError(f"{path}: {key} holds values that are not finite numbers; use another file")
    model.load_state_dict(state)


def info_of(model: ResNetV2) -> ModelInfo:
    """What is known of a model: its `info`, or for one that was built by hand, its architecture and the name "custom"."""
    return getattr(model, "info", None) or ModelInfo("custom", model.arch, model.num_classes, "architecture")


def weights_digest(model: nn.Module) -> str:
    """A short hash of all weights and statistics."""
    h = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        h.update(name.encode())
        h.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return h.hexdigest()[:16]
