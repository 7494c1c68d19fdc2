"""The course's palette: what each colour means, in light and dark mode, for plots, figures and the website alike.

`palette.json` is the only place where colours are defined. Each has enough contrast for text on its background (4.5 or more).
A series gets its colour from the words in its label, so "from scratch" has the same colour in every chapter.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

PALETTE: dict[str, dict] = json.loads((Path(__file__).parent / "palette.json").read_text("utf8"))
LIGHT = {name: entry["light"] for name, entry in PALETTE.items()}
# For series whose labels have no fixed meaning.
NEUTRAL = ("accent", "second", "in", "plain", "gn_ws", "partly")


def role(label: str) -> str | None:
    """The palette name for a series with this label, or None. If several of the palette's words occur, the longest decides."""
    found = [(len(word), name) for name, entry in PALETTE.items() for word in entry.get("words", ()) if word in label]
    return max(found)[1] if found else None


def roles(labels: Iterable[str]) -> list[str]:
    """A palette name for each label; labels without a fixed meaning take the neutral colours in turn."""
    spare = iter(NEUTRAL * 3)
    return [role(label) or next(spare) for label in labels]


def css() -> str:
    """The palette as CSS variables `--bl-NAME`.

    They follow the website's switch or the theme of JupyterLab or Colab; without these, the reader's system.
    """
    light, dark = ("".join(f"--bl-{name}:{entry[mode]};" for name, entry in PALETTE.items()) for mode in ("light", "dark"))
    return (
        f":root{{{light}}}\n@media (prefers-color-scheme:dark){{:root{{{dark}}}}}\n"
        f':root[data-theme="light"],:root[theme="light"],body[data-jp-theme-light="true"]{{{light}}}\n'
        f':root[data-theme="dark"],:root[theme="dark"],body[data-jp-theme-light="false"]{{{dark}}}\n'
        f"@media print{{:root,:root[data-theme],body{{{light}}}}}\n"
    )
