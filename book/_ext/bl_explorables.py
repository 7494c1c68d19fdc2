"""Interactive figures on the website: one script with their modules and the runtime, and a directive for Markdown pages.

```{explorable} Softmax``` shows bitlib.course.explore.Softmax.example(); with `:results: NAME...` the figure is made from
results/NAME.json, where NAME may contain a *. It is a classic script because browsers load no modules from file://.
"""

import json
from pathlib import Path

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.util.docutils import SphinxDirective

from bitlib.course import palette

ROOT = Path(__file__).resolve().parent.parent.parent
SOURCES = ROOT / "bitlib" / "course" / "explorables"
MADE = ROOT / "_build" / "made"  # generated files for the website, not under version control


def write_script(app):
    """Write explorables.js (the shared kit and all modules as text, and the runtime that mounts them) and the style sheets."""
    kit = (SOURCES / "kit.mjs").read_text("utf8")
    modules = {p.stem: p.read_text("utf8") for p in sorted(SOURCES.glob("*.mjs")) if p.stem != "kit"}
    runtime = (Path(__file__).parent / "explorables_runtime.js").read_text("utf8")
    script = f"const BL_KIT = {json.dumps(kit)};\nconst BL_MODULES = {json.dumps(modules)};\n{runtime}"
    MADE.mkdir(parents=True, exist_ok=True)
    (MADE / "explorables.js").write_text(script, "utf8")
    styles = [SOURCES / "explorables.css", *sorted(p for p in SOURCES.glob("*.css") if p.stem != "explorables")]
    (MADE / "explorables.css").write_text("".join(p.read_text("utf8") for p in styles), "utf8")
    (MADE / "palette.css").write_text(palette.css(), "utf8")
    app.config.html_static_path.append(str(MADE))


class Explorable(SphinxDirective):
    """A figure; the content is its caption."""

    required_arguments = 1
    has_content = True
    option_spec = {"results": directives.unchanged_required}

    def run(self):
        from bitlib.course import explore

        kind = getattr(explore, self.arguments[0])
        if names := self.options.get("results", "").split():
            found = [sorted((ROOT / "results").glob(f"{name}.json")) for name in names]
            if not all(found):
                raise self.error(f"at least one of these names has no results: {' '.join(names)}")
            paths = [path for some in found for path in some]
            for path in paths:
                self.env.note_dependency(str(path))
            figure = kind.of(*(json.loads(path.read_text("utf8")) for path in paths))
        else:
            figure = kind.example()
        # Sphinx copies scripts only if it has a page to write.
        for source in (
            *SOURCES.iterdir(),
            *Path(explore.__file__).parent.glob("*.py"),
            Path(__file__).parent / "explorables_runtime.js",
        ):
            self.env.note_dependency(str(source))
        result = nodes.figure("", nodes.raw("", figure.static_html(), format="html"), classes=["bl-figure"])
        result += nodes.caption("", "", *self.state.inline_text(" ".join(self.content), self.lineno)[0])
        return [result]


def add_script(app, pagename, templatename, context, doctree):
    """Load the script on pages with a figure only."""
    if 'class="bl-explorable"' in context.get("body", ""):
        app.add_js_file("explorables.js", defer="defer")
        app.add_css_file("explorables.css")


def setup(app):
    app.connect("builder-inited", write_script)
    app.connect("html-page-context", add_script)
    app.add_directive("explorable", Explorable)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
