"""The plan of chapter 16: what it decides, and official runs all through, with files of the official layout from a server."""

import json
import resource
import signal
from dataclasses import replace
from pathlib import Path

import nbformat
import pytest
import torch
from conftest import toy_task
from test_verify import spread

import bitlib
from bitlib import UserError, create_model, save_npz
from bitlib import data as data_module
from bitlib import weights as weights_module
from bitlib.course import real
from bitlib.course.explore.cost import account, needed
from bitlib.course.real import LocalServer, Plan, checkpoint, run_plan, what_to_run
from bitlib.device import pick_precision
from bitlib.download import download
from bitlib.resnet import ARCHS, Arch
from bitlib.verify import Claim, verify

ROOT = Path(__file__).resolve().parent.parent
QUICK = (("batch_size", 4), ("base_lr", 0.001), ("steps", 3), ("resolution", (40, 32)))
TOYS = {name: toy_task(train=48, classes=3, seed=i) for i, name in enumerate(("cifar10", "flowers102", "pets"))}


def never(url: str) -> bool:
    raise AssertionError("no server should be asked")


def test_without_a_gpu_no_server_is_asked():
    plan = what_to_run(gpu=False, reach=never)
    assert not plan.official and "no GPU" in plan.why
    assert len(plan.jobs) == 18 and not any(job.official for job in plan.jobs)


def test_with_a_gpu_and_no_network_it_says_so(monkeypatch):
    plan = what_to_run(gpu=True, reach=lambda url: False)
    assert not plan.official and "nor a network" in plan.why
    # Weights that are there already need none.
    monkeypatch.setattr(real, "is_cached", lambda name: name == real.OFFICIAL)
    assert what_to_run(gpu=True, reach=never).official


def test_a_server_that_is_down_cannot_be_reached():
    with LocalServer(b"x") as server:
        assert real.can_reach(url := server.url("w.npz"))
    assert not real.can_reach(url, 1) and not real.can_reach("not an address")


def test_the_official_runs_and_their_published_figures():
    plan = what_to_run(7, gpu=True, reach=lambda url: True)
    official = [job for job in plan.jobs if job.official]
    assert plan.official and plan.minutes == 7 and len({real._slug(job) for job in official}) == len(official) == 21
    assert [(job.network, job.shots) for job in official[:4]] == [(real.OFFICIAL, k) for k in (1, 5, 10)] + [
        (real.BATCH_NORM, 1)
    ]
    told = {(job.task, job.shots): job.published for job in official if job.network == real.OFFICIAL}
    assert told["cifar10", 1] == "57.9 (45.8 to 65.7)" and told["cifar10", 5] == "82.3 (80.3 to 84.9)"
    assert told["cifar10", None] == "97.4" and told["cifar10", 10] == "none" and told["pets", None] == "94.5 (R152x4)"
    rule = real.rule_for(plan, TOYS["cifar10"])
    assert (rule.batch_size, rule.base_lr, rule.total_steps, rule.crop) == (128, 0.001, 500, 128)


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """(an official plan with a tiny R50x1 and toy benchmarks, the server of its weights)."""
    monkeypatch.setitem(ARCHS, "R50x1", Arch((1, 1, 1, 1), 8, 4))
    monkeypatch.setenv("BITLIB_HOME", str(tmp_path / "home"))
    real_load = data_module.load_task

    def load(name, shots=None, seed=0, skip_bad=False):
        if name not in TOYS:
            return real_load(name, shots, seed, skip_bad)
        return TOYS[name] if shots is None else TOYS[name].few_shot(shots, seed)

    monkeypatch.setattr(real, "load_task", load)
    monkeypatch.setattr(data_module, "load_task", load)
    save_npz(spread(create_model("R50x1", 7)), tmp_path / "w.npz")
    with LocalServer((tmp_path / "w.npz").read_bytes()) as server:
        monkeypatch.setattr(weights_module, "OFFICIAL_URL", server.url("{name}.npz"))
        plan = what_to_run(gpu=True)
        official = tuple(job for job in plan.jobs if job.network == real.OFFICIAL)
        official = (*official[:3], *(job for job in official if not job.shots))
        yield replace(plan, jobs=official[:6], rule=QUICK, device="cpu"), server


