"""What the pages say in words about results/*.json, held against the files: sentences are not read from them."""

import importlib
import itertools
import json
import math
from pathlib import Path
from statistics import fmean, median, stdev

import pytest

from bitlib import create_model, list_models, model_info
from bitlib.suite import mean_and_interval

RESULTS = Path(__file__).resolve().parent.parent / "results"


def load(name: str) -> dict:
    return json.loads((RESULTS / f"{name}.json").read_text("utf8"))


def means(data: dict, method: str) -> dict[int, float]:
    return {int(shots): fmean(values) for shots, values in data[method].items()}


@pytest.mark.parametrize("name", ["digits", "digits_scales", "cifar10", "cifar10_scales"])
def test_every_cell_has_five_draws(name):
    data = load(name)
    assert data["seeds"] == [0, 1, 2, 3, 4] and data["commit"] and data["torch"] and data["device"]
    for method in data["methods"]:
        assert list(data[method]) == [str(s) for s in data["shots"]]
        assert all(len(values) == 5 and all(0 <= v <= 1 for v in values) for values in data[method].values())


WITH, WITHOUT = ("finetune", "linear_probe", "probe_finetune"), ("scratch", "pixels")


def test_landing_page_what_starts_from_characters_is_ahead():
    data = load("digits")
    assert list(data["methods"]) == [*WITH, *WITHOUT]  # "three start from", "one gives", "one uses no network"
    for k in data["shots"]:
        assert min(means(data, m)[k] for m in WITH) > max(means(data, m)[k] for m in WITHOUT)


def test_results_page_on_digits():
    data = load("digits")
    with_, without = ([means(data, m) for m in methods] for methods in (WITH, WITHOUT))
    lead = [with_[0][k] - max(m[k] for m in without) for k in data["shots"]]
    assert lead == sorted(lead, reverse=True) and lead[-1] > 0  # "shrinks as labels are added"
    assert all(abs(m[5] - without[0][25]) < 0.01 for m in with_)  # "about level"
    for k in data["shots"]:  # "five subsets do not tell them apart": no lead is much more than twice its standard error
        for group in (WITH, WITHOUT):
            for one, other in itertools.combinations(group, 2):
                lead = [a - b for a, b in zip(data[one][str(k)], data[other][str(k)])]
                assert abs(fmean(lead)) < 3.2 * stdev(lead) / 5**0.5
        assert max(m[k] for m in with_) - min(m[k] for m in with_) < 0.016
    assert without[1][1] > without[0][1] and all(without[0][k] > without[1][k] for k in (5, 10, 25))
    trials = {m: [[t["setting"] for t in found] for found in data["search"][m].values()] for m in data["methods"]}
    assert all(len(found) == 4 for method in trials.values() for found in method)  # "four trials"
    assert [s["c"] for s in trials["linear_probe"][0]] == [s["c"] for s in trials["pixels"][0]] == [0.001, 0.01, 0.1, 1]
    ends = {m: [int(k) for k, names in edge.items() if names] for m, edge in data["edge"].items()}
    assert {m: e for m, e in ends.items() if e} == {"linear_probe": [1, 5, 10, 25], "pixels": [25]}
    longest = max(s["steps"] for s in trials["scratch"][0])
    assert all(chosen["steps"] == longest for chosen in data["chosen"]["scratch"].values())
    rule = {key: data["recipe"][key] for key in ("base_lr", "steps")}
    assert all(rule in found for found in trials["finetune"])  # "one of the four trials"


def test_results_page_on_how_much_is_trained():
    data = load("transfer_map")
    assert all(len(cell) == data["n_seeds"] == 5 for scale in data["accuracy"] for row in scale for cell in row)
    for scale in data["accuracy"]:
        for column in zip(*scale):
            cells = [fmean(cell) for cell in column]
            assert max(cells) - min(cells) < 0.015  # "within a point and a half"


