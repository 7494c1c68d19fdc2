"""The loop: exact micro-batches, exact resume, saving on interruption, and saying what went wrong."""

import math
import os
import shutil
import signal
import threading
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from conftest import TINY, TINY_BN
from safetensors.torch import load_file

from bitlib import Loop, UserError
from bitlib.data.batches import ahead
from bitlib.data.sampling import generator_for
from bitlib.device import _say_slow, fast_16_bits, memory_format, pick_device, pick_precision
from bitlib.norm import standardized_convs
from bitlib.resnet import ResNetV2
from bitlib.trainer import AdamW, History, Interrupted, Sgd, read_checkpoint, save_checkpoint, settle, train


def batch(step: int):
    generator = generator_for("test", step)
    y = torch.randint(0, 3, (12,), generator=generator)
    x = torch.randn(12, 3, 16, 16, generator=generator) * 0.3
    x[torch.arange(12), y] += 0.5
    return x, y


def loss(model, x, y):
    return F.cross_entropy(model(x), y)


QUIET = Loop(precision="fp32", progress=False)


def sgd(steps: int = 6, **kwargs) -> Sgd:
    return Sgd(steps, lambda step: 0.05 / (1 + step), **kwargs)


SIX_STEPS = sgd()


def run(arch=TINY, seed: int = 0, *, batches=batch, loss=loss, sgd=SIX_STEPS, identity=None, evaluate=None, **options):
    model = ResNetV2(arch, 3, seed)
    history = train(model, batches, loss, sgd, Loop(**{"precision": "fp32", "progress": False, **options}), identity, evaluate)
    return model, history


def difference(a, b) -> float:
    return max((p - q).abs().max().item() for p, q in zip(a.state_dict().values(), b.state_dict().values()))


def test_it_learns_and_reports_every_step():
    _, history = run(sgd=sgd(30))
    steps, losses = history.column("loss")
    assert steps == tuple(range(30)) and losses[0] == pytest.approx(1.0986, abs=1e-3)  # log 3: the head starts at zero
    assert sum(losses[-5:]) / 5 < 0.7 * losses[0]
    assert [r["lr"] for r in history.rows[:3]] == [0.05, 0.025, 0.05 / 3]
    assert history.column("nothing") == ((), ())


def test_against_plain_pytorch():
    """Three steps written out with torch.optim, from the textbook."""
    ours, _ = run(sgd=sgd(3, weight_decay=1e-3))
    model = ResNetV2(TINY, 3, 0).train()
    velocity = {n: torch.zeros_like(p) for n, p in model.named_parameters()}
    for step in range(3):
        value = loss(model, *batch(step))
        gradients = torch.autograd.grad(value, list(model.parameters()))
        with torch.no_grad():
            for (name, p), g in zip(model.named_parameters(), gradients):
                velocity[name] = 0.9 * velocity[name] + g + 1e-3 * p
                p -= 0.05 / (1 + step) * velocity[name]
    assert difference(ours, model) < 1e-6


@pytest.mark.parametrize("parts", [2, 5, 12, 100])  # 5 does not divide 12
def test_micro_batches_are_exact(parts):
    whole, h1 = run()
    split, h2 = run(micro_batches=parts)
    assert difference(whole, split) < 2e-6
    assert h1.column("loss")[1] == pytest.approx(h2.column("loss")[1], abs=1e-6)


def test_micro_batches_are_not_exact_with_batch_norm():
    """Otherwise the test above could not fail."""
    assert difference(run(TINY_BN)[0], run(TINY_BN, micro_batches=4)[0]) > 1e-3


def test_same_seed_same_bits():
    assert difference(run()[0], run()[0]) == 0
    assert difference(run()[0], run(seed=1)[0]) > 0


@pytest.mark.parametrize("arch", [TINY, TINY_BN])
@pytest.mark.parametrize("stop", [1, 3, 5])
def test_killed_and_resumed_equals_uninterrupted(tmp_path, arch, stop):
    class Killed(Exception):
        pass

    def dying(step):
        if step == stop:
            raise Killed
        return batch(step)

    file = tmp_path / "checkpoint" / "state.safetensors"
    whole, h1 = run(arch)
    with pytest.raises(Killed):
        run(arch, batches=dying, out=tmp_path, checkpoint_every=1)
    resumed, h2 = run(arch, seed=7, out=tmp_path, resume=True)  # the seed of the weights no longer matters
    assert difference(whole, resumed) == 0
    assert h1.rows == h2.rows
    assert [p.name for p in file.parent.iterdir()] == ["state.safetensors"]


