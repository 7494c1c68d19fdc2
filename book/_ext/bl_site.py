"""Every page forbids its browser to ask any other host, loads little, and knows the repository's address of _config.yml."""

import re
from pathlib import Path

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

POLICY = "; ".join(
    [
        "default-src 'self'",
        "script-src 'self' 'unsafe-inline' blob: 'wasm-unsafe-eval'",
        "style-src 'self' 'unsafe-inline'",
        "img-src 'self' data: blob:",
        "font-src 'self' data:",
        "connect-src 'self'",
        "object-src 'none'",
        "base-uri 'self'",
    ]
)

# One icon of Font Awesome's script: its name, width and height, further names, character, outline.
ICON = re.compile(r'(?:"([\w-]+)"|(\w+)):\[\d+,\d+,\[([^\]]*)\],"[0-9a-f]+",(?:"[^"]*"|\[[^\]]*\])\],?')


def add_policy(app, pagename, templatename, context, doctree):
    tag = f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
    context["metatags"] = f"{tag}\n{context.get('metatags') or ''}"


def load_pictures_late(app, pagename, templatename, context, doctree):
    """Pictures are fetched when they come near the view: a long chapter opens at once on a phone."""
    if "body" in context:
        context["body"] = re.sub(r"<img (?![^>]*loading=)", '<img loading="lazy" ', context["body"])


def keep_icons_in_use(app, exception):
    """Font Awesome's two thousand icons weigh more than all the rest of a page, and the site shows some fifteen."""
    static = Path(app.outdir) / "_static"
    library = static / "scripts" / "fontawesome.js"
    if exception or not library.exists():
        return
    sources = [*Path(app.outdir).rglob("*.html"), *(p for p in static.rglob("*.js") if p != library)]
    used = {name for path in sources for name in re.findall(r"\bfa-([\w-]+)", path.read_text("utf8"))}

    def kept(icon: re.Match) -> str:
        names = {icon[1] or icon[2], *re.findall(r'"([\w-]+)"', icon[3])}
        return icon[0] if names & used else ""

    library.write_text(ICON.sub(kept, library.read_text("utf8")), "utf8")


class InstallCommand(SphinxDirective):
    """The pip command that installs bitlib, with the repository's address of _config.yml."""

    def run(self):
        url = self.config.html_theme_options["repository_url"]
        return [nodes.literal_block("", f"pip install git+{url}", language="bash")]


def setup(app):
    app.connect("html-page-context", add_policy)
    app.connect("html-page-context", load_pictures_late)
    app.connect("build-finished", keep_icons_in_use)
    app.add_directive("install-command", InstallCommand)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
