"""Everything that needs a GPU, as one command that can be interrupted and resumed: `make gpu`.

Each part runs in its own process, for at most nine minutes, and on success writes results/gpu/PART.json; a part that already
has this file for the same code is skipped. A part that fails leaves PART.log, and the others still run. Needs PyTorch with
CUDA and the packages that bitlib needs; bitlib itself need not be installed, and nothing is downloaded.

    make gpu PYTHON=python3.12 ARGS="--list"        list the parts, most valuable first
    make gpu PYTHON=python3.12 ARGS="--budget 580"  start only parts that fit into 580 seconds
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from importlib.util import find_spec
from itertools import product
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LIMIT = 540  # seconds per part: GPU machines are lent for ten minutes at a time
SIDES = (224, 128)
COMPILED_BATCH = 256  # compiling takes a minute for each batch size, so compiled networks try only one
ROUNDS = 6  # the fewest that give a 95 % interval


class Skipped(Exception):
    """This part cannot run on this machine, through no fault of the code; the message says why."""


class Wrong(Exception):
    """A result is wrong; the message says which."""


# --- what runs on the GPU: functions of (device, tiny) that return figures, with a "summary" in words ------------------------


def kernels(device, tiny: bool) -> dict:
    """The Triton kernels compared with PyTorch: values in every precision, and the speed of group norm with ReLU."""
    if not find_spec("triton"):
        raise Skipped("no Triton")
    if device.type == "cpu":
        os.environ["TRITON_INTERPRET"] = "1"
    sys.path.insert(0, str(ROOT / "tests"))
    from in_interpreter import DTYPES, SHAPES, compare, within

    values = {}
    for shape, dtype in product(SHAPES[: 1 if tiny else None], DTYPES):
        values[f"{shape} {dtype}"] = differences = compare(shape, dtype, device)
        if not within(differences, dtype):
            raise Wrong(f"kernel on {shape} in {dtype}: [largest difference, largest value] are {differences}")
    speeds = [] if tiny else [_kernel_speed(shape, dtype, device) for dtype in DTYPES for shape in _stages()]
    ratios = [s["ratio"][0] for s in speeds]
    fast = f"; {min(ratios):.2f} to {max(ratios):.2f} times as fast as without" if ratios else ""
    return {"summary": f"{len(values)} comparisons within rounding{fast}", "differences": values, "speeds": speeds}


def _stages() -> list[tuple[int, ...]]:
    """Shapes of the activations in the four stages of R50x1, for 64 images of 224 pixels."""
    return [(64, 256 << i, 56 >> i, 56 >> i) for i in range(4)]


def _kernel_speed(shape: tuple[int, ...], dtype, device) -> dict:
    """Forward and backward pass of group norm with ReLU, with and without the kernel: the paired ratio of their speeds."""
    import torch

    from bitlib.course.bench import GPU_STEPS, paired, take_turns
    from bitlib.norm import GroupNorm, norm_relu

    x = torch.randn(shape, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last).requires_grad_()
    grad, runs = torch.randn_like(x), {}
    for fused in (True, False):
        norm = GroupNorm(32, shape[1]).to(device)
        norm.fused = fused

        def run(norm=norm):
            for _ in range(GPU_STEPS):
                torch.autograd.grad(norm_relu(norm, x), [x, norm.weight, norm.bias], grad)

        run()
        runs[fused] = run
    seconds = take_turns(runs, 15, device)
    return {"shape": shape, "dtype": str(dtype), "ratio": paired(seconds[False], seconds[True])}


@contextmanager
def no_waiting(model, first: int, last: int) -> Iterator[list[int]]:
    """Raise an error if anything waits for the GPU between the model's calls `first` and `last`, counted from 0.

    Yields a list of the calls that were watched. Without a GPU it only counts.
    """
    import torch

    watched, calls = [], 0

    def mode(name: str) -> None:
        if torch.cuda.is_available():
            torch.cuda.set_sync_debug_mode(name)

    def before(*_) -> None:
        if calls == first:
            mode("error")
        if first <= calls <= last:
            watched.append(calls)

    def after(*_) -> None:
        nonlocal calls
        if calls == last:
            mode("default")
        calls += 1

    handles = model.register_forward_pre_hook(before), model.register_forward_hook(after)
    try:
        yield watched
    finally:
        mode("default")
        for handle in handles:
            handle.remove()


def sync(device, tiny: bool) -> dict:
    """Twenty steps of fine-tuning with MixUp, in which nothing may wait for the GPU between two reads of the loss."""
    import bitlib
    from bitlib.transfer import default_rule

    steps, done = 4 if tiny else 20, []
    for precision in ("fp32",) if tiny else ("fp32", "bf16"):
        task = bitlib.load_task("tiles", 10)
        model = bitlib.create_model("photos-S", task.num_classes, pretrained=True)
        rule = default_rule(model, task).adapted(steps=steps, alpha=0.1)
        # The first step may allocate and choose kernels; after the last one the loss is read.
        with no_waiting(model, 1, steps - 2) as watched:
            bitlib.finetune(model, task, rule, loop=_loop(device, precision))
        if watched != list(range(1, steps - 1)):
            raise Wrong(f"the steps that were watched are {watched}")
        done.append(f"{len(watched)} steps in {precision}")
    return {"summary": f"nothing waited for the GPU in {' and '.join(done)}"}


def _loop(device, precision: str):
    from bitlib import Loop

    return Loop(device=str(device), precision=precision, progress=False)


def bench(device, tiny: bool, *, mode: str, side: int, precision: str, compiled: bool) -> dict:
    """Speed and memory compared with batch norm and timm; each at its best batch size, or all compiled at the same one."""
    from bitlib.course import bench as module
    from bitlib.course.bench import Case, Contestant, best_rows, contestants, paired, run_cases, table

    case, who = Case(mode, side, COMPILED_BATCH if compiled else None, precision, compiled), contestants()
    if compiled:
        from bitlib.device import need_compiler

        need_compiler()
        who = [replace(c, layouts=("channels last",)) for c in who]  # the compiler chooses its own layout
    if tiny:
        from bitlib.resnet import Arch, ResNetV2

        gn = Arch((1, 1, 1, 1), root_width=8, groups=4, stem="small")
        bn = replace(gn, norm="bn", standardize=False)
        who = [Contestant("gn", lambda: ResNetV2(gn, 1000)), Contestant("bn", lambda: ResNetV2(bn, 1000))]
        case, module.WINDOW = Case(mode, 32, 2, "fp32"), 0.0
    cases = run_cases([case], device, ROUNDS, progress=False, who=who)
    print(table(cases))
    best = best_rows(cases[0]["rows"])
    if not best:
        raise Wrong("no network fits into memory")
    (name, first), *others = best.items()
    ratios = [f"{paired(first['speeds'], row['speeds'])[0]:.2f} times {other}" for other, row in others]
    return {"summary": ", ".join([f"{name} {first['speeds'][0]:.0f} images/s", *ratios]), "cases": cases}


def tests(device, tiny: bool) -> dict:
    """The tests that need a GPU."""
    from xml.etree import ElementTree

    if not find_spec("pytest"):
        raise Skipped("no pytest")
    files = [file for file in sorted((ROOT / "tests").glob("test_*.py")) if "mark.gpu" in file.read_text("utf8")]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", f"--junitxml={report}", *files],
            cwd=ROOT,
        )
        if done.returncode:
            raise Wrong(f"pytest ended with status {done.returncode}")
        suite = ElementTree.parse(report).getroot().find("testsuite")
    total, skipped = (int(suite.get(key)) for key in ("tests", "skipped"))
    return {"summary": f"{total - skipped} tests passed, {skipped} skipped", "passed": total - skipped, "skipped": skipped}


def courses(device, tiny: bool) -> dict:
    """A short fine-tuning run of every course model in every precision, compared with the same run on the CPU."""
    import bitlib
    from bitlib.transfer import default_rule

    accuracy, apart = {}, 0.0
    names = [n for n in bitlib.list_models() if n.startswith(("glyphs-", "photos-"))]
    for name in names[:1] if tiny else names:
        task = bitlib.load_task("digits" if name.startswith("glyphs-") else "tiles", 10)

        def run(where, precision, name=name, task=task) -> float:
            model = bitlib.create_model(name, task.num_classes, pretrained=True)
            rule = default_rule(model, task).adapted(steps=2 if tiny else 100)
            return bitlib.finetune(model, task, rule, loop=_loop(where, precision)).test_accuracy

        accuracy[name] = {"cpu fp32": run("cpu", "fp32")}
        for precision in ("fp32",) if tiny else ("fp32", "bf16", "fp16"):
            accuracy[name][precision] = run(device, precision)
        apart = max(apart, *(abs(a - accuracy[name]["cpu fp32"]) for a in accuracy[name].values()))
        print(name, accuracy[name], flush=True)
    if apart > 0.05:
        raise Wrong(f"test accuracies differ by {apart:.3f} between processor and GPU: {accuracy}")
    return {"summary": f"{len(accuracy)} models, test accuracies at most {100 * apart:.1f} points apart", "accuracy": accuracy}


def backbones(device, tiny: bool) -> dict:
    """Networks of torchvision with random weights on 38 classes: frozen statistics stand still; seconds per training step."""
    import torch
    import torch.nn.functional as F

    import bitlib
    from bitlib.course.bench import take_turns

    side, batch = (64, 2) if tiny else (224, 64)
    x, y, milliseconds = torch.randn(batch, 3, side, side, device=device), torch.arange(batch, device=device) % 38, {}
    for name in ("mobilenet_v3_small",) if tiny else ("vgg16", "alexnet", "googlenet", "resnet50"):
        for until in ("head", None):
            model = bitlib.create_model(f"torchvision/{name}", 38).to(device, memory_format=torch.channels_last)
            bitlib.freeze(model, until).train()
            still = {key: value.clone() for key, value in model.net.state_dict().items()} if until else {}
            optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3, momentum=0.9)

            def step(model=model, optimizer=optimizer):
                optimizer.zero_grad()
                F.cross_entropy(model(x), y).backward()
                optimizer.step()

            step()
            seconds = sorted(take_turns({0: step}, 1 if tiny else 10, device)[0])
            milliseconds[f"{name}, {'head only' if until else 'all of it'}"] = 1000 * seconds[len(seconds) // 2]
            now = model.net.state_dict()
            if moved := [key for key, value in still.items() if not torch.equal(value, now[key])]:
                raise Wrong(f"{name} was frozen, but {moved[0]} moved")
    told = ", ".join(f"{name} {value:.0f} ms" for name, value in milliseconds.items())
    return {"summary": f"nothing frozen moved; a step of {batch} images takes: {told}", "milliseconds": milliseconds}


def official(device, tiny: bool) -> dict:
    """R50x1 with random weights, fine-tuned as in chapter 16 on 15 GB at most: memory beside the prediction, finite losses."""
    import torch

    import bitlib
    from bitlib.course.explore.cost import GB, account, needed, parts_for

    batch, steps, figures = 8 if tiny else 128, 2 if tiny else 5, {}
    if device.type == "cuda":
        torch.cuda.set_per_process_memory_fraction(min(1.0, 15 * GB / torch.cuda.get_device_properties(device).total_memory))
    task = bitlib.load_task("tiles")
    for precision, side in product(("fp32",) if tiny else ("fp16", "bf16", "fp32"), (32,) if tiny else (128, 480)):
        bits = 32 if precision == "fp32" else 16
        model = bitlib.create_model("R50x1", task.num_classes)
        parts = parts_for(model.arch, side, task.num_classes, batch, 15, bits)
        found = account(model.arch, side, task.num_classes, bits)
        predicted = sum(needed(found, math.ceil(batch / parts), batch, bits).values())
        rule = bitlib.HyperRule(len(task.train), (32, 32)).adapted(
            steps=steps, batch_size=batch, base_lr=0.001, resolution=(side, side)
        )
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        started = time.perf_counter()
        loop = replace(_loop(device, precision), micro_batches=parts)
        run = bitlib.finetune(model, replace(task, val=task.val.subset(torch.arange(32))).closed(), rule, loop=loop)
        peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
        losses = [row["loss"] for row in run.history.rows]
        if not all(map(math.isfinite, losses)):
            raise Wrong(f"{precision} at {side} px: losses {losses}")
        if peak > 15 * GB:
            raise Wrong(f"{precision} at {side} px: {peak / GB:.1f} GB")
        # A run that had to be split further says so by its micro-batches.
        figures[f"{precision} {side}"] = {
            "parts": parts,
            "predicted": predicted,
            "peak": peak,
            "seconds": time.perf_counter() - started,
            "micro_batches": run.config["micro_batches"],
            "losses": losses,
        }
        print(f"{precision} {side} px: {figures[f'{precision} {side}']}", flush=True)
    apart = max(f["peak"] / f["predicted"] for f in figures.values())
    return {"summary": f"{len(figures)} settings on 15 GB; at most {apart:.2f} times the predicted memory", "settings": figures}


def _jpegs(folder: Path, per_class: int) -> None:
    """Write class folders of smooth images, with a different colour for each class."""
    import torch
    import torch.nn.functional as F
    from PIL import Image

    generator = torch.Generator().manual_seed(0)
    for label, name in enumerate(("red", "green", "blue")):
        (folder / name).mkdir(parents=True)
        for i in range(per_class):
            coarse = torch.rand(1, 3, 6, 8, generator=generator) * 0.5
            coarse[:, label] += 0.4
            pixels = F.interpolate(coarse, (96, 128), mode="bicubic")[0].clamp(0, 1) * 255
            Image.fromarray(pixels.byte().permute(1, 2, 0).numpy()).save(folder / name / f"{i}.jpg", quality=90)


def folder(device, tiny: bool) -> dict:
    """Training on a folder too large for the memory budget must end with the same weights as with the images in memory."""
    import torch

    import bitlib
    from bitlib.data import folder as module
    from bitlib.transfer import default_rule

    torch.backends.cudnn.deterministic = True
    ends, budget = [], module.MEMORY_BUDGET
    with tempfile.TemporaryDirectory() as place:
        _jpegs(Path(place), 8 if tiny else 40)
        task = bitlib.load_task(place)
        try:
            for resident in (True, False):
                module.MEMORY_BUDGET = budget if resident else 1
                if task.train.prepare(32, device).resident != resident:
                    raise Wrong("the images are kept in memory" if not resident else "the images are not kept in memory")
                model = bitlib.create_model("photos-S", task.num_classes, pretrained=True)
                rule = default_rule(model, task).adapted(steps=2 if tiny else 20, batch_size=16, alpha=0.1)
                run = bitlib.finetune(model, task, rule, loop=_loop(device, "fp32"))
                ends.append(torch.cat([p.detach().flatten() for p in run.model.parameters()]))
        finally:
            module.MEMORY_BUDGET = budget
    apart = (ends[0] - ends[1]).abs().max().item()
    if not apart <= 1e-4:
        raise Wrong(f"weights differ by {apart:.2g}")
    return {"summary": f"weights at most {apart:.1g} from those with the images in memory", "apart": apart}


def processes(device, tiny: bool) -> dict:
    """Two processes on one GPU, which communicate through gloo, must end with the same weights as a single process."""
    from safetensors.torch import load_file

    with tempfile.TemporaryDirectory() as place:
        _jpegs(Path(place) / "data", 8)
        ends = []
        for count in (1, 2):
            out = Path(place) / str(count)
            command = [
                sys.executable,
                "-m",
                "torch.distributed.run",
                "--standalone",
                f"--nproc-per-node={count}",
                "-m",
                "bitlib",
            ]
            command += [
                "finetune",
                Path(place) / "data",
                "--model",
                "photos-S",
                "--out",
                out,
                "--device",
                device.type,
                "--quiet",
            ]
            command += ["--precision", "fp32", "--steps", "2" if tiny else "10", "--batch-size", "16"]
            # TF32 would round to three digits, and otherwise for each size of a batch.
            subprocess.run([*map(str, command)], check=True, env=os.environ | {"NVIDIA_TF32_OVERRIDE": "0"})
            ends.append(load_file(out / "model.safetensors"))
    apart = max((ends[0][name].double() - ends[1][name].double()).abs().max().item() for name in ends[0])
    if not apart <= 1e-4:
        raise Wrong(f"weights differ by {apart:.2g}")
    return {"summary": f"weights at most {apart:.1g} from those of one process", "apart": apart}


# --- how it is carried out ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Part:
    """name: of its file. seconds: the longest it should take. run: a function above. command: runs instead of this script."""

    name: str
    seconds: int
    run: Callable | None = None
    command: tuple[str, ...] = ()

    @property
    def about(self) -> str:
        return (getattr(self.run, "func", self.run).__doc__ or "").strip().split("\n")[0]


def all_parts() -> list[Part]:
    """All parts, most valuable first."""
    measured = []
    for precision, compiled in (
        ("bf16", False),
        ("fp32", False),
        ("bf16", True),
        ("fp16", False),
        ("fp32", True),
        ("fp16", True),
    ):
        for side, mode in product(SIDES, ("train", "infer")):
            name = f"{mode}-{side}-{precision}{'-compiled' if compiled else ''}"
            seconds = 400 if compiled or precision == "fp32" else 240
            run = partial(bench, mode=mode, side=side, precision=precision, compiled=compiled)
            measured.append(Part(name, seconds, run))
    checks = [Part("kernels", 150, kernels), Part("sync", 60, sync)]
    more = [
        Part("official", 400, official),
        Part("tests", 150, tests),
        Part("folder", 60, folder),
        Part("processes", 120, processes),
        Part("courses", 400, courses),
        Part("backbones", 120, backbones),
    ]
    return [*checks, *measured[:2], *more, *measured[2:]]


def code() -> str:
    """The commit; if files differ from it or there is none, followed by a hash of all sources."""
    from record import commit

    here = commit()
    if here and not here.endswith("+"):
        return here
    digest = hashlib.sha256()
    for name in ("bitlib", "tests", "data_scripts"):
        for file in sorted((ROOT / name).rglob("*.py")):
            digest.update(file.read_bytes())
    return here + digest.hexdigest()[:12]


def child(part: Part, device: str, tiny: bool, file: Path) -> None:
    """Run a part in this process and write its status and figures to `file`."""
    from bitlib.device import pick_device
    from bitlib.transfer import environment, write_json

    where = pick_device(device)
    try:
        figures, status = part.run(where, tiny), "done"
    except Skipped as reason:
        figures, status = {"summary": f"skipped: {reason}"}, f"skipped: {reason}"
    write_json(file, {"status": status, "figures": figures, **environment(where)})


def run_parts(parts: list[Part], out: Path, code: str, options: list[str], budget: float = math.inf) -> int:
    """Run these parts, each in its own process, and write out/PART.json; returns 1 if any part failed, else 0."""
    from bitlib.transfer import write_json

    began, failed = time.monotonic(), []
    out.mkdir(parents=True, exist_ok=True)
    for part in parts:
        file, log = out / f"{part.name}.json", out / f"{part.name}.log"
        if file.exists() and json.loads(file.read_text("utf8"))["commit"] == code:
            print(f"{part.name}: done before", flush=True)
            continue
        left = budget - (time.monotonic() - began)
        if part.seconds > left:
            print(f"{part.name}: left for later ({part.seconds} s may not fit into {max(0, left):.0f} s)", flush=True)
            continue
        start = time.monotonic()
        with tempfile.TemporaryDirectory() as place:
            figures = Path(place) / "figures.json"
            trouble = _run(part, [*options, "--figures", str(figures)], log)
            seconds = round(time.monotonic() - start, 1)
            if not trouble and not figures.exists():
                trouble = "it wrote no figures"
            if not trouble:
                content = json.loads(figures.read_text("utf8"))
                write_json(file, {"part": part.name, "seconds": seconds, "commit": code, **content})
                log.unlink()
                print(f"{part.name}: {content['figures']['summary']} ({seconds:.0f} s)", flush=True)
                continue
        failed.append(part.name)
        last = "\n".join(f"    {line}" for line in log.read_text("utf8", "replace").strip().splitlines()[-15:])
        print(f"{part.name}: FAILED, {trouble} ({seconds:.0f} s); the full output is in {log}\n{last}", flush=True)
    if failed:
        print(f"failed: {', '.join(failed)}")
    return int(bool(failed))


def _run(part: Part, options: list[str], log: Path) -> str:
    """Run one part with its output in `log`; returns what went wrong, or the empty string."""
    command = part.command or (sys.executable, str(Path(__file__).resolve()), "--run", part.name)
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    # Memory freed in pieces by one contestant can then be reused by another.
    env = {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True", **os.environ, "PYTHONPATH": path}
    with open(log, "wb") as output:
        process = subprocess.Popen(
            [*command, *options], stdout=output, stderr=subprocess.STDOUT, env=env, cwd=ROOT, start_new_session=True
        )
        try:
            status = process.wait(LIMIT)
            return f"status {status}" if status else ""
        except subprocess.TimeoutExpired:
            return f"it was stopped after {LIMIT} s"
        finally:
            if process.poll() is None:  # together with all processes it has started
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="list the parts and exit")
    parser.add_argument("--only", action="append", metavar="PART", help="run only this part; can be repeated")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder for the results (default: results/gpu)")
    parser.add_argument(
        "--budget", type=float, default=math.inf, metavar="S", help="start no part that could run beyond S seconds in total"
    )
    parser.add_argument("--commit", metavar="NAME", help="commit of this code, if this copy is not a git repository")
    parser.add_argument("--device", default="cuda", help="cuda, or cpu with --tiny")
    parser.add_argument("--tiny", action="store_true", help="use tiny networks, to test the script itself")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    parser.add_argument("--figures", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    parts = {part.name: part for part in all_parts()}
    if args.list:
        print("\n".join(f"{part.name:<28}{part.seconds:>4} s  {part.about}" for part in parts.values()))
        return 0

    def mistake(text: str) -> int:
        print(f"gpu.py: {text}", file=sys.stderr)
        return 2

    for name in args.only or ():
        if name not in parts:
            return mistake(f"there is no part {name!r}; --list names them all")
    if args.tiny and not args.out:
        return mistake("--tiny measures nothing real; give it a folder with --out")
    if not find_spec("torch"):
        return mistake(f"{sys.executable} has no PyTorch; name a Python that has it: make gpu PYTHON=python3.12")
    import torch

    if args.device != "cpu" and not torch.cuda.is_available():
        return mistake("PyTorch sees no NVIDIA GPU here, and every part needs one")
    if args.device == "cpu" and not args.tiny:
        return mistake("on a CPU only --tiny makes sense")
    sys.path[:0] = [str(ROOT), str(ROOT / "data_scripts")]
    if args.run:
        child(parts[args.run], args.device, args.tiny, args.figures)
        return 0
    options = ["--device", args.device, *(["--tiny", "--out", "unused"] if args.tiny else [])]
    chosen = [parts[name] for name in args.only or parts]
    return run_parts(chosen, args.out or ROOT / "results" / "gpu", args.commit or code(), options, args.budget)


if __name__ == "__main__":
    sys.exit(main())
