"""The command line as a user calls it: a process of its own, its output, its exit status, what it leaves behind."""

import csv
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from dataclasses import fields

import numpy as np
import pytest
import torch
from conftest import QUIET
from safetensors.torch import load_file
from test_folder import make_folder, photo

import bitlib
from bitlib import Loop
from bitlib.cli import main

QUICK = ["--steps", "6", "--batch-size", "8", "--quiet", "--device", "cpu", "--precision", "fp32"]


def call(*args, cwd=None, **kwargs) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "bitlib", *map(str, args)], capture_output=True, text=True, cwd=cwd, timeout=1200, **kwargs
    )


def test_finetune_evaluate_predict_as_processes(tmp_path):
    photos, out = make_folder(tmp_path / "photos", 12), tmp_path / "out"
    done = call("finetune", photos, "--model", "glyphs-S", "--out", out, "--steps", 20, "--batch-size", 8, "--quiet")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    task = bitlib.load_task(str(photos))
    assert (
        lines[0] == f"folder:photos: {len(task.train)} training images, 2 classes, model glyphs-S"
        and lines[-1] == f"written to {out}"
    )
    stated = float(lines[2].split()[2])
    assert stated == round(json.loads((out / "run.json").read_text())["test_accuracy"], 4) > 0.7  # lying or upright stripes

    measured = call("evaluate", out, photos, "--json", tmp_path / "e.json")
    assert measured.returncode == 0 and f"accuracy {stated:.4f}" in measured.stdout
    assert json.loads((tmp_path / "e.json").read_text())["images"] == len(task.test)

    named = call("predict", out, photos / "cats" / "0.jpg", photos / "dogs", "--json")
    answers = [json.loads(line) for line in named.stdout.splitlines()]
    assert len(answers) == 13 and set(answers[0]["classes"]) <= {"cats", "dogs"}
    plain = call("predict", out, photos / "cats" / "0.jpg", "--top", 2).stdout.rstrip("\n").split("\t")
    assert plain[0].endswith("0.jpg") and float(plain[2]) + float(plain[4]) == pytest.approx(1, abs=2e-3)


def test_command_line_and_library_give_the_same_numbers(tmp_path, capsys):
    for seed in (0, 1):
        out = tmp_path / str(seed)
        assert (
            main(["finetune", "digits", "--model", "glyphs-L", "--shots", "1", "--seed", str(seed), "--out", str(out), *QUICK])
            == 0
        )
        task = bitlib.load_task("digits", shots=1, seed=seed)
        model = bitlib.create_model("glyphs-L", 10, pretrained=True)
        rule = bitlib.transfer.default_rule(model, task).adapted(steps=6, batch_size=8)
        run = bitlib.finetune(model, task, rule, seed, QUIET)
        assert json.loads((out / "run.json").read_text())["test_accuracy"] == run.test_accuracy
    capsys.readouterr()


def broken_picture(root):
    (root / "cats" / "3.jpg").write_bytes((root / "cats" / "3.jpg").read_bytes()[:300])


def one_class(root):
    for p in (root / "dogs").iterdir():
        p.unlink()
    (root / "dogs").rmdir()


@pytest.mark.parametrize(
    "spoil, extra, message",
    [
        (broken_picture, [], "cats/3.jpg is not a readable image"),
        (lambda root: (root / "birds").mkdir(), [], "birds holds no images"),
        (one_class, [], "holds 1 class folder"),
        (None, ["--model", "BiT-M-R50x2"], "unknown model 'BiT-M-R50x2'; did you mean"),
        (None, ["--lr", "-1"], "base_lr is -1.0"),
        (None, ["--device", "tpu"], "unknown device 'tpu'"),
        (None, ["--shots", "50"], "fewer than the 50 shots"),
        (None, ["--freeze", "stage9"], "cannot freeze until 'stage9'"),
        (None, ["--steps", "zero"], "'zero' is not a whole number of 1 or more"),
        (None, ["--precision", "fp8"], "invalid choice: 'fp8'"),
        (None, ["--ema", "1"], "ema is 1.0"),
        (None, ["--shard", "--ema", "0.9"], "--shard does not work with --ema"),
    ],
)
def test_mistakes_give_one_line_status_2_and_nothing_on_disk(tmp_path, capsys, spoil, extra, message):
    photos, out = make_folder(tmp_path / "photos"), tmp_path / "out"
    if spoil:
        spoil(photos)
    try:
        status = main(
            [
                "finetune",
                str(photos),
                "--out",
                str(out),
                *([] if "--model" in extra else ["--model", "glyphs-S"]),
                *QUICK,
                *extra,
            ]
        )
    except SystemExit as stop:  # argparse's own way out
        status = stop.code
    captured = capsys.readouterr()
    assert status == 2 and captured.out == ""
    assert message in captured.err and captured.err.count("\n") == 1 and "Traceback" not in captured.err
    assert not out.exists()


