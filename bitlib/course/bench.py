"""Speed and memory of bitlib's R50x1, compared with torchvision's batch-norm ResNet-50 and timm's BiT.

All contestants of a case share one process, each in both memory formats, and take turns window by window, so that a slow
moment of the machine affects all of them. The figure to compare is the ratio of two contestants within a round: its median
over the rounds, with a confidence interval. Nothing here is used for training.
"""

from __future__ import annotations

import math
import statistics
import tempfile
import time
from collections.abc import Callable, Hashable
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
from ..trainer import save_checkpoint

CLASSES = 1000
FORMATS = {"channels last": torch.channels_last, "contiguous": torch.contiguous_format}
HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}
WINDOW, GPU_STEPS = 0.3, 20  # shortest window in seconds; fewest steps per window on a GPU, or launch latency would dominate


@dataclass(frozen=True)
class Case:
    """What to measure. mode: "train" (a whole SGD step) or "infer". side: pixels. compiled: with torch.compile.

    batch_size: None lets each contestant use its best one, see `best_batch`. precision: "fp32", "bf16" or "fp16".
    """

    mode: str
    side: int
    batch_size: int | None
    precision: str = "fp32"
    compiled: bool = False

    def __str__(self) -> str:
        return (
            f"{'training' if self.mode == 'train' else 'inference'}, {self.side} px, "
            f"{f'batch {self.batch_size}' if self.batch_size else 'best batch'}, "
            f"{self.precision}{', compiled' if self.compiled else ''}"
        )


@dataclass
class Row:
    """One contestant in one case and one memory format.

    speeds: images per second in each round, or None if it ran out of memory. memory: bytes; on a GPU the peak during a
    step, on a CPU what a training step saves for the backward pass. tflops: convolutions and matrix products of the
    network, in 1e12 operations per second at its median speed.
    """

    contestant: str
    layout: str
    batch_size: int | None = None
    speeds: list[float] | None = None
    memory: int | None = None
    tflops: float | None = None


@dataclass(frozen=True)
class Contestant:
    """A network to measure. make() -> the network. layouts: the memory formats to try, names from FORMATS.

    modes: "train", "infer" or both. compiled: compile it even if the case is not compiled; eager: leave it out of compiled
    cases.
    """

    name: str
    make: Callable[[], nn.Module]
    modes: tuple[str, ...] = ("train", "infer")
    layouts: tuple[str, ...] = tuple(FORMATS)
    compiled: bool = False
    eager: bool = False


def contestants(compiled: bool = False) -> list[Contestant]:
    """Our networks first, also with Triton kernels if there is a GPU; timm's only if it is installed.

    All have random weights, since values do not affect speed. compiled: add our folded network and the batch-norm network a
    second time, compiled, for inference.
    """

    def ours() -> nn.Module:
        return ResNetV2(ARCHS["R50x1"], CLASSES)

    def batch_norm() -> nn.Module:
        from torchvision.models import resnet50

        return resnet50(num_classes=CLASSES)

    plain = Contestant("bitlib R50x1", ours)
    folded = Contestant("bitlib R50x1, folded", lambda: fold_standardized(ours()), ("infer",))
    rival = Contestant("torchvision ResNet-50 (BN)", batch_norm)
    found = [plain, folded]
    if torch.cuda.is_available() and find_spec("triton"):
        last = ("channels last",)  # the kernels' own format; they would copy anything else
        found += [
            Contestant("bitlib R50x1, Triton", lambda: use_triton(ours()), ("train",), last, eager=True),
            Contestant(
                "bitlib R50x1, folded, Triton", lambda: use_triton(fold_standardized(ours())), ("infer",), last, eager=True
            ),
        ]
    found.append(rival)
    if compiled:  # in one format only, because the compiler chooses its own
        for who, name in ((folded, f"{folded.name} and compiled"), (rival, f"{rival.name}, compiled")):
            found.append(replace(who, name=name, modes=("infer",), layouts=("channels last",), compiled=True))
    if find_spec("timm"):

        def timm_bit() -> nn.Module:
            import timm

            return timm.create_model("resnetv2_50x1_bit", num_classes=CLASSES)

        found.append(Contestant("timm BiT R50x1", timm_bit))
    return found


