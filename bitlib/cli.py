"""The command line: arguments to library calls, results to lines. No logic of its own.

Exit status: 0 done, 2 a mistake of the user's (one line on stderr), 130 interrupted (what was done is saved).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from contextlib import nullcontext, redirect_stdout
from pathlib import Path

from .files import UserError


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        """One line and status 2, without the usage block."""
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def _positive(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number above 0")
    return value


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands; each sets `run`, a function of the parsed arguments."""
    parser = _Parser(prog="bitlib", description="Transfer learning with Big Transfer (BiT).")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)

    def command(name: str, run, text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        sub.set_defaults(run=run)
        return sub

    def compute(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--device", default="auto", help="auto, cpu or cuda (default: auto)")
        sub.add_argument("--quiet", action="store_true", help="no progress bar")

    def training(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--out", required=True, metavar="DIR", help="folder for the model, run.json and history.csv")
        sub.add_argument("--steps", type=_positive, metavar="N", help="number of updates")
        sub.add_argument("--batch-size", type=_positive, metavar="B")
        sub.add_argument("--lr", type=float, help="base learning rate")
        sub.add_argument(
            "--micro-batches",
            type=_positive,
            default=1,
            metavar="M",
            help="split every batch into M parts to save memory; the result is the same up to rounding",
        )
        sub.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
        sub.add_argument(
            "--shard",
            action="store_true",
            help="under torchrun: give each process only a part of the gradients "
            "and of the optimizer's state, for networks that fill a device's memory",
        )
        sub.add_argument(
            "--compile", action="store_true", help="use torch.compile, which takes a minute to start and a C++ compiler"
        )
        sub.add_argument(
            "--ema",
            type=float,
            default=0.0,
            metavar="D",
            help="end with a moving average of the weights of this decay, for example 0.999 (default: 0, off)",
        )
        sub.add_argument("--seed", type=int, default=0)
        sub.add_argument("--checkpoint-every", type=int, default=500, metavar="N", help="in steps (default: 500)")
        sub.add_argument("--resume", action="store_true", help="go on from the checkpoint in DIR, if there is one")
        compute(sub)

    def data(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("data", metavar="DATA", help="a folder with one sub-folder a class, or the name of a task")
        sub.add_argument("--skip-bad", action="store_true", help="leave out unreadable pictures instead of stopping")

    def downstream(sub: argparse.ArgumentParser) -> argparse._MutuallyExclusiveGroup:
        data(sub)
        sub.add_argument(
            "--model",
            metavar="NAME|FILE",
            help="see `bitlib models`; default: BiT-M-R50x1 if it is in the "
            "cache, else photos-L, which ships with the package and has learnt from small photographs",
        )
        sub.add_argument("--shots", type=_positive, metavar="K", help="use only K training pictures a class, drawn by --seed")
        sub.add_argument(
            "--grad-checkpointing",
            action="store_true",
            help="compute activations twice instead of keeping them: slower, in less memory",
        )
        sub.add_argument(
            "--triton",
            action="store_true",
            help="on a GPU, compute group norm and ReLU in a kernel of bitlib's own; not with --compile",
        )
        sub.add_argument("--variant", default="code", choices=("code", "paper"), help="of the HyperRule (default: code)")
        training(sub)
        method = sub.add_mutually_exclusive_group()
        method.add_argument("--scratch", action="store_true", help="start from random weights, for comparison")
        return method

    sub = command("models", run_models, "list the models")
    sub.add_argument("--json", action="store_true", help="as JSON")

    sub = command("finetune", run_finetune, "fine-tune a pre-trained model on DATA by the BiT-HyperRule")
    method = downstream(sub)
    method.add_argument("--linear-probe", action="store_true", help="fit only the head, on cached features")
    method.add_argument("--freeze", metavar="STAGE", help="freeze all before stage1 to stage4, or before the head")

    sub = command("distill", run_distill, "train a model on DATA to imitate a teacher that was fine-tuned on it")
    downstream(sub)
    sub.add_argument("--teacher", required=True, metavar="MODEL", help="a folder that finetune wrote, or a model file")
    sub.add_argument("--temperature", type=float, default=1.0, metavar="T", help="of teacher and student (default: 1)")
    sub.add_argument("--alpha", type=float, default=1.0, help="1: the teacher alone, 0: the labels alone (default: 1)")
    sub.add_argument(
        "--fixed",
        action="store_true",
        help="the teacher judges each whole picture once, instead of the student's crop at every step",
    )

    sub = command("evaluate", run_evaluate, "measure a model on a split of DATA")
    sub.add_argument("model", metavar="MODEL", help="a folder that finetune wrote, or a model file")
    data(sub)
    sub.add_argument("--split", default="test", choices=("train", "val", "test"))
    sub.add_argument("--json", metavar="FILE", help="write the figures to FILE as well")
    compute(sub)

    sub = command("predict", run_predict, "name the class of pictures")
    sub.add_argument("model", metavar="MODEL", help="a folder that finetune wrote, or a model file")
    sub.add_argument("pictures", nargs="+", metavar="PICTURE", help="picture files, or folders of them")
    sub.add_argument("--top", type=_positive, default=1, metavar="K", help="how many classes to name (default: 1)")
    sub.add_argument("--json", action="store_true", help="one JSON object a line")
    compute(sub)

    sub = command("export", run_export, "write a trained model as an ONNX file, for other programs")
    sub.add_argument("model", metavar="MODEL", help="a folder that finetune wrote, or a model file")
    sub.add_argument("out", metavar="FILE.onnx")
    sub.add_argument("--features", action="store_true", help="give the pooled features instead of the classes' logits")
    sub.add_argument("--half", action="store_true", help="store the weights of a 16-bit model in 16 bits")

    sub = command("pretrain", run_pretrain, "train a network from random weights, for others to start from")
    data(sub)
    sub.add_argument("--arch", default="small", help="architecture: small, medium, small-bn, R50x1, ... (default: small)")
    sub.add_argument("--side", type=_positive, default=32, metavar="PX", help="side of the training pictures")
    sub.add_argument("--weight-decay", type=float, default=1e-4)
    training(sub)

    sub = command("bench", run_bench, "measure speed and memory on this machine, beside batch norm and timm")
    sub.add_argument("--mode", nargs="+", default=["train", "infer"], choices=("train", "infer"))
    sub.add_argument("--side", type=_positive, nargs="+", default=[128], metavar="PX", help="of the pictures (default: 128)")
    sub.add_argument("--batch-size", type=_positive, nargs="+", default=[8], metavar="B")
    sub.add_argument("--precision", nargs="+", default=["fp32", "bf16"], choices=("fp32", "bf16"))
    sub.add_argument("--compile", action="store_true", help="compile all of them with torch.compile first")
    sub.add_argument("--rounds", type=_positive, default=10, metavar="N", help="turns that each takes (default: 10)")
    sub.add_argument("--parts", action="store_true", help="time data, checkpoint and linear head as well")
    sub.add_argument("--json", metavar="FILE", help="write the figures to FILE as well")
    compute(sub)
    return parser


def run_models(args) -> None:
    """`bitlib models`."""
    from .weights import list_models, model_info

    infos = [model_info(name) for name in list_models()]
    if args.json:
        print(
            json.dumps(
                [
                    {
                        "name": i.name,
                        "source": i.source,
                        "parameters": i.num_parameters,
                        "classes": i.num_classes,
                        "location": i.location,
                    }
                    for i in infos
                ],
                indent=1,
            )
        )
        return
    print(f"{'name':<16}{'parameters':>14}{'classes':>9}  where")
    for i in infos:
        print(f"{i.name:<16}{i.num_parameters:>14,}{i.num_classes:>9,}  {i.location}")


def _default_model() -> str:
    from .weights import is_cached

    if is_cached("BiT-M-R50x1"):
        return "BiT-M-R50x1"
    print(
        "no --model named: starting from photos-L, a small network of the course's own; "
        "--model BiT-M-R50x1 downloads one that has seen far more photographs",
        file=sys.stderr,
    )
    return "photos-L"


def _writable(out: Path, resume: bool) -> Path:
    """Fail before the work rather than after it; creates nothing."""
    existing = out
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"cannot write to {out} ({existing} is not a folder that you may write to); choose another --out")
    if (out / "run.json").exists() and not resume:
        raise UserError(f"{out} already holds a finished run; choose another --out, or delete it")
    return out


def _prepare(args):
    """(folder, task, model, rule) of a command that trains downstream."""
    from .data import load_task
    from .norm import use_triton
    from .transfer import default_rule
    from .weights import create_model

    if args.triton and args.compile:
        raise UserError("--triton and --compile both replace group norm by kernels of their own; choose one")
    out = _writable(Path(args.out), args.resume)
    task = load_task(args.data, args.shots, args.seed, args.skip_bad)
    model = create_model(args.model or _default_model(), task.num_classes, pretrained=not args.scratch, seed=args.seed)
    changes = {"steps": args.steps, "batch_size": args.batch_size, "base_lr": args.lr, "variant": args.variant}
    try:
        rule = default_rule(model, task).adapted(**{k: v for k, v in changes.items() if v is not None})
    except ValueError as error:
        raise UserError(str(error)) from None
    model.grad_checkpointing = args.grad_checkpointing
    if args.triton:
        use_triton(model)
    return out, task, model, rule


def _loop(args) -> dict:
    return {
        "precision": args.precision,
        "micro_batches": args.micro_batches,
        "compile": args.compile,
        "ema": args.ema,
        "shard": args.shard,
        "resume": args.resume,
        "checkpoint_every": args.checkpoint_every,
        "progress": not args.quiet,
    }


def _report(run, out: Path) -> None:
    print(
        f"{run.task.name}: {len(run.task.train)} training pictures, {run.task.num_classes} classes, model {run.config['model']}"
    )
    print(f"validation accuracy {run.val_accuracy:.4f}")
    print(f"test accuracy {run.test_accuracy:.4f}")
    print(f"written to {out}")


def run_finetune(args) -> None:
    """`bitlib finetune`."""
    from .transfer import finetune, freeze, linear_probe

    out, task, model, rule = _prepare(args)
    if args.freeze:
        try:
            freeze(model, args.freeze)
        except ValueError as error:
            raise UserError(str(error)) from None
    if args.linear_probe:
        run = linear_probe(model, task, rule, args.device, out)
    else:
        run = finetune(model, task, rule, args.device, args.seed, out, **_loop(args))
    _report(run, out)


def run_distill(args) -> None:
    """`bitlib distill`."""
    from .transfer import distill

    if not 0 <= args.alpha <= 1 or not args.temperature > 0:
        raise UserError(
            f"alpha is {args.alpha} and the temperature {args.temperature}; alpha lies between 0 and 1, and the "
            "temperature above 0"
        )
    teacher = _load_trained(args.teacher)
    out, task, model, rule = _prepare(args)
    _same_classes(teacher, args.teacher, task, args.data)
    run = distill(
        model,
        teacher,
        task,
        rule,
        args.device,
        args.seed,
        out,
        temperature=args.temperature,
        alpha=args.alpha,
        consistent=not args.fixed,
        **_loop(args),
    )
    _report(run, out)


def _same_classes(model, name: str, task, data: str) -> None:
    if tuple(model.info.class_names) != task.class_names:
        odd = sorted(set(model.info.class_names) ^ set(task.class_names)) or ["their order"]
        raise UserError(f"{name} and {data} do not have the same classes (first difference: {odd[0]!r})")


def _load_trained(path: str):
    """A model that knows its classes and its resolution, from a file or a folder that finetune wrote."""
    from .weights import create_model

    file = Path(path) / "model.safetensors" if Path(path).is_dir() else Path(path)
    if Path(path).is_dir() and not file.exists():
        raise UserError(f"{path} holds no model.safetensors; give the folder that `bitlib finetune --out` wrote")
    model = create_model(str(file) if file.exists() else path, pretrained=True)
    if not model.info.class_names or not model.info.crop:
        raise UserError(f"{path} does not say its class names and resolution; use a model that bitlib trained")
    return model.eval()


def run_evaluate(args) -> None:
    """`bitlib evaluate`."""
    from .data import load_task
    from .evaluate import evaluate
    from .trainer import pick_device
    from .transfer import write_json

    device, model = pick_device(args.device), _load_trained(args.model)
    task = load_task(args.data, skip_bad=args.skip_bad)
    _same_classes(model, args.model, task, args.data)
    result = evaluate(model.to(device), getattr(task, args.split), model.info.crop)
    figures = {
        "model": args.model,
        "task": task.name,
        "fingerprint": task.fingerprint,
        "split": args.split,
        "pictures": len(result.labels),
        "accuracy": result.accuracy,
        "loss": result.loss,
        "calibration_error": result.calibration_error(),
    }
    if args.json:
        write_json(_writable(Path(args.json).parent, True) / Path(args.json).name, figures)
    print(f"{task.name}, {args.split} split, {len(result.labels)} pictures")
    for name in ("accuracy", "loss", "calibration_error"):
        print(f"{name.replace('_', ' ')} {figures[name]:.4f}")


def run_predict(args) -> None:
    """`bitlib predict`."""
    import torch

    from .data.folder import FileImages, list_images
    from .evaluate import predict_logits
    from .trainer import pick_device

    device, model = pick_device(args.device), _load_trained(args.model)
    paths = []
    for name in map(Path, args.pictures):
        found = list_images(name) if name.is_dir() else [name]
        if not found:
            raise UserError(f"{name} holds no pictures")
        if not name.exists():
            raise UserError(f"{name} does not exist")
        paths += found
    images = FileImages(paths, torch.zeros(len(paths), dtype=torch.long))
    probabilities = predict_logits(model.to(device), images, model.info.crop).softmax(1)
    best = probabilities.topk(min(args.top, model.num_classes))
    for path, values, classes in zip(paths, best.values.tolist(), best.indices.tolist()):
        answers = [(model.info.class_names[c], p) for c, p in zip(classes, values)]
        if args.json:
            print(json.dumps({"picture": str(path), "classes": dict(answers)}, ensure_ascii=False))
        else:
            print("\t".join([str(path), *(f"{name}\t{p:.3f}" for name, p in answers)]))


def run_export(args) -> None:
    """`bitlib export`."""
    from .export import export_onnx

    model, out = _load_trained(args.model), Path(args.out)
    _writable(out.parent, True)
    side = model.info.crop
    export_onnx(
        model,
        out,
        side,
        features=args.features,
        half=args.half,
        metadata={"class_names": json.dumps(model.info.class_names, ensure_ascii=False), "side": str(side)},
    )
    print(f"x: float [N, 3, {side}, {side}], red green blue from -1 to 1")
    name, width = ("features", model.num_features) if args.features else ("logits", model.num_classes)
    print(f"{name}: float [N, {width}]")
    print(f"written to {out}")


def run_pretrain(args) -> None:
    """`bitlib pretrain`."""
    from .data import load_task
    from .distributed import is_main
    from .pretrain import Upstream, pretrain
    from .transfer import environment, write_json
    from .weights import save_weights

    out = _writable(Path(args.out), args.resume)
    given = {"steps": args.steps, "batch_size": args.batch_size, "lr": args.lr}
    recipe = Upstream(
        arch=args.arch, side=args.side, weight_decay=args.weight_decay, **{k: v for k, v in given.items() if v is not None}
    )
    task = load_task(args.data, skip_bad=args.skip_bad)
    result = pretrain(task, recipe, args.device, args.seed, out / "checkpoint" / "state.safetensors", **_loop(args))
    if not is_main():
        return
    save_weights(
        result.model,
        out / "model.safetensors",
        {
            "name": out.name,
            "class_names": list(task.class_names),
            "crop": recipe.side,
            "task": task.name,
            "fingerprint": task.fingerprint,
        },
    )
    device = next(result.model.parameters()).device
    write_json(
        out / "run.json",
        {
            "method": "pretrain",
            "task": task.name,
            "fingerprint": task.fingerprint,
            "seed": args.seed,
            **recipe.__dict__,
            "precision": args.precision,
            "micro_batches": args.micro_batches,
            "ema": args.ema,
            "val_accuracy": result.val_accuracy,
            "test_accuracy": result.test_accuracy,
            "seconds": round(result.history.seconds, 2),
            **environment(device),
        },
    )
    print(f"validation accuracy {result.val_accuracy:.4f}")
    print(f"test accuracy {result.test_accuracy:.4f}")
    print(f"written to {out}")


def run_bench(args) -> None:
    """`bitlib bench`."""
    from .course.bench import Case, run_cases, table, time_parts
    from .trainer import need_compiler, pick_device
    from .transfer import environment, write_json

    device = pick_device(args.device)
    if args.compile:
        need_compiler()
    if min(args.side) < 32:
        raise UserError(f"--side is {min(args.side)}; it must be 32 or more")
    out = args.json and _writable(Path(args.json).parent, True) / Path(args.json).name
    cases = run_cases(
        [
            Case(mode, side, size, precision, args.compile)
            for precision in args.precision
            for mode in args.mode
            for side in args.side
            for size in args.batch_size
        ],
        device,
        args.rounds,
        not args.quiet,
    )
    print(table(cases))
    parts = time_parts(device, args.rounds) if args.parts else {}
    for name, part in parts.items():
        print(f"{1000 * part['seconds'][0]:9.1f} ms  {name}")
    if out:
        write_json(out, {"cases": cases, "parts": parts, **environment(device)})


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    args = build_parser().parse_args(argv)
    try:
        # Imported here: `bitlib models` and `--help` should not wait for PyTorch. Only torchrun sets WORLD_SIZE.
        if os.environ.get("WORLD_SIZE", "1") != "1":
            from .distributed import is_main, process_group

            with process_group():
                with open(os.devnull, "w") as nowhere, nullcontext() if is_main() else redirect_stdout(nowhere):
                    args.run(args)
        else:
            args.run(args)
    except UserError as error:
        print(f"bitlib {args.command}: {error}".replace("\n", " "), file=sys.stderr)
        return 2
    except OSError as error:  # a full disk, a folder that vanished
        if isinstance(error, BrokenPipeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141
        print(f"bitlib {args.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as error:
        text = str(error) or "interrupted"
        saved = getattr(error, "checkpoint", None)
        print(
            f"bitlib {args.command}: {text}{'; run the same command with --resume to go on' if saved else ''}", file=sys.stderr
        )
        return 130
    return 0
