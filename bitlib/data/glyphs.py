"""Glyphs: the course's upstream data, generated on the fly from the fonts that ship with matplotlib.

A class is a character; an image shows it in one font, with random affine and elastic warps, colours, blur and noise. Three
nested sizes play the roles of BiT-S, -M and -L. No class is a digit or number of any script, so that handwritten digits
are new downstream, and whole scripts are held out for downstream tasks.
"""

from __future__ import annotations

import functools
import hashlib
import unicodedata
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..files import UserError
from .task import ArrayImages, Task, fingerprint

SCALES = {"xs": 20, "s": 100, "m": 700, "l": None, "easy": None}  # number of classes; None: all of them
STRENGTHS = {"easy": 0.5}  # of the random changes, where they are not 1
XS_COPIES = 20  # how many times "xs" draws each of its few glyphs for validation and test
HELD_OUT_SCRIPTS = ("ARMENIAN", "GEORGIAN")
# The last two fonts are held out, for validation and test; the others are for training images.
FONTS = (
    "DejaVuSans DejaVuSans-Bold DejaVuSansMono DejaVuSansMono-Bold DejaVuSansMono-Oblique DejaVuSansMono-BoldOblique "
    "DejaVuSerif DejaVuSerif-Bold DejaVuSerif-Italic DejaVuSerif-BoldItalic "
    "STIXGeneral STIXGeneralBol STIXGeneralItalic STIXGeneralBolIta DejaVuSans-Oblique DejaVuSans-BoldOblique"
).split()
VAL_FONT, TEST_FONT = len(FONTS) - 2, len(FONTS) - 1
MASK = 48  # side of a glyph's mask in pixels
SIDE = 32  # side of the stored validation and test images


def _is_number(char: str) -> bool:
    return unicodedata.numeric(char, None) is not None or any(c.isdigit() for c in unicodedata.normalize("NFKC", char))


def _draw(char: str, font) -> np.ndarray | None:
    """A character centred in an image, uint8 [MASK, MASK], 0 to 255; None if it would be nearly invisible."""
    from PIL import Image, ImageDraw

    left, top, right, bottom = font.getbbox(char)
    if right - left < 2 or bottom - top < 2:
        return None
    size = max(right - left, bottom - top, MASK)
    image = Image.new("L", (size, size))
    ImageDraw.Draw(image).text(((size - right - left) / 2, (size - bottom - top) / 2), char, fill=255, font=font)
    image = np.asarray(image if size == MASK else image.resize((MASK, MASK), Image.Resampling.BOX))
    return image if image.max() > 100 else None


@functools.cache
def _masks() -> tuple[Tensor, Tensor, Tensor, tuple[str, ...]]:
    """All usable glyphs: masks uint8 [N, 48, 48], classes int [N], fonts int [N], and the character of each class."""
    import matplotlib
    from fontTools.ttLib import TTFont
    from PIL import ImageFont

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    paths = [folder / f"{name}.ttf" for name in FONTS]
    fonts = [ImageFont.truetype(str(p), 34, layout_engine=ImageFont.Layout.BASIC) for p in paths]
    covered = [set(TTFont(p, lazy=True).getBestCmap()) for p in paths]
    masks, labels, which, chars, seen = [], [], [], [], set()
    for code in sorted(covered[0] & covered[1]):
        char = chr(code)
        if unicodedata.category(char)[0] not in "LPS" or _is_number(char):
            continue
        drawn = {i: _draw(char, fonts[i]) for i in range(len(FONTS)) if code in covered[i]}
        drawn = {i: mask for i, mask in drawn.items() if mask is not None}
        # Latin A, Greek Alpha and Cyrillic A look the same; only the first becomes a class.
        if 0 not in drawn or 1 not in drawn or drawn[0].tobytes() in seen:
            continue
        seen.add(drawn[0].tobytes())
        for i, mask in drawn.items():
            masks.append(mask)
            labels.append(len(chars))
            which.append(i)
        chars.append(char)
    return torch.from_numpy(np.stack(masks)), torch.tensor(labels), torch.tensor(which), tuple(chars)


def _script(char: str) -> str:
    return unicodedata.name(char, "?").split()[0]