def take_turns(
    runs: dict[Hashable, Callable[[], object]],
    rounds: int,
    device: torch.device,
    progress: str | bool = False,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[Hashable, list[float]]:
    """Seconds of every call. The functions take turns, once per round, with the device synchronised before and after."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    seconds: dict[Hashable, list[float]] = {name: [] for name in runs}
    for _ in tqdm(range(rounds), progress or "", unit="round", leave=False, disable=not progress):
        for name, run in runs.items():
            wait()
            start = clock()
            run()
            wait()
            seconds[name].append(clock() - start)
    return seconds


def steps_of_a_window(seconds: float, device: torch.device) -> int:
    """How many steps of this length to time together: at least WINDOW seconds' worth, and on a GPU at least GPU_STEPS."""
    return max(GPU_STEPS if device.type == "cuda" else 1, math.ceil(WINDOW / seconds))


def interval(values: list[float]) -> tuple[float, float | None, float | None]:
    """(median, low, high) of a sample, where (low, high) is a confidence interval of 95 % or more for the true median.

    Low and high are order statistics of the sample, so no distribution is assumed. With fewer than six values there is no
    such interval, and low and high are None.
    """
    values, n, outside, below = sorted(values), len(values), 0.0, -1
    # The k-th smallest value is above the true median if fewer than k values are below it: n tosses of a fair coin.
    while (outside := outside + 2 * math.comb(n, below + 1) / 2**n) <= 0.05:
        below += 1
    return statistics.median(values), *((values[below], values[-1 - below]) if below >= 0 else (None, None))


def paired(a: list[float], b: list[float]) -> tuple[float, float | None, float | None]:
    """How many times as fast a is as b: `interval` of the ratios of their speeds, round by round."""
    return interval([x / y for x, y in zip(a, b, strict=True)])


def best_rows(rows: list[dict]) -> dict[str, dict]:
    """For every contestant, the row of its faster memory format; without those that ran out of memory."""
    found: dict[str, dict] = {}
    for row in rows:
        name = row["contestant"]
        if row["speeds"] and (name not in found or statistics.median(row["speeds"]) > statistics.median(found[name]["speeds"])):
            found[name] = row
    return found


def best_batch(seconds: Callable[[int], float], first: int = 32, largest: int = 2048) -> int | None:
    """The best batch size: doubled from `first` as long as it fits and adds at least 5 % to the images per second.

    seconds(batch size) -> seconds per step; raises torch.OutOfMemoryError if it does not fit. Returns None if not even
    `first` fits.
    """
    best, speed, size = None, 0.0, first
    while size <= largest:
        try:
            new = size / seconds(size)
        except torch.OutOfMemoryError:
            break
        if new < 1.05 * speed:
            break
        best, speed, size = size, new, 2 * size
    return best


def kept_for_backward(model: nn.Module, forward: Callable[[], Tensor]) -> int:
    """Bytes that one forward pass saves for the backward pass, not counting parameters."""
    own, kept = {p.untyped_storage().data_ptr() for p in model.parameters()}, {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = forward()  # kept alive until the sum is taken, or an address could be reused
    del result
    return sum(kept.values())


class _Runner:
    """One contestant in one memory format, ready to run one case."""

    def __init__(self, who: Contestant, layout: str, case: Case, device: torch.device):
        generator, order = torch.Generator().manual_seed(0), FORMATS[layout]
        self.case, self.device = case, device
        self.x = torch.randn(case.batch_size, 3, case.side, case.side, generator=generator).to(device, memory_format=order)
        self.y = torch.randint(CLASSES, (case.batch_size,), generator=generator).to(device)
        self.model = who.make().to(device, memory_format=order).train(case.mode == "train")
        self.net: nn.Module = self.model
        self.compiled = case.compiled or who.compiled
        if self.compiled:
            self.net = torch.compile(self.model)
        if case.mode == "train":
            self.optimizer = torch.optim.SGD(self.model.parameters(), lr=1e-4, momentum=0.9, fused=True)
            self.scaler = torch.amp.GradScaler(device.type, enabled=case.precision == "fp16")
        self.memory: int | None = None

    def autocast(self):
        half = HALVES.get(self.case.precision)
        return torch.autocast(self.device.type, half, enabled=half is not None)

    def loss(self, net: nn.Module) -> Tensor:
        with self.autocast():
            return F.cross_entropy(net(self.x).float(), self.y)

    def __call__(self) -> None:
        if self.case.mode == "train":
            self.optimizer.zero_grad(set_to_none=True)
            self.scaler.scale(self.loss(self.net)).backward()
            self.scaler.step(self.optimizer)
            self.scaler.update()
            return
        with torch.no_grad(), self.autocast():
            self.net(self.x)

    def window(self, steps: int) -> Callable[[], None]:
        def run() -> None:
            for _ in range(steps):
                self()

        return run

    def count(self) -> int:
        """Floating-point operations of one call, counted from the shapes of convolutions and matrix products."""
        with FlopCounterMode(display=False) as counter:
            if self.case.mode == "train":
                self.loss(self.model).backward()
            else:
                with torch.no_grad():
                    self.model(self.x)
        return counter.get_total_flops()

    def warm_up(self) -> float:
        """Compile, choose kernels, allocate, and measure memory. Returns the seconds per step."""
        # For inference the compiler may treat the weights as constants, and lay them out once and for all.
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
        return min(take_turns({"": self}, 2, self.device)[""])


def _ready(who: Contestant, layout: str, case: Case, device: torch.device) -> tuple[_Runner, float] | None:
    """A warmed-up contestant and its seconds per step; None if it runs out of memory."""

    def seconds(size: int) -> float:
        if device.type == "cuda":
            torch.cuda.empty_cache()
        runner = _Runner(who, layout, replace(case, batch_size=size), device)
        runner.warm_up()
        return take_turns({"": runner.window(5)}, 1, device)[""][0] / 5

    size = case.batch_size or best_batch(seconds)
    if size is None:
        return None
    try:
        runner = _Runner(who, layout, replace(case, batch_size=size), device)
        return runner, runner.warm_up()
    except torch.OutOfMemoryError:
        return None


def run_case(
    case: Case, device: torch.device, rounds: int = 10, who: list[Contestant] | None = None, progress: bool = True
) -> list[Row]:
    """Time all contestants in this case, taking turns. Those that run out of memory get a row without figures."""
    who = [c for c in who or contestants() if case.mode in c.modes and not (case.compiled and c.eager)]
    rows = [Row(contestant.name, layout) for contestant in who for layout in contestant.layouts]
    ready, windows, steps = {}, {}, {}
    for contestant in who:
        for layout in contestant.layouts:
            if found := _ready(contestant, layout, case, device):
                key = contestant.name, layout
                ready[key], steps[key] = found[0], steps_of_a_window(found[1], device)
                windows[key] = found[0].window(steps[key])
    seconds = take_turns(windows, rounds, device, progress and str(case))
    for row in rows:
        if runner := ready.get(key := (row.contestant, row.layout)):
            row.batch_size, row.memory = runner.case.batch_size, runner.memory
            # Five digits: a clock cannot tell more.
            row.speeds = [float(f"{row.batch_size * steps[key] / s:.5g}") for s in seconds[key]]
            row.tflops = runner.count() / row.batch_size * statistics.median(row.speeds) / 1e12
    return rows


def run_cases(
    cases: list[Case], device: torch.device, rounds: int = 10, progress: bool = True, who: list[Contestant] | None = None
) -> list[dict]:
    """Run all cases, one after another; returns them as JSON: [{**case, "rows": [...]}, ...]."""
    done = []
    for case in tqdm(cases, "cases", leave=False, disable=not progress):
        done.append({**asdict(case), "rows": [asdict(row) for row in run_case(case, device, rounds, who, progress)]})
        torch.compiler.reset()
        if device.type == "cuda":
            torch.cuda.empty_cache()
    return done


def spread(seconds: list[float]) -> tuple[float, float, float]:
    """(median, lower quartile, upper quartile)."""
    low, middle, high = statistics.quantiles(seconds, n=4, method="inclusive") if len(seconds) > 1 else seconds * 3
    return middle, low, high


def time_parts(device: torch.device, rounds: int = 5) -> dict[str, dict]:
    """Time the other parts of a run separately: decoding, augmentation, a checkpoint, a linear head on cached features.

    Returns {part: {"seconds": (median, lower quartile, upper quartile)}}.
    """
    from PIL import Image

    from ..data import load_task
    from ..data.augment import Augmentation
    from ..data.batches import Batches
    from ..data.folder import FileImages
    from ..loop import Loop
    from ..transfer import linear_probe
    from ..weights import create_model

    with tempfile.TemporaryDirectory() as folder:
        generator, files = torch.Generator().manual_seed(0), []
        for i in range(64):  # smooth images compress like photographs; noise would not
            pixels = F.interpolate(torch.rand(1, 3, 12, 16, generator=generator), (375, 500), mode="bicubic")[0]
            files.append(Path(folder) / f"{i}.jpg")
            Image.fromarray((pixels.clamp(0, 1) * 255).byte().permute(1, 2, 0).numpy()).save(files[-1], quality=90)
        images = FileImages(files, torch.zeros(64, dtype=torch.long))
        batches = Batches(images, Augmentation(160, 128), 64, 0, device)
        model = ResNetV2(ARCHS["R50x1"], CLASSES)
        momentum = {f"momentum.{name}": torch.zeros_like(p) for name, p in model.named_parameters()}
        state = model.state_dict() | momentum
        task = load_task("digits")
        small = create_model("glyphs-S", task.num_classes, pretrained=True)
        parts = {
            "64 JPEGs of 500x375 decoded and resized to 160": lambda: images.prepare(160, device),
            "64 images cut to 128, mirrored, made floats": lambda: list(batches(0).parts(1)),
            "a checkpoint of R50x1 written, with momentum": lambda: save_checkpoint(
                Path(folder) / "state.safetensors", state, {}
            ),
            f"a linear head for {len(task.train)} digits, features and fit": lambda: linear_probe(
                small, task, loop=Loop(device=str(device))
            ),
        }
        for run in parts.values():
            run()
        return {name: {"seconds": spread(s)} for name, s in take_turns(parts, rounds, device).items()}


def table(cases: list[dict]) -> str:
    """The result of `run_cases` as text for a terminal.

    Ratios compare each contestant's faster memory format with that of the first contestant, with the interval.
    """
    lines = []
    for case in cases:
        lines.append(str(Case(**{k: v for k, v in case.items() if k != "rows"})))
        best = best_rows(case["rows"])
        first = next(iter(best), None)
        for row in case["rows"]:
            name = f"  {row['contestant']:<38}{row['layout']:<15}"
            if not row["speeds"]:
                lines.append(f"{name}out of memory")
                continue
            ratio = ""
            if row is best[row["contestant"]] and row["contestant"] != first:
                middle, low, high = paired(row["speeds"], best[first]["speeds"])
                ratio = f"x{middle:.2f}" + (f" ({low:.2f} to {high:.2f})" if low else "")
            memory = f"{row['memory'] / 2**20:8.0f} MiB" if row["memory"] else ""
            speed = f"{statistics.median(row['speeds']):9.1f} images/s  {ratio:<21}{row['tflops']:8.2f} TFLOP/s {memory}"
            lines.append(name + speed + ("" if case["batch_size"] else f"  batch {row['batch_size']}"))
    return "\n".join(lines)
