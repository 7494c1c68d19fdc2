"""Every page forbids its browser to ask any other host, and knows the repository's address of _config.yml."""
import re

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

POLICY = "; ".join([
    "default-src 'self'", "script-src 'self' 'unsafe-inline' blob: 'wasm-unsafe-eval'", "style-src 'self' 'unsafe-inline'",
    "img-src 'self' data: blob:", "font-src 'self' data:", "connect-src 'self'", "object-src 'none'", "base-uri 'self'",
])


def add_policy(app, pagename, templatename, context, doctree):
    tag = f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
    context["metatags"] = f"{tag}\n{context.get('metatags') or ''}"


def load_pictures_late(app, pagename, templatename, context, doctree):
    """Pictures are fetched when they come near the view: a long chapter opens at once on a phone."""
    if "body" in context:
        context["body"] = re.sub(r"<img (?![^>]*loading=)", '<img loading="lazy" ', context["body"])


class InstallCommand(SphinxDirective):
    """The pip command that installs bitlib, with the repository's address of _config.yml."""

    def run(self):
        url = self.config.html_theme_options["repository_url"]
        return [nodes.literal_block("", f"pip install git+{url}", language="bash")]


def setup(app):
    app.connect("html-page-context", add_policy)
    app.connect("html-page-context", load_pictures_late)
    app.add_directive("install-command", InstallCommand)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
