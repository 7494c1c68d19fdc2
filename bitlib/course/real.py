"""What chapter 16 runs: official weights and real data where there are a GPU and a network, the course's stand-ins everywhere.

Owns the one decision of that chapter, `what_to_run`. Its cells are the same everywhere; all that differs is in the plan.
Runs of official weights take long, so each is carried out once, goes on where it was interrupted, and is kept in a folder.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import http.server
import json
import shutil
import threading
import time
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ..data import Task, load_task
from ..device import pick_device, pick_precision
from ..evaluate import Evaluation, evaluate
from ..files import UserError, atomic_path, cache_dir
from ..hyperrule import HyperRule
from ..loop import Loop
from ..transfer import finetune, linear_probe, write_json
from ..verify import Claim, reference, verify
from ..weights import create_model, is_cached, model_info
from .explore.cost import account, parts_for
from .show import Html, table

OFFICIAL, STAND_IN = "BiT-M-R50x1", "photos-L"
BATCH_NORM = "torchvision/resnet50"  # of the same size, pre-trained on the thousand classes of ImageNet
CHEAPER = {"batch_size": 128, "base_lr": 0.001}  # the official repository's own setting for its table of CIFAR results
SHOTS = (1, 5, 10)
PHOTOGRAPHS, OTHERS = "suite/photographs", ("tiles", "digits")
# Test accuracy in per cent of BiT-M-R50x1, PyTorch, five runs or more: median, lowest, highest (README of the official code).
PUBLISHED = {("cifar10", 1): (57.9, 45.8, 65.7), ("cifar10", 5): (82.3, 80.3, 84.9), ("cifar10", None): (97.4,)}
# Of R152x4, the only BiT-M for which the paper gives them (Table 2).
LARGEST = {"pets": 94.46, "flowers102": 99.30}
LONG = 250  # steps between checkpoints


@dataclass(frozen=True)
class Job:
    """One run: a task, images per class (None for all), which random subset, and the network to start from."""

    task: str
    shots: int | None
    seed: int
    network: str

    @property
    def official(self) -> bool:
        """Whether it needs a download, and takes long."""
        return self.network != STAND_IN

    @property
    def name(self) -> str:
        return f"{self.task}, {f'{self.shots}-shot' if self.shots else 'all images'}, subset {self.seed}"

    @property
    def published(self) -> str:
        """The published figure for this, in words, or a dash."""
        if self.network != OFFICIAL:
            return "–"
        if self.task in LARGEST:
            return f"{LARGEST[self.task]:.1f} (R152x4)"
        middle, *ends = PUBLISHED.get((self.task, self.shots), (None,))
        return "none" if middle is None else f"{middle} ({ends[0]} to {ends[1]})" if ends else f"{middle}"


@dataclass
class Result:
    """What came of a job. found: logits and labels of the test images, or None where it was not run, for the reason `why`.

    seconds, peak: wall time, and most memory of the GPU in bytes (None on a CPU), of the whole run. macs: multiply-adds of its
    training. images: it was trained on.
    """

    job: Job
    found: Evaluation | None = None
    seconds: float = 0.0
    peak: int | None = None
    macs: int = 0
    images: int = 0
    why: str = ""


@dataclass(frozen=True)
class Plan:
    """What is to be run here. why: in a sentence; folder: for what official runs leave; minutes: no run starts that ends later.

    rule: changes to the HyperRule for official weights. device: as for `Loop`. card: memory of the GPU in GB.
    """

    why: str
    jobs: tuple[Job, ...]
    official: bool
    folder: Path
    minutes: float = 40.0
    rule: tuple[tuple[str, object], ...] = tuple(CHEAPER.items())
    device: str = "auto"
    card: float = 15.0


def stand_ins() -> list[Job]:
    """photos-L on tasks that come with the package: five subsets for each number of shots, then all images of three tasks."""
    few = [Job(PHOTOGRAPHS, shots, seed, STAND_IN) for shots in SHOTS for seed in range(5)]
    return few + [Job(task, None, 0, STAND_IN) for task in (PHOTOGRAPHS, *OTHERS)]


def official_jobs() -> list[Job]:
    """The real thing, most telling per minute first: CIFAR-10 with few images, then all of it, then larger images."""
    few = [Job("cifar10", shots, seed, OFFICIAL) for seed in range(5) for shots in SHOTS]
    other = [Job("cifar10", shots, 0, BATCH_NORM) for shots in SHOTS]
    return [*few[:3], *other, *(Job(task, None, 0, OFFICIAL) for task in ("cifar10", "flowers102", "pets")), *few[3:]]


def can_reach(url: str, seconds: float = 5) -> bool:
    """Whether a server answers at this address."""
    try:
        urllib.request.urlopen(url, timeout=seconds).close()
        return True
    except (OSError, ValueError):
        return False


def what_to_run(minutes: float = 40, *, gpu: bool | None = None, reach: Callable[[str], bool] = can_reach) -> Plan:
    """The plan for this machine. Without a GPU no server is asked, and nothing is downloaded.

    minutes: roughly how long official runs may take, this time; what is left out can be run another time. gpu: None to look.
    reach: tells whether an address answers.
    """
    gpu = torch.cuda.is_available() if gpu is None else gpu
    jobs, folder = stand_ins(), cache_dir() / "runs" / "chapter16"
    ours = f"{STAND_IN}, one of the course's small networks, on tasks that come with the package"
    if not gpu:
        return Plan(f"no GPU here, so nothing is downloaded: {ours}", tuple(jobs), False, folder)
    if not is_cached(OFFICIAL) and not reach(model_info(OFFICIAL).url):
        return Plan(f"a GPU, but neither weights in the cache nor a network to fetch them: {ours}", tuple(jobs), False, folder)
    card = torch.cuda.get_device_properties(0).total_memory / 1e9 if torch.cuda.is_available() else 15.0
    why = f"a GPU with {card:.0f} GB, and official weights: {OFFICIAL} on real benchmarks, after {ours}"
    return Plan(why, (*jobs, *official_jobs()), True, folder, minutes, card=card)


# --- carrying it out --------------------------------------------------------------------------------------------------


class Board:
    """The results so far, as a table that grows: in a notebook the same output is drawn again whenever a row is added."""

    def __init__(self):
        self.results: list[Result] = []
        self._handle = None

    def add(self, result: Result) -> None:
        self.results.append(result)
        try:
            from IPython import get_ipython
        except ImportError:
            get_ipython = lambda: None  # noqa: E731
        if get_ipython() is None:
            return
        from IPython.display import display

        if self._handle is None:
            self._handle = display(self.table(), display_id=True)
        else:
            self._handle.update(self.table())

    def table(self) -> Html:
        """A row per task and number of shots; several subsets as mean ± standard deviation."""
        groups: dict[tuple, list[Result]] = {}
        for result in self.results:
            groups.setdefault((result.job.network, result.job.task, result.job.shots), []).append(result)
        rows = []
        for (network, task, shots), found in groups.items():
            done = [r for r in found if r.found]
            accuracy = summary([100 * r.found.accuracy for r in done]) if done else found[-1].why
            minutes = f"{sum(r.seconds for r in done) / len(done) / 60:.1f}" if done and found[0].job.official else "–"
            peaks = [r.peak for r in done if r.peak]
            memory = f"{max(peaks) / 1e9:.1f}" if peaks else "–"
            images = f"{shots} per class" if shots else "all"
            rows.append([f"`{network}`", task, images, len(done), accuracy, found[0].job.published, minutes, memory])
        heads = [
            "network",
            "task",
            "training images",
            "subsets",
            "test accuracy (%)",
            "published",
            "minutes each",
            "memory (GB)",
        ]
        return table(heads, rows)

    def accuracies(self, network: str, task: str) -> dict[int | None, list[float]]:
        """{shots: accuracies of the subsets, from 0 to 1} of what has been run."""
        found: dict[int | None, list[float]] = {}
        for r in self.results:
            if r.found and (r.job.network, r.job.task) == (network, task):
                found.setdefault(r.job.shots, []).append(r.found.accuracy)
        return found

    def evaluations(self, network: str, task: str, shots: int | None) -> list[Evaluation]:
        """Logits and labels of what has been run, a subset each."""
        wanted = (network, task, shots)
        return [r.found for r in self.results if r.found and (r.job.network, r.job.task, r.job.shots) == wanted]

    def most_real(self) -> Result:
        """The last run with official weights; the last few-shot run of the stand-in where there was none."""
        done = [r for r in self.results if r.found]
        return ([r for r in done if r.job.network == OFFICIAL] or [r for r in done if r.job.shots])[-1]


def summary(percent: list[float]) -> str:
    """One accuracy, or mean ± standard deviation."""
    values = torch.tensor(percent, dtype=torch.float64)
    return f"{values.mean():.1f}" + (f" ± {values.std():.1f}" if len(values) > 1 else "")


def run_plan(plan: Plan, board: Board, progress: bool = True) -> Board:
    """Carry out every job of the plan, adding a row as each is done; returns the board.

    A run that fails for a reason that its user can mend, such as a full disk or a server that is down, leaves that reason in
    its row, and the others still run. After an interruption the same call goes on: finished runs come from the folder, the last
    one from its checkpoint.
    """
    began, spent = time.perf_counter(), []
    for job in plan.jobs:
        try:
            left = plan.minutes - (time.perf_counter() - began) / 60
            board.add(carry_out(plan, job, left, spent, progress))
        except UserError as error:
            board.add(Result(job, why=f"stopped: {error}"))
    return board


def carry_out(plan: Plan, job: Job, left: float, spent: list[Result], progress: bool = True) -> Result:
    """One job's result. left: minutes; spent: official results so far, which predict how long the next one takes."""
    if not job.official:
        task = _loaded(job.task)
        task = task.few_shot(job.shots, job.seed) if job.shots else task
        model = create_model(job.network, task.num_classes, pretrained=True)
        began = time.perf_counter()
        run = linear_probe(model, task, loop=Loop(device=plan.device, progress=False))
        found = evaluate(run.model, task.test, run.crop)
        return Result(job, found, time.perf_counter() - began, images=len(task.train))
    if (done := _stored(plan, job)) is None:
        task = load_task(job.task, job.shots, job.seed)
        macs = macs_of(plan, job, task)
        if (minutes := predicted(macs, spent)) and minutes > left:
            return Result(job, macs=macs, why=f"not run: about {minutes:.0f} minutes, and {max(0, left):.0f} are left")
        done = _train(plan, job, task, macs, progress)
        _store(plan, done)
    spent.append(done)
    return done


