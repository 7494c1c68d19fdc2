"""The package as `pip install .` leaves it: its models are inside, and it works outside the repository."""

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODELS = sorted(p.stem for p in (ROOT / "bitlib" / "pretrained").glob("*.safetensors"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder, source = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("source")
    for name in ("bitlib", "results"):  # copied, since a build leaves files behind, which the next one would take up
        shutil.copytree(ROOT / name, source / name)
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, source)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", folder, source]
    subprocess.run(command, check=True)
    return next(folder.glob("bitlib-*.whl"))


def test_the_wheel_holds_the_models_and_works_alone(wheel, tmp_path):
    """Unpacked, as an installation is, and run by an interpreter that cannot see the repository."""
    with zipfile.ZipFile(wheel) as file:
        file.extractall(tmp_path / "site")
        figures = (ROOT / "bitlib" / "course" / "explorables").iterdir()
        assert {f"bitlib/course/explorables/{p.name}" for p in figures} <= set(file.namelist())
        assert {f"bitlib/pretrained/{m}{s}" for m in MODELS for s in (".safetensors", ".md")} <= set(file.namelist())
    stored = {p.name: p.read_bytes() for p in (ROOT / "results").glob("*.json")}
    assert {p.name: p.read_bytes() for p in (tmp_path / "site" / "bitlib" / "results").iterdir()} == stored
    code = (
        "import sys; sys.path.insert(0, 'site'); from bitlib.course.notebook import stored; import contextlib, bitlib.cli\n"
        "with contextlib.redirect_stdout(sys.stderr): assert stored('digits')['finetune'][25]\n"
        "sys.exit(bitlib.cli.main(['models', '--json']))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert sorted(m["name"] for m in json.loads(done.stdout) if m["source"] == "course") == MODELS


def test_sizes():
    sizes = [p.stat().st_size for p in (ROOT / "bitlib" / "pretrained").glob("*.safetensors")]
    assert max(sizes) <= 8e6 and sum(sizes) <= 40e6


def test_every_model_has_a_card_that_cannot_be_mistaken():
    for name in MODELS:
        card = (ROOT / "bitlib" / "pretrained" / f"{name}.md").read_text("utf8")
        assert "none of Google's BiT weights" in card and "**Data and terms.**" in card and "**Limits.**" in card
        assert f"data_scripts/pretrain_models.py {name}" in card
