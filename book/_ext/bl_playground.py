"""The page on which readers train a head in the browser: the network as ONNX, the digits, and the page's HTML.

Generated files go to _build/made/playground; network and digits are regenerated when the weights or the exporter change.
"""

import base64
import hashlib
import json
from pathlib import Path

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).resolve().parent.parent.parent
MADE = ROOT / "_build" / "made" / "playground"
MODEL, SIDE = "glyphs-L", 32
PARTS = Path(__file__).parent / "playground.html"
KIT = ROOT / "bitlib" / "course" / "explorables" / "kit.mjs"  # the page's modules import it from their own folder


def made_from() -> str:
    """A hash that changes with the weights, the exporter and the results on digits."""
    parts = [
        ROOT / "bitlib" / "pretrained" / f"{MODEL}.safetensors",
        ROOT / "bitlib" / "export.py",
        ROOT / "bitlib" / "norm.py",
        ROOT / "results" / "digits.json",
        Path(__file__),
    ]
    return hashlib.sha256(b"".join(hashlib.sha256(p.read_bytes()).digest() for p in parts)).hexdigest()


def make(app):
    MADE.mkdir(parents=True, exist_ok=True)
    (MADE / "kit.mjs").write_text(KIT.read_text("utf8"), "utf8")
    stamp, mark = MADE.parent.parent / "playground.made_from", made_from()
    if stamp.exists() and stamp.read_text() == mark:
        return
    from bitlib import create_model, load_task
    from bitlib.data.task import few_shot_indices
    from bitlib.export import export_onnx

    export_onnx(create_model(MODEL, pretrained=True), MADE / "features.onnx", SIDE, features=True, half=True)
    task = load_task("digits")
    splits = {
        name: {"images": base64.b64encode(split.images[:, 0].numpy().tobytes()).decode(), "labels": split.labels.tolist()}
        for name, split in (("train", task.train), ("test", task.test))
    }
    # For every k, the first k of a class are the k-shot subset of that seed.
    orders = [few_shot_indices(task.train.labels, 25, seed).view(10, 25).tolist() for seed in range(5)]
    results = json.loads((ROOT / "results" / "digits.json").read_text("utf8"))
    content = {**splits, "orders": orders, "curve": {"accuracy": results["linear_probe"]}}
    (MADE / "digits.json").write_text(json.dumps(content, separators=(",", ":")))
    stamp.write_text(mark)


class Playground(SphinxDirective):
    def run(self):
        # Sphinx copies them only if it writes the page.
        for source in (PARTS, KIT, *(ROOT / "book" / "static" / "playground").iterdir()):
            self.env.note_dependency(str(source))
        return [nodes.raw("", PARTS.read_text("utf8"), format="html")]


def add_script(app, pagename, templatename, context, doctree):
    if 'class="bl-playground' in context.get("body", ""):
        app.add_js_file("playground/playground.mjs", type="module")
        app.add_css_file("explorables.css")


def setup(app):
    app.connect("builder-inited", make)
    app.connect("html-page-context", add_script)
    app.add_directive("playground", Playground)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
