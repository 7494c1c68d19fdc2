"""Speed and memory, side by side: bitlib's R50x1 beside torchvision's batch-norm ResNet-50 and timm's BiT.

Owns how things are timed. All contestants of a case live in one process and take turns, round after round, so that a slow
moment of the machine hits all of them; what counts are the ratios of medians. Nothing here is used for training.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from ..norm import fold_standardized, use_triton
from ..resnet import ARCHS, ResNetV2
from ..trainer import History, memory_format, save_checkpoint

CLASSES = 1000


@dataclass(frozen=True)
class Case:
    """What is measured. mode: "train" (a whole step of SGD) or "infer". side: pixels. compiled: through torch.compile."""

    mode: str
    side: int
    batch_size: int
    precision: str = "fp32"
    compiled: bool = False

    def __str__(self) -> str:
        return (
            f"{'training' if self.mode == 'train' else 'inference'}, {self.side} px, batch {self.batch_size}, "
            f"{self.precision}{', compiled' if self.compiled else ''}"
        )


@dataclass
class Row:
    """One contestant in one case. seconds: median and quartiles of a step, or None where it ran out of memory.

    ratio: its speed over that of the first contestant, from medians. memory: bytes; on a GPU the peak during the case, on
    a CPU what a training step keeps for its backward pass. tflops: of the convolutions and matrix products that the
    network asks for.
    """

    contestant: str
    seconds: tuple[float, float, float] | None
    images_per_second: float | None = None
    ratio: float | None = None
    memory: int | None = None
    tflops: float | None = None


@dataclass(frozen=True)
class Contestant:
    """make() -> a network; layout(case, device): the memory format that suits it.

    compiled: even where the case is not; eager: it takes no part where the case is compiled.
    """

    name: str
    make: Callable[[], nn.Module]
    layout: Callable[[Case, torch.device], torch.memory_format] = lambda case, device: torch.channels_last
    modes: tuple[str, ...] = ("train", "infer")
    compiled: bool = False
    eager: bool = False


def contestants(compiled: bool = False) -> list[Contestant]:
    """Ours first, with Triton kernels as well where there is a GPU; timm's only where it is installed.

    Random weights: values do not change the speed.

    compiled: have our folded network take part a second time, compiled, in inference beside the others that are not.
    """

    def ours() -> nn.Module:
        return ResNetV2(ARCHS["R50x1"], CLASSES)

    def batch_norm() -> nn.Module:
        from torchvision.models import resnet50

        return resnet50(num_classes=CLASSES)

    def as_trained(case: Case, device: torch.device) -> torch.memory_format:
        return memory_format(device, case.precision) if case.mode == "train" else torch.channels_last

    found = [
        Contestant("bitlib R50x1", ours, as_trained),
        Contestant("bitlib R50x1, folded", lambda: fold_standardized(ours()), modes=("infer",)),
        Contestant("torchvision ResNet-50 (BN)", batch_norm),
    ]
    if torch.cuda.is_available() and find_spec("triton"):
        found[2:2] = [
            Contestant("bitlib R50x1, Triton", lambda: use_triton(ours()), modes=("train",), eager=True),
            Contestant(
                "bitlib R50x1, folded, Triton", lambda: use_triton(fold_standardized(ours())), modes=("infer",), eager=True
            ),
        ]
    if compiled:
        found.insert(2, replace(found[1], name="bitlib R50x1, folded and compiled", compiled=True))
    try:
        import timm
    except ImportError:
        return found
    # Its weight standardisation returns contiguous weights from channels-last ones, so it is timed as it runs best.
    return [
        *found,
        Contestant(
            "timm BiT R50x1",
            lambda: timm.create_model("resnetv2_50x1_bit", num_classes=CLASSES),
            lambda case, device: torch.contiguous_format,
        ),
    ]


def take_turns(
    runs: dict[str, Callable[[], object]],
    rounds: int,
    device: torch.device,
    progress: str | bool = False,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of every call: each function once a round, in turn. The device is waited for around each."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in tqdm(range(rounds), progress or "", unit="round", leave=False, disable=not progress):
        for name, run in runs.items():
            wait()
            start = clock()
            run()
            wait()
            seconds[name].append(clock() - start)
    return seconds


def spread(seconds: list[float]) -> tuple[float, float, float]:
    """(median, lower quartile, upper quartile)."""
    low, middle, high = statistics.quantiles(seconds, n=4, method="inclusive") if len(seconds) > 1 else seconds * 3
    return middle, low, high


def kept_for_backward(model: nn.Module, forward: Callable[[], Tensor]) -> int:
    """Bytes that one forward pass keeps for the backward pass, parameters not counted."""
    own, kept = {p.untyped_storage().data_ptr() for p in model.parameters()}, {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = forward()  # alive until the sum is taken, or an address could be used twice
    del result
    return sum(kept.values())


class _Runner:
    """One contestant, ready to run one case."""

    def __init__(self, who: Contestant, case: Case, device: torch.device):
        generator = torch.Generator().manual_seed(0)
        layout = who.layout(case, device)
        self.case, self.device = case, device
        self.x = torch.randn(case.batch_size, 3, case.side, case.side, generator=generator).to(device, memory_format=layout)
        self.y = torch.randint(CLASSES, (case.batch_size,), generator=generator).to(device)
        self.model = who.make().to(device, memory_format=layout).train(case.mode == "train")
        self.net: nn.Module = self.model
        self.compiled = case.compiled or who.compiled
        if self.compiled:
            self.net = torch.compile(self.model)
        if case.mode == "train":
            self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-4, momentum=0.9, fused=True)
        self.memory: int | None = None

    def loss(self, net: nn.Module) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.case.precision == "bf16"):
            return F.cross_entropy(net(self.x).float(), self.y)

    def __call__(self) -> None:
        if self.case.mode == "train":
            self.optimizer.zero_grad(set_to_none=True)
            self.loss(self.net).backward()
            self.optimizer.step()
            return
        with torch.no_grad(), torch.autocast(self.device.type, torch.bfloat16, enabled=self.case.precision == "bf16"):
            self.net(self.x)

    def count(self) -> int:
        """Floating-point operations of one call, by the network's own shapes."""
        with FlopCounterMode(display=False) as counter:
            if self.case.mode == "train":
                self.loss(self.model).backward()
            else:
                with torch.no_grad():
                    self.model(self.x)
        return counter.get_total_flops()

    def warm_up(self) -> None:
        """Compile, choose kernels, allocate; note the memory."""
        # In inference the compiler may take the weights for constants, and lay them out once and for all.
        with torch._inductor.config.patch(freezing=True) if self.compiled and self.case.mode == "infer" else nullcontext():
            for _ in range(2):
                self()
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            before = torch.cuda.memory_allocated(self.device)
            own = sum(p.nbytes for p in self.model.parameters())  # other contestants' memory is not ours
            own *= 3 if self.case.mode == "train" else 1  # gradients and momentum
            self()
            torch.cuda.synchronize(self.device)
            self.memory = torch.cuda.max_memory_allocated(self.device) - before + own
        elif self.case.mode == "train":
            self.memory = kept_for_backward(self.model, lambda: self.loss(self.model))


