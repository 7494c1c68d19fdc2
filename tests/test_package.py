"""The package as `pip install .` leaves it: its models are inside, and it works outside the repository.

Its source as well: imports point one way, and no function needs a page of arguments.
"""

import ast
import graphlib
import json
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODELS = sorted(p.stem for p in (ROOT / "bitlib" / "pretrained").glob("*.safetensors"))
SOURCES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted((ROOT / "bitlib").rglob("*.py"))
}
# Data flows down this list. A module imports from its own line or a line above it, and never in a circle.
ROOMS = [
    ["files", "loop", "hyperrule"],
    ["download", "distributed", "device", "mixup"],
    ["data"],
    ["kernels", "norm", "resnet", "backbones"],
    ["weights"],
    ["distill", "evaluate", "trainer"],
    ["features"],
    ["transfer", "pretrain"],
    ["detection"],
    ["choose", "suite", "verify"],
    ["export"],
    [""],  # bitlib/__init__.py, which gives the public names
    ["course"],
    ["cli", "__main__"],
]


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
        assert "not one of Google's BiT models" in card and "**Data and terms.**" in card and "**Limits.**" in card
        assert f"data_scripts/pretrain_models.py {name}" in card


def required(extra: str | None = None) -> set[str]:
    """What `bitlib[extra]` names in pyproject.toml, the extras that it refers to included; lower case, without versions."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf8"))["project"]
    found = set()
    for line in project["optional-dependencies"][extra] if extra else project["dependencies"]:
        name, _, extras = re.match(r"([\w.-]+)(\[([\w, ]+)\])?", line).groups()
        found |= set().union(*map(required, re.findall(r"\w+", extras))) if name == "bitlib" else {name.lower()}
    return found


def test_dev_brings_what_library_and_tests_import():
    """Else CI without the pinned set, and anyone who follows CONTRIBUTING.md, stops before the first test."""
    comes_along = {"triton", "IPython", "traitlets"}  # with PyTorch for Linux; with ipywidgets
    sources = [*SOURCES.values(), *(p for p in (ROOT / "tests").glob("*.py") if "pytest.mark.site" not in p.read_text("utf8"))]
    own = {"bitlib", *(p.stem for p in (ROOT / "tests").glob("*.py"))}
    brought, known, missing = required() | required("dev"), packages_distributions(), set()
    for path in sources:
        for node in ast.walk(ast.parse(path.read_text("utf8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            for top in {n.partition(".")[0] for n in names} - own - comes_along - sys.stdlib_module_names:
                if not {d.lower() for d in known.get(top, [])} & brought:
                    missing.add(f"{path.relative_to(ROOT)}: {top}")
    assert not missing


def imports(name: str) -> set[tuple[str, str]]:
    """Pairs (module of bitlib that `name` imports, innermost function that does it or ""), wherever the import stands."""
    found, package = set(), name if SOURCES[name].name == "__init__.py" else name.rpartition(".")[0]

    def visit(node: ast.AST, function: str) -> None:
        if isinstance(node, ast.Import):
            found.update((alias.name, function) for alias in node.names if alias.name in SOURCES)
        elif isinstance(node, ast.ImportFrom):
            home = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            source = ".".join([*home, *filter(None, [node.module])])
            for alias in node.names:  # a module of the package, or else a name of the module
                target = f"{source}.{alias.name}" if f"{source}.{alias.name}" in SOURCES else source
                if target in SOURCES and (target, alias.name) != ("bitlib", "__version__"):  # a fact, not code
                    found.add((target, function))
        for child in ast.iter_child_nodes(node):
            visit(child, node.name if isinstance(node, ast.FunctionDef) else function)

    visit(ast.parse(SOURCES[name].read_text("utf8")), "")
    return found


def room(name: str) -> int:
    """The line of ROOMS in which a module stands; a package stands with all that is in it."""
    first = name.removeprefix("bitlib").removeprefix(".").partition(".")[0]
    return next((i for i, names in enumerate(ROOMS, 1) if first in names), None) or pytest.fail(f"{name} is in none of ROOMS")


def test_imports_point_one_way():
    """A chapter can be read without what comes after it, and the library can be installed and read without the course."""
    rooms = {name: room(name) for name in SOURCES}
    upward = [f"{n} -> {t}" for n in SOURCES for t, _ in imports(n) if rooms[t] > rooms[n]]
    assert not upward
    graphlib.TopologicalSorter({n: {t for t, _ in imports(n)} for n in SOURCES}).prepare()  # CycleError names the circle
    outside = {n for n in SOURCES if not n.startswith("bitlib.course")}
    reaching = {(n, function) for n in outside for t, function in imports(n) if t.startswith("bitlib.course")}
    assert reaching == {("bitlib.cli", "run_bench")}


def test_no_function_takes_more_than_eight_arguments():
    allowed: set[str] = set()
    long = set()
    for name, path in SOURCES.items():
        for node in ast.walk(ast.parse(path.read_text("utf8"))):
            if isinstance(node, ast.FunctionDef) and not name.startswith("bitlib.course"):
                arguments = [a.arg for a in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
                kernel = any("triton.jit" in ast.unparse(d) for d in node.decorator_list)
                if len(arguments) - (arguments[:1] in (["self"], ["cls"])) > 8 and not kernel:
                    long.add(f"{name}.{node.name}")
    assert long == allowed