@pytest.mark.parametrize("stop", [1, 4])
def test_adamw_is_pytorchs_and_resumes_too(tmp_path, stop):
    adamw = AdamW(6, lambda step: 0.01 / (1 + step), weight_decay=0.1)
    whole, _ = run(sgd=adamw)
    model = ResNetV2(TINY, 3).train()
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.1)
    for step in range(6):
        optimizer.param_groups[0]["lr"] = adamw.lr(step)
        optimizer.zero_grad()
        loss(model, *batch(step)).backward()
        optimizer.step()
    assert difference(whole, model) < 1e-3  # of steps of 0.01; Adam enlarges what rounding does to tiny gradients
    run(sgd=replace(adamw, steps=stop), out=tmp_path, checkpoint_every=1)
    resumed, _ = run(seed=7, sgd=adamw, out=tmp_path, resume=True)
    assert difference(whole, resumed) == 0
    with pytest.raises(UserError, match="does not fit this network"):
        run(out=tmp_path, resume=True)  # by SGD, which remembers other things


def test_a_disk_that_fills_up_leaves_the_last_good_checkpoint(tmp_path):
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def filling(step):
        if step == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))  # no file may grow beyond this: as if it were full
        return batch(step)

    file = tmp_path / "checkpoint" / "state.safetensors"
    try:
        with pytest.raises(UserError, match="cannot write .*state.safetensors .*; free some space"):
            run(batches=filling, out=tmp_path, checkpoint_every=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [p.name for p in file.parent.iterdir()] == ["state.safetensors"]
    resumed, history = run(out=tmp_path, resume=True)
    assert difference(resumed, run()[0]) == 0 and len(history.rows) == 6


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_and_resume_goes_on(tmp_path, number):
    def interrupting(step):
        if step == 2:
            os.kill(os.getpid(), number)
        return batch(step)

    file, handler = tmp_path / "checkpoint" / "state.safetensors", signal.getsignal(number)
    with pytest.raises(Interrupted, match="after step 3; the state is in") as caught:
        run(batches=interrupting, out=tmp_path)
    assert caught.value.step == 3 and file.exists()
    assert signal.getsignal(number) is handler  # Python's own handling is back
    resumed, _ = run(out=tmp_path, resume=True)
    assert difference(resumed, run()[0]) == 0


def test_resume_with_other_settings_names_the_first(tmp_path):
    run(out=tmp_path, identity={"seed": 0, "batch_size": 8})
    with pytest.raises(UserError, match="its run had batch size 8, this one has 16"):
        run(out=tmp_path, resume=True, identity={"seed": 0, "batch_size": 16})


def test_damaged_checkpoint(tmp_path):
    file = tmp_path / "checkpoint" / "state.safetensors"
    file.parent.mkdir()
    file.write_bytes(b"\x00" * 50)
    with pytest.raises(UserError, match="not a readable checkpoint .* delete it to start over"):
        run(out=tmp_path, resume=True)


@pytest.mark.parametrize(
    "spoil, message",
    [
        (lambda tensors, meta: meta.pop("scaler"), "not a readable checkpoint .*delete it to start over"),
        (lambda tensors, meta: tensors.pop("model.head.bias"), r"does not fit this network \(model.head.bias\)"),
        (lambda tensors, meta: tensors.update({"model.head.bias": torch.zeros(1)}), r"fit this network \(model.head.bias\)"),
        (lambda tensors, meta: tensors.update({"optimizer.x.momentum_buffer": torch.zeros(1)}), r"\(optimizer.x.momentum_buf"),
    ],
)
def test_a_checkpoint_of_something_else(tmp_path, spoil, message):
    """Of an earlier version, or of a network built by hand in another way (before: a traceback, or a bias spread out)."""
    run(out=tmp_path)
    file = tmp_path / "checkpoint" / "state.safetensors"
    tensors, meta = read_checkpoint(file)
    spoil(tensors, meta)
    save_checkpoint(file, tensors, meta)
    with pytest.raises(UserError, match=message):
        run(out=tmp_path, resume=True)


def test_evaluation_during_training_changes_nothing():
    seen = []

    def look(model):
        seen.append(model.training)
        return {"accuracy": len(seen)}

    plain, _ = run(TINY_BN)
    watched, history = run(TINY_BN, evaluate_every=2, evaluate=look)
    assert difference(plain, watched) == 0 and seen == [False] * 3
    assert history.column("accuracy") == ((1, 3, 5), (1, 2, 3))


def test_non_finite_loss_stops_and_says_where():
    def poisoned(step):
        x, y = batch(step)
        return (x * float("nan"), y) if step == 4 else (x, y)

    with pytest.raises(UserError, match="the loss is nan at step 4; lower the learning rate"):
        run(batches=poisoned)


def test_16_bits_on_a_cpu_lie_contiguous():
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    assert memory_format(cpu, "bf16") == torch.contiguous_format
    assert {memory_format(*case) for case in ((cpu, "fp32"), (cuda, "fp32"), (cuda, "bf16"))} == {torch.channels_last}


def test_bf16_stays_near_fp32():
    _, full = run(sgd=sgd(20))
    model, half = run(sgd=sgd(20), precision="bf16")
    assert model.root.conv.weight.dtype == torch.float32  # autocast keeps the master weights
    assert half.rows[-1]["loss"] == pytest.approx(full.rows[-1]["loss"], abs=0.1)
    assert half.column("loss")[1] != full.column("loss")[1]


@pytest.mark.parametrize(
    "wrong, message",
    [({"precision": "fp8"}, "fp8"), ({"micro_batches": 0}, "micro-batches is 0"), ({"ema": 1.0}, "ema is 1.0")],
)
def test_settings_are_checked(wrong, message):
    with pytest.raises(UserError, match=message):
        Loop(**wrong)


def test_devices():
    assert pick_device("cpu").type == "cpu" and pick_device("auto").type in ("cpu", "cuda")
    with pytest.raises(UserError, match="unknown device 'gpu'"):
        pick_device("gpu")
    if not torch.cuda.is_available():
        with pytest.raises(UserError, match="no GPU here"):
            pick_device("cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_on_the_gpu(precision):
    model = ResNetV2(TINY, 3, 0).cuda()
    history = train(
        model, lambda s: tuple(t.cuda() for t in batch(s)), loss, sgd(20), Loop(precision=precision, progress=False)
    )
    cpu = run(sgd=sgd(20))[1]
    assert history.rows[-1]["loss"] == pytest.approx(cpu.rows[-1]["loss"], abs=0.1)


def test_history_is_plain_data():
    assert History([{"step": 0, "loss": 1.0}, {"step": 1, "loss": 0.5, "acc": 1}]).column("acc") == ((1,), (1,))


class Small:
    """A device with room for so many pictures at a time."""

    def __init__(self, room: int):
        self.room, self.sizes = room, []

    def __call__(self, model, x, y):
        self.sizes.append(len(x))
        value = loss(model, x, y)
        if len(x) > self.room:
            value.backward()  # as memory often runs out there, with some of the gradients done
            raise torch.OutOfMemoryError("CUDA out of memory")
        return value


def test_out_of_memory_halves_the_parts_and_goes_on_with_the_same_steps(capsys):
    device, model = Small(4), ResNetV2(TINY, 3)
    train(model, batch, device, sgd(3), QUIET)
    assert device.sizes == [12, 6, 3, 3, 3, 3] + 2 * [3, 3, 3, 3]
    assert difference(model, run(sgd=sgd(3))[0]) < 1e-6
    assert capsys.readouterr().err.count("out of memory: continuing with") == 2
    assert all(c.held is None for c in standardized_convs(model))


def test_statistics_move_once_a_step_whatever_is_computed_twice():
    """Gradient checkpointing runs each unit twice, and running out of memory a whole step."""
    plain, checkpointed = (ResNetV2(TINY_BN, 3) for _ in range(2))
    checkpointed.grad_checkpointing = True
    for model in (plain, checkpointed):
        train(model, batch, loss, sgd(3), QUIET)
    assert difference(plain, checkpointed) == 0 and plain.norm.num_batches_tracked == 3
    retried, small = ResNetV2(TINY_BN, 3).eval(), ResNetV2(TINY_BN, 3)  # as a run leaves its model
    train(retried, batch, Small(6), sgd(3), QUIET)
    train(small, batch, loss, sgd(3), Loop(precision="fp32", micro_batches=2, progress=False))
    assert difference(retried, small) == 0 and retried.norm.num_batches_tracked == 6


def test_out_of_memory_with_one_picture_is_the_end():
    with pytest.raises(UserError, match="out of memory with 1 image at a time; use smaller images or a smaller model"):
        train(ResNetV2(TINY, 3), batch, Small(0), sgd(3), QUIET)


@pytest.mark.parametrize("arch", [TINY, TINY_BN])
def test_moving_average_against_plain_python(arch):
    def look(model):
        seen.append({k: v.clone() for k, v in model.state_dict().items()})
        return {}

    seen = []
    run(arch, sgd=sgd(5), evaluate_every=1, evaluate=look)
    trained, seen = seen, []
    averaged, _ = run(arch, sgd=sgd(5), ema=0.7, evaluate_every=1, evaluate=look)
    expected = trained[0]
    for state in trained[1:]:
        expected = {
            k: 0.7 * v + 0.3 * state[k] if k in dict(averaged.named_parameters()) else state[k] for k, v in expected.items()
        }
    for key, value in averaged.state_dict().items():
        torch.testing.assert_close(value, expected[key], rtol=1e-5, atol=1e-7)
        assert torch.equal(value, seen[-1][key])  # and that is what was evaluated on the way


def test_moving_average_resumes(tmp_path):
    def dying(step):
        if step == 4:
            raise ZeroDivisionError
        return batch(step)

    how = {"ema": 0.9, "checkpoint_every": 2}
    with pytest.raises(ZeroDivisionError):
        run(batches=dying, out=tmp_path, **how)
    resumed, _ = run(out=tmp_path, resume=True, **how)
    assert difference(resumed, run(**how)[0]) == 0
    assert difference(resumed, run()[0]) > 0
    again, _ = run(out=tmp_path, resume=True, **how)  # a finished run, once more
    assert difference(resumed, again) == 0


class InAdvance:
    """A source that asks for some of its batches to be made in advance."""

    def __init__(self, make, ahead: int):
        self.make, self.ahead = make, ahead

    def __call__(self, step):
        return self.make(step)


def test_batches_made_ahead_are_the_same_batches():
    threads = []

    def seen(step):
        threads.append(threading.current_thread())
        return batch(step)

    assert difference(run()[0], run(batches=InAdvance(seen, 3))[0]) == 0
    assert threading.main_thread() not in threads and len(threads) == 6


def test_only_so_many_are_made_ahead():
    made = []
    batches = ahead(lambda step: made.append(step) or (step,), range(100), 3)
    assert [next(batches) for _ in range(5)] == [(i,) for i in range(5)]
    batches.close()  # waits for the thread
    assert made == list(range(len(made))) and len(made) <= 5 + 3


def test_a_batch_that_fails_ahead_is_reported():
    def broken(step):
        if step == 2:
            raise UserError("picture 2 is not readable")
        return batch(step)

    with pytest.raises(UserError, match="picture 2"):
        run(batches=InAdvance(broken, 4))


@pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler")
def test_compiled_equals_eager(tmp_path):
    eager, h1 = run(sgd=sgd(2))
    compiled, h2 = run(sgd=sgd(2), compile=True, out=tmp_path)
    first = [h.rows[0]["loss"] for h in (h1, h2)]
    assert first[1] == pytest.approx(first[0], rel=1e-5)
    start = ResNetV2(TINY, 3)
    for name, p in eager.named_parameters():  # two steps moved by gradients that agree
        moved = (p - start.get_parameter(name)).abs().max().item()
        assert (p - compiled.get_parameter(name)).abs().max() <= 1e-4 * moved + 1e-7, name
    assert "model.head.weight" in load_file(
        tmp_path / "checkpoint" / "state.safetensors"
    )  # no trace of the compiler in the names


@pytest.mark.skipif(not shutil.which("g++"), reason="needs a C++ compiler")
def test_compiled_in_16_bits_and_parts():
    _, eager = run(sgd=sgd(2), precision="bf16", micro_batches=2)
    _, compiled = run(sgd=sgd(2), precision="bf16", micro_batches=2, compile=True)
    assert compiled.column("loss")[1] == pytest.approx(eager.column("loss")[1], rel=0.02)


def test_compiling_without_a_compiler(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UserError, match="torch.compile needs a C\\+\\+ compiler"):
        run(sgd=sgd(2), compile=True)


def scaled_loss(factor: float, step: int = 2):
    """A loss whose gradients leave the range of 16-bit floats at this step, scaled as they are."""

    def value(model, x, y):
        return loss(model, x, y) * (factor if torch.equal(x, batch(step)[0]) else 1.0)

    return value


def test_fp16_skips_an_overflow_and_halves_the_scale(tmp_path):
    """Weights and momentum stay as they were, and a resumed run knows the scale."""
    model = ResNetV2(TINY, 3)
    options = Loop(device="cpu", precision="fp16", progress=False, out=tmp_path, checkpoint_every=1)
    states = []

    def keep(step):
        states.append({k: v.clone() for k, v in model.state_dict().items()})
        return batch(step)

    train(model, keep, scaled_loss(1e6), sgd(6), options)
    moved = [any(not torch.equal(a[k], b[k]) for k in a) for a, b in zip(states, states[1:])]
    assert moved == [True, True, False, True, True]  # step 2 was skipped, and nothing else
    meta = read_checkpoint(tmp_path / "checkpoint" / "state.safetensors")[1]
    assert meta["scaler"]["scale"] == 2.0**15 and meta["precision"] == "fp16"

    def dying(step):
        if step == 4:
            raise ZeroDivisionError
        return batch(step)

    again = ResNetV2(TINY, 3)
    with pytest.raises(ZeroDivisionError):
        train(again, dying, scaled_loss(1e6), sgd(6), replace(options, out=tmp_path / "cut"))
    train(again, batch, scaled_loss(1e6), sgd(6), replace(options, out=tmp_path / "cut", resume=True))
    assert difference(model, again) == 0


def test_fp16_skips_an_overflow_of_the_very_first_step():
    """Where the scale is usually too large. The momentum was memory that nobody had filled (before: a loss of NaN)."""
    junk = [torch.full_like(p, 1e30) for p in ResNetV2(TINY, 3).parameters()]
    del junk  # what is allocated next lies there
    whole, _ = run(precision="fp16", loss=scaled_loss(1e6, step=0))
    rest = ResNetV2(TINY, 3)
    train(rest, lambda step: batch(step + 1), loss, Sgd(5, lambda step: sgd().lr(step + 1)), replace(QUIET, precision="fp16"))
    assert difference(whole, rest) < 1e-5


def test_fp16_keeps_master_weights_and_stays_near_fp32():
    _, full = run(sgd=sgd(20))
    model, half = run(sgd=sgd(20), precision="fp16")
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert half.rows[-1]["loss"] == pytest.approx(full.rows[-1]["loss"], abs=0.05)
    assert half.column("loss")[1] != full.column("loss")[1]


def test_auto_precision_is_settled_once(tmp_path, capsys):
    """What a checkpoint was begun with counts, whatever this processor would choose."""
    run(sgd=sgd(4), precision="bf16", out=tmp_path)
    model = ResNetV2(TINY, 3)
    settled = settle(Loop(device="cpu", out=tmp_path, resume=True), torch.device("cpu"))
    assert settled.precision == "bf16"
    train(model, batch, loss, sgd(4), Loop(device="cpu", out=tmp_path, resume=True, progress=False))
    assert settle(Loop(), torch.device("cpu")).precision == (fast_16_bits("cpu") or "fp32")


def test_a_slow_precision_says_so(capsys):
    _say_slow.cache_clear()  # it is said once
    slow = "fp16"  # there is no processor in 2026 on which PyTorch trains faster in it
    assert pick_precision(slow, torch.device("cpu")) == slow
    assert "fp16 is slow on this processor" in capsys.readouterr().err
    assert pick_precision("fp32", torch.device("cpu")) == "fp32" and capsys.readouterr().err == ""


def test_weights_that_are_no_numbers_are_never_saved(tmp_path):
    """A finite loss, and an update that is not: the checkpoint before it is kept, and named."""

    def exploding(step):
        return 0.05 if step < 3 else math.inf

    file = tmp_path / "checkpoint" / "state.safetensors"
    with pytest.raises(UserError, match=f"after step 4; lower the learning rate; the state of step 3 is in {file}"):
        run(sgd=Sgd(6, exploding), out=tmp_path, checkpoint_every=1)
    assert read_checkpoint(file)[1]["step"] == 3


def test_a_run_is_not_overwritten_silently(tmp_path):
    """After Ctrl-C, the same command without --resume used to begin anew and replace the saved state."""
    run(out=tmp_path)
    before = (tmp_path / "checkpoint" / "state.safetensors").read_bytes()
    with pytest.raises(UserError, match=f"{tmp_path} holds a run that was saved after step 6; add --resume"):
        run(out=tmp_path)
    assert (tmp_path / "checkpoint" / "state.safetensors").read_bytes() == before
