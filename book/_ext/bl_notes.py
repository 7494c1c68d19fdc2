"""The notes this course grew out of, item by item, from book/notes_checked.toml.

```{notes-checked} error
```

writes all items of one kind as a table: what the notes say, what is right, and where it runs here. A target that does not exist
stops the build.
"""

import json
import re
import tomllib
from functools import cache
from pathlib import Path

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from bitlib import cli

ROOT = Path(__file__).resolve().parent.parent.parent
FILE = ROOT / "book" / "notes_checked.toml"
HEADS = {
    "named": ("the notes name", "where it runs here"),
    "number": ("the notes say", "checked"),
    "error": ("the notes say", "right is"),
    "loose": ("the notes say", "more exactly"),
}


def items():
    """The file as a dict: the notes by letter, and a list of items of each kind."""
    return tomllib.loads(FILE.read_text("utf8"))


@cache
def _headings(path):
    text = path.read_text("utf8")
    if path.suffix == ".ipynb":
        text = "\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown")
    return set(re.findall(r"^#+ (.+)$", text, re.MULTILINE))


@cache
def commands():
    """Names of the command line's commands."""
    (action,) = [a for a in cli.build_parser()._actions if getattr(a, "choices", None) and a.dest == "command"]
    return set(action.choices)


def find(target):
    """(kind, file or name, heading or test) of an existing target; ValueError names one that does not exist."""
    if target.startswith("bitlib "):
        if target.split()[1] in commands():
            return "command", target, ""
    elif "::" in target:
        file, _, test = target.partition("::")
        if (ROOT / file).is_file() and re.search(rf"^def {test}\(", (ROOT / file).read_text("utf8"), re.MULTILINE):
            return "test", file, test
    else:
        page, _, heading = target.partition("#")
        path = ROOT / (f"{page}.md" if page.startswith("book/") else f"notebooks/{page}.ipynb")
        if path.is_file() and (not heading or heading in _headings(path)):
            return "page", str(path.relative_to(ROOT).with_suffix("")), heading
    raise ValueError(f"notes_checked.toml points to {target!r}, which does not exist")


class NotesChecked(SphinxDirective):
    """All items of one kind."""

    required_arguments = 1

    def run(self):
        (kind,) = self.arguments
        self.env.note_dependency(str(FILE))
        table, group = nodes.table(classes=["bl-notes"]), nodes.tgroup(cols=2)
        group += [nodes.colspec(colwidth=1), nodes.colspec(colwidth=1)]
        group += nodes.thead("", self.row(*([nodes.paragraph("", head)] for head in HEADS[kind])))
        body = nodes.tbody()
        for item in items()[kind]:
            said = nodes.paragraph("", "", *self.inline(item.get("what") or item["says"]))
            said += [nodes.Text(" "), nodes.inline("", ", ".join(item["notes"]), classes=["bl-note"])]
            right = self.inline(item.get("right") or item.get("verdict") or "")
            where = nodes.paragraph("", "", *self.links(item["where"]), classes=["bl-where"])
            body += self.row([said], [*([nodes.paragraph("", "", *right)] if right else ()), where])
        group += body
        table += group
        return [table]

    def row(self, *cells):
        return nodes.row("", *(nodes.entry("", *cell) for cell in cells))

    def inline(self, text):
        return self.state.inline_text(text, self.lineno)[0] if text else []

    def links(self, targets):
        for target in targets:
            try:
                kind, file, part = find(target)
            except ValueError as error:
                raise self.error(str(error)) from None
            if target is not targets[0]:
                yield nodes.Text(" · ")
            if kind == "page":
                yield self.page(file, part)
            elif kind == "test":
                url = f"{self.config.html_theme_options['repository_url']}/blob/main/{file}"
                yield nodes.reference("", "", nodes.literal("", Path(file).stem), refuri=url, internal=False)
            else:
                yield self.page("book/api", "bitlib.cli", nodes.literal("", file))

    def page(self, file, heading, shown=None):
        self.env.note_dependency(str(ROOT / file))
        chapter = re.match(r"notebooks/0?(\d+)_", file)
        title = heading or ("the chapter" if chapter else self.title(file))
        shown = shown or nodes.Text(f"{chapter[1]}: {title}" if chapter else title)
        uri = self.env.app.builder.get_relative_uri(self.env.docname, file)
        return nodes.reference("", "", shown, refuri=uri + (f"#{nodes.make_id(heading)}" if heading else ""), internal=True)

    def title(self, file):
        return re.search(r"^# (.+)$", (ROOT / f"{file}.md").read_text("utf8"), re.MULTILINE)[1]


def setup(app):
    app.add_directive("notes-checked", NotesChecked)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
