"""Train the course's own models on Glyphs and write them, with their model cards, into the package.

    python data_scripts/pretrain_glyphs.py               all four, one after the other
    python data_scripts/pretrain_glyphs.py glyphs-L      one of them
Interrupt it when you like; the same command goes on where it stopped.
"""
import argparse
from pathlib import Path

import torch
from record import record

import bitlib
from bitlib.data.glyphs import FONTS, HELD_OUT_SCRIPTS, TEST_FONT, VAL_FONT
from bitlib.pretrain import Upstream, pretrain
from bitlib.transfer import environment

ROOT = Path(__file__).resolve().parent.parent
PACKAGE, STATE = ROOT / "bitlib" / "pretrained", ROOT / "_build" / "pretrain"
MODELS = {  # name: (task, architecture)
    "glyphs-L": ("glyphs-l", "small"), "glyphs-M": ("glyphs-m", "small"), "glyphs-S": ("glyphs-s", "small"),
    "glyphs-L-bn": ("glyphs-l", "small-bn"),
}
# How the HyperRule is adapted to these models; bitlib.transfer.recipe_for reads it.
RECIPE = {"shrink": 10, "batch_size": 32, "base_lr": 0.03, "resolution": [36, 32]}

CARD = """# {name}

{kind} for pictures of about 32x32 pixels, trained by this course. It is none of Google's BiT weights.

| | |
|---|---|
| architecture | `{arch}`: {units} units, root width {root_width}, {norm} |
| parameters | {params:,}, {backbone:,} of them without the head |
| upstream task | `{task}`: {classes:,} characters of the fonts that matplotlib ships, {masks:,} glyphs |
| training | {steps:,} steps of {batch_size} pictures, SGD with momentum {momentum}, weight decay {weight_decay}, seed {seed} |
| learning rate | {lr} at its peak, after {warmup_steps} steps of warm-up; cosine decay |
| validation accuracy | {val:.1%} of {n_val:,} glyphs in {val_font}, a font that training never saw |
| test accuracy | {test:.1%} of {n_test:,} glyphs in {test_font}, likewise |
| hardware | {device}, threads: {threads}, PyTorch {torch}, {minutes:.0f} minutes |
| storage | 16-bit floats, loaded to 32-bit |

**Were digits among the upstream classes?** No. Every character with a numeric value in Unicode, in any script and in any
form (superscripts, circled numbers, Roman numerals), was left out. Letters that look like digits, such as O, l and Z, were
not. Left out as well, for downstream tasks: {held_out}.

**Data and terms.** The pictures are drawn on the spot from DejaVu (Bitstream Vera licence) and STIX (SIL Open Font Licence)
fonts as matplotlib ships them, under random warps, colours, blur and noise. No photograph was used.

**Limits.** It has seen only characters, and nothing was measured on photographs. Training pictures have
32 pixels a side, and larger ones should be resized to that.

**Make it again**: `python data_scripts/pretrain_glyphs.py {name}`.
"""


def run(name: str, steps: int | None, device: str) -> None:
    task_name, arch = MODELS[name]
    recipe = Upstream(arch=arch, **({"steps": steps} if steps else {}))
    task = bitlib.load_task(task_name)
    result = pretrain(task, recipe, device, checkpoint=STATE / f"{name}.safetensors", resume=True, progress=name)
    model = result.model
    bitlib.save_weights(model, PACKAGE / f"{name}.safetensors", {
        "name": name, "class_names": list(task.class_names), "crop": recipe.side, "task": task.name,
        "fingerprint": task.fingerprint, "recipe": RECIPE}, dtype=torch.float16)
    parts = {"val": result.val_accuracy, "test": result.test_accuracy, "n_val": len(task.val), "n_test": len(task.test)}
    total = bitlib.count_parameters(model)
    device = next(model.parameters()).device
    where = environment(device)
    record(f"pretrain_{name}", {
        "model": name, "task": task.name, "fingerprint": task.fingerprint, "classes": task.num_classes, "seed": 0,
        **recipe.__dict__, **parts, "parameters": total, "minutes": round(result.history.seconds / 60, 1)}, device)
    kind = "A ResNet-v2 with batch norm, the twin of glyphs-L for comparisons," if arch == "small-bn" else \
        "A ResNet-v2 with group norm and weight standardisation"
    norm = "batch norm, plain convolutions" if arch == "small-bn" else "group norm with 8 groups, standardised convolutions"
    (PACKAGE / f"{name}.md").write_text(CARD.format(
        name=name, kind=kind, norm=norm, units="-".join(map(str, model.arch.units)), root_width=model.arch.root_width,
        params=total, backbone=total - sum(p.numel() for p in model.head.parameters()), classes=task.num_classes,
        masks=len(task.train), seed=0, val_font=FONTS[VAL_FONT], test_font=FONTS[TEST_FONT],
        held_out=" and ".join(s.capitalize() for s in HELD_OUT_SCRIPTS), minutes=result.history.seconds / 60,
        **{**recipe.__dict__, **parts, **where, "task": task.name}), "utf8")
    print(f"{name}: validation {result.val_accuracy:.4f}, test {result.test_accuracy:.4f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="MODEL", help=f"which: {', '.join(MODELS)}")
    parser.add_argument("--steps", type=int, help="another number of steps, to try things out")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, help="CPU threads; the shipped models were trained with one each")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    for name in args.names or MODELS:
        if name not in MODELS:
            parser.error(f"unknown model {name!r}; choose from {', '.join(MODELS)}")
        run(name, args.steps, args.device)


if __name__ == "__main__":
    main()
