"""Train the course's own models, and write them into the package with their model cards.

    python data_scripts/pretrain_models.py glyphs-L photos-L     these two
    python data_scripts/pretrain_models.py                       all of them, one after another
    python data_scripts/pretrain_models.py photos-L --again      train it again and only record its accuracy, to check that
                                                                 the figures on its card can be reproduced
You can interrupt it at any time; the same command resumes it. The photos-* models need Tiny-ImageNet
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
    """A model: its upstream task, the recipe, and the precision of training."""

    task: str
    recipe: Upstream
    precision: str = "fp32"


GLYPHS, PHOTOS = Upstream(arch="small"), Upstream(arch="medium", steps=14_000)
MODELS = {
    "glyphs-L": Spec("glyphs-l", GLYPHS),
    "glyphs-M": Spec("glyphs-m", GLYPHS),
    "glyphs-S": Spec("glyphs-s", GLYPHS),
    "glyphs-L-bn": Spec("glyphs-l", Upstream(arch="small-bn")),
    # As in the paper, more data gets more steps (section 4.2).
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

{kind} for images of about {side}x{side} pixels, trained for this course. It is not one of Google's BiT models.

| | |
|---|---|
| architecture | `{arch}`: {units} units, root width {root_width}, {norm} |
| parameters | {params:,}, of which {backbone:,} without the head |
| upstream task | `{task}`: {upstream} |
| training | {start}{steps:,} steps of {batch_size} images of {sides} pixels, {precision}, seed {seed} |
| optimizer | SGD with momentum {momentum}, weight decay {weight_decay} |
| learning rate | peak of {lr} after {warmup_steps} warm-up steps, then cosine decay |
| validation accuracy | {val:.1%} of {val_set} |
| test accuracy | {test:.1%} of {test_set} |
| hardware | {device}, threads: {threads}, PyTorch {torch}, {minutes:.0f} minutes of wall time, including pauses |
| storage | 16-bit floats, loaded as 32-bit |

{about}

**To reproduce it**: `python data_scripts/pretrain_models.py {name}`.
"""

GLYPHS_ABOUT = """\
**Were digits among the upstream classes?** No. Every character with a numeric value in Unicode, in any script and in any
form (superscripts, circled numbers, Roman numerals), was left out. Letters that look like digits, such as O, l and Z, were
not. {held_out} were also left out, for downstream tasks.

**Data and terms.** The images are generated on the fly from the DejaVu (Bitstream Vera licence) and STIX (SIL Open Font
Licence) fonts that ship with matplotlib, with random warps, colours, blur and noise. No photographs were used.

**Limits.** It has seen only characters, and it was not tested on photographs. Its training images have {side} pixels per side;
resize larger images to that."""

PHOTOS_ABOUT = """\
**Data and terms.** Tiny-ImageNet was made from ImageNet images for a course at Stanford: 200 classes, 64x64 pixels. As with
ImageNet, the images belong to their authors and are provided for non-commercial research and education; check whether your
use of a model trained on them is compatible with that. The model file contains no images.

**Limits.** It has seen 200 classes, many of them animals and everyday objects in American and European photographs, at {side}
pixels per side; resize larger images to that. Its mistakes on people, places and objects that it has never seen were not
measured. For real work, start from Google's BiT weights."""


def describe(task: bitlib.Task, name: str, recipe: Upstream) -> dict[str, str]:
    """The card's entries about the upstream data and the start."""
    counts = f"{task.num_classes:,} classes, {len(task.train):,} images"
    if name.startswith("glyphs"):
        counts = f"{task.num_classes:,} characters from the fonts that ship with matplotlib, {len(task.train):,} glyphs"
        splits = [
            f"{len(s):,} glyphs in {FONTS[f]}, a font never seen in training"
            for s, f in ((task.val, VAL_FONT), (task.test, TEST_FONT))
        ]
        about = GLYPHS_ABOUT.format(held_out=" and ".join(s.capitalize() for s in HELD_OUT_SCRIPTS), side=recipe.side)
    else:
        splits = [
            f"{len(task.val):,} images set aside from the training set, {VAL_PER_CLASS} per class",
            f"the {len(task.test):,} official validation images",
        ]
        about = PHOTOS_ABOUT.format(side=recipe.side)
    sides = f"{recipe.first_side}, then {recipe.side}" if recipe.first_side else f"{recipe.side}"
    start = f"starting from {recipe.init}, " if recipe.init else ""
    return {"start": start, "sides": sides, "upstream": counts, "val_set": splits[0], "test_set": splits[1], "about": about}


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
        shutil.rmtree(STATE / label)  # or the next run would find it finished
        return
    arch = model.arch
    kind = "A ResNet-v2 with group norm and weight standardisation"
    norm = f"group norm with {arch.groups} groups, standardised convolutions"
    if arch.norm == "bn":
        kind = f"A ResNet-v2 with batch norm, the counterpart of {name.removesuffix('-bn')} for comparisons,"
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
            **describe(task, name, recipe),
            **environment(device),
        ),
        "utf8",
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="MODEL", help=f"models to train (default: all): {', '.join(MODELS)}")
    parser.add_argument("--steps", type=int, help="override the number of steps, for trying things out")
    parser.add_argument(
        "--again", action="store_true", help="keep weights and card, and only write results/pretrain_MODEL_again.json"
    )
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, help="CPU threads; the card records how many were used")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    for name in args.names or MODELS:
        if name not in MODELS:
            parser.error(f"unknown model {name!r}; choose from {', '.join(MODELS)}")
        run(name, args.steps, args.device, args.again)


if __name__ == "__main__":
    main()