def run_case(
    case: Case, device: torch.device, rounds: int = 10, who: list[Contestant] | None = None, progress: bool = True
) -> list[Row]:
    """Time all contestants in this case, taking turns. Those that run out of memory have a row without figures."""
    who = [c for c in who or contestants() if case.mode in c.modes and not (case.compiled and c.eager)]
    ready: dict[str, _Runner] = {}
    for contestant in who:
        try:
            runner = _Runner(contestant, case, device)
            runner.warm_up()
            ready[contestant.name] = runner
        except torch.OutOfMemoryError:
            continue
    seconds = take_turns(ready, rounds, device, progress and str(case))
    rows = []
    for contestant in who:
        if contestant.name not in ready:
            rows.append(Row(contestant.name, None))
            continue
        runner, times = ready[contestant.name], spread(seconds[contestant.name])
        tflops = runner.count() / times[0] / 1e12
        first = rows[0].seconds if rows else times
        rows.append(
            Row(
                contestant.name,
                times,
                case.batch_size / times[0],
                first[0] / times[0] if first else None,
                runner.memory,
                tflops,
            )
        )
    return rows


def run_cases(
    cases: list[Case], device: torch.device, rounds: int = 10, progress: bool = True, who: list[Contestant] | None = None
) -> list[dict]:
    """All cases, one after the other, as JSON: [{**case, "rows": [...]}, ...]."""
    done = []
    for case in tqdm(cases, "cases", leave=False, disable=not progress):
        done.append({**asdict(case), "rows": [asdict(row) for row in run_case(case, device, rounds, who, progress)]})
        torch.compiler.reset()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return done