def test_results_page_on_cifar10():
    data = load("cifar10")
    tuned, probe, both, scratch = (means(data, m) for m in ("finetune", "linear_probe", "probe_finetune", "scratch"))
    assert all(0.025 < probe[k] - tuned[k] < 0.035 for k in tuned if k >= 5)  # "by about three points", "from five images on"
    assert all(0 < both[k] - probe[k] < 0.0105 for k in tuned)  # "in every column, by no more than a point"
    for k in data["probe_finetune"]:
        middle, half = mean_and_interval([a - b for a, b in zip(data["probe_finetune"][k], data["linear_probe"][k])])
        assert (middle > half) == (k != "5")  # "at five the interval holds zero"
    assert all(tuned[k] > scratch[k] + 0.1 for k in tuned)  # "the lead over random weights"
    assert tuned[5] - tuned[1] > 0.1  # "the steep rise"
    assert max(both[1], probe[1]) < 0.579 and max(both[5], probe[5]) < 0.823  # "so far below"
    lengths = [chosen["steps"] for chosen in data["chosen"]["scratch"].values()]
    assert set(lengths) == {150, 500} and lengths.count(500) > 3  # "mostly took the longer run"
    scales = load("cifar10_scales")
    order = [means(scales, m) for m in ("photos-S", "photos-M", "photos-L")]
    assert all(a[k] < b[k] for a, b in zip(order, order[1:]) for k in a if k >= 5)  # "more upstream data help"
    spread = max(stdev(scales[m]["10"]) for m in scales["methods"])
    assert min(b[10] - a[10] for a, b in zip(order, order[1:])) > spread


def test_results_page_on_sizes():
    big, small = (
        sum(p.numel() for n, p in create_model(m).named_parameters() if not n.startswith("head."))
        for m in ("R50x1", "photos-L")
    )
    assert big > 10 * small  # "more than ten times the weights"


def test_every_shipped_model_has_its_record():
    for name in (n for n in list_models() if not n.startswith("BiT-")):
        record = load(f"pretrain_{name}")
        card = model_info(name).path.with_suffix(".md").read_text("utf8")
        assert record["parameters"] == model_info(name).num_parameters
        assert f"{record['test']:.1%}" in card and f"{record['val']:.1%}" in card


def test_one_shot_spreads_further_than_five():
    """First chapter: "a spread at one shot that is many times the spread at five"."""
    tuned = load("digits")["finetune"]
    assert stdev(tuned["1"]) > 3 * stdev(tuned["5"])


@pytest.mark.parametrize("name", ["batch_size", "device_batch", "distillation", "cifar10_full"])
def test_every_cell_has_three_seeds_or_five_after_a_search(name):
    data = load(name)
    seeds = 5 if "search" in data else 3
    assert data["seeds"] == list(range(seeds)) and data["commit"] and data["torch"] and data["device"]
    for method in data["methods"]:
        assert list(data[method]) == [str(s) for s in data["shots"]]
        assert all(len(values) == seeds and all(0 <= v <= 1 for v in values) for values in data[method].values())


@pytest.mark.parametrize("name", ["norm_transfer", "freezing", "mixup", "mixup_rates", "soft_labels"])
def test_every_cell_beside_a_live_run_has_its_seeds(name):
    """Every arm was searched, with other subsets than the five that are reported."""
    data = load(name)
    assert data["search"] and data["seeds"] == list(range(5)) and data["commit"] and data["torch"] and data["device"]
    assert not set(data["seeds"]) & set(data["search_seeds"])
    for cell in data["cells"].values():
        assert all(len(values) == 5 and all(0 <= v <= 1 for v in values) for values in cell.values())


