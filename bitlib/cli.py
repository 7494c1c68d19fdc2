"""The command line: turns arguments into library calls and prints the results. It has no logic of its own.

Exit status: 0 success, 1 what was to be verified does not hold, 2 user error (one line on stderr), 130 interrupted (progress
is saved).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
from collections.abc import Callable, Iterable
from contextlib import nullcontext, redirect_stdout
from dataclasses import asdict, fields, replace
from itertools import product
from pathlib import Path

from .files import UserError
from .loop import PRECISIONS, Loop

BUDGET = 180  # seconds for `choose`


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        """Print one line, without the usage block, and exit with status 2."""
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def _number(kind: type, least: int) -> Callable[[str], int | float]:
    """An argparse type: a number of this kind that is at least `least`."""

    def read(text: str) -> int | float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not value >= least:
            what = "a whole number" if kind is int else "a number"
            raise argparse.ArgumentTypeError(f"{text!r} is not {what} of {least} or more")
        return value

    return read


_positive = _number(int, 1)


def _add_options(sub: argparse.ArgumentParser, names: Iterable[str]) -> None:
    """Add a flag for each of these fields of `Loop`, such as --micro-batches for micro_batches."""
    for option in fields(Loop):
        if option.name not in names:
            continue
        flag, how = f"--{option.name.replace('_', '-')}", dict(option.metadata)
        if option.default is False:
            sub.add_argument(flag, action="store_true", help=how["help"])
            continue
        if option.name == "precision":
            how |= {"choices": PRECISIONS, "metavar": None}
        elif isinstance(option.default, int | float):
            how["type"] = _number(type(option.default), 1 if option.name == "micro_batches" else 0)
        if option.default is not None:
            how["help"] += f" (default: {option.default})"
        sub.add_argument(flag, default=option.default, required=option.name == "out", **how)


def _loop(args) -> Loop:
    """The `Loop` for these arguments; options that the command does not have keep their defaults."""
    given = {option.name: getattr(args, option.name) for option in fields(Loop) if hasattr(args, option.name)}
    return Loop(**given, progress=not args.quiet)


def build_parser() -> argparse.ArgumentParser:
    """The parser for all commands; each command sets `run`, which takes the parsed arguments."""
    parser = _Parser(prog="bitlib", description="Transfer learning with Big Transfer (BiT).")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(name: str, run, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        sub.set_defaults(run=run)
        return sub

    def compute(sub: argparse.ArgumentParser) -> None:
        _add_options(sub, ("device",))
        sub.add_argument("--quiet", action="store_true", help="show no progress bar")

    def inference(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--precision", default="fp32", choices=PRECISIONS, help="precision of the network (default: fp32)")
        compute(sub)

    def training(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--steps", type=_positive, metavar="N", help="number of updates")
        sub.add_argument("--batch-size", type=_positive, metavar="B", help="images per update, over all processes")
        sub.add_argument("--lr", type=float, help="base learning rate")
        sub.add_argument("--seed", type=int, default=0, help="random seed (default: 0)")
        _add_options(sub, [option.name for option in fields(Loop) if option.name not in ("device", "progress")])
        compute(sub)

    def data(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("data", metavar="DATA", help="a folder with one sub-folder per class, or the name of a task")
        sub.add_argument("--skip-bad", action="store_true", help="skip unreadable images instead of stopping")

    def downstream(sub: argparse.ArgumentParser) -> argparse._MutuallyExclusiveGroup:
        data(sub)
        default = "default: BiT-M-R50x1 if it is in the cache, otherwise photos-L, a small model that ships with the package"
        named = "a name from `bitlib models`, torchvision/NAME, timm/NAME, or a weight file"
        sub.add_argument("--model", metavar="NAME|FILE", help=f"{named} ({default})")
        few = "use only K training images per class, chosen at random by --seed"
        sub.add_argument("--shots", type=_positive, metavar="K", help=few)
        variant = "variant of the HyperRule (default: code)"
        sub.add_argument("--variant", choices=("code", "paper"), help=variant)
        training(sub)
        method = sub.add_mutually_exclusive_group()
        method.add_argument("--scratch", action="store_true", help="start from random weights, for comparison")
        return method

    sub = command("models", run_models, "list the models")
    theirs = "list the networks of torchvision, or of timm if it is installed, instead of the course's and the official ones"
    sub.add_argument("library", nargs="?", choices=("torchvision", "timm"), metavar="LIBRARY", help=theirs)
    sub.add_argument("--json", action="store_true", help="as JSON")

    sub = command("finetune", run_finetune, "transfer a pre-trained model to DATA")
    sub.epilog = (
        "A small model of the course, or a network of another library, is tried at several resolutions, as a linear probe and, "
        "where the budget allows it, fine-tuned; validation images decide. Any of --hyperrule, --steps, --batch-size, --lr, "
        "--variant, --freeze and --scratch follows the HyperRule instead, adapted to the model. An official BiT model always "
        "follows the HyperRule."
    )
    method = downstream(sub)
    method.add_argument("--hyperrule", action="store_true", help="fine-tune by the BiT-HyperRule and try nothing else")
    method.add_argument("--linear-probe", action="store_true", help="fit only the head, on cached features")
    stages = "stage1 to stage4, or head; in other networks a name of theirs, such as layer3 or features.4, or head"
    method.add_argument("--freeze", metavar="STAGE", help=f"freeze everything before STAGE: {stages}")
    budget = f"time for trying things out, roughly, on this machine (default: {BUDGET})"
    sub.add_argument("--budget", type=_number(float, 1), metavar="SECONDS", help=budget)

    sub = command("distill", run_distill, "train a model on DATA to imitate a teacher that was fine-tuned on it")
    downstream(sub)
    sub.add_argument("--teacher", required=True, metavar="MODEL", help="a folder written by finetune, or a model file")
    softness = "temperature for teacher and student (default: 1)"
    sub.add_argument("--temperature", type=float, default=1.0, metavar="T", help=softness)
    weight = "weight of the teacher: 1 ignores the labels, 0 ignores the teacher (default: 1)"
    sub.add_argument("--alpha", type=float, default=1.0, help=weight)
    fixed = "run the teacher once, on whole images before training, instead of on the student's crops at every step"
    sub.add_argument("--fixed", action="store_true", help=fixed)

    sub = command("evaluate", run_evaluate, "measure the accuracy of a model on a split of DATA")
    sub.add_argument("model", metavar="MODEL", help="a folder written by finetune, or a model file")
    data(sub)
    sub.add_argument("--split", default="test", choices=("train", "val", "test"), help="(default: test)")
    sub.add_argument("--json", metavar="FILE", help="also write the figures to FILE")
    inference(sub)

    sub = command("predict", run_predict, "predict the class of each image")
    sub.add_argument("model", metavar="MODEL", help="a folder written by finetune, or a model file")
    files = "image files, folders of images, or - to read one image from standard input"
    sub.add_argument("images", nargs="+", metavar="IMAGE", help=files)
    sub.add_argument("--top", type=_positive, default=1, metavar="K", help="how many classes to list per image (default: 1)")
    sub.add_argument("--json", action="store_true", help="print one JSON object per image")
    inference(sub)

    sub = command("export", run_export, "export a trained model to ONNX, for use in other programs")
    sub.add_argument("model", metavar="MODEL", help="a folder written by finetune, or a model file")
    sub.add_argument("out", metavar="FILE.onnx")
    sub.add_argument("--features", action="store_true", help="output the pooled features instead of the logits")
    sub.add_argument("--half", action="store_true", help="store the weights in 16 bits, if that loses nothing")

    sub = command("pretrain", run_pretrain, "train a network from random weights, as a starting point for fine-tuning")
    data(sub)
    sub.add_argument("--arch", default="small", help="architecture: small, medium, small-bn, R50x1, ... (default: small)")
    sub.add_argument("--side", type=_positive, default=32, metavar="PX", help="side of the training images (default: 32)")
    sub.add_argument("--weight-decay", type=float, default=1e-4, help="weight decay (default: 1e-4)")
    training(sub)

    sub = command("suite", run_suite, "measure models on a suite of twelve small tasks, in the manner of VTAB-1k")
    sub.epilog = (
        "Every model is trained on every task, fine-tuned and from scratch. Rate and number of steps are chosen once for all "
        "tasks, for each of the two. FILE.partial holds the finished runs, and the same command goes on from there."
    )
    some = "small models of the course (default: glyphs-L)"
    sub.add_argument("--model", nargs="+", default=["glyphs-L"], metavar="NAME", help=some)
    sub.add_argument("--tasks", nargs="+", metavar="TASK", help="only these tasks, such as suite/counting (default: all)")
    repeats = "repetitions, each with other training images, another order and other initial weights (default: 3)"
    sub.add_argument("--seeds", type=_positive, default=3, metavar="N", help=repeats)
    sub.add_argument("--json", default="suite.json", metavar="FILE", help="where to write the figures (default: suite.json)")
    compute(sub)

    sub = command("verify", run_verify, "check the official CIFAR-10 checkpoint against its published accuracy")
    sub.epilog = (
        "Downloads 94 MB of weights and 170 MB of images into the cache, once. The exit status is 1 if the accuracy is not the "
        "published one, or if logits or features differ from timm's or from the stored reference. The record can be sent in, "
        "or committed as results/verified.json."
    )
    sub.add_argument(
        "--weights", metavar="FILE", help="the .npz file, if it is here already (default: the cache, or download it)"
    )
    sub.add_argument(
        "--json", default="verified.json", metavar="FILE", help="where to write the record (default: verified.json)"
    )
    inference(sub)

    sub = command("detect", None, "train a detector on images with boxes, or find objects with one")
    _add_detect(sub, compute, inference)

    sub = command("bench", run_bench, "compare speed and memory with batch norm and timm on this machine")
    sub.add_argument("--mode", nargs="+", default=["train", "infer"], choices=("train", "infer"))
    sub.add_argument("--side", type=_positive, nargs="+", default=[128], metavar="PX", help="side of the images (default: 128)")
    sub.add_argument("--batch-size", type=_positive, nargs="+", default=[8], metavar="B")
    usual = "(default: fp32, plus 16 bits if they are fast on this device)"
    sub.add_argument("--precision", nargs="+", choices=PRECISIONS[1:], help=usual)
    sub.add_argument("--compile", action="store_true", help="compile every network with torch.compile first")
    sub.add_argument("--rounds", type=_positive, default=10, metavar="N", help="timed rounds (default: 10)")
    sub.add_argument("--parts", action="store_true", help="also time data loading, checkpoints and the linear head")
    sub.add_argument("--json", metavar="FILE", help="also write the figures to FILE")
    compute(sub)
    return parser


def _add_detect(sub: argparse.ArgumentParser, compute: Callable, inference: Callable) -> None:
    """The two commands of `bitlib detect`."""
    actions = sub.add_subparsers(dest="action", metavar="ACTION", required=True)
    text = "train torchvision's RetinaNet on a BiT backbone"
    train = actions.add_parser("train", help=text, description=text[0].upper() + text[1:] + ".")
    train.set_defaults(run=run_detect_train)
    where = "a folder with images/ and annotations.json in COCO's format, the path of such a file, or the task `scenes`"
    train.add_argument("data", metavar="DATA", help=where)
    train.add_argument("--images", metavar="DIR", help="where the images lie, if not beside the annotations")
    held = "a second folder or file for validation (default: DATA/val if there is DATA/train, otherwise a sixth of the images)"
    train.add_argument("--val", metavar="DATA", help=held)
    train.add_argument("--skip-bad", action="store_true", help="leave out bad boxes and unreadable images instead of stopping")
    train.add_argument("--model", metavar="NAME|FILE", help="backbone: a name from `bitlib models`, or a weight file")
    train.add_argument("--scratch", action="store_true", help="start from random weights, for comparison")
    freeze = "freeze the backbone before STAGE: stage1 to stage4, or pyramid for all of it"
    train.add_argument("--freeze", metavar="STAGE", help=freeze)
    side = "side to which the longer side of an image is brought (default: 96 for the course's small networks, 512 for others)"
    train.add_argument("--side", type=_number(int, 32), metavar="PX", help=side)
    train.add_argument("--no-flip", action="store_true", help="do not mirror images; text and digits do not survive it")
    train.add_argument("--steps", type=_positive, default=300, metavar="N", help="number of updates (default: 300)")
    train.add_argument("--batch-size", type=_positive, default=8, metavar="B", help="images per update (default: 8)")
    train.add_argument("--lr", type=float, help="learning rate (default: 0.08 for 256 images per update, in proportion)")
    train.add_argument("--seed", type=int, default=0, help="random seed (default: 0)")
    options = ("precision", "micro_batches", "grad_checkpointing", "ema", "out", "resume", "checkpoint_every", "evaluate_every")
    _add_options(train, options)
    compute(train)
    text = "find objects in images"
    predict = actions.add_parser("predict", help=text, description=text[0].upper() + text[1:] + ".")
    predict.set_defaults(run=run_detect_predict)
    predict.add_argument("model", metavar="MODEL", help="a folder written by `detect train`, or its model.safetensors")
    predict.add_argument("images", nargs="+", metavar="IMAGE", help="image files, or folders of images")
    least = "least score of a box that is shown (default: 0.3)"
    predict.add_argument("--score", type=_number(float, 0), default=0.3, help=least)
    predict.add_argument("--json", action="store_true", help="print one JSON object per image")
    predict.add_argument("--csv", metavar="FILE", help="also write the boxes to FILE, one row each")
    predict.add_argument("--draw", metavar="DIR", help="also write each image to DIR, with its boxes drawn")
    inference(predict)


def run_models(args) -> None:
    """`bitlib models`."""
    from .backbones import list_backbones
    from .weights import list_models, model_info

    rows = []
    for info in map(model_info, list_backbones(args.library) if args.library else list_models()):
        # Building all of torchvision's networks, only to count, would take a minute.
        count = info.arch.spec.parameters if args.library else info.num_parameters
        about = {"name": info.name, "source": info.source, "parameters": count, "classes": info.num_classes}
        rows.append(about | {"location": info.location})
    if args.json:
        print(json.dumps(rows, indent=1))
        return
    width = max(len(row["name"]) for row in rows)
    print(f"{'name':<{width}}{'parameters':>16}{'classes':>9}  where")
    for row in rows:
        count = "" if row["parameters"] is None else f"{row['parameters']:,}"
        print(f"{row['name']:<{width}}{count:>16}{row['classes']:>9,}  {row['location']}")
    if not args.library:
        print("networks of other libraries: torchvision/NAME and timm/NAME; `bitlib models torchvision` lists them")


def _default_model() -> str:
    from .weights import is_cached

    if is_cached("BiT-M-R50x1"):
        return "BiT-M-R50x1"
    hint = "--model BiT-M-R50x1 downloads one trained on far more photographs"
    print(f"no --model given: starting from photos-L, one of the course's small networks; {hint}", file=sys.stderr)
    return "photos-L"


def _writable(out: Path, resume: bool) -> Path:
    """`out`, unless it cannot be written to: better to fail before the work than after it. Creates nothing."""
    existing = out
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"cannot write to {out} ({existing} is not a folder you can write to); choose another --out")
    if (out / "run.json").exists() and not resume:
        raise UserError(f"{out} already holds a finished run; choose another --out, or delete it")
    return out


def _prepare(args):
    """(task, model, rule, loop) for `finetune` and `distill`."""
    from .data import load_task
    from .transfer import default_rule
    from .weights import create_model

    loop = _loop(args)
    _writable(Path(args.out), args.resume)
    task = load_task(args.data, args.shots, args.seed, args.skip_bad)
    model = create_model(args.model or _default_model(), task.num_classes, pretrained=not args.scratch, seed=args.seed)
    changes = {"steps": args.steps, "batch_size": args.batch_size, "base_lr": args.lr, "variant": args.variant}
    try:
        rule = default_rule(model, task).adapted(**{k: v for k, v in changes.items() if v is not None})
    except ValueError as error:
        raise UserError(str(error)) from None
    return task, model, rule, loop


def _report(result, task, out: str | Path) -> None:
    print(f"validation accuracy {_with_interval(result.val_accuracy, len(task.val))}")
    print(f"test accuracy {_with_interval(result.test_accuracy, len(task.test))}")
    print(f"written to {out}")


def _with_interval(accuracy: float, images: int) -> str:
    from .evaluate import accuracy_interval

    low, high = accuracy_interval(accuracy, images)
    return f"{accuracy:.4f} on {images} image{'s' * (images != 1)} (95 % interval {low:.3f} to {high:.3f})"


def _report_run(run, out: str) -> None:
    model, images = run.config["model"], len(run.task.train)
    print(f"{run.task.name}: {images} training images, {run.task.num_classes} classes, model {model}")
    _report(run, run.task, out)


def run_finetune(args) -> None:
    """`bitlib finetune`."""
    from .choose import choose
    from .transfer import finetune, freeze
    from .weights import create_model

    by_rule = [name for name in ("steps", "batch_size", "lr", "variant") if getattr(args, name) is not None]
    by_rule += [name for name in ("hyperrule", "freeze", "scratch") if getattr(args, name)]
    if args.budget and (by_rule or args.linear_probe):
        other = "linear-probe" if args.linear_probe else by_rule[0].replace("_", "-")
        raise UserError(f"--budget is for trying things out, and with --{other} there is nothing to try; leave one of them out")
    if args.linear_probe:
        usable = {"device", "out", "progress"}
        idle = [o.name for o in fields(Loop) if o.name not in usable and getattr(args, o.name) != o.default]
        if idle := idle + by_rule:
            raise UserError(f"--linear-probe takes no steps and has no use for --{idle[0].replace('_', '-')}; leave it out")
    task, model, rule, loop = _prepare(args)
    if args.linear_probe:
        run = choose(model, task, seed=args.seed, loop=loop, side=rule.crop)
    elif by_rule or model.info.recipe is None:
        if args.budget:
            raise UserError(f"--budget is for small models and other libraries'; {model.info.name} follows the HyperRule")
        if args.freeze:
            try:
                freeze(model, args.freeze)
            except ValueError as error:
                raise UserError(str(error)) from None
        task = _sound(task)
        _say_how_long(model, task, rule, loop)
        run = finetune(model, task, rule, args.seed, loop)
    else:
        # Without a wish for a model, letters and drawings may do better with the network that knows characters.
        models = [model] if args.model else [model, create_model("glyphs-L", pretrained=True)]
        run = choose(models, task, args.budget or BUDGET, args.seed, loop)
    if "why" in run.config:
        print(run.config["why"])
    _report_run(run, args.out)


def _sound(task):
    """The task without augmentations that seem to destroy its labels; says so."""
    from .choose import spoilt

    flags = {"mirror": "random_flip", "crop": "random_crop"}
    if not task.name.startswith("folder:"):
        return task  # its labels are known, and so is what they survive
    for name, cost in spoilt(task).items():
        shown = {"mirror": "mirrored", "crop": "cropped"}[name]
        print(f"note: small networks get {cost:.0%} fewer {shown} images right, so images are not {shown}", file=sys.stderr)
        task = replace(task, **{flags[name]: False})
    return task


def _say_how_long(model, task, rule, loop: Loop) -> None:
    """For models that are downloaded: how long fine-tuning takes here, and what takes less where that is hours."""
    from .device import pick_device
    from .transfer import seconds_of

    if not model.info.url:
        return
    seconds = seconds_of(model, rule, loop)
    told = f"about {_spoken(seconds)} on this device: {rule.total_steps:,} steps of {rule.batch_size} images, {rule.crop} px"
    if seconds > 3600 and pick_device(loop.device).type == "cpu":
        # A forward pass is a third of a training step; every image is seen once, mirrored ones twice.
        images = 2 * len(task.train) + len(task.val) + len(task.test)
        probe = seconds / (rule.total_steps * rule.batch_size) / 3 * images
        told += f"; --linear-probe takes about {_spoken(probe)}"
    print(told, file=sys.stderr)


def _spoken(seconds: float) -> str:
    """A duration in words, such as "14 hours"."""
    for unit, size in (("day", 86_400), ("hour", 3600), ("minute", 60)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.0f} {unit}s"
    return "a minute" if seconds > 30 else "half a minute" if seconds > 10 else "a few seconds"


def run_distill(args) -> None:
    """`bitlib distill`."""
    from .distill import Distillation
    from .transfer import distill

    how = Distillation(args.temperature, args.alpha, consistent=not args.fixed)
    teacher = _load_trained(args.teacher)
    task, model, rule, loop = _prepare(args)
    _same_classes(teacher, args.teacher, task, args.data)
    _report_run(distill(model, teacher, task, rule, args.seed, loop, how), args.out)


def _same_classes(model, name: str, task, data: str) -> None:
    if tuple(model.info.class_names) != task.class_names:
        different = sorted(set(model.info.class_names) ^ set(task.class_names)) or ["their order"]
        raise UserError(f"{name} and {data} do not have the same classes (first difference: {different[0]!r})")


def _load_trained(path: str):
    """A model with its class names and resolution, from a file or from a folder written by finetune."""
    from .weights import create_model

    file = Path(path) / "model.safetensors" if Path(path).is_dir() else Path(path)
    if Path(path).is_dir() and not file.exists():
        raise UserError(f"{path} holds no model.safetensors; give the folder that `bitlib finetune --out` wrote")
    model = create_model(str(file) if file.exists() else path, pretrained=True)
    if not model.info.class_names or not model.info.crop:
        raise UserError(f"{path} does not record its class names and resolution; use a model that bitlib trained")
    return model.eval()


def run_evaluate(args) -> None:
    """`bitlib evaluate`."""
    from .data import load_task
    from .device import pick_device, pick_precision
    from .distributed import is_main
    from .evaluate import evaluate
    from .transfer import unseen, write_json

    file = args.json and _writable(Path(args.json).parent, True) / Path(args.json).name
    device, model = pick_device(args.device), _load_trained(args.model)
    task = load_task(args.data, skip_bad=args.skip_bad)
    _same_classes(model, args.model, task, args.data)
    images, left_out = unseen(model, task, args.split)
    if left_out:
        print(f"left out {left_out} of {left_out + len(images)} images: the model was trained on them", file=sys.stderr)
    if not len(images):
        whole = f"the {args.split} split of {args.data}"
        raise UserError(f"the model was trained on all images of {whole}; give it images that it has not seen")
    result = evaluate(model.to(device), images, model.info.crop, pick_precision(args.precision, device))
    figures = {"model": args.model, "task": task.name, "fingerprint": task.fingerprint, "split": args.split}
    figures |= {"images": len(images), "left_out": left_out, "accuracy": result.accuracy, "interval": [*result.interval()]}
    figures |= {"loss": result.loss, "calibration_error": result.calibration_error()}
    if file and is_main():
        write_json(file, figures)
    print(f"{task.name}, {args.split} split")
    print(f"accuracy {_with_interval(result.accuracy, len(images))}")
    for name in ("loss", "calibration_error"):
        print(f"{name.replace('_', ' ')} {figures[name]:.4f}")


def run_predict(args) -> None:
    """`bitlib predict`."""
    import torch

    from .data.folder import FileImages, list_images
    from .device import pick_device, pick_precision
    from .evaluate import predict_logits

    device, model = pick_device(args.device), _load_trained(args.model)
    paths: dict[Path, str] = {}  # file -> the name to print
    with tempfile.TemporaryDirectory() as folder:
        for name in args.images:
            path = Path(name)
            if name == "-":
                path = Path(folder) / "standard input"
                path.write_bytes(sys.stdin.buffer.read())
            elif not path.exists():
                raise UserError(f"{name} does not exist")
            found = list_images(path) if path.is_dir() else [path]
            if not found:
                raise UserError(f"{name} holds no images")
            paths |= {file: "-" if name == "-" else str(file) for file in found}
        images = FileImages(list(paths), torch.zeros(len(paths), dtype=torch.long))
        try:
            logits = predict_logits(model.to(device), images, model.info.crop, pick_precision(args.precision, device))
        except UserError as error:
            raise UserError(str(error).replace(f"{folder}/", "")) from None
    best = logits.softmax(1).topk(min(args.top, model.num_classes))
    for name, values, classes in zip(paths.values(), best.values.tolist(), best.indices.tolist()):
        answers = [(model.info.class_names[c], p) for c, p in zip(classes, values)]
        if args.json:
            print(json.dumps({"image": name, "classes": dict(answers)}, ensure_ascii=False))
        else:
            print("\t".join([name, *(f"{label}\t{p:.3f}" for label, p in answers)]))


def run_export(args) -> None:
    """`bitlib export`."""
    from .export import export_onnx

    model, out = _load_trained(args.model), Path(args.out)
    _writable(out.parent, True)
    side = model.info.crop
    metadata = {"class_names": json.dumps(model.info.class_names, ensure_ascii=False), "side": str(side)}
    export_onnx(model, out, side, features=args.features, half=args.half, metadata=metadata)
    print(f"x: float [N, 3, {side}, {side}], RGB in [-1, 1]")
    name, width = ("features", model.num_features) if args.features else ("logits", model.num_classes)
    print(f"{name}: float [N, {width}]")
    print(f"written to {out}")


def run_pretrain(args) -> None:
    """`bitlib pretrain`."""
    from .data import load_task
    from .distributed import is_main, whole_state
    from .pretrain import Upstream, pretrain
    from .transfer import environment, learnt, write_json
    from .weights import save_weights

    loop, out = _loop(args), _writable(Path(args.out), args.resume)
    given = {name: getattr(args, name) for name in ("steps", "batch_size", "lr") if getattr(args, name) is not None}
    recipe = Upstream(arch=args.arch, side=args.side, weight_decay=args.weight_decay, **given)
    task = load_task(args.data, skip_bad=args.skip_bad)
    result = pretrain(task, recipe, args.seed, loop)
    state = whole_state(result.model.state_dict())
    if not is_main():
        return
    source = {"task": task.name, "fingerprint": task.fingerprint}
    meta = {"name": out.name, "class_names": list(task.class_names), "crop": recipe.side, **source}
    meta["seen"] = learnt(result.model, task, recipe.side).seen
    save_weights(result.model, out / "model.safetensors", meta, state=state)
    record = {"method": "pretrain", **source, "seed": args.seed, **asdict(recipe)}
    record |= {"precision": args.precision, "micro_batches": args.micro_batches, "ema": args.ema}
    record |= {"val_accuracy": result.val_accuracy, "test_accuracy": result.test_accuracy}
    record |= {"seconds": round(result.history.seconds, 2), **environment(next(result.model.parameters()).device)}
    write_json(out / "run.json", record)
    _report(result, task, out)


def run_suite(args) -> None:
    """`bitlib suite`."""
    from .device import pick_device
    from .distributed import ranks
    from .suite import Cells, Plan, measure, table
    from .transfer import environment, write_json

    if ranks()[1] > 1:
        raise UserError("the suite trains many small networks one after another, in one process; start it without torchrun")
    file = _writable(Path(args.json).parent, True) / Path(args.json).name
    if file.exists():
        raise UserError(f"{file} exists already; choose another --json, or delete it")
    plan = Plan(args.model, args.tasks or Plan.tasks, args.seeds)
    device, cells = (
        pick_device(args.device),
        Cells(file.with_name(f"{file.name}.partial"), environment(pick_device(args.device))),
    )
    found = measure(plan, cells, Loop(device=str(device), precision="fp32", progress=not args.quiet))
    write_json(file, found | environment(device))
    cells.clear()
    print(table(found))
    print(f"written to {file}")


def run_verify(args) -> int:
    """`bitlib verify`; 1 if something is not as published."""
    from .transfer import write_json
    from .verify import reference, verify

    file = _writable(Path(args.json).parent, True) / Path(args.json).name
    weights = Path(args.weights) if args.weights else None
    asked = {"device": args.device, "precision": args.precision, "known": reference(), "progress": not args.quiet}
    record = verify(weights=weights, **asked)
    write_json(file, record)
    print(f"written to {file}")
    return int(not (record["holds"] and record["agrees"]))


def run_detect_train(args) -> None:
    """`bitlib detect train`."""
    from .data.coco import load_boxes
    from .detection import Recipe, create_detector, save_detector, train_detector
    from .distributed import is_main, whole_state
    from .transfer import environment, write_csv, write_json
    from .weights import model_info

    loop, out, name = _loop(args), _writable(Path(args.out), args.resume), args.model or _default_model()
    recipe = Recipe(args.steps, args.batch_size, args.lr, min(args.steps // 10, 500), freeze=args.freeze)
    side = args.side or (96 if model_info(name).arch.stem == "small" else 512)
    task = load_boxes(args.data, side, args.val, folder=args.images, skip_bad=args.skip_bad, flip=not args.no_flip)
    start = {"pretrained": not args.scratch, "freeze": args.freeze, "seed": args.seed}
    run = train_detector(create_detector(name, task.class_names, side, **start), task, recipe, args.seed, loop)
    state = whole_state(run.model.state_dict())
    if not is_main():
        return
    figures = run.evaluate("val")
    save_detector(run.model, out / "model.safetensors", {"task": task.name, "fingerprint": task.fingerprint}, state)
    write_csv(out / "history.csv", run.history.rows)
    device = next(run.model.parameters()).device
    found = {f"val_{key}": None if math.isnan(value) else value for key, value in figures.items()}
    write_json(out / "run.json", {**run.config, **found, "seconds": round(run.history.seconds, 2), **environment(device)})
    boxes = sum(map(len, task.train.boxes))
    print(f"{task.name}: {len(task.train)} training images with {boxes} boxes, {len(task.class_names)} classes, model {name}")
    print(f"validation AP {figures['ap']:.4f} (AP50 {figures['ap50']:.4f}) on {len(task.val)} images")
    print(f"written to {out}")


def run_detect_predict(args) -> None:
    """`bitlib detect predict`."""
    from .data.coco import plain_files
    from .data.folder import list_images, read_image
    from .detection import detect, draw_boxes, load_detector
    from .device import pick_device, pick_precision
    from .files import atomic_path
    from .transfer import write_csv

    csv = args.csv and _writable(Path(args.csv).parent, True) / Path(args.csv).name
    folder = args.draw and _writable(Path(args.draw), True)
    device, detector = pick_device(args.device), load_detector(args.model)
    paths: list[Path] = []
    for name in args.images:
        if not Path(name).exists():
            raise UserError(f"{name} does not exist")
        if not (found := list_images(Path(name)) if Path(name).is_dir() else [Path(name)]):
            raise UserError(f"{name} holds no images")
        paths += found
    images = plain_files(paths, detector.class_names, detector.side)
    rows, seen = [], set()
    for path, one in zip(paths, detect(detector.to(device), images, pick_precision(args.precision, device))):
        kept = one["scores"] >= args.score
        boxes, scores, labels = (one[key][kept] for key in ("boxes", "scores", "labels"))
        names = [detector.class_names[label] for label in labels.tolist()]
        objects = []
        for name, score, box in zip(names, scores.tolist(), boxes.tolist()):
            corners = dict(zip(("x1", "y1", "x2", "y2"), (round(v, 2) for v in box)))
            objects.append({"class": name, "score": round(score, 4), **corners})
        rows += [{"image": str(path), **entry} for entry in objects]
        if args.json:
            print(json.dumps({"image": str(path), "objects": objects}, ensure_ascii=False))
        else:
            for entry in objects:
                print("\t".join([str(path), *map(str, entry.values())]))
        if folder:
            target = folder / f"{path.stem}.png"
            if target in seen:
                raise UserError(f"two images are called {path.stem}; give them one at a time, each with its own --draw")
            seen.add(target)
            with atomic_path(target) as temporary:
                draw_boxes(read_image(path), boxes, names).save(temporary)
    if csv:
        write_csv(csv, rows)


def run_bench(args) -> None:
    """`bitlib bench`."""
    from .course.bench import Case, run_cases, table, time_parts
    from .device import need_compiler, pick_device, pick_precision
    from .transfer import environment, write_json

    device = pick_device(args.device)
    precisions = args.precision or dict.fromkeys(["fp32", pick_precision("auto", device)])
    if args.compile:
        need_compiler()
    if min(args.side) < 32:
        raise UserError(f"--side is {min(args.side)}; it must be 32 or more")
    out = args.json and _writable(Path(args.json).parent, True) / Path(args.json).name
    settings = product(precisions, args.mode, args.side, args.batch_size)
    cases = [Case(mode, side, size, precision, args.compile) for precision, mode, side, size in settings]
    cases = run_cases(cases, device, args.rounds, not args.quiet)
    print(table(cases))
    parts = time_parts(device, args.rounds) if args.parts else {}
    for name, part in parts.items():
        print(f"{1000 * part['seconds'][0]:9.1f} ms  {name}")
    if out:
        write_json(out, {"cases": cases, "parts": parts, **environment(device)})


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    args = build_parser().parse_args(argv)
    status = 0
    try:
        # Imported here: `bitlib models` and `--help` should not wait for PyTorch. Only torchrun sets WORLD_SIZE.
        if os.environ.get("WORLD_SIZE", "1") != "1":
            from .distributed import is_main, process_group

            with process_group(getattr(args, "device", "auto")):
                with open(os.devnull, "w") as nowhere, nullcontext() if is_main() else redirect_stdout(nowhere):
                    args.run(args)
        else:
            status = args.run(args) or 0
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except (UserError, OSError) as error:  # OSError: a full disk, a folder that vanished
        print(f"bitlib {args.command}: {error}".replace("\n", " "), file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        hint = "; run the same command with --resume to continue" if getattr(error, "checkpoint", None) else ""
        print(f"bitlib {args.command}: {str(error) or 'interrupted'}{hint}", file=sys.stderr)
        return 130
    return status
