"""The suite's natural tasks: writing, print and photographs. (VTAB's natural images were all taken by ordinary cameras.)

Handwritten digits ship with scikit-learn, photographs with scikit-learn and matplotlib, fonts with matplotlib. All functions
but `digits_of`, whose images are there already, have the form that `drawing.each` describes.

The course's glyph models have seen these typefaces, and letters drawn in the same way, but no Georgian ones, and they learnt to
tell characters apart whatever the typeface.
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from .drawing import FINE, SIDE, blocks, colour, each, noisy
from .glyphs import TEST_FONT, VAL_FONT, _masks, draw_glyphs, draw_numbers

LETTERS = tuple("აბგდევზთიკლმნოპჟრსტუ")  # the first twenty of the Georgian alphabet
TYPEFACES = {
    "sans": "DejaVuSans",
    "sans, bold": "DejaVuSans-Bold",
    "sans, slanted": "DejaVuSans-Oblique",
    "serif": "DejaVuSerif",
    "serif, bold": "DejaVuSerif-Bold",
    "Times": "STIXGeneral",
    "Times, italic": "STIXGeneralItalic",
    "typewriter": "cmtt10",
}
# What is seen where: photograph, top, left, height and width in pixels.
MATERIALS = {
    "trees": ("china.jpg", 335, 330, 92, 310),
    "pagoda": ("china.jpg", 85, 85, 250, 220),
    "petals": ("flower.jpg", 100, 185, 240, 240),
    "leaves": ("flower.jpg", 0, 0, 420, 160),
    "flag": ("grace_hopper.jpg", 0, 0, 420, 150),
    "face": ("grace_hopper.jpg", 130, 150, 200, 200),
    "cap": ("grace_hopper.jpg", 25, 165, 120, 200),
    "uniform": ("grace_hopper.jpg", 340, 40, 260, 450),
}
BLOCK = 40  # pixels


def letters(labels: np.ndarray, split: str, rng: np.random.Generator) -> np.ndarray:
    """Georgian letters, drawn like those of `glyphs`: validation and test in a font of their own each."""
    masks, classes, fonts, chars = _masks()
    here = {"train": fonts < VAL_FONT, "val": fonts == VAL_FONT, "test": fonts == TEST_FONT}[split]
    members = [(here & (classes == chars.index(letter))).nonzero()[:, 0].numpy() for letter in LETTERS]
    chosen = torch.tensor([rng.choice(members[label]) for label in labels])
    generator = torch.Generator().manual_seed(int(rng.integers(2**32)))
    drawn = draw_glyphs(masks[chosen], SIDE, draw_numbers(len(chosen), SIDE, generator))
    return drawn.permute(0, 2, 3, 1).numpy()


@functools.cache
def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    import matplotlib

    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{name}.ttf"
    return ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)


@each
def fonts(label: int, split: str, rng: np.random.Generator) -> np.ndarray:
    """Two or three random letters of the Latin alphabet; the class is their typeface."""
    text = "".join(rng.choice([*"abcdefghijklmnopqrstuvwxyz"], rng.integers(2, 4)))
    font = _font([*TYPEFACES.values()][label], FINE * int(rng.integers(12, 18)))
    left, top, right, bottom = font.getbbox(text)
    size, room = FINE * SIDE, np.array([FINE * SIDE - (right - left), FINE * SIDE - (bottom - top)])
    corner = room / 2 + rng.uniform(-0.2, 0.2, 2) * np.abs(room) - (left, top)
    page = Image.new("L", (size, size))
    ImageDraw.Draw(page).text(tuple(corner), text, fill=255, font=font)
    ink = np.asarray(page.resize((SIDE, SIDE), Image.Resampling.BOX))[:, :, None] / 255
    paper = colour(rng)
    return noisy(paper + ink * (colour(rng, paper) - paper), rng)


@functools.cache
def _photograph(name: str) -> np.ndarray:
    """uint8 [H, W, 3]."""
    import matplotlib.cbook
    from sklearn.datasets import load_sample_image

    if name == "grace_hopper.jpg":
        return np.asarray(Image.open(matplotlib.cbook.get_sample_data(name, asfileobj=False)).convert("RGB"))
    return load_sample_image(name)


@each
def photographs(label: int, split: str, rng: np.random.Generator) -> np.ndarray:
    """A square of 24 to 40 pixels out of one of three photographs, in grey; the class is what it shows."""
    name, top, left, height, width = [*MATERIALS.values()][label]
    y, x = rng.choice(blocks(height, width, BLOCK, split)) + (top, left)
    side = int(rng.integers(24, BLOCK + 1))
    y, x = (y, x) + rng.integers(0, BLOCK - side + 1, 2)
    square = Image.fromarray(_photograph(name)[y : y + side, x : x + side]).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    # In grey, toned in a random colour and exposed anew: blue jackets and green leaves would need no network.
    grey = np.asarray(square.convert("L"))[:, :, None] / 255
    return noisy(np.clip(grey / (grey.mean() + 0.15) * rng.uniform(0.35, 0.8, 3), 0, 1), rng, 0.02)


def digits_of(draw: int) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """The handwritten digits, {split: (images, labels)}: 100 of each for training, 20 for validation, chosen by `draw`.

    The test images, the remaining 597, are the same in every draw.
    """
    from .digits import load_digits

    task, chosen = load_digits(), {"train": [], "val": [], "test": []}
    images = torch.cat([getattr(task, split).images for split in chosen])
    labels = torch.cat([getattr(task, split).labels for split in chosen])
    for digit in labels.unique():
        members = np.random.default_rng(0).permutation((labels == digit).nonzero()[:, 0].numpy())
        pool = np.random.default_rng(draw).permutation(members[:120])
        for split, part in zip(chosen, (pool[:100], pool[100:], members[120:])):
            chosen[split].append(torch.from_numpy(part))
    return {split: (images[torch.cat(parts)], labels[torch.cat(parts)]) for split, parts in chosen.items()}