def test_chapter_on_freezing():
    """What chapter 7, its questions and its quiz say in words about results/freezing.json."""
    data = load("freezing")
    chosen, found = data["chosen"], {title: fmean(cell["accuracy"]) for title, cell in data["cells"].items()}
    for task, shots in {"digits": (1, 5, 80), "tiles": (5, 50)}.items():
        for k in shots:
            ways = {name: found[f"{task}, {name}, {k}-shot"] for name in ("head only", "stage 4 and head", "everything")}
            scratch = found[f"{task}, from scratch, {k}-shot"]
            assert min(ways.values()) > scratch if task == "digits" else max(ways.values()) < scratch
            trials = [trial["setting"]["steps"] for trial in data["search"][f"{task}, from scratch, {k}-shot"]]
            assert chosen[f"{task}, from scratch, {k}-shot"]["steps"] == max(trials)  # "the longer training won each time"
    for title, trials in data["search"].items():
        assert len(trials) == 4 and all(len(trial["validation"]) == 2 for trial in trials), title
    for k in (5, 50):  # the quiz: "no way of using `glyphs-L` reached what `photos-L` did frozen"
        best = max(found[f"tiles, {way}, {k}-shot"] for way in (*ways, "probe then everything"))
        assert found[f"tiles, photos-L, head only, {k}-shot"] > best
    rates = {way: chosen[f"tiles, {way}, 50-shot"]["base_lr"] for way in ("everything", "probe then everything")}
    assert rates == {"everything": 0.1, "probe then everything": 0.03}  # both the higher of the two that were tried
    assert fmean(data["cells"]["tiles, everything, 5-shot"]["training_accuracy"]) > 0.9  # "it is no lack of training"


def test_chapter_on_norms():
    """Sentences of chapter 4 and of the results page about small steps, few images per device, and a large batch."""
    steps, devices = load("batch_size"), load("device_batch")
    bn, gn, ws = (means(steps, m) for m in ("bn", "gn", "gn_ws"))
    assert max(bn, key=bn.get) == 16 and bn[64] - bn[2] > 0.1  # "holds out down to 16 and then collapses"
    assert max(t for trial in steps["search"]["bn"]["2"] for t in trial["validation"]) < 0.4  # "whichever of the four rates"
    assert min(gn[2], ws[2]) > bn[2] + 0.1
    assert min(gn, key=gn.get) == min(ws, key=ws.get) == 64  # "do better in small steps than in large ones"
    spread = means(devices, "bn")
    assert 0.55 < spread[64] < 0.65 and spread[2] < 0.25  # "from about six in ten right to fewer than one in four"
    assert steps["edge"]["bn"]["2"] and steps["edge"]["bn"]["4"]  # "in both it took the largest rate on offer"
    assert devices["chosen"]["bn"]["64"] != steps["chosen"]["bn"]["64"]  # "the two searches chose different rates"
    for size in ("64", "16"):  # "both took the largest rate on offer, by a hair"
        second, last = (fmean(trial["validation"]) for trial in devices["search"]["bn"][size][-2:])
        assert devices["edge"]["bn"][size] and 0 < last - second < 0.01
    for size in steps["gn"]:  # "gains nothing that five seeds can show"
        gain = [a - b for a, b in zip(steps["gn_ws"][size], steps["gn"][size])]
        assert abs(fmean(gain)) < 2.78 * stdev(gain) / 5**0.5
    large = {name: cell["accuracy"] for name, cell in load("large_batch")["cells"].items()}
    lost = [a > b for a, b in zip(large["group norm"], large["group norm, standardised"])]
    assert sum(lost) == 4  # "in four of the five seeds they even lose"
    batch, group = large["batch norm"], large["group norm"]
    lead = [a - b for a, b in zip(group, batch)]
    assert 0 < fmean(lead) < 2.78 * stdev(lead) / 5**0.5  # "behind on average, by too uncertain an amount to call"


def test_chapter_on_norms_and_transfer():
    """Sentences of chapter 4 about results/norm_transfer.json."""
    data = load("norm_transfer")
    group, batch = (data["cells"][f"{name}, steps of 2"]["accuracy"] for name in ("glyphs-L", "glyphs-L-bn"))
    leads = sorted(a - b for a, b in zip(group, batch))
    assert leads[-1] > sum(leads) / 2 and leads[0] < 0 < leads[1]  # "most of that comes from a single subset"
    ends = [name for name, edge in data["edge"].items() if edge]
    assert len(ends) == 2  # "two of the four arms chose the smallest rate on offer"
    for name in ends:
        (first, second), chosen = data["search"][name][:2], data["chosen"][name]
        assert chosen == first["setting"] and abs(fmean(first["validation"]) - fmean(second["validation"])) < 0.01


