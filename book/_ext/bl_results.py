"""Numbers and figures on pages, read from results/*.json so that none are typed by hand.

{result}`digits finetune 5` writes the mean and standard deviation of a cell; ```{few-shot-figure} digits``` draws all
cells, as the notebooks do.
"""

import json
import statistics
from pathlib import Path

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from bitlib import suite
from bitlib.course import plots
from bitlib.course.bench import best_rows, paired
from bitlib.course.protocol import spoken

RESULTS = Path(__file__).resolve().parent.parent.parent / "results"


def load(env, name):
    path = RESULTS / f"{name}.json"
    env.note_dependency(str(path))
    return json.loads(path.read_text("utf8"))


def summary(values):
    """(mean, sample standard deviation) in per cent."""
    percent = [100 * v for v in values]
    return statistics.fmean(percent), statistics.stdev(percent) if len(percent) > 1 else 0.0


def result(name, rawtext, text, lineno, inliner, options=None, content=None):
    """The value at a path of words: the file, then keys or list indices. A list of accuracies becomes "mean ± deviation %".

    With a leading %, a number from 0 to 1 is written in per cent.
    """
    percent = text.startswith("%")
    file, *keys = text.removeprefix("%").split()
    value = load(inliner.document.settings.env, file)
    for key in keys:
        value = value[int(key) if isinstance(value, list) else key]
    if isinstance(value, list):
        shown = "{:.1f} ± {:.1f} %".format(*summary(value))
    elif percent:
        shown = f"{100 * value:.1f} %"
    else:
        shown = f"{value:,}" if isinstance(value, int) else f"{value:g}" if isinstance(value, float) else str(value)
    return [nodes.Text(shown)], []


class FewShotFigure(SphinxDirective):
    """Accuracy against shots (or the file's "axis") for all methods in results/NAME.json; the content is the caption."""

    required_arguments = 1
    has_content = True

    def run(self):
        data = load(self.env, self.arguments[0])
        self.env.note_dependency(plots.__file__)
        shown = plots.measured(data).caption("", alt=in_words(data)).html()
        figure = nodes.figure("", nodes.raw("", shown, format="html"), classes=["bl-figure"])
        figure += nodes.caption("", "", *self.state.inline_text(" ".join(self.content), self.lineno)[0])
        return [figure]


def in_words(data):
    """The figure in words, for readers who cannot see it."""
    lines = (
        f"{label}: " + ", ".join(f"{summary(data[key][str(s)])[0]:.0f} at {s}" for s in data["shots"])
        for key, label in data["methods"].items()
    )
    return f"Test accuracy in per cent against {data.get('axis', 'training images per class')}. {'; '.join(lines)}."


def table_of(rows):
    """A table node; the first row is the head. Cells are texts or inline nodes."""
    table, group = nodes.table(classes=["bl-results"]), nodes.tgroup(cols=len(rows[0]))
    group += [nodes.colspec(colwidth=1) for _ in rows[0]]

    def line(cells):
        cells = [cell if isinstance(cell, nodes.Node) else nodes.Text(cell) for cell in cells]
        return nodes.row("", *(nodes.entry("", nodes.paragraph("", "", cell)) for cell in cells))

    group += [nodes.thead("", line(rows[0])), nodes.tbody("", *map(line, rows[1:]))]
    table += group
    return table


class ResultTable(SphinxDirective):
    """All cells of results/NAME.json: a row per method, a column per number of shots (titles: the file's "column")."""

    required_arguments = 1
    corner = "test accuracy (%)"

    def run(self):
        data = load(self.env, self.arguments[0])
        shots = [str(s) for s in data["shots"]]
        heads = [self.corner, *(data.get("column", "{}-shot").format(s) for s in shots)]
        return [table_of([heads, *([label, *(self.cell(data, m, s) for s in shots)] for m, label in data["methods"].items())])]

    def cell(self, data, method, column):
        return "{:.1f} ± {:.1f}".format(*summary(data[method][column])) if column in data[method] else "–"


class ChosenTable(ResultTable):
    """The same for the settings that the search has chosen."""

    corner = "chosen"

    def cell(self, data, method, column):
        return spoken(data["chosen"][method][column])


class SuiteTable(SphinxDirective):
    """The accuracy of a model of results/NAME.json, as measured by bitlib.suite, on every task, group and the whole suite."""

    required_arguments = 2

    def run(self):
        name, model = self.arguments
        return [table_of(suite_rows(load(self.env, name), model))]


def suite_rows(record, model):
    """Head and rows of the table for one model; bold for groups and the suite, and at the end what was chosen."""
    fine, scratch = (record["accuracy"][suite.title(model, way)] for way in suite.WAYS)
    means = [suite.scores(accuracy) for accuracy in (fine, scratch)]

    def row(name, chance, one, other, bold=False):
        cells = [
            suite.mean_and_interval([100 * v for v in values]) for values in (one, other, [a - b for a, b in zip(one, other)])
        ]
        texts = [f"{mean:{sign}.1f} ± {half:.1f}" for (mean, half), sign in zip(cells, ("", "", "+"))]
        return [nodes.strong(text, text) if bold else text for text in (name, chance, *texts)]

    rows = [["test accuracy (%)", "guessing", *suite.WAYS, "difference"]]
    for group in suite.GROUPS:
        tasks = {name: about for name, about in record["tasks"].items() if about["group"] == group}
        rows += [
            row(name.removeprefix("suite/"), f"{100 / about['classes']:.1f}", fine[name], scratch[name])
            for name, about in tasks.items()
        ]
        rows += [row(group, "", means[0][group], means[1][group], bold=True)]
    chosen = [spoken(record["chosen"][suite.title(model, way)]) for way in suite.WAYS]
    return [*rows, row("all tasks", "", means[0]["all"], means[1]["all"], bold=True), ["chosen", "", *chosen, ""]]