def test_folder_that_does_not_exist_as_a_process(tmp_path):
    done = call("finetune", tmp_path / "nowhere", "--out", tmp_path / "out", "--model", "glyphs-S")
    assert done.returncode == 2 and done.stdout == "" and not (tmp_path / "out").exists()
    assert done.stderr.count("\n") == 1 and "nowhere is not a folder" in done.stderr


@pytest.mark.parametrize("where", ["file/below", "locked/below"])
def test_unwritable_out(tmp_path, capsys, where):
    photos = make_folder(tmp_path / "photos")
    (tmp_path / "file").write_text("")
    (tmp_path / "locked").mkdir(mode=0o555)
    if where.startswith("locked") and os.access(tmp_path / "locked", os.W_OK):
        pytest.skip("root may write anywhere")
    assert main(["finetune", str(photos), "--out", str(tmp_path / where), "--model", "glyphs-S", *QUICK]) == 2
    assert "cannot write to" in capsys.readouterr().err


@pytest.mark.parametrize(
    "content, message", [("cut", "not a readable weight file"), ("pickle", "pickled objects"), ("other", "has the entry a")]
)
def test_unusable_weight_files(tmp_path, capsys, monkeypatch, content, message):
    """A file that lies where the official weights would."""
    monkeypatch.setenv("BITLIB_HOME", str(tmp_path / "home"))
    file = tmp_path / "home" / "weights" / "BiT-S-R50x1.npz"
    file.parent.mkdir(parents=True)
    if content == "pickle":
        np.savez(file, **{"resnet/head/conv2d/bias": np.array([{"a": pickle.dumps(1)}], dtype=object)})
        # Every other entry is asked for first, so give it those as objects as well.
        from bitlib.weights import npz_key

        names = [npz_key(n) for n, _ in bitlib.create_model("R50x1", 2).named_parameters()]
        np.savez(file, **{n: np.array([None], dtype=object) for n in names})
    else:
        np.savez(file, a=np.zeros(1000))
        if content == "cut":
            file.write_bytes(file.read_bytes()[:500])
    photos = make_folder(tmp_path / "photos")
    assert main(["finetune", str(photos), "--model", "BiT-S-R50x1", "--out", str(tmp_path / "out"), *QUICK]) == 2
    captured = capsys.readouterr()
    assert message in captured.err and captured.err.count("\n") == 1 and not (tmp_path / "out").exists()


def test_options_of_the_loop(tmp_path, capsys):
    photos, logs = make_folder(tmp_path / "photos"), {}
    for name, options in {
        "plain": [],
        "saving": ["--grad-checkpointing", "--micro-batches", "2"],
        "averaged": ["--ema", "0.5"],
    }.items():
        assert main(["finetune", str(photos), "--out", str(tmp_path / name), "--model", "glyphs-S", *QUICK, *options]) == 0
        logs[name] = [float(row["loss"]) for row in csv.DictReader(open(tmp_path / name / "history.csv"))]
    assert logs["saving"] == pytest.approx(logs["plain"], abs=1e-5)
    assert logs["averaged"] == logs["plain"]  # the average is taken beside the training
    assert json.loads((tmp_path / "averaged" / "run.json").read_text())["ema"] == 0.5
    head = [load_file(tmp_path / n / "model.safetensors")["head.weight"] for n in ("plain", "averaged")]
    assert not torch.equal(*head)


def test_two_kinds_of_kernels_exclude_each_other(tmp_path, capsys):
    photos = make_folder(tmp_path / "photos")
    assert main(["finetune", str(photos), "--out", str(tmp_path / "run"), "--triton", "--compile"]) == 2
    captured = capsys.readouterr()
    assert "choose one" in captured.err and captured.err.count("\n") == 1 and not (tmp_path / "run").exists()


