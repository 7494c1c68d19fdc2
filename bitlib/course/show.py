"""Cell outputs: HTML that needs no kernel, no script and no other file, so that it reads the same wherever it is opened.

The website, JupyterLab, Colab and converted pages all show the same output. The website's style sheet improves it, but it is
readable without. Covers the small Markdown subset of prompts and captions, tables, rows of images, and quizzes.
"""

from __future__ import annotations

import base64
import html
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from PIL import Image
from torch import Tensor

NUMBER = re.compile(r"[−+-]?\d[\d.,]*( ?± ?[\d.,]+)?( ?[%×]| [A-Za-z]{1,6})?|–|")  # with its spread and unit, or nothing
OPTION = re.compile(r"^- \[([ x])\] (.+?) :: (.+)$")


class Html:
    """The output of a cell. body: its HTML; text: what a terminal prints instead."""

    def __init__(self, body: str, text: str):
        self.body, self.text, self._caption, self._alt = body, text, "", ""

    def caption(self, text: str, alt: str = "") -> Html:
        """Add a caption, in the Markdown of `inline`, and return self. alt: description for readers who cannot see it."""
        self._caption, self._alt = text, alt
        return self

    def html(self) -> str:
        if not self._caption:
            return self.body
        alt = f' aria-label="{html.escape(self._alt)}"' if self._alt else ""
        return f'<figure class="bl-figure"{alt}>{self.body}<figcaption>{inline(self._caption)}</figcaption></figure>'

    def _repr_mimebundle_(self, include=None, exclude=None) -> dict[str, str]:
        return {"text/html": self.html(), "text/plain": self.text}

    def __repr__(self) -> str:
        return self.text


def show(shown: Html) -> None:
    """Display an output in a notebook; print its text anywhere else."""
    try:
        from IPython import get_ipython
    except ImportError:
        get_ipython = lambda: None  # noqa: E731
    if get_ipython() is None:
        print(shown.text)
    else:
        from IPython.display import display

        display(shown)


def inline(text: str) -> str:
    """One line as escaped HTML, with markup for `code`, *emphasis*, **strong** and [text](address) only."""
    parts = re.split(r"(`[^`]+`)", text)
    for i, part in enumerate(parts):
        if part.startswith("`") and part.endswith("`") and len(part) > 2:
            parts[i] = f"<code>{html.escape(part[1:-1])}</code>"
            continue
        part = html.escape(part, quote=False)
        part = re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", part)
        part = re.sub(r"(?<!\w)\*(?! )(.+?)(?<! )\*(?!\w)", r"<em>\1</em>", part)
        parts[i] = re.sub(r"\[([^\]]+)\]\((https?://[^)\s\"]+)\)", r'<a href="\2">\1</a>', part)
    return "".join(parts)