class BenchTable(SphinxDirective):
    """A table with ratios for each case in results/NAME.json, as written by benchmarks/speed.py."""

    required_arguments = 1

    def run(self):
        return [node for case in load(self.env, self.arguments[0])["cases"] for node in bench_case(case)]


BENCH_RIVALS = {"timm": "timm BiT", "batch norm": "torchvision"}


def bench_rows(case):
    """The rows of a case. Older files have a single memory format per contestant, and only its median speed."""
    for row in case["rows"]:
        if "speeds" not in row:
            speeds = row["seconds"] and [row["images_per_second"]]
            row |= {"layout": "images per second", "batch_size": case["batch_size"], "speeds": speeds}
    return case["rows"]


def bench_case(case):
    """Heading and table of a case: for each contestant its speed in each memory format, and ratios of the faster formats."""
    rows = bench_rows(case)
    best, layouts = best_rows(rows), list(dict.fromkeys(row["layout"] for row in rows))
    found = {
        title: next((best[name] for name in best if name.startswith(start)), None) for title, start in BENCH_RIVALS.items()
    }
    rivals = {title: row for title, row in found.items() if row}
    memory, each = any(row["memory"] for row in rows), case["batch_size"] is None
    heads = ["", *layouts, *(f"ratio to {title}" for title in rivals), *["batch"] * each, *["MiB"] * memory]
    words = [
        "Training" if case["mode"] == "train" else "Inference",
        f"{case['side']} px",
        "each at its best batch size" if each else f"batch {case['batch_size']}",
        case["precision"],
        *(["compiled"] if case["compiled"] else []),
    ]

    def speed(row, chosen):
        if row is None or not row["speeds"]:
            return "–" if row is None else "out of memory"
        text = f"{statistics.median(row['speeds']):.4g}"
        return nodes.strong(text, text) if row is chosen and len(layouts) > 1 else text

    def ratio(row, rival):
        middle, low, high = paired(row["speeds"], rival["speeds"])
        return f"{middle:.2f}" + (f" ({low:.2f}–{high:.2f})" if low else "")

    lines = [heads]
    for name in dict.fromkeys(row["contestant"] for row in rows):
        own = {row["layout"]: row for row in rows if row["contestant"] == name}
        cells = [name, *(speed(own.get(layout), best.get(name)) for layout in layouts)]
        if row := best.get(name):
            cells += [ratio(row, rival) for rival in rivals.values()]
            cells += [str(row["batch_size"])] * each + [f"{row['memory'] / 2**20:.0f}" if row["memory"] else "–"] * memory
        lines.append([*cells, *[""] * (len(heads) - len(cells))])
    return [nodes.rubric("", ", ".join(words)), table_of(lines)]


class GpuResults(SphinxDirective):
    """The results of `make gpu` in results/NAME: a line per check, then the speed tables; a note if there are none."""

    required_arguments = 1

    def run(self):
        folder = RESULTS / self.arguments[0]
        self.env.note_dependency(str(folder))
        records = [load(self.env, f"{self.arguments[0]}/{path.stem}") for path in sorted(folder.glob("*.json"))]
        if not records:
            return [nodes.paragraph("", "Not yet measured: no GPU was available.")]
        where = dict.fromkeys(f"{r['device']}, PyTorch {r['torch']}, commit {r['commit']}" for r in records)
        items = nodes.bullet_list()
        for r in records:
            if "cases" not in r["figures"]:
                items += nodes.list_item("", nodes.paragraph("", f"{r['part']}: {r['figures']['summary']}"))
        tables = [node for r in records for case in r["figures"].get("cases", ()) for node in bench_case(case)]
        return [nodes.paragraph("", f"Measured on {'; '.join(where)}."), *([items] if items.children else []), *tables]


class BenchParts(SphinxDirective):
    """The parts of a run that results/NAME.json times separately."""

    required_arguments = 1

    def run(self):
        items = nodes.bullet_list()
        for name, part in load(self.env, self.arguments[0])["parts"].items():
            median, low, high = (1000 * s for s in part["seconds"])
            items += nodes.list_item("", nodes.paragraph("", f"{name}: {median:.0f} ms ({low:.0f}–{high:.0f})"))
        return [items]


def setup(app):
    app.add_role("result", result)
    app.add_directive("few-shot-figure", FewShotFigure)
    app.add_directive("result-table", ResultTable)
    app.add_directive("chosen-table", ChosenTable)
    app.add_directive("suite-table", SuiteTable)
    app.add_directive("bench-table", BenchTable)
    app.add_directive("bench-parts", BenchParts)
    app.add_directive("gpu-results", GpuResults)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