def test_all_through_and_a_second_time_from_the_folder(tiny, monkeypatch):
    plan, server = tiny
    server.requests.clear()
    server.cut_after = 100_000
    board = run_plan(plan, real.Board(), progress=False)
    assert server.requests == [None, "bytes=100000-"], [result.why for result in board.results]
    assert all(result.found for result in board.results), [result.why for result in board.results]
    assert all(result.macs > 0 and result.seconds > 0 and result.peak is None for result in board.results)
    assert [result.images for result in board.results] == [3, 15, 30, 48, 48, 48]
    said = board.table().text
    assert "57.9 (45.8 to 65.7)" in said and "99.3 (R152x4)" in said and said.count("\n") == 6
    left = {path.name for path in plan.folder.iterdir()}
    assert len(left) == 12 and not any((plan.folder / name).is_dir() for name in left)  # the weights are gone

    monkeypatch.setattr(real, "finetune", never)
    again = run_plan(plan, real.Board(), progress=False)
    for one, other in zip(board.results, again.results):
        assert one.found.logits.equal(other.found.logits) and one.seconds == other.seconds
    # Other settings are other runs, and a damaged file is no result.
    assert real._stored(replace(plan, rule=(("batch_size", 8),)), plan.jobs[0]) is None
    (plan.folder / f"{real._slug(plan.jobs[0])}.safetensors").write_bytes(b"cut short")
    assert real._stored(plan, plan.jobs[0]) is None


def test_interrupted_it_keeps_what_is_done_and_resumes(tiny, monkeypatch):
    plan, _ = tiny
    loops, finetune = [], real.finetune

    def once(model, task, rule, seed, loop):
        loops.append(loop)
        if len(loops) == 2:
            raise KeyboardInterrupt
        return finetune(model, task, rule, seed, loop)

    monkeypatch.setattr(real, "finetune", once)
    board = real.Board()
    with pytest.raises(KeyboardInterrupt):
        run_plan(plan, board, progress=False)
    assert len(board.results) == 1
    board = run_plan(plan, real.Board(), progress=False)
    assert len(board.results) == len(plan.jobs) and len(loops) == len(plan.jobs) + 1  # the first was not run again
    assert all(loop.resume and Path(loop.out).parent == plan.folder and loop.checkpoint_every for loop in loops)
    assert loops[1].out == loops[2].out


def test_the_other_network_is_trained_by_the_same_rule(tiny, monkeypatch):
    plan, _ = tiny
    jobs = [job for job in what_to_run(gpu=True, reach=lambda url: True).jobs if job.network == real.BATCH_NORM]
    arch = Arch((1, 1, 1, 1), 8, 4, norm="bn", standardize=False)
    monkeypatch.setattr(real, "create_model", lambda name, classes, pretrained: bitlib.ResNetV2(arch, classes))
    board = run_plan(replace(plan, jobs=(*jobs[:1], plan.jobs[0])), real.Board(), progress=False)
    assert all(result.found for result in board.results) and board.results[0].job.published == "–"
    assert real.BATCH_NORM in board.table().text and board.most_real().job.network == real.OFFICIAL
    assert len(list(plan.folder.glob("*.json"))) == 2


def test_what_would_not_end_in_time_waits(tiny):
    plan, _ = tiny
    board = run_plan(replace(plan, minutes=1e-9), real.Board(), progress=False)
    # The first one is run, because without it nothing can be predicted.
    assert board.results[0].found and not any(result.found for result in board.results[1:])
    assert "not run: about 0 minutes, and 0 are left" in board.results[-1].why
    half = real.Result(plan.jobs[0], seconds=60, macs=100)
    assert real.predicted(50, [half]) == pytest.approx(0.5) and real.predicted(50, []) is None


def test_a_full_disk_stops_one_run_and_not_the_chapter(tiny):
    plan, server = tiny
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
    try:
        board = run_plan(plan, real.Board(), progress=False)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert all("no space left" in result.why for result in board.results) and "no space left" in board.table().text
    assert all(result.found for result in run_plan(plan, real.Board(), progress=False).results)


def test_a_wrong_checksum_and_a_lost_network_are_told_in_their_rows(tiny):
    plan, server = tiny
    server.honest = False
    board = run_plan(replace(plan, jobs=plan.jobs[:1]), real.Board(), progress=False)
    assert "its MD5 is" in board.results[0].why and "server states" in board.table().text
    server.__exit__()
    board = run_plan(replace(plan, jobs=plan.jobs[:1]), real.Board(), progress=False)
    assert "cannot reach" in board.results[0].why
    server.__enter__()


def test_parts_are_those_that_the_figure_predicts(tiny, monkeypatch):
    plan, _ = tiny
    loops, finetune = [], real.finetune
    monkeypatch.setattr(real, "finetune", lambda *given: (loops.append(given[-1]), finetune(*given))[1])
    bits = 32 if pick_precision("auto", torch.device("cpu")) == "fp32" else 16
    found = account(ARCHS["R50x1"], 32, 3, bits)
    fixed = sum(needed(found, 0, 64, bits).values())
    card = (fixed + 8.5 * found["image"]) / 0.9e9  # eight images at once, where the batch has 64
    rule = (("batch_size", 64), ("steps", 1), *QUICK[3:])
    run_plan(replace(plan, jobs=plan.jobs[:1], card=card, rule=rule), real.Board(), progress=False)
    assert loops[0].micro_batches == 8


