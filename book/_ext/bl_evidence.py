"""What the chapters measured, on a page beside what papers say: read from the notebooks' stored outputs, so that no number is
typed by hand.

```{evidence} 09_mixup
:shows: yes

with α = 0.1, this network loses accuracy => lost or gained with α = 0.1
```

Each line is a sentence of `evidence` in that chapter; after =>, what to call it here. A sentence that the chapter does not hold
stops the build.
"""

import json
import re
from collections import Counter
from pathlib import Path

from bl_results import table_of
from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from bitlib.course.real import in_words
from bitlib.verify import reference

NOTEBOOKS = Path(__file__).resolve().parent.parent.parent / "notebooks"
RECORD = NOTEBOOKS.parent / "results" / "verified.json"
SHOWS = {
    "yes": "It shows here.",
    "in part": "It shows here in part.",
    "no": "It does not show here.",
    "reversed": "Here it is the other way round.",
}
TOLD = re.compile(r"✓ (.+) \[(.+), 95 % interval (.+), (\d+ .+); needs .+\]")
BLOCK = re.compile(r"^## (.+)$|^:shows: (.+)$", re.MULTILINE)


def found(chapter):
    """{sentence: (difference, interval, repetitions)} of the chapter's evidence, where a sentence stands only once."""
    cells = json.loads((NOTEBOOKS / f"{chapter}.ipynb").read_text("utf8"))["cells"]
    outputs = (output.get("data", {}).get("text/plain", "") for cell in cells for output in cell.get("outputs", ()))
    matches = [match for text in outputs if (match := TOLD.fullmatch("".join(text).strip("'\"")))]
    often = Counter(match[1] for match in matches)
    return {match[1]: match.groups()[1:] for match in matches if often[match[1]] == 1}  # the others could be either


class Evidence(SphinxDirective):
    """Whether an effect shows here, and the measured differences as a table."""

    required_arguments = 1
    has_content = True
    option_spec = {"shows": str}

    def run(self):
        (chapter,) = self.arguments
        self.env.note_dependency(str(NOTEBOOKS / f"{chapter}.ipynb"))
        if self.options.get("shows") not in SHOWS:
            raise self.error(f"shows is {self.options.get('shows')!r}; choose one of {', '.join(SHOWS)}")
        stored, rows = found(chapter), []
        for line in filter(None, map(str.strip, self.content)):
            sentence, _, words = (part.strip() for part in line.partition("=>"))
            if sentence not in stored:
                raise self.error(f"chapter {chapter} has no evidence that says {sentence!r}")
            rows.append([self.inline(words or sentence), *stored[sentence]])
        if not rows:
            raise self.error("name one sentence or more")
        heads = ["measured here", "difference", "95 % interval", "repeated over"]
        return [nodes.paragraph("", "", nodes.strong("", SHOWS[self.options["shows"]])), table_of([heads, *rows])]

    def inline(self, text):
        return nodes.inline("", "", *self.state.inline_text(text, self.lineno)[0])


class Verified(SphinxDirective):
    """The record of `bitlib verify`, results/verified.json, as a table; or that nobody has run it yet."""

    def run(self):
        self.env.note_dependency(str(RECORD))
        record = reference(RECORD)
        if record is None:
            return [nodes.paragraph("", "", nodes.strong("", "Not yet run."))]
        return [table_of([["the released checkpoint", ""], *in_words(record, "results/verified.json")])]


class EvidenceOverview(SphinxDirective):
    """The headings of this page, each with whether its effect shows here."""

    def run(self):
        source = Path(self.env.doc2path(self.env.docname)).read_text("utf8")
        rows, heading = [["question", "here"]], None
        for title, shows in BLOCK.findall(source):
            if title:
                heading = title
            elif heading:
                name = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
                rows.append([nodes.reference("", heading, refuri=f"#{name}", internal=True), shows])
                heading = None
        return [table_of(rows)]


def setup(app):
    app.add_directive("verified", Verified)
    app.add_directive("evidence", Evidence)
    app.add_directive("evidence-overview", EvidenceOverview)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