_loaded = functools.cache(load_task)  # the stand-ins are drawn anew each time


def predicted(macs: int, spent: list[Result]) -> float | None:
    """Minutes that so many multiply-adds will take, by the runs so far; None before the first."""
    if not spent or not sum(r.macs for r in spent):
        return None
    return macs * sum(r.seconds for r in spent) / sum(r.macs for r in spent) / 60


def rule_for(plan: Plan, task: Task) -> HyperRule:
    """The HyperRule for official weights on a task, with the plan's changes."""
    return HyperRule(len(task.train), task.image_size, model=OFFICIAL).adapted(**dict(plan.rule))


def macs_of(plan: Plan, job: Job, task: Task) -> int:
    """Multiply-adds of the job's training, forward and backward."""
    rule = rule_for(plan, task)
    each = account(model_info(OFFICIAL).arch, rule.crop, task.num_classes)["macs"]
    return each * rule.batch_size * rule.total_steps


def _train(plan: Plan, job: Job, task: Task, macs: int, progress: bool) -> Result:
    where = pick_device(plan.device)
    precision = pick_precision("auto", where)
    model = create_model(job.network, task.num_classes, pretrained=True)
    rule, arch = rule_for(plan, task), model_info(OFFICIAL).arch  # the other network is of the same size
    bits = 32 if precision == "fp32" else 16
    parts = parts_for(arch, rule.crop, task.num_classes, rule.batch_size, plan.card, bits)
    out = plan.folder / _slug(job)
    options = {"precision": precision, "micro_batches": max(1, parts), "checkpoint_every": LONG, "resume": True}
    if where.type == "cuda":
        torch.cuda.reset_peak_memory_stats(where)
    began = time.perf_counter()
    loop = Loop(device=plan.device, out=out, progress=progress and f"{job.network}: {job.name}", **options)
    run = finetune(model, task.closed(), rule, job.seed, loop)
    found = evaluate(run.model, task.test, rule.crop, precision)
    seconds = max(time.perf_counter() - began, run.history.seconds)  # after an interruption, the earlier part too
    peak = torch.cuda.max_memory_allocated(where) if where.type == "cuda" else None
    shutil.rmtree(out, ignore_errors=True)  # the weights; logits and figures are kept
    return Result(job, found, seconds, peak, macs, len(task.train))