def test_a_finished_run_is_not_overwritten(tmp_path, capsys):
    args = ["finetune", "digits", "--model", "glyphs-S", "--shots", "1", "--out", str(tmp_path / "out"), *QUICK]
    assert main(args) == 0
    before = (tmp_path / "out" / "run.json").read_bytes()
    assert main(args) == 2 and "already holds a finished run" in capsys.readouterr().err
    assert (tmp_path / "out" / "run.json").read_bytes() == before


def test_ctrl_c_saves_and_resume_ends_with_the_same_weights(tmp_path):
    args = [
        "finetune",
        "digits",
        "--model",
        "glyphs-S",
        "--shots",
        "2",
        "--steps",
        "60",
        "--batch-size",
        "16",
        "--device",
        "cpu",
        "--precision",
        "fp32",
    ]
    assert main([*args, "--quiet", "--out", str(tmp_path / "whole")]) == 0
    process = subprocess.Popen(
        [sys.executable, "-m", "bitlib", *args, "--out", str(tmp_path / "cut"), "--checkpoint-every", "1"],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    state = tmp_path / "cut" / "checkpoint" / "state.safetensors"
    deadline = time.monotonic() + 600
    while not state.exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    stderr = process.communicate(timeout=600)[1]
    assert process.returncode == 130 and "run the same command with --resume to continue" in stderr
    assert not (tmp_path / "cut" / "run.json").exists()
    assert main([*args, "--quiet", "--out", str(tmp_path / "cut"), "--resume"]) == 0
    files = [(tmp_path / d / "model.safetensors").read_bytes() for d in ("whole", "cut")]
    assert files[0] == files[1]


@pytest.mark.parametrize("method", [["--scratch"], ["--linear-probe"], ["--freeze", "stage4"]])
def test_methods(tmp_path, method, capsys):
    out = tmp_path / "out"
    how = ["--quiet", "--device", "cpu"] if "--linear-probe" in method else QUICK
    assert main(["finetune", "digits", "--model", "glyphs-S", "--shots", "2", *method, "--out", str(out), *how]) == 0
    config = json.loads((out / "run.json").read_text())
    assert config["method"] == ("linear_probe" if "--linear-probe" in method else "finetune")
    assert config.get("frozen", []) == (["root", "stage1", "stage2", "stage3"] if "--freeze" in method else [])
    capsys.readouterr()


def test_pretrain_makes_a_model_to_start_from(tmp_path, capsys):
    out = tmp_path / "upstream"
    assert (
        main(
            [
                "pretrain",
                "glyphs-armenian",
                "--arch",
                "small-gn",
                "--steps",
                "3",
                "--batch-size",
                "8",
                "--out",
                str(out),
                "--device",
                "cpu",
                "--quiet",
            ]
        )
        == 0
    )
    file = str(out / "model.safetensors")
    assert main(["finetune", "digits", "--shots", "1", "--model", file, "--out", str(tmp_path / "down"), *QUICK]) == 0
    assert main(["pretrain", "glyphs-s", "--arch", "R51", "--out", str(tmp_path / "x")]) == 2
    assert "unknown architecture 'R51'" in capsys.readouterr().err


def test_distill_from_a_run(tmp_path, capsys):
    teacher, student = tmp_path / "teacher", tmp_path / "student"
    digits = ["digits", "--shots", "1", "--model", "glyphs-S"]
    assert main(["finetune", *digits, "--out", str(teacher), *QUICK]) == 0
    assert main(["distill", *digits, "--teacher", str(teacher), "--temperature", "2", "--out", str(student), *QUICK]) == 0
    record = json.loads((student / "run.json").read_text())
    assert record["method"] == "distill" and record["teacher"] == "glyphs-S" and record["temperature"] == 2
    capsys.readouterr()
    photos = make_folder(tmp_path / "photos")
    for arguments, message in (
        (["distill", str(photos), "--teacher", str(teacher)], "do not have the same classes"),
        (["distill", *digits, "--teacher", str(teacher), "--alpha", "2"], "alpha is 2.0"),
        (["distill", *digits, "--teacher", str(tmp_path / "none")], "unknown model"),
    ):
        assert main([*arguments, "--out", str(tmp_path / "x"), *QUICK]) == 2
        assert message in capsys.readouterr().err and not (tmp_path / "x").exists()


def test_default_model_says_what_it_is(tmp_path, capsys):
    assert main(["finetune", "digits", "--shots", "1", "--out", str(tmp_path / "out"), *QUICK]) == 0
    assert "starting from photos-L, one of the course's small networks" in capsys.readouterr().err


def test_models(capsys):
    assert main(["models"]) == 0
    text = capsys.readouterr().out
    assert "BiT-M-R152x4" in text and "1,107,299,923" in text and "glyphs-L" in text and "in the package" in text
    assert main(["models", "--json"]) == 0
    assert {"name": "BiT-S-R50x1", "parameters": 25_549_352}.items() <= json.loads(capsys.readouterr().out)[0].items()


def test_predict_and_evaluate_mistakes(tmp_path, capsys):
    photos, out = make_folder(tmp_path / "photos"), tmp_path / "out"
    assert main(["finetune", str(photos), "--model", "glyphs-S", "--out", str(out), *QUICK]) == 0
    other = make_folder(tmp_path / "other", classes=("cats", "horses"))
    bad = photo(tmp_path / "bad.jpg")
    bad.write_bytes(b"x")
    capsys.readouterr()
    for args, message in (
        (["evaluate", out, other], "do not have the same classes"),
        (["predict", out, bad], "bad.jpg is not"),
        (["predict", out, tmp_path / "no.jpg"], "no.jpg does not exist"),
        (["predict", tmp_path / "photos", bad], "holds no model.safetensors"),
        (["evaluate", out, photos, "--json", "/dev/null/x.json"], "cannot write"),
    ):
        assert main(list(map(str, args))) == 2
        captured = capsys.readouterr()
        assert message in captured.err and captured.err.count("\n") == 1 and captured.out == ""


def test_skip_bad(tmp_path, capsys):
    photos = make_folder(tmp_path / "photos")
    broken_picture(photos)
    assert main(["finetune", str(photos), "--model", "glyphs-S", "--skip-bad", "--out", str(tmp_path / "out"), *QUICK]) == 0
    captured = capsys.readouterr()
    assert "left out: " in captured.out + captured.err


def test_console_script_and_help():
    done = subprocess.run(
        [os.path.join(os.path.dirname(sys.executable), "bitlib"), "finetune", "--help"],
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0 and "--micro-batches" in done.stdout


def damaged(path):
    path.write_bytes(path.read_bytes()[:300])


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_damaged_image_of_any_split_stops_before_training(tmp_path, capsys, split):
    """It used to surface after training, and following the advice changed the fingerprint, so the run was lost."""
    photos, out = make_folder(tmp_path / "photos", 12), tmp_path / "out"
    damaged(getattr(bitlib.load_task(str(photos)), split).paths[0])
    assert main(["finetune", str(photos), "--model", "glyphs-S", "--out", str(out), *QUICK]) == 2
    message = capsys.readouterr().err
    assert "is not a readable image" in message and message.endswith("; remove it or pass --skip-bad\n") and not out.exists()


def test_skip_bad_and_resume_work_together(tmp_path, capsys):
    """A file that was left out moves no other, so the run goes on with it, without it, and once it is gone."""
    photos, out = make_folder(tmp_path / "photos", 12), tmp_path / "out"
    bad = photo(photos / "cats" / "bad.jpg")
    damaged(bad)
    command = ["finetune", str(photos), "--model", "glyphs-S", "--out", str(out), *QUICK]
    assert main([*command, "--skip-bad"]) == 0
    for changed in (lambda: None, bad.unlink):
        changed()
        (out / "run.json").unlink()
        assert main([*command, "--skip-bad", "--resume"]) == 0
    capsys.readouterr()


def test_evaluate_leaves_out_what_was_trained_on(tmp_path, capsys):
    """A folder that grew, or that was sorted anew: no image counts that the model has learnt or was chosen by."""
    photos, out = make_folder(tmp_path / "photos", 12), tmp_path / "out"
    assert main(["finetune", str(photos), "--model", "glyphs-S", "--out", str(out), *QUICK]) == 0
    task = bitlib.load_task(str(photos))
    rows = list(csv.DictReader(open(out / "split.csv")))
    assert [r["file"] for r in rows if r["split"] == "test"] == [str(p) for p in task.test.paths]
    sorted_anew = tmp_path / "anew"
    for split in ("train", "test"):
        make_folder(sorted_anew / split, 12)  # the same images once more, all of them called test images
    capsys.readouterr()
    assert main(["evaluate", str(out), str(sorted_anew), "--json", str(tmp_path / "e.json")]) == 0
    learnt, captured = len(task.train) + len(task.val), capsys.readouterr()
    assert f"left out {learnt} of 24 images: the model was trained on them" in captured.err
    assert f"on {24 - learnt} images" in captured.out
    figures = json.loads((tmp_path / "e.json").read_text())
    assert (figures["images"], figures["left_out"]) == (24 - learnt, learnt)
    low, high = figures["interval"]
    assert 0 <= low <= figures["accuracy"] <= high <= 1


def test_evaluate_asks_for_a_place_before_the_work(tmp_path, capsys):
    """The folder for the figures used to be looked at after the evaluation."""
    (tmp_path / "file").write_text("")
    assert main(["evaluate", str(tmp_path / "no model"), "digits", "--json", str(tmp_path / "file" / "e.json")]) == 2
    assert "cannot write to" in capsys.readouterr().err


def test_predict_reads_standard_input(tmp_path):
    image = photo(tmp_path / "a.jpg")
    named, piped = (
        subprocess.run([sys.executable, "-m", "bitlib", "predict", "photos-S", name, "--device", "cpu"], **how)
        for name, how in ((image, {"capture_output": True}), ("-", {"capture_output": True, "input": image.read_bytes()}))
    )
    assert piped.returncode == 0, piped.stderr
    assert piped.stdout.decode().split("\t") == ["-", *named.stdout.decode().split("\t")[1:]]
    broken = subprocess.run([sys.executable, "-m", "bitlib", "predict", "photos-S", "-"], input=b"x", capture_output=True)
    assert broken.returncode == 2 and b"standard input is not a readable image" in broken.stderr


def test_a_probe_refuses_what_it_would_ignore(tmp_path, capsys):
    for option in (["--ema", "0.9"], ["--resume"], ["--precision", "bf16"], ["--steps", "5"]):
        command = ["finetune", "digits", "--model", "glyphs-S", "--linear-probe", "--out", str(tmp_path / "out"), *option]
        assert main(command) == 2
        assert f"has no use for {option[0]}" in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_resuming_with_other_settings_names_what_was_typed(tmp_path, capsys):
    """It used to answer with boundaries, which nobody typed."""
    command = ["finetune", "digits", "--model", "glyphs-S", "--shots", "1", "--out", str(tmp_path / "out"), "--quiet"]
    command += ["--batch-size", "8", "--device", "cpu"]
    assert main([*command, "--steps", "5"]) == 0
    (tmp_path / "out" / "run.json").unlink()
    assert main([*command, "--steps", "6"]) == 2
    assert "holds a run that was saved after step 5; add --resume" in capsys.readouterr().err
    assert main([*command, "--steps", "6", "--resume"]) == 2
    assert "its run had steps 5, this one has 6" in capsys.readouterr().err


def test_every_option_of_the_loop_is_a_flag():
    text = call("finetune", "--help").stdout
    for option in fields(Loop):
        if option.name != "progress":
            assert f"--{option.name.replace('_', '-')}" in text


def test_help_imports_nothing_heavy():
    """It took four seconds, because the package imported PyTorch."""
    script = "import sys, bitlib.cli as c\ntry: c.main(['finetune', '--help'])\nexcept SystemExit: pass\n"
    script += "print(sorted({'torch', 'numpy', 'PIL', 'sklearn'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


def test_functions_keep_their_names_beside_modules_of_the_same_name():
    """bitlib.mixup, .distill and .evaluate are functions, in whatever order modules are imported."""
    for first in ("", "import bitlib.mixup, bitlib.distill, bitlib.evaluate; ", "import bitlib.transfer; "):
        script = f"import bitlib; {first}print(all(map(callable, (bitlib.mixup, bitlib.distill, bitlib.evaluate))))"
        assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "True\n"
    script = "import bitlib; print(bitlib.trainer.train.__name__, hasattr(bitlib, 'train'))"
    assert subprocess.run([sys.executable, "-c", script], capture_output=True, text=True).stdout == "train False\n"