def test_results_page_on_the_default_with_few_images():
    data = load("default_few_shot")
    assert data["threads"] == 1  # "on one processor core"
    for found in data["data"].values():
        rows = found["ways"]["default"]
        assert len(rows) == 5 and all(row["method"] == "finetune" and row["seconds"] < 180 for row in rows)


def test_results_page_on_the_full_set():
    data = load("cifar10_full")
    tuned, mixed, scratch = (means(data, m) for m in ("finetune", "finetune_mixup", "scratch"))
    short, long = data["shots"]
    assert tuned[short] > scratch[long] + 0.1
    assert all(0.003 < tuned[steps] - mixed[steps] < 0.015 for steps in tuned)  # "costs about a point"
    assert long * data["batch_size"] < 2 * data["n_train"]  # "less than two passes"


def test_chapter_on_distillation():
    """Sentences of chapter 11 about the length of training."""
    data = load("distillation")
    fixed, matching = (means(data, m) for m in ("fixed", "funmatch"))
    behind = [fixed[steps] - matching[steps] for steps in sorted(fixed)]
    assert behind[0] > 0.02  # "in the shortest training, function matching is behind the fixed teacher"
    assert behind[0] - behind[-1] > 0.02  # "and in the longest it is closer"


def test_chapter_on_soft_labels():
    """Sentences of chapter 11, and of its questions, on what a student learns from and at which temperature."""
    data = load("soft_labels")
    accuracy = {way: cell["accuracy"] for way, cell in data["cells"].items()}
    for way in ("soft labels", "both"):
        lead = [a - b for a, b in zip(accuracy[way], accuracy["hard labels"])]
        assert sum(lead) > 0 and sum(gain < 0 for gain in lead) == 1  # "in the mean ahead, on one of the five subsets behind"
        assert data["chosen"][way]["temperature"] == 4  # "the search preferred T = 4"
    assert all(a > b for a, b in zip(accuracy["soft labels on all"], accuracy["hard labels"]))  # "gains on every subset"
    curve = {t: f"soft labels on all, T = {t}" for t in (1, 2, 4, 8)}
    on_test = {t: sum(accuracy[arm]) for t, arm in curve.items()}
    on_validation = {t: max(sum(trial["validation"]) for trial in data["search"][arm]) for t, arm in curve.items()}
    best = max(on_validation, key=on_validation.get)
    assert on_test[best] < max(on_test.values())  # "on the test images another has the best mean"
    assert [t for t, arm in curve.items() if not data["edge"][arm]] == [2]  # "except for T = 2, an end of the range"
    rates = [data["chosen"][arm]["base_lr"] for arm in curve.values()]
    assert rates == sorted(rates, reverse=True) and rates[0] > rates[-1]  # "they tend to choose smaller rates"
    assert accuracy[curve[1]] == accuracy["soft labels on all"]  # "repeats the runs"


def test_trained_again_it_is_as_good():
    first, again = load("pretrain_photos-L"), load("pretrain_photos-L_again")
    settings = ("task", "fingerprint", "seed", "arch", "steps", "batch_size", "lr", "weight_decay", "side", "precision")
    assert [first[k] for k in settings] == [again[k] for k in settings] and first["commit"] != again["commit"]
    assert abs(first["test"] - again["test"]) < 0.005  # half a point


