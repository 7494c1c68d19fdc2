"""Train the course's own models and write them, with their model cards, into the package.

    python data_scripts/pretrain_models.py glyphs-L photos-L     those
    python data_scripts/pretrain_models.py                       all of them, one after the other
    python data_scripts/pretrain_models.py photos-L --again      train it anew and only note how good it is, to see whether
                                                                 what its card says comes out again
Interrupt it when you like; the same command goes on where it stopped. The photos-* models need Tiny-ImageNet
(data_scripts/prepare_data.py).
"""

import argparse
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from record import record

import bitlib
from bitlib.data.glyphs import FONTS, HELD_OUT_SCRIPTS, TEST_FONT, VAL_FONT
from bitlib.data.tiny_imagenet import VAL_PER_CLASS
from bitlib.pretrain import Upstream, pretrain
from bitlib.transfer import environment

ROOT = Path(__file__).resolve().parent.parent
PACKAGE, STATE = ROOT / "bitlib" / "pretrained", ROOT / "_build" / "pretrain"


@dataclass(frozen=True)
class Spec:
    """One model: its upstream task, how it is trained, and what the card says about data and limits."""

    task: str
    recipe: Upstream
    precision: str = "fp32"


GLYPHS, PHOTOS = Upstream(arch="small"), Upstream(arch="medium", steps=14_000)
MODELS = {
    "glyphs-L": Spec("glyphs-l", GLYPHS),
    "glyphs-M": Spec("glyphs-m", GLYPHS),
    "glyphs-S": Spec("glyphs-s", GLYPHS),
    "glyphs-L-bn": Spec("glyphs-l", Upstream(arch="small-bn")),
    # As in the paper, more data goes with more steps (section 4.2).
    "photos-L": Spec("tiny-imagenet-l", PHOTOS, "bf16"),
    "photos-M": Spec("tiny-imagenet-m", Upstream(arch="medium", steps=7000), "bf16"),
    "photos-S": Spec("tiny-imagenet-s", Upstream(arch="medium", steps=3000), "bf16"),
    "photos-L-bn": Spec("tiny-imagenet-l", Upstream(arch="medium-bn", steps=14_000), "bf16"),
}
# How the HyperRule is adapted to these models; bitlib.transfer.recipe_for reads it.
RECIPES = {
    "glyphs": {"shrink": 10, "batch_size": 32, "base_lr": 0.03, "resolution": [36, 32]},
    "photos": {"shrink": 5, "batch_size": 32, "base_lr": 0.03, "resolution": [36, 32]},
}

CARD = """# {name}

{kind} for images of about 32x32 pixels, trained by this course. It is none of Google's BiT weights.

| | |
|---|---|
| architecture | `{arch}`: {units} units, root width {root_width}, {norm} |
| parameters | {params:,}, {backbone:,} of them without the head |
| upstream task | `{task}`: {upstream} |
| training | {steps:,} steps of {batch_size} images, {precision}, seed {seed} |
| optimizer | SGD with momentum {momentum}, weight decay {weight_decay} |
| learning rate | {lr} at its peak, after {warmup_steps} steps of warm-up; cosine decay |
| validation accuracy | {val:.1%} of {val_set} |
| test accuracy | {test:.1%} of {test_set} |
| hardware | {device}, threads: {threads}, PyTorch {torch}, {minutes:.0f} minutes of wall time, pauses included |
| storage | 16-bit floats, loaded to 32-bit |

{about}

**Make it again**: `python data_scripts/pretrain_models.py {name}`.
"""

GLYPHS_ABOUT = """\
**Were digits among the upstream classes?** No. Every character with a numeric value in Unicode, in any script and in any
form (superscripts, circled numbers, Roman numerals), was left out. Letters that look like digits, such as O, l and Z, were
not. Left out as well, for downstream tasks: {held_out}.

**Data and terms.** The images are drawn on the spot from DejaVu (Bitstream Vera licence) and STIX (SIL Open Font Licence)
fonts as matplotlib ships them, under random warps, colours, blur and noise. No photograph was used.

**Limits.** It has seen only characters, and nothing was measured on photographs. Training images have
32 pixels per side, and larger ones should be resized to that."""