def test_checkpoint_says_where_it_stands(tiny, tmp_path, monkeypatch):
    plan, server = tiny
    laptop = replace(plan, official=False)
    monkeypatch.setattr(real, "reference", lambda path=None: None)
    assert "not yet" in checkpoint(laptop).text and "97.61" in checkpoint(laptop).text
    monkeypatch.undo()
    monkeypatch.setitem(ARCHS, "bitsy", Arch((1, 1, 1, 1), 8, 4))
    save_npz(spread(create_model("bitsy", 10)), tmp_path / "c.npz")
    pixels = torch.randint(0, 256, (12, 3, 32, 32), generator=torch.Generator().manual_seed(0)).byte()
    images = bitlib.data.ArrayImages(pixels, torch.zeros(12, dtype=torch.long))
    monkeypatch.setattr("bitlib.verify.cifar10_test", lambda: images)
    monkeypatch.setattr(weights_module, "OFFICIAL_URL", server.url("{name}.npz"))
    monkeypatch.setenv("BITLIB_HOME", str(tmp_path / "home"))
    what = Claim("bitsy-CIFAR10", "bitsy", 10, 32)
    server.body = (tmp_path / "c.npz").read_bytes()
    shown = checkpoint(plan, what, progress=False).text
    assert "as published" in shown and "no" in shown and "of 12 images" in shown
    assert json.loads((plan.folder / "verified.json").read_text())["images"] == 12
    monkeypatch.setattr(real, "verify", never)
    assert checkpoint(plan, what, progress=False).text == shown  # not done twice
    (plan.folder / "verified.json").unlink()
    monkeypatch.setattr(real, "verify", verify)
    server.__exit__()
    assert "cannot reach" in checkpoint(plan, replace(what, name="another"), progress=False).text
    server.__enter__()


def test_the_server_to_practise_on(tmp_path):
    old, new = bytes(range(256)) * 400, bytes(reversed(range(256))) * 400
    with LocalServer(old) as server:
        server.cut_after, server.changes_to = 50_000, new
        assert download(server.url("f"), tmp_path / "f", progress=False).read_bytes() == new
        server.honest = False
        with pytest.raises(UserError, match="server states"):
            download(server.url("f"), tmp_path / "g", progress=False)
        assert not (tmp_path / "g").exists()


def test_two_official_files_stuck_together_are_refused(tmp_path):
    """As the chapter says: a zip archive holds a checksum of every entry."""
    arch, halves = Arch((1, 1, 1, 1), 8, 4), []
    for seed in (1, 2):
        save_npz(spread(bitlib.ResNetV2(arch, 7), seed), tmp_path / "w.npz")
        halves.append((tmp_path / "w.npz").read_bytes())
    one, two = halves
    assert len(one) == len(two)
    (tmp_path / "w.npz").write_bytes(one[: len(one) // 2] + two[len(two) // 2 :])
    with pytest.raises(UserError, match="not a readable weight file .*CRC"):
        bitlib.load_npz(bitlib.ResNetV2(arch, 7), tmp_path / "w.npz")


def test_every_cell_of_the_chapter_runs_with_official_weights(tiny, monkeypatch, capsys):
    """The same cells as everywhere: stand-ins as on a laptop, and official runs on toys behind them."""
    from IPython.core.interactiveshell import InteractiveShell

    plan, server = tiny
    whole = replace(plan, jobs=(*real.stand_ins(), *plan.jobs))
    monkeypatch.setattr(real, "what_to_run", lambda minutes=40: whole)
    # The rest of the chapter speaks of the real architecture.
    monkeypatch.setitem(ARCHS, "R50x1", Arch((3, 4, 6, 3), 64))
    monkeypatch.setitem(ARCHS, "bitsy", Arch((1, 1, 1, 1), 8, 4))
    monkeypatch.setattr(real, "checkpoint", lambda plan: real.table(["tested", ""], [["above", ""]]))
    official = weights_module._official
    tiny_arch = {real.OFFICIAL: replace(official()[real.OFFICIAL], arch=ARCHS["bitsy"])}
    monkeypatch.setattr(weights_module, "_official", lambda: official() | tiny_arch)
    shell = InteractiveShell.instance()
    cells = nbformat.read(ROOT / "notebooks" / "16_the_real_bit.ipynb", 4).cells
    for cell in cells:
        if cell.cell_type == "code":
            done = shell.run_cell(cell.source)
            assert done.success, cell.source
    board = shell.user_ns["board"]
    assert all(result.found for result in board.results) and len(board.results) == 24
    assert shell.user_ns["shown"].job.official
    InteractiveShell.clear_instance()


def test_plans_are_frozen():
    with pytest.raises(AttributeError):
        Plan("why", (), False, Path()).minutes = 3