# Of the 15 uniform numbers that `draw_glyphs` uses: the values that leave a glyph white on black, as its font has it.
CALM = torch.tensor([0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.0, 0.5, 1.0, 0.0, 0.0, 1.0, 1.0, 1.0, 0.0])


def draw_numbers(count: int, side: int, generator: torch.Generator, strength: float = 1.0) -> Tensor:
    """Random numbers for `count` images, float [count, 53 + side * side]. generator: a CPU generator.

    strength: 1 for all the warps, colours, blur and noise that there are, 0 for none.
    """
    uniform = torch.rand(15, count, generator=generator).t()
    parts = [
        uniform if strength == 1 else torch.lerp(CALM.expand_as(uniform), uniform, strength),
        torch.randn(count, 32, generator=generator),
        torch.rand(2, count, 3, generator=generator).transpose(0, 1).flatten(1),
        torch.randn(count, side * side, generator=generator),
    ]
    return torch.cat(parts, 1)


def draw_glyphs(masks: Tensor, side: int, draws: Tensor) -> Tensor:
    """Turn masks into images. masks: uint8 [B, 48, 48] -> uint8 [B, 3, side, side].

    draws: one row of `draw_numbers` per mask, which decides everything: affine warp, elastic warp, stroke weight, resolution,
    two colours, noise.
    """
    n = len(masks)
    uniform, noise, tint, grain = draws.to(masks.device).split([15, 32, 6, side * side], 1)
    uniform, noise = uniform.t(), noise.view(n, 2, 4, 4)

    def between(row: int, low: float, high: float) -> Tensor:
        return low + (high - low) * uniform[row]

    angle, shear = between(0, -0.35, 0.35), between(1, -0.45, 0.45)
    zoom_x, zoom_y = torch.exp(between(2, -0.5, 0.2)), torch.exp(between(3, -0.5, 0.2))
    cos, sin = torch.cos(angle), torch.sin(angle)
    shift = torch.stack([between(4, -0.12, 0.12), between(5, -0.12, 0.12)], 1)
    matrix = torch.stack([cos * zoom_x, (shear * cos - sin) * zoom_y, sin * zoom_x, (shear * sin + cos) * zoom_y], 1)
    theta = torch.cat([matrix.view(n, 2, 2), shift[:, :, None]], 2)
    grid = F.affine_grid(theta, [n, 1, side, side], align_corners=False)
    # A smooth displacement field bends strokes the way a hand does.
    bend = F.interpolate(noise, (side, side), mode="bicubic", align_corners=True) * (0.08 * uniform[6]).view(n, 1, 1, 1)
    ink = masks[:, None].float() / 255
    # Blur, then a soft threshold at a random level, for thinner or bolder strokes.
    ink = F.avg_pool2d(ink, 3, 1, 1)
    ink = F.grid_sample(ink, grid + bend.permute(0, 2, 3, 1), mode="bilinear", align_corners=False)
    ink = torch.sigmoid((ink - between(7, 0.2, 0.55).view(n, 1, 1, 1)) * 12)
    # Half of the images lose resolution, down to 8 x 8.
    for divisor, low, high in ((4, 0.0, 0.2), (3, 0.2, 0.35), (2, 0.35, 0.5)):
        chosen = (uniform[8] >= low) & (uniform[8] < high)
        coarse = F.interpolate(F.adaptive_avg_pool2d(ink, side // divisor), (side, side), mode="bilinear", align_corners=False)
        ink = torch.where(chosen.view(n, 1, 1, 1), coarse, ink)
    # Two colours whose brightness differs by at least 0.35 of the range; half of the images are grey.
    tint = (tint.view(n, 2, 3).transpose(0, 1) - 0.5) * 0.5
    tint = torch.where((uniform[9] < 0.5).view(1, n, 1), torch.zeros_like(tint), tint)
    dark = 0.6 * uniform[10] * (uniform[12] < 0.7)  # nearly a third of the darker colours are black
    bright = dark + 0.35 + (0.65 - dark) * uniform[11]
    swap = uniform[13] < 0.3
    paper, pen = torch.where(swap, bright, dark), torch.where(swap, dark, bright)
    paper, pen = ((c[:, None] + t).clamp(0, 1).view(n, 3, 1, 1) for c, t in zip((paper, pen), tint))
    image = paper + (pen - paper) * ink
    grain = grain.view(n, 1, side, side) * (0.05 * uniform[14]).view(n, 1, 1, 1)
    return ((image + grain).clamp_(0, 1) * 255).round_().to(torch.uint8)


class GlyphImages:
    """Glyphs whose images are generated anew for every batch. masks: uint8 [N, 48, 48]; labels: int [N].

    strength: of the random changes, see `draw_numbers`.
    """

    resident = True

    def __init__(self, masks: Tensor, labels: Tensor, side: int = SIDE, strength: float = 1.0):
        self.masks, self.labels, self.side, self.strength = masks, labels, side, strength

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, indices: Tensor) -> GlyphImages:
        return GlyphImages(self.masks[indices], self.labels[indices], self.side, self.strength)

    def prepare(self, side: int, device: torch.device | str) -> GlyphImages:
        return GlyphImages(self.masks.to(device), self.labels, side, self.strength)

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        return draw_numbers(count, self.side, generator, self.strength)

    def batch(self, indices: Tensor, draws: Tensor | None = None) -> Tensor:
        if draws is None:
            raise ValueError("glyph images need random numbers; pass those that `draw` returns")
        return draw_glyphs(self.masks[indices.to(self.masks.device)], self.side, draws)


def load_glyphs(name: str = "glyphs") -> Task:
    """A glyph task: "glyphs" (the same as "glyphs-l"), "glyphs-m", "glyphs-s", "glyphs-xs", "glyphs-easy", or a held-out
    script, such as "glyphs-armenian".

    Training images are generated anew at every step. Validation and test images are generated once, each split from its own
    held-out font; characters missing from that font are missing from the split. "glyphs-xs" has 20 characters, for
    experiments that take seconds, each of them several times in these two splits. "glyphs-easy" has the characters of
    "glyphs-l" with half of the random changes, which networks learn in minutes. Raises UserError for an unknown name.
    """
    masks, labels, fonts, chars = _masks()
    wanted = name.partition("-")[2] or "l"
    scripts = {script.lower(): script for script in HELD_OUT_SCRIPTS}
    strength = STRENGTHS.get(wanted, 1.0)
    if wanted in SCALES:
        classes = [i for i, char in enumerate(chars) if _script(char) not in HELD_OUT_SCRIPTS]
        order = torch.randperm(len(classes), generator=torch.Generator().manual_seed(0)).tolist()
        classes = sorted(classes[i] for i in order[: SCALES[wanted]])  # nested: s is part of m, m of l
    elif wanted in scripts:
        classes = [i for i, char in enumerate(chars) if _script(char) == scripts[wanted]]
    else:
        raise UserError(f"unknown task {name!r}; the glyph tasks are " + ", ".join(f"glyphs-{n}" for n in (*SCALES, *scripts)))
    renumber = torch.full((len(chars),), -1)
    renumber[torch.tensor(classes)] = torch.arange(len(classes))
    splits = []
    for i, inside in enumerate((fonts < VAL_FONT, fonts == VAL_FONT, fonts == TEST_FONT)):
        chosen = (inside & (renumber[labels] >= 0)).nonzero()[:, 0]
        if i > 0 and wanted == "xs":
            chosen = chosen.repeat(XS_COPIES)
        images = GlyphImages(masks[chosen], renumber[labels[chosen]], strength=strength)
        splits.append(_draw_once(images, seed=i) if i > 0 else images)
    names = tuple(chars[i] for i in classes)
    identity = fingerprint(names, hashlib.sha256(masks[renumber[labels] >= 0].numpy().tobytes()).hexdigest())
    if wanted in STRENGTHS:
        identity = fingerprint(identity, "strength", strength)
    name = "glyphs-l" if name == "glyphs" else name
    return Task(name, *splits, names, (SIDE, SIDE), random_crop=False, random_flip=False, fingerprint=identity)


def _draw_once(images: GlyphImages, seed: int) -> ArrayImages:
    generator = torch.Generator().manual_seed(seed)
    drawn = [
        draw_glyphs(part, SIDE, draw_numbers(len(part), SIDE, generator, images.strength)) for part in images.masks.split(1024)
    ]
    return ArrayImages(torch.cat(drawn), images.labels)