def test_speed_page():
    """Sentences under the tables; every contestant by its faster memory format."""
    data = load("bench_cpu")
    assert data["rounds"] >= 10 and data["processor"] and len(data["parts"]) == 4
    for case in data["cases"]:
        speeds: dict[str, float] = {}
        for row in case["rows"]:
            speed = median(row["speeds"]) if "speeds" in row else row["images_per_second"]
            speeds[row["contestant"]] = max(speed, speeds.get(row["contestant"], 0))
        ours, rival = "bitlib R50x1", "torchvision ResNet-50 (BN)"
        if case["compiled"]:
            continue
        if case["mode"] == "train":
            assert max(speeds.values()) < 1.5 * min(speeds.values())  # "no network is far ahead of another"
            if case["precision"] == "fp32":  # "keeps more than batch norm does"
                memory = {row["contestant"]: row["memory"] for row in case["rows"]}
                assert memory[ours] > memory[rival]
        elif case["precision"] == "fp32":
            assert speeds[f"{ours}, folded"] > speeds[ours]  # "folded weights pay"
            compiled = speeds[f"{ours}, folded and compiled"]
            assert compiled > max(speeds[f"{ours}, folded"], speeds[rival])  # "pays again", "ahead of a batch-norm network"
            assert speeds.get(f"{rival}, compiled", math.inf) > compiled  # "and it leads again"


def bench_tables(doctree) -> list[list[list[str]]]:
    """Cells of every table, row by row, the heads first."""
    nodes = importlib.import_module("docutils.nodes")
    return [[[e.astext() for e in row.findall(nodes.entry)] for row in t.findall(nodes.row)] for t in doctree]


def test_tables_of_speeds(monkeypatch):
    """Both formats, the faster one counts, its ratio within each round; a network that does not fit; a file of the old kind."""
    monkeypatch.syspath_prepend(RESULTS.parent / "book" / "_ext")
    nodes = pytest.importorskip("docutils.nodes")
    bench_case = importlib.import_module("bl_results").bench_case

    def row(name, layout, speeds, size=8):
        return {
            "contestant": name,
            "layout": layout,
            "batch_size": size,
            "speeds": speeds,
            "memory": 3 << 20 if speeds else None,
            "tflops": 1.0,
        }

    slow = [1, 1, 2, 4, 1, 1]  # the machine, in each of six rounds
    rows = [
        row("bitlib R50x1", "channels last", [12.0 / s for s in slow], 64),
        row("bitlib R50x1", "contiguous", [9.0 / s for s in slow], 64),
        row("torchvision ResNet-50 (BN)", "channels last", [4.0 / s for s in slow], 128),
        row("torchvision ResNet-50 (BN)", "contiguous", [8.0 / s for s in slow], 32),
        row("huge", "contiguous", None),
    ]
    case = {"mode": "train", "side": 128, "batch_size": None, "precision": "bf16", "compiled": False}
    title, table = bench_case(case | {"rows": rows})
    assert title.astext() == "Training, 128 px, each at its best batch size, bf16"
    assert bench_tables([table]) == [
        [
            ["", "channels last", "contiguous", "ratio to batch norm", "batch", "MiB"],
            ["bitlib R50x1", "12", "9", "1.50 (1.50–1.50)", "64", "3"],
            ["torchvision ResNet-50 (BN)", "4", "8", "1.00 (1.00–1.00)", "32", "3"],
            ["huge", "–", "out of memory", "", "", ""],
        ]
    ]
    assert [bold.astext() for bold in table.findall(nodes.strong)] == ["12", "8"]
    old = {"contestant": "timm BiT R50x1", "seconds": [0.5, 0.4, 0.6], "images_per_second": 16.0, "memory": None}
    (_, table) = bench_case(case | {"batch_size": 8, "rows": [old]})
    assert bench_tables([table]) == [[["", "images per second", "ratio to timm"], ["timm BiT R50x1", "16", "1.00"]]]