def _slug(job: Job) -> str:
    return f"{job.network}, {job.name}".replace(", ", "-").replace(" ", "-").replace("/", "-")


def _key(plan: Plan) -> dict:
    """What stored results depend on besides the job."""
    return {"rule": json.loads(json.dumps(dict(plan.rule)))}


def _store(plan: Plan, result: Result) -> None:
    from safetensors.torch import save_file

    file = plan.folder / f"{_slug(result.job)}.safetensors"
    with atomic_path(file) as temporary:
        save_file({"logits": result.found.logits, "labels": result.found.labels}, temporary)
    about = {"seconds": result.seconds, "peak": result.peak, "macs": result.macs, "images": result.images}
    write_json(file.with_suffix(".json"), {**_key(plan), **about, "accuracy": result.found.accuracy})


def _stored(plan: Plan, job: Job) -> Result | None:
    """A result of an earlier call; None if there is none, it is damaged, or it had other settings."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    file = plan.folder / f"{_slug(job)}.safetensors"
    try:
        about = json.loads(file.with_suffix(".json").read_text("utf8"))
        if {name: about.get(name) for name in _key(plan)} != _key(plan):
            return None
        tensors = load_file(file)
        found = Evaluation(tensors["logits"], tensors["labels"])
        return Result(job, found, about["seconds"], about["peak"], about["macs"], about["images"])
    except (OSError, ValueError, KeyError, SafetensorError):
        return None


# --- the released checkpoint ------------------------------------------------------------------------------------------


def checkpoint(plan: Plan, what: Claim | None = None, progress: bool = True) -> Html:
    """The released CIFAR-10 checkpoint: verified here if the plan is official; else the stored record, if any."""
    what = what or Claim()
    record, where = reference(), "results/verified.json"
    file = plan.folder / "verified.json"
    if plan.official:
        try:
            record, where = reference(file) or verify(what, device=plan.device, known=record, progress=progress), "this machine"
            write_json(file, record)
        except UserError as error:
            return table(["the released checkpoint", ""], [["verified", f"no: {error}"]])
    if record is None:
        row = ["verified", "not yet: nobody has run `bitlib verify` with a network and sent its record in"]
        return table(["the released checkpoint", ""], [row, ["published accuracy (%)", f"{100 * what.published:.2f}"]])
    return table(["the released checkpoint", ""], in_words(record, where))


def in_words(record: dict, where: str) -> list[list[str]]:
    """The rows that tell a record of `bitlib verify`."""
    low, high = record["interval"]
    timm = record.get("timm")
    return [
        ["record", where],
        [
            "test accuracy (%)",
            f"{100 * record['accuracy']:.2f} of {record['images']:,} images ({100 * low:.2f} to {100 * high:.2f})",
        ],
        ["published (%)", f"{100 * record['published']:.2f}"],
        ["as published", "yes" if record["holds"] else "no"],
        ["file", f"{record['file']['bytes']:,} bytes, sha256 {record['file']['sha256'][:16]}…"],
        ["logits against timm's", f"{timm['difference']:.0e} deviations apart" if timm else "not compared"],
        ["smallest variance of a filter", f"{record['variances']['smallest']:.1e}"],
    ]


# --- for measuring networks -------------------------------------------------------------------------------------------


def kept_bytes(model: nn.Module, x: Tensor) -> int:
    """Bytes that a forward pass in train mode keeps for the backward pass, besides parameters; each storage counts once."""
    own = {p.untyped_storage().data_ptr() for p in (*model.parameters(), *model.buffers())}
    found: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    model.train()
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        out = model(x)
    assert out.requires_grad  # holds the graph, and all that it keeps, until here
    return sum(found.values())


# --- a server to practise on ------------------------------------------------------------------------------------------


class LocalServer:
    """A web server on this machine, as a context: serves `body` under any name, resumes with Range, and can be unkind.

    body: bytes; cut_after: break the next answer off after so many bytes, and change the body to changes_to if that is set;
    honest: False states a wrong MD5. ETag and x-goog-hash follow the body, as with Google's storage. requests: the Range of
    each request, or None.
    """

    def __init__(self, body: bytes):
        self.body, self.cut_after, self.changes_to, self.honest = body, None, None, True
        self.requests: list[str | None] = []

    def __enter__(self) -> LocalServer:
        owner = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *_):
                pass

            def do_GET(self):
                owner._answer(self)

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_) -> None:
        self._server.shutdown()
        self._server.server_close()

    def url(self, name: str) -> str:
        """The address of a file."""
        return f"http://127.0.0.1:{self._server.server_port}/{name}"

    def _answer(self, handler) -> None:
        digest, body = hashlib.md5(self.body).digest(), self.body
        tag, wanted = f'"{digest.hex()}"', handler.headers.get("Range")
        self.requests.append(wanted)
        start = int(wanted.removeprefix("bytes=").rstrip("-")) if wanted else 0
        if handler.headers.get("If-Range", tag) != tag:
            start = 0
        payload = body[start:][: self.cut_after]
        if self.cut_after is not None and self.changes_to is not None:
            self.body, self.changes_to = self.changes_to, None
        self.cut_after = None
        handler.send_response(206 if start else 200)
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(body) - 1}/{len(body)}")
        handler.send_header("Content-Length", str(len(body) - start))
        handler.send_header("ETag", tag)
        stated = digest if self.honest else bytes(16)
        handler.send_header("x-goog-hash", "md5=" + base64.b64encode(stated).decode())
        handler.end_headers()
        handler.wfile.write(payload)


__all__ = ["Board", "Job", "LocalServer", "Plan", "checkpoint", "kept_bytes", "run_plan", "what_to_run"]