def time_parts(device: torch.device, rounds: int = 5) -> dict[str, dict]:
    """The rest of a run, each part alone: decoding, augmenting, writing a checkpoint, and a linear head on cached features.

    Returns {part: {"seconds": (median, lower quartile, upper quartile)}}.
    """
    from PIL import Image

    from ..data import load_task
    from ..data.augment import augment, to_input
    from ..data.folder import FileImages
    from ..transfer import linear_probe
    from ..weights import create_model

    with tempfile.TemporaryDirectory() as folder:
        generator, files = torch.Generator().manual_seed(0), []
        for i in range(64):  # smooth pictures compress like photographs, noise would not
            pixels = F.interpolate(torch.rand(1, 3, 12, 16, generator=generator), (375, 500), mode="bicubic")[0]
            files.append(Path(folder) / f"{i}.jpg")
            Image.fromarray((pixels.clamp(0, 1) * 255).byte().permute(1, 2, 0).numpy()).save(files[-1], quality=90)
        images = FileImages(files, torch.zeros(64, dtype=torch.long), side=160)
        decoded = images.batch(torch.arange(64), generator).to(device)
        model = ResNetV2(ARCHS["R50x1"], CLASSES).to(device, memory_format=torch.channels_last)
        momentum = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
        task = load_task("digits")
        small = create_model("glyphs-S", task.num_classes, pretrained=True)
        parts = {
            "64 JPEGs of 500x375 decoded and resized to 160": lambda: images.batch(torch.arange(64), generator),
            "64 pictures cut to 128, mirrored, made floats": lambda: to_input(augment(decoded, 128, generator)),
            "a checkpoint of R50x1 written, with momentum": lambda: save_checkpoint(
                Path(folder) / "state.safetensors", model, momentum, 1, History(), {}
            ),
            f"a linear head for {len(task.train)} digits, features and fit": lambda: linear_probe(small, task, device=device),
        }
        for run in parts.values():
            run()
        return {name: {"seconds": spread(s)} for name, s in take_turns(parts, rounds, device).items()}


def table(cases: list[dict]) -> str:
    """What `run_cases` returned, to be read in a terminal."""
    lines = []
    for case in cases:
        lines.append(str(Case(**{k: v for k, v in case.items() if k != "rows"})))
        for row in case["rows"]:
            if row["seconds"] is None:
                lines.append(f"  {row['contestant']:<28}out of memory")
                continue
            ratio = f"x{row['ratio']:.2f}" if row["ratio"] else ""
            memory = f"{row['memory'] / 2**20:8.0f} MiB" if row["memory"] else ""
            lines.append(
                f"  {row['contestant']:<28}{row['images_per_second']:9.1f} images/s  {ratio}"
                f"{row['tflops']:8.2f} TFLOP/s {memory}"
            )
    return "\n".join(lines)
