"""Predict, then look: the reader guesses, and only then sees what was measured, beside the guess."""

from __future__ import annotations

import base64
import html
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import traitlets as t

from .base import Explorable

PREDICTIONS = Path(__file__).resolve().parent.parent / "predictions"
# `code`, and *emphasis* that neither starts nor ends inside a word. The module reads the same.
MARKUP = re.compile(r"`([^`]+)`|\B\*([^*\s](?:[^*]*[^*\s])?)\*\B")


class Predict(Explorable):
    """A question to answer before its answer is shown. Make one with `number`, `choice` or `line`.

    `guess` is the reader's: a number, the index of an option, or a list with None where no point is set yet; None before
    the first. `revealed`: the answer is shown. Prompts, options and reasons may hold `code` and *emphasis*. The answer
    is lightly encoded wherever the output is stored, against a glance at it and not against a search.
    """

    module = "predict"
    kind = t.Enum(["number", "choice", "line"], "choice").tag(sync=True)
    prompt = t.Unicode().tag(sync=True)
    question = t.Dict().tag(sync=True)
    sealed = t.Unicode().tag(sync=True)
    guess = t.Any(None).tag(sync=True)
    revealed = t.Bool(False).tag(sync=True)

    @classmethod
    def number(cls, prompt: str, *, answer, low, high, unit="", spread=None, why="", xlabel="", measured=True) -> Predict:
        """A guess on an axis from low to high, named xlabel (unit).

        measured: the answer comes from an experiment and not from thought; the words on the button say so.
        Raises ValueError for an answer outside the axis.
        """
        low, high, answer = map(short, (low, high, answer))
        inside(low, high, [answer])
        question = {"low": low, "high": high, "unit": unit, "xlabel": xlabel, "measured": measured}
        return cls._of("number", prompt, question, answer, None if spread is None else short(spread), why)

    @classmethod
    def choice(cls, prompt: str, options: Sequence[str], *, answer: int, why="", measured=False) -> Predict:
        """One of several options; answer is the index of the right one. Raises ValueError for an index without an option."""
        answer = int(answer)
        if not 0 <= answer < len(options):
            raise ValueError(f"answer {answer} is the index of none of the {len(options)} options")
        return cls._of("choice", prompt, {"options": list(options), "measured": measured}, answer, None, why)

    @classmethod
    def line(
        cls,
        prompt: str,
        *,
        x: Sequence,
        answer: Sequence,
        low,
        high,
        xlabel: str,
        ylabel: str,
        spread: Sequence | None = None,
        given: Mapping | None = None,
        why="",
        measured=True,
    ) -> Predict:
        """A line to draw, one point for each x; x are evenly spaced categories. given: {x: value}, points to start from.

        The unit is what ylabel has in brackets at its end. Raises ValueError for lists of different lengths, a value
        outside the axis, or a given x that is none of x.
        """
        x, given = list(x), dict(given or {})
        low, high, answer = short(low), short(high), [short(v) for v in answer]
        if len(answer) != len(x) or (spread is not None and len(spread) != len(x)):
            raise ValueError(f"x has {len(x)} values; answer, and spread where it is given, need as many")
        if unknown := set(given) - set(x):
            raise ValueError(f"given {sorted(unknown)} is not among x")
        fixed = [short(given[v]) if v in given else None for v in x]
        inside(low, high, [*answer, *(v for v in fixed if v is not None)])
        unit = re.search(r"\(([^()]+)\)$", ylabel)
        question = {
            "x": [v if isinstance(v, str) else text(short(v)) for v in x],
            "low": low,
            "high": high,
            "xlabel": xlabel,
            "ylabel": ylabel,
            "unit": unit[1] if unit else "",
            "given": fixed,
            "measured": measured,
        }
        return cls._of("line", prompt, question, answer, None if spread is None else [short(v) for v in spread], why)

    @classmethod
    def _of(cls, kind: str, prompt: str, question: dict, answer, spread, why: str) -> Predict:
        prompt, why = (" ".join(words.split()) for words in (prompt, why))  # they may be written over several lines
        sealed = base64.b64encode(json.dumps({"answer": answer, "spread": spread, "why": why}).encode()).decode()
        return cls(kind=kind, prompt=prompt, question=question, sealed=sealed)

    def state(self) -> dict:
        """As the next reader finds it: without this one's guess."""
        return {**super().state(), "guess": None, "revealed": False}

    def fallback(self) -> str:
        """The prompt, and an answer that waits to be opened, in tags that every viewer of notebooks lets through."""
        options = "".join(f"<li>{marked(option)}</li>" for option in self.question.get("options", ()))
        return (
            f'<div class="bl-fallback"><p><strong>Predict.</strong> {marked(self.prompt)}</p>'
            f"{options and f'<ul>{options}</ul>'}"
            f"<details><summary>Show {'what was measured' if self.question.get('measured') else 'the answer'}</summary>"
            f"<p>{marked(self._answer(), concealed)}</p></details></div>"
        )

    def _answer(self) -> str:
        if not self.sealed:
            return ""
        sealed, unit = json.loads(base64.b64decode(self.sealed)), self.question.get("unit", "")
        answer, spread = sealed["answer"], sealed["spread"]
        if self.kind == "choice":
            words = self.question["options"][answer]
        elif self.kind == "number":
            words = quantity(answer, spread, unit)
        else:
            values = map(quantity, answer, spread or [None] * len(answer))
            words = f"{self.question['ylabel']} at {self.question['xlabel']} "
            words += ", ".join(f"{x}: {v}" for x, v in zip(self.question["x"], values))
        return f"{words}. {sealed['why']}".strip()

    def _repr_mimebundle_(self, **kwargs):
        data, metadata = super()._repr_mimebundle_(**kwargs)
        return {**data, "text/plain": f"Predict: {self.prompt}"}, metadata