PHOTOS_ABOUT = """\
**Data and terms.** Tiny-ImageNet was made for a course at Stanford from ImageNet images: 200 classes, 64x64 pixels. As with
ImageNet, the images belong to their authors and are given for non-commercial research and education; ask yourself whether
your use of a model trained on them fits that. No image is in this file.

**Limits.** 200 classes, many of them animals and everyday things from American and European photographs, seen at 32 pixels a
side. Larger images should be resized to that. Its mistakes on people, places and things that it never saw were not
measured. For real work start from Google's BiT weights."""


def describe(task: bitlib.Task, name: str) -> dict[str, str]:
    """What the card says of the upstream data."""
    counts = f"{task.num_classes:,} classes, {len(task.train):,} images"
    if name.startswith("glyphs"):
        counts = f"{task.num_classes:,} characters of the fonts that matplotlib ships, {len(task.train):,} glyphs"
        splits = [
            f"{len(s):,} glyphs in {FONTS[f]}, a font that training never saw"
            for s, f in ((task.val, VAL_FONT), (task.test, TEST_FONT))
        ]
        about = GLYPHS_ABOUT.format(held_out=" and ".join(s.capitalize() for s in HELD_OUT_SCRIPTS))
    else:
        splits = [
            f"{len(task.val):,} images set aside from the training set, {VAL_PER_CLASS} of each class",
            f"the {len(task.test):,} official validation images",
        ]
        about = PHOTOS_ABOUT
    return {"upstream": counts, "val_set": splits[0], "test_set": splits[1], "about": about}


def run(name: str, steps: int | None, device: str, again: bool) -> None:
    spec = MODELS[name]
    recipe = Upstream(**{**asdict(spec.recipe), **({"steps": steps} if steps else {})})
    task = bitlib.load_task(spec.task)
    label = f"{name}_again" if again else name
    loop = bitlib.Loop(device=device, precision=spec.precision, out=STATE / label, resume=True, progress=label)
    result = pretrain(task, recipe, loop=loop)
    model = result.model
    if not again:
        bitlib.save_weights(
            model,
            PACKAGE / f"{name}.safetensors",
            {
                "name": name,
                "class_names": list(task.class_names),
                "crop": recipe.side,
                "task": task.name,
                "fingerprint": task.fingerprint,
                "recipe": RECIPES[name.partition("-")[0]],
            },
            dtype=torch.float16,
        )
    total = bitlib.count_parameters(model)
    facts = {"val": result.val_accuracy, "test": result.test_accuracy, "seed": 0, "precision": spec.precision, **asdict(recipe)}
    device = next(model.parameters()).device
    record(
        f"pretrain_{label}",
        {
            "model": name,
            "task": task.name,
            "fingerprint": task.fingerprint,
            "classes": task.num_classes,
            "n_train": len(task.train),
            "n_val": len(task.val),
            "n_test": len(task.test),
            **facts,
            "parameters": total,
            "minutes": round(result.history.seconds / 60, 1),
        },
        device,
    )
    print(f"{label}: validation {result.val_accuracy:.4f}, test {result.test_accuracy:.4f}")
    if again:
        shutil.rmtree(STATE / label)  # or the next time would find the work done
        return
    arch = model.arch
    kind = "A ResNet-v2 with group norm and weight standardisation"
    norm = f"group norm with {arch.groups} groups, standardised convolutions"
    if arch.norm == "bn":
        kind = f"A ResNet-v2 with batch norm, the twin of {name.removesuffix('-bn')} for comparisons,"
        norm = "batch norm, plain convolutions"
    (PACKAGE / f"{name}.md").write_text(
        CARD.format(
            name=name,
            task=task.name,
            kind=kind,
            norm=norm,
            units="-".join(map(str, arch.units)),
            root_width=arch.root_width,
            params=total,
            backbone=total - bitlib.count_parameters(model.head),
            minutes=result.history.seconds / 60,
            **facts,
            **describe(task, name),
            **environment(device),
        ),
        "utf8",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="MODEL", help=f"which: {', '.join(MODELS)}")
    parser.add_argument("--steps", type=int, help="another number of steps, to try things out")
    parser.add_argument(
        "--again", action="store_true", help="leave weights and card as they are, and write results/pretrain_MODEL_again.json"
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, help="CPU threads; the cards say with how many each was trained")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    for name in args.names or MODELS:
        if name not in MODELS:
            parser.error(f"unknown model {name!r}; choose from {', '.join(MODELS)}")
        run(name, args.steps, args.device, args.again)


if __name__ == "__main__":
    main()
