"""Keep pages self-contained and light: no requests to other hosts, lazy images, and the repository's address from _config.yml.

Notebooks must be readable anywhere, so their links hold the website's full address, and badge and plots are images. On the
website the links become relative, the badge is drawn with CSS, and plots are inlined so that they follow the page's colours.
"""

import base64
import re
import textwrap
from html import escape
from pathlib import Path

from docutils import nodes
from sphinx.util import logging
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

# An icon in Font Awesome's script: name, width and height, other names, character, outline.
ICON = re.compile(r'(?:"([\w-]+)"|(\w+)):\[\d+,\d+,\[([^\]]*)\],"[0-9a-f]+",(?:"[^"]*"|\[[^\]]*\])\],?')


def add_policy(app, pagename, templatename, context, doctree):
    tag = f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
    context["metatags"] = f"{tag}\n{context.get('metatags') or ''}"


def describe(app, pagename, templatename, context, doctree):
    """What search engines and messengers show of a page: its title and its first paragraph of more than a few words."""
    texts = (" ".join(node.astext().split()) for node in doctree.findall(nodes.paragraph)) if doctree else ()
    first = next((text for text in texts if len(text) > 60), None)
    if first:
        short = escape(textwrap.shorten(first, 200, placeholder=" …"))
        title = escape(re.sub(r"<.*?>", "", context.get("title", "")))
        tags = f'<meta name="description" content="{short}"><meta property="og:description" content="{short}">'
        tags += f'<meta property="og:title" content="{title}"><meta property="og:type" content="article">'
        context["metatags"] += f"\n{tags}"


def say_the_licence(app, pagename, templatename, context, doctree):
    """The licence and how to cite, at the foot of every page."""
    how = context["pathto"]("book/how_to_use").rstrip("#") + "#how-to-cite"  # from the page itself it is "#"
    text = "The text is under CC BY 4.0, code and weights are under Apache 2.0."
    context["theme_extra_footer"] = f'<p>{text} <a href="{how}">How to cite this course</a></p>'


def load_pictures_late(app, pagename, templatename, context, doctree):
    """Load images only when they come near the viewport, so that a long chapter opens at once on a phone."""
    if "body" in context:
        context["body"] = re.sub(r"<img (?![^>]*loading=)", '<img loading="lazy" ', context["body"])


PLOT = re.compile(
    r'<picture class="bl-plot"><source [^>]*srcset="data:image/svg\+xml;base64,([^"]+)">'
    r'<img (?:loading="lazy" )?alt="([^"]*)"[^>]*src="data:image/svg\+xml;base64,([^"]+)"></picture>'
)


def open_plots(app, pagename, templatename, context, doctree):
    """Inline plots, which arrive as images with fixed colours, so that they take the page's colours."""

    def drawing(encoded: str, kind: str) -> str:
        svg = base64.b64decode(encoded).decode()
        svg = re.sub(r' width="[\d.]+" height="[\d.]+"><style>.*?</style>', ">", svg, count=1)
        return svg.replace("<svg ", f'<svg class="{kind}" aria-hidden="true" ', 1)

    def opened(match: re.Match) -> str:
        both = drawing(match[3], "bl-wide") + drawing(match[1], "bl-narrow")
        return f'<div class="bl-plot" role="img" aria-label="{match[2]}">{both}</div>'

    if "body" in context:
        context["body"] = PLOT.sub(opened, context["body"])


def reachable(app, pagename, templatename, context, doctree):
    """What scrolls sideways on a phone can be reached by keyboard, and a heading without words is none."""
    if "body" in context:
        body = re.sub(r'<th class="head"><p></p></th>', "<td></td>", context["body"])
        body = body.replace('<div class="math ', '<div tabindex="0" class="math ')
        context["body"] = body.replace(
            '<div class="pst-scrollable-table-container">', '<div class="pst-scrollable-table-container" tabindex="0">'
        )


def name_the_logo(app, exception):
    """The theme puts the title of the sidebar outside of every landmark; its section becomes one."""
    if exception:
        return
    for page in Path(app.outdir).rglob("*.html"):
        text = page.read_text("utf8")
        plain = '<div class="sidebar-primary-items__start sidebar-primary__section">'
        if plain in text:
            page.write_text(text.replace(plain, plain[:-1] + ' role="navigation" aria-label="This website">', 1), "utf8")


def site_address(repository: str) -> str:
    """The address of a repository's website on GitHub Pages."""
    owner, name = repository.rstrip("/").split("/")[-2:]
    return f"https://{owner}.github.io/{name}/"


def link_here(app, doctree, docname):
    """Make links to the website's own address relative. Warns if there is no such page."""
    address = site_address(app.config.html_theme_options["repository_url"])
    for link in doctree.findall(nodes.reference):
        if link.get("refuri", "").startswith(address):
            page, mark, place = link["refuri"].removeprefix(address).partition("#")
            target = page.removesuffix(".html") or "index"
            if target not in app.env.found_docs:
                logging.getLogger(__name__).warning("no page %s on this website", link["refuri"], location=link)
                continue
            link["refuri"] = app.builder.get_relative_uri(docname, target) + mark + place
            link["internal"] = True


def draw_badge(app, doctree):
    """Replace the badge "Open in Colab", an image on another host, with text that the style sheet draws as a badge."""
    for image in list(doctree.findall(nodes.image)):
        if image["uri"].endswith("/colab-badge.svg"):
            image.replace_self(nodes.inline("", "Open in Colab", classes=["bl-badge"]))


def keep_icons_in_use(app, exception):
    """Remove unused icons: Font Awesome's two thousand weigh more than the rest of a page, and the site shows some fifteen."""
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
    """The pip command that installs bitlib, with the repository's address from _config.yml."""

    def run(self):
        url = self.config.html_theme_options["repository_url"]
        return [nodes.literal_block("", f"pip install git+{url}", language="bash")]


def setup(app):
    app.connect("html-page-context", add_policy)
    app.connect("html-page-context", describe)
    app.connect("html-page-context", say_the_licence)
    app.connect("html-page-context", open_plots)
    app.connect("html-page-context", reachable)
    app.connect("build-finished", name_the_logo)
    app.connect("html-page-context", load_pictures_late)
    app.connect("doctree-read", draw_badge)
    app.connect("doctree-resolved", link_here)
    app.connect("build-finished", keep_icons_in_use)
    app.add_directive("install-command", InstallCommand)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