def test_chapter_on_pretraining():
    """What it says in words beside its evidence."""
    data = load("upstream")
    cells, (few, _, many), (_, usual, long) = data["cells"], data["classes"], data["steps"]

    def cell(classes: int, width: int, steps: int, what: str = "5-shot") -> list[float]:
        return cells[f"{classes} characters, width {width}, {steps} steps"][what]

    for width in data["widths"]:
        at_usual = [fmean(cell(n, width, usual)) for n in data["classes"]]
        assert max(at_usual) == at_usual[0]  # "128 characters look best, at every width"
        for n in data["classes"]:  # "every cell gains from four times the steps"
            means = [fmean(cell(n, width, steps)) for steps in data["steps"]]
            assert means == sorted(means)
        equal_epochs = [fmean(cell(n, width, steps)) for n, steps in zip(data["classes"], data["steps"])]
        assert equal_epochs == sorted(equal_epochs)  # "all lines rise"
        gains = [fmean(cell(n, width, long)) - fmean(cell(n, width, usual)) for n in data["classes"]]
        assert max(gains) == gains[-1]  # "the cells with the most data gain most"
        assert max(cell(many, width, usual, "upstream")) < 0.05  # "next to nothing"
    for n in data["classes"]:  # "that width helps did show, at every size of the data"
        assert fmean(cell(n, 16, long)) > fmean(cell(n, 4, long)) + 0.03
    for steps in data["steps"]:  # "both signs": no telling whether the small network suffers more
        leads = [[a - b for a, b in zip(cell(many, width, steps), cell(few, width, steps))] for width in (4, 16)]
        wider = [b - a for a, b in zip(*leads)]
        assert min(wider) < 0 < max(wider)
    middle = cells[f"512 characters, width 8, {long} steps"]
    weak = cells["weight decay 1e-05"]
    differences = [a - b for a, b in zip(middle["upstream"], weak["upstream"])]
    assert min(differences) < 0 < max(differences)
    none = cells["batch of 256, rate times 16, no warm-up"]["upstream"]
    assert min(none) < 0.01 < 0.3 < max(none)  # "some of the five runs end where they began"
    assert all(r["lr"] == data["recipes"]["cosine"]["lr"] for name, r in data["recipes"].items() if "decay" in name)


def test_results_page_on_the_suite():
    """Twelve tasks in three groups of four, three seeds, four trials on six tasks for both ways."""
    data = load("suite")
    groups = [about["group"] for about in data["tasks"].values()]
    assert {group: groups.count(group) for group in groups} == dict.fromkeys(("natural", "specialised", "structured"), 4)
    assert data["seeds"] == [0, 1, 2] and not set(data["seeds"]) & set(data["search_seeds"]) and data["commit"]
    assert all(about["images"]["train"] == 1000 for about in data["tasks"].values())
    for arm in ("glyphs-L, fine-tuned", "glyphs-L, from scratch"):
        trials = data["search"][arm]
        assert len(trials) == 4 and data["chosen"][arm] in [trial["setting"] for trial in trials]
        searched = [*trials[0]["tasks"]]
        assert [data["tasks"][name]["group"] for name in searched] == [g for g in dict.fromkeys(groups) for _ in range(2)]
        assert all(len(values) == 3 for values in data["accuracy"][arm].values())


def test_chapter_on_the_hyperrule():
    """What it says in words about the suite."""
    tuned, scratch = (load("suite")["accuracy"][f"glyphs-L, {way}"] for way in ("fine-tuned", "from scratch"))
    leads = {name: [a - b for a, b in zip(tuned[name], scratch[name])] for name in tuned}
    halves = {name: mean_and_interval(values)[1] for name, values in leads.items()}
    open_ones = {name for name, values in leads.items() if fmean(values) > 0.03 and fmean(values) < halves[name]}
    assert open_ones == {"suite/terrain", "suite/scan", "suite/photographs"}  # "three seeds leave the matter open"
    assert all(abs(fmean(leads[name])) < 0.02 for name in ("suite/digits", "suite/sounds"))  # "nearly as well"
    low, high = (fmean(scratch["suite/matching"]) + sign * mean_and_interval(scratch["suite/matching"])[1] for sign in (-1, 1))
    assert low < 0.5 < high  # "a matter for a coin"