def asked(name: str, **values) -> dict:
    """The words of a question, as arguments for `Predict`: prompt, why, and for a choice its options and, if known, answer.

    They stand in bitlib/course/predictions/CHAPTER.md and not in the notebook, whose source gives away what it holds. name:
    "CHAPTER/question"; values: what {placeholders} in the words stand for. Raises ValueError for a name that is not there.
    """
    chapter, _, wanted = name.partition("/")
    path = PREDICTIONS / f"{chapter}.md"
    parts = re.split(r"^## (.+)\n", path.read_text("utf8"), flags=re.MULTILINE) if path.exists() else []
    words = dict(zip(parts[1::2], parts[2::2]))
    if wanted not in words:
        raise ValueError(f"{path.name} has no question {wanted!r}; it has {', '.join(words) or 'none'}")
    lines = [line for line in words[wanted].format(**values).splitlines() if line]
    options = [line for line in lines if line.startswith("- ")]
    right = [i for i, line in enumerate(options) if line.startswith("- [x] ")]
    found = {
        "prompt": " ".join(line for line in lines if line not in options and not line.startswith("> ")),
        "why": " ".join(line[2:] for line in lines if line.startswith("> ")),
    }
    if options:
        found["options"] = [re.sub(r"^- (\[[ x]\] )?", "", line) for line in options]
    if right:
        found["answer"] = right[0]
    return found


def short(value) -> float:
    """Four significant digits of a number or a tensor that holds one."""
    return float(f"{float(value):.4g}")


def text(value: float) -> str:
    return f"{value:,}".removesuffix(".0").replace("-", "−")


def quantity(value: float, spread: float | None, unit: str = "") -> str:
    return " ".join([text(value), *([f"± {text(spread)}"] if spread is not None else []), *([unit] if unit else [])])


def inside(low: float, high: float, values: list[float]) -> None:
    if not (math.isfinite(low) and math.isfinite(high) and low < high and all(low <= v <= high for v in values)):
        raise ValueError(f"{values} do not lie on an axis from {low} to {high}")


def marked(words: str, write: Callable[[str], str] = html.escape) -> str:
    """HTML of words with `code` and *emphasis*; `write` makes all other characters harmless."""
    pieces = []
    for i, piece in enumerate(MARKUP.split(words)):  # plain, code, emphasised, plain, ...
        tag = ("", "code", "em")[i % 3]
        if piece:
            pieces.append(f"<{tag}>{write(piece)}</{tag}>" if tag else write(piece))
    return "".join(pieces)


def concealed(words: str) -> str:
    """Character references: a browser shows the words, the source of the page does not at a glance."""
    return "".join(f"&#{ord(c)};" for c in words)
