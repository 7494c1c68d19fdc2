"""Explorables: figures that recompute while you move them, in a live notebook and on the website without a kernel.

Owns the Python side: one anywidget class a figure, its traits, their limits, and an example from the course's own models.
The figure itself is one ES module under `explorables/`. On the website the same module is mounted from the static HTML
that `_repr_mimebundle_` puts beside the live widget. Needs ipywidgets and anywidget, which the `course` extra brings.
"""

from __future__ import annotations

import json
from pathlib import Path

import anywidget
import traitlets as t
from torch import Tensor

from .. import palette
from ..show import Html, data_url  # noqa: F401  (figures take data_url from here)

FOLDER = Path(__file__).parent.parent / "explorables"
KIT = (FOLDER / "kit.mjs").read_text("utf8")


class Explorable(anywidget.AnyWidget):
    """A figure that is the same module everywhere.

    A subclass names its module and an `alt` text, declares its traits, and says which of them a reader may move: `limits`
    maps each to [lowest, highest, step] or to {"of": [values]}. These traits are kept in the page's address.
    `picture` is what is shown where no script runs.
    """

    module = ""
    alt = ""
    limits = t.Dict().tag(sync=True)

    def __init_subclass__(cls, **kwargs):
        if "module" in cls.__dict__:  # not in the classes that traitlets derives to add traits
            cls._esm = KIT + (FOLDER / f"{cls.module}.mjs").read_text("utf8")
            cls._css = palette.css() + style(cls.module)
        super().__init_subclass__(**kwargs)

    def state(self) -> dict:
        """The traits that the figure reads, JSON-able."""
        own = {name for cls in type(self).__mro__ if issubclass(cls, Explorable) for name in cls.__dict__}
        return {name: getattr(self, name) for name in sorted(self.traits(sync=True)) if name in own and name[0] != "_"}

    def picture(self) -> Html:
        """The default state as a static figure."""
        raise NotImplementedError

    def fallback(self) -> str:
        """What is shown until the figure is alive: one element of the class bl-fallback."""
        return f'<div class="bl-fallback">{self.picture().caption("", alt=self.alt).html()}</div>'

    def static_html(self) -> str:
        """A div with the state as JSON and a picture: what the website's runtime turns into the live figure."""
        # "<" is escaped, so that no text in the state can end the script element.
        state = json.dumps(self.state(), sort_keys=True, separators=(",", ":")).replace("<", "\\u003c")
        return (
            f'<div class="bl-explorable" data-explorable="{self.module}"><script type="application/json">{state}</script>'
            f"{self.fallback()}</div>"
        )

    def _repr_mimebundle_(self, **kwargs):
        bundle = super()._repr_mimebundle_(**kwargs)
        data, metadata = bundle if isinstance(bundle, tuple) else (bundle or {}, {})
        return {**data, "text/html": self.static_html(), "text/plain": f"<{type(self).__name__}>"}, metadata


def style(module: str) -> str:
    """The CSS of a figure: what all figures share, then its own file where it has one."""
    own = FOLDER / f"{module}.css"
    return (FOLDER / "explorables.css").read_text("utf8") + (own.read_text("utf8") if own.exists() else "")


def rounded(values: Tensor, digits: int = 5) -> list[float]:
    """Short numbers for JSON; six significant digits are more than a page shows."""
    return [float(f"{v:.{digits}g}") for v in values.tolist()]
