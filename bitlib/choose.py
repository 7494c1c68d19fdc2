"""Choosing how to transfer a small network: probes at several resolutions, then fine-tuning from the best of them.

No fixed setting serves every folder of images, so several are tried and validation images decide. Test images are opened once,
for the winner. What is tried depends on the data and on how fast this machine is, but never on a clock that runs meanwhile:
the same plan gives the same result, and run.json holds the plan.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from .data.augment import cut, resize
from .data.task import ArrayImages, Images, Task
from .device import pick_device
from .distributed import from_main, is_main
from .evaluate import Evaluation
from .features import cache_features, fit_head
from .files import UserError
from .hyperrule import HyperRule
from .loop import Loop
from .resnet import ResNetV2
from .trainer import Diverged
from .transfer import Run, default_rule, finetune, learnt, linear_probe, write_json
from .weights import create_model, info_of

SIDES = (16, 24, 32, 48, 64, 96, 128, 160, 192, 224)  # in pixels
PENALTIES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)  # inverse strengths of the L2 penalty, tried for every head
RATES = (0.003, 0.01)  # learning rates, tried from the best heads
STEPS = (50, 100, 200, 400, 1000, 3000, 10_000)  # as many as the budget allows
SCOUT = 2000  # training images that are looked at to choose a resolution
FOLDS = 5
# Shares of the budget: features at all sides, and fine-tuning. The rest is for the winner's own features and the test.
LOOKING, TUNING = 0.35, 0.3
CHECKED = 32  # pixels: the side at which `spoilt` looks at images
LABELS_LOST = {"mirror": 0.05, "crop": 0.25}  # shares of images that an augmentation may cost
BACKWARD = 3.5  # a training step takes about as long as so many forward passes


@dataclass(frozen=True)
class Trial:
    """One way that was tried. loss: mean cross-entropy on held-out images, in nats; accuracy: on the same images, 0 to 1."""

    model: str
    method: str
    side: int
    c: float
    mirror: bool
    loss: float
    accuracy: float
    base_lr: float | None = None
    steps: int | None = None

    def __str__(self) -> str:
        how = f", {self.steps} steps at {self.base_lr:g}" if self.steps else ""
        return f"{self.method} of {self.model} at {self.side} px{how}"


@dataclass(frozen=True)
class Plan:
    """What to try. sides: resolutions for each model, in pixels; steps: of fine-tuning, for each side that can afford it."""

    sides: dict[str, list[int]]
    steps: dict[str, int]
    speed: float


def choose(
    models: ResNetV2 | Sequence[ResNetV2],
    task: Task,
    budget: float = 180,
    seed: int = 0,
    loop: Loop = Loop(),
    *,
    side: int | None = None,
) -> Run:
    """Find a good way to use `models` on `task`, by validation; returns the winner's Run, tested once.

    Fits linear probes at several resolutions, fine-tunes from the best head that the budget can afford, and keeps what has the
    lowest loss on held-out images; fine-tuning has to be ahead of the probe by more than the standard error of the difference,
    and a rate at which it diverges has lost.
    models: one, or several starts to choose from. budget: about how many seconds this may take here. side: choose only the
    penalty of a probe at this side. Mirrored images are used if the task allows them and validation agrees. run.config holds
    every trial under "tried" and the reason under "why". Raises UserError and `trainer.Interrupted` as `finetune` does.
    """
    started = time.perf_counter()
    models = [models] if isinstance(models, nn.Module) else list(models)
    if not budget > 0:
        raise UserError(f"budget is {budget}; it must be a number of seconds above 0")
    device, closed = pick_device(loop.device), task.closed()
    for model in models:
        model.to(device, memory_format=torch.channels_last).eval()
    plan = _plan(models, task, budget, loop, device) if side is None else Plan({info_of(m).name: [side] for m in models}, {}, 0)
    search = _Search(closed, loop, seed)
    for model in models:
        search.look(model, plan.sides[info_of(model).name])
    model = next(m for m in models if info_of(m).name == search.best().model)
    search.mirror(model)
    run = search.tune(model, plan)
    run.task = task
    run.decoded["test"] = task.test.prepare(run.crop, "cpu")
    run.test_accuracy = run.evaluate("test").accuracy
    run.config |= {"budget": budget, "plan": asdict(plan), "tried": [asdict(t) for t in search.tried], "why": search.why()}
    run.config |= {"diverged": search.diverged} if search.diverged else {}
    run.seconds = time.perf_counter() - started
    if loop.out:
        run.save(loop.out)
        if is_main():
            shutil.rmtree(Path(loop.out) / "trials", ignore_errors=True)
    return run


class _Search:
    """The trials on one task, with test images out of reach."""

    def __init__(self, task: Task, loop: Loop, seed: int):
        self.task, self.loop, self.seed = task, loop, seed
        self.tried: list[Trial] = []
        self.diverged: list[float] = []  # rates of fine-tuning
        self.chosen: Trial | None = None
        self.train = _some(task.train, SCOUT)
        self.val = _some(task.val, SCOUT)
        self.prepared: tuple[Images, Images] | None = None

    def at(self, side: int) -> tuple[Images, Images]:
        """The scouted images at this side. They are decoded once, at the largest side, which has to be asked for first."""
        if self.prepared is None:
            self.prepared = self.train.prepare(side, "cpu"), self.val.prepare(side, "cpu")
        return tuple(images.prepare(side, "cpu") for images in self.prepared)

    def look(self, model: ResNetV2, sides: list[int]) -> None:
        """Fit probes at these sides."""
        name = info_of(model).name
        shown = self.loop.progress is False or not is_main()
        for side in tqdm(sorted(sides, reverse=True), f"{name}: resolutions", disable=shown, leave=False, mininterval=1):
            train, val = (cache_features(model, images, side) for images in self.at(side))
            for c in PENALTIES:
                loss, accuracy = self._held_out(train, val, c)
                self.tried.append(Trial(name, "linear probe", side, c, False, loss, accuracy))

    def best(self, **wanted) -> Trial:
        """The probe with the lowest loss, among those with these properties."""
        fitting = [t for t in self.tried if not t.steps and all(getattr(t, key) == value for key, value in wanted.items())]
        return min(fitting, key=lambda t: t.loss)

    def mirror(self, model: ResNetV2) -> None:
        """Try the best probe with mirror images added, if labels may survive that."""
        if self.task.random_flip:
            probe = self.best()
            images, val = self.at(probe.side)
            train, mirrored = (cache_features(model, images, probe.side, mirrored=m) for m in (False, True))
            c = probe.c / 2  # twice as many images with the same penalty would be a weaker one
            loss, accuracy = self._held_out(train, cache_features(model, val, probe.side), c, mirrored)
            self.tried.append(replace(probe, c=c, mirror=True, loss=loss, accuracy=accuracy))

    def tune(self, model: ResNetV2, plan: Plan) -> Run:
        """Fit the best probe on all training images, fine-tune, and return whichever run is better."""
        self.chosen = probe = self.best()
        won, seen = self._probe(model, probe)
        state = _copy(model)
        sides = {t.side: t.loss for t in sorted(self.tried, key=lambda t: -t.loss) if t.model == probe.model}
        affordable = [side for side in sides if str(side) in plan.steps]
        if not affordable:
            return won
        start = replace(self.best(model=probe.model, side=min(affordable, key=sides.get)), mirror=probe.mirror)
        first = state if start.side == probe.side else _copy(self._probe(model, start)[0].model)
        before, best = calibrated(seen), None
        for lr in RATES:
            model.load_state_dict(first)
            steps = plan.steps[str(start.side)]
            try:
                run = self._fine_tuned(model, start, lr, steps)
            except Diverged:
                self.diverged.append(lr)
                continue
            after = run.evaluate("val")
            losses = calibrated(after)
            found = {"loss": losses.mean().item(), "accuracy": after.accuracy}
            self.tried.append(replace(start, method="fine-tuning", base_lr=lr, steps=steps, **found))
            if best is None or losses.mean() < best[0].mean():
                best = losses, run, self.tried[-1], _copy(model)
        if best:
            gain = before - best[0]
            if gain.mean() > gain.std() / len(gain) ** 0.5:
                _, won, self.chosen, state = best
        model.load_state_dict(state)
        model.info = learnt(model, self.task, won.crop)
        return won

    def _rule(self, model: ResNetV2, side: int) -> HyperRule:
        # Whole images, as in the test: a crop out of a slightly larger image shows everything larger than the head knows it.
        return default_rule(model, self.task).adapted(resolution=(side, side), alpha=0.0)

    def _probe(self, model: ResNetV2, trial: Trial) -> tuple[Run, Evaluation]:
        quiet = replace(self.loop, out=None)
        run = linear_probe(model, self.task, self._rule(model, trial.side), quiet, c=trial.c, mirror=trial.mirror)
        return run, run.evaluate("val")

    def _fine_tuned(self, model: ResNetV2, start: Trial, lr: float, steps: int) -> Run:
        out = self.loop.out and Path(self.loop.out) / "trials" / f"{start.side}px-{lr:g}"
        loop = replace(self.loop, out=out, progress=self.loop.progress and f"fine-tuning at {lr:g}")
        task = replace(self.task, random_flip=start.mirror)
        rule = self._rule(model, start.side).adapted(steps=steps, base_lr=lr)
        return finetune(model, task, rule, self.seed, loop, keep_head=True)

    def why(self) -> str:
        """A sentence or two about what was tried and why this won."""
        probes = [t for t in self.tried if not t.steps]
        sides = sorted({t.side for t in probes})
        tuned = [t for t in self.tried if t.steps]
        told = f"Tried {len(probes)} linear probes at {', '.join(map(str, sides))} px"
        told += f" and {len(tuned)} runs of fine-tuning" if tuned else ""
        told += f". On held-out images the {self.chosen} did best, with {self.chosen.accuracy:.1%} right"
        if tuned:
            other = min(probes if self.chosen.steps else tuned, key=lambda t: t.loss)
            told += f"; the best {other.method} got {other.accuracy:.1%}"
            told += "" if self.chosen.steps else ", which is not clearly better" if other.loss < self.chosen.loss else ""
        told += f". Fine-tuning diverged at {' and at '.join(f'{lr:g}' for lr in self.diverged)}" if self.diverged else ""
        return f"{told}. Mirrored images were {'used' if self.chosen.mirror else 'not used'}."

    def _held_out(self, train: Tensor, val: Tensor, c: float, mirrored: Tensor | None = None) -> tuple[float, float]:
        """(loss, accuracy) on validation images; where these are few, also on training images, each left out of its own fit."""
        labels, num = self.train.labels, self.task.num_classes
        logits, truth = [], []

        def fit(rows: Tensor, on: Tensor, target: Tensor) -> None:
            x, y = train[rows], labels[rows]
            if mirrored is not None:
                x, y = torch.cat([x, mirrored[rows]]), y.repeat(2)
            weight, bias = fit_head(x, y, num, c, max_iter=200)
            logits.append(on.double() @ weight.T + bias)
            truth.append(target)

        everything = torch.arange(len(labels))
        fit(everything, val, self.val.labels)
        if len(val) < 500 and len(labels) >= 3 * len(val):
            fold = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0)) % FOLDS
            for i in range(FOLDS):
                if len(labels[fold != i].unique()) > 1:
                    fit(everything[fold != i], train[fold == i], labels[fold == i])
        logits, truth = torch.cat(logits), torch.cat(truth)
        return F.cross_entropy(logits, truth).item(), (logits.argmax(1) == truth).double().mean().item()


def calibrated(seen: Evaluation) -> Tensor:
    """The cross-entropy of every image, [N], at the temperature that suits these logits best.

    Fine-tuning makes networks surer of themselves; with a temperature for each, they are compared by what they know.
    """
    temperatures = torch.logspace(-1, 1, 41, base=4, dtype=torch.float64)
    losses = [F.cross_entropy(seen.logits.double() / t, seen.labels, reduction="none") for t in temperatures]
    return min(losses, key=lambda loss: loss.mean().item())


def spoilt(task: Task) -> dict[str, float]:
    """Augmentations that seem to destroy labels of `task`, with the share of validation images that they cost.

    The course's small networks, frozen, learn whole images and are tested on mirrored ones ("mirror") and on corners that show
    four fifths of each side ("crop"). Mirroring should cost next to nothing, and a corner not much.
    """
    nets = [create_model(name, pretrained=True) for name in ("photos-L", "glyphs-L")]
    train, val = (_some(images, SCOUT // 4) for images in (task.train, task.val))

    def features(images: Images, *how) -> Tensor:
        return torch.cat([cache_features(net, images, CHECKED, *how) for net in nets], 1).double()

    weight, bias = fit_head(features(train.prepare(CHECKED, "cpu")), train.labels, task.num_classes, 0.01)
    larger = val.prepare(CHECKED * 5 // 4, "cpu")
    every = torch.arange(len(val))
    pixels = larger.batch(every, larger.draw(len(val), torch.Generator().manual_seed(0)))
    edge = CHECKED * 5 // 4 - CHECKED
    corners = torch.stack([every % 4 // 2 * edge, every % 2 * edge, torch.zeros_like(every)])

    def right(images: Images, *how) -> float:
        return ((features(images, *how) @ weight.T + bias).argmax(1) == val.labels).double().mean().item()

    whole = ArrayImages(resize(pixels, CHECKED), val.labels)
    known = right(whole)
    noise = 2 * (2 * known * (1 - known) / len(val)) ** 0.5
    costs = {
        "mirror": known - right(whole, True),
        "crop": known - right(ArrayImages(cut(pixels, corners, CHECKED), val.labels)),
    }
    return {name: cost for name, cost in costs.items() if cost > LABELS_LOST[name] + noise}


def _copy(model: ResNetV2) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


def _some(images: Images, count: int) -> Images:
    """At most `count` of the images, chosen at random; always the same ones."""
    if len(images) <= count:
        return images
    return images.subset(torch.randperm(len(images), generator=torch.Generator().manual_seed(0))[:count].sort().values)


def _plan(models: Sequence[ResNetV2], task: Task, budget: float, loop: Loop, device: torch.device) -> Plan:
    """The plan for this machine; a resumed run keeps the one that it began with."""
    path = loop.out and Path(loop.out) / "trials" / "plan.json"
    if path and from_main(path.exists()):
        if not loop.resume:
            raise UserError(
                f"{loop.out} holds a run that was not finished; add --resume to continue it, or choose another --out"
            )
        return Plan(**from_main(json.loads(path.read_text("utf8")) if is_main() else None))
    images = min(len(task.train), SCOUT) + min(len(task.val), SCOUT)
    sides, steps = {}, {}
    for model in models:
        crop = info_of(model).crop or 128
        pixels = from_main(_pixels_per_second(model, crop, device))  # of a forward pass
        largest = min(max(crop, min(task.image_size)), 4 * crop)
        least = max(crop / 2, info_of(model).arch.sides[0])
        candidates = [s for s in SIDES if least <= s <= largest] or [crop]
        if len(models) > 1 and model is not models[0]:
            candidates = [crop]
        spent, affordable = 0.0, []
        for side in candidates:
            spent += images * side**2 / pixels
            if affordable and spent > LOOKING * budget:
                break
            affordable.append(side)
        sides[info_of(model).name] = affordable
        for side in affordable if model is models[0] else ():
            batch = default_rule(model, task).batch_size
            possible = TUNING * budget / len(RATES) / (batch * side**2 * BACKWARD / pixels)
            epochs = max(100, 40 * len(task.train) / batch)  # more would only repeat
            if fitting := [n for n in STEPS if n <= min(possible, epochs)]:
                steps[str(side)] = fitting[-1]
    plan = Plan(sides, steps, pixels)
    if path and is_main():
        write_json(path, asdict(plan))
    return plan


def _pixels_per_second(model: ResNetV2, side: int, device: torch.device) -> float:
    """Pixels of input that pass through the network in a second, rounded down to a power of two.

    Rounded, so that the same machine gets the same answer; down, so that the plan keeps to its budget.
    """
    count = max(1, 64 * 32**2 // side**2)  # as many pixels for every network, or large images would take minutes
    x = torch.zeros(count, 3, side, side, device=device).contiguous(memory_format=torch.channels_last)
    times = []
    with torch.no_grad():
        for _ in range(20):  # the fastest counts: others may be slowed down by what else runs here
            start = time.perf_counter()
            model(x).sum().item()
            times.append(time.perf_counter() - start)
    exact = count * side**2 / min(times)
    return 2.0 ** math.floor(math.log2(exact))