def data_url(content: bytes, kind: str = "image/png") -> str:
    """The content of a file as a data: URL."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def png(image: Tensor, side: int | None = None) -> bytes:
    """An image, uint8 [3, H, W] on the CPU, as a PNG file. side: stretch it to a square of this many pixels."""
    buffer = io.BytesIO()
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    (picture.resize((side, side), Image.Resampling.NEAREST) if side else picture).save(buffer, "PNG")
    return buffer.getvalue()


def table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> Html:
    """A small table, with text aligned left and numbers right. heads: column titles; rows: cells of text or numbers."""
    rows = [[str(cell) for cell in row] for row in rows]
    columns = list(zip(*[heads, *rows]))
    numeric = [all(NUMBER.fullmatch(cell.replace("**", "")) for cell in column[1:]) for column in columns]
    widths = [max(map(len, column)) for column in columns]

    def line(cells: Sequence[str]) -> str:
        padded = (cell.rjust(w) if right else cell.ljust(w) for cell, w, right in zip(cells, widths, numeric))
        return "  ".join(padded).rstrip()

    def row(cells: Sequence[str], tag: str) -> str:
        styles = (
            f' style="text-align:{"right" if right else "left"};white-space:{"nowrap" if right and tag == "td" else "normal"}"'
            for right in numeric
        )
        # A heading without words is none, for those who hear the table.
        tags = (tag if cell else "td" for cell in cells)
        marked = (f"<{t}{style}>{inline(cell)}</{t}>" for cell, style, t in zip(cells, styles, tags))
        return f"<tr>{''.join(marked)}</tr>"

    head = f"<thead>{row(heads, 'th')}</thead>" if any(heads) else ""
    body = f"<tbody>{''.join(row(r, 'td') for r in rows)}</tbody>"
    body = f'<div class="bl-scroll" tabindex="0"><table class="bl-table">{head}{body}</table></div>'
    return Html(body, "\n".join(map(line, [heads, *rows] if any(heads) else rows)))


def images(shown: Tensor, titles: Sequence[str] = (), side: int = 64) -> Html:
    """Images in rows, as many per row as fit. shown: uint8 [N, 3, H, W]; titles: one per image, or none; side: in pixels."""
    cells = []
    for i, image in enumerate(shown.cpu()):
        title = titles[i] if titles else f"image {i + 1}"
        under = (
            f'<div style="font-size:12px;line-height:1.25">{"<br>".join(map(html.escape, title.split(chr(10))))}</div>'
            if titles
            else ""
        )
        cells.append(
            f'<div style="display:inline-block;width:{side}px;margin:0 8px 8px 0;vertical-align:top;text-align:center">'
            f'<img alt="{html.escape(title)}" width="{side}" height="{side}" style="image-rendering:pixelated" '
            f'src="{data_url(png(image))}">{under}</div>'
        )
    return Html(f'<div class="bl-images">{"".join(cells)}</div>', f"<{len(shown)} images>")


def scenes(boxed, found: Sequence[dict] | None = None, numbers: Iterable[int] = range(6), least: float = 0.3) -> Html:
    """Scenes of a `Boxed` with their boxes drawn: the true ones, or those of `found` (as `detect` returns them) that score
    `least` or more. numbers: which scenes."""
    from ..detection import draw_boxes

    cells = []
    for i in numbers:
        boxes, words = boxed.boxes[i], [boxed.class_names[y] for y in boxed.labels[i]]
        if found is not None:
            kept = found[i]["scores"] >= least
            boxes, labels, scores = (found[i][key][kept] for key in ("boxes", "labels", "scores"))
            words = [f"{boxed.class_names[y]} {score:.2f}" for y, score in zip(labels.tolist(), scores.tolist())]
        buffer = io.BytesIO()
        draw_boxes(boxed.images[i], boxes, words, scale=2).save(buffer, "PNG")
        told = html.escape(", ".join(words) or "nothing")
        cells.append(
            f'<img alt="scene {i + 1}: {told}" width="192" height="192" style="margin:0 8px 8px 0;display:inline-block" '
            f'src="{data_url(buffer.getvalue())}">'
        )
    return Html(f'<div class="bl-images">{"".join(cells)}</div>', f"<{len(cells)} scenes>")


def questions(text: str) -> list[tuple[str, list[tuple[bool, str, str]]]]:
    """Parse a quiz: "## question", then lines of the form "- [ ] option :: reason", with [x] for a right option.

    Returns (question, [(right, option, reason)]) pairs. Raises ValueError for any other line, for fewer than two options, or
    if no option is right.
    """
    found: list[tuple[str, list[tuple[bool, str, str]]]] = []
    for line in filter(None, map(str.strip, text.splitlines())):
        if line.startswith("## "):
            found.append((line[3:], []))
        elif (match := OPTION.match(line)) and found:
            found[-1][1].append((match[1] == "x", match[2], match[3]))
        else:
            raise ValueError(f"quiz: {line!r} is neither '## question' nor '- [ ] option :: reason'")
    for question, options in found:
        if len(options) < 2 or not any(right for right, *_ in options):
            raise ValueError(f"quiz: {question!r} needs two options or more, one of them marked [x]")
    return found


def question(asked: str, options: Sequence[tuple[bool, str, str]], name: str) -> str:
    """A question as HTML. Every option opens to say why it is right or wrong, one at a time."""
    lines = [
        f'<details name="{name}" class="bl-option" data-verdict="{"right" if right else "wrong"}">'
        f"<summary>{inline(option)}</summary><p>{inline(reason)}</p></details>"
        for right, option, reason in options
    ]
    return f'<div class="bl-quiz"><p><strong>{inline(asked)}</strong></p>{"".join(lines)}</div>'


def quiz(chapter: str) -> Html:
    """The quiz of a chapter, from bitlib/course/quizzes/CHAPTER.md. Every option opens to say why it is right or wrong."""
    asked = questions((Path(__file__).parent / "quizzes" / f"{chapter}.md").read_text("utf8"))
    body = "".join(question(q, options, f"quiz-{chapter}-{i}") for i, (q, options) in enumerate(asked, 1))
    return Html(body, "\n".join(f"{i}. {q}" for i, (q, _) in enumerate(asked, 1)))
