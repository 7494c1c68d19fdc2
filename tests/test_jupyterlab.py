"""An interactive figure in a live JupyterLab: Python moves the figure, and the figure moves Python."""

import json
import os
import re
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from browser import PATIENCE

from bitlib.course.explore import Predict

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.site
QUESTION = dict(answer=15.2, low=0, high=100, unit="%", spread=2.1, why="So few.")
ASK = f"from bitlib.course.explore import Predict\np = Predict.number('How many?', **{QUESTION})\np"
CELLS = [
    "from bitlib.course.explore import Softmax\nw = Softmax(logits=[2.0, 1.0, 0.0], student=[0.0] * 3, labels=list('abc'))\nw",
    "w.temperature = 5.0",
    "print('temperature', round(w.temperature, 3))",
    ASK,
    "print('guess', p.guess, p.revealed)",
]


def parts_of_a_chapter() -> list[dict]:
    """A cell of each kind, with its stored output: title, set-up, plot, prediction, exercise, solution, quiz."""
    cells = json.loads((ROOT / "notebooks" / "10_few_shot.ipynb").read_text("utf8"))["cells"]
    kinds = ("# 10 ·", "# @title Set up", "plots.", "# @title Predict", "].check(", "].solution()", "notebook.quiz(")
    return [next(c for c in cells if kind in "".join(c["source"])) for kind in kinds]


@pytest.fixture
def lab(tmp_path):
    """(address of a running JupyterLab, its token); one notebook lies in its folder."""
    notebook = {
        "nbformat": 4,
        "nbformat_minor": 5,
        "metadata": {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}},
        "cells": [
            {"id": f"c{i}", "cell_type": "code", "metadata": {}, "source": source, "outputs": [], "execution_count": None}
            for i, source in enumerate(CELLS)
        ],
    }
    data = Predict.number("How many?", **QUESTION)._repr_mimebundle_()[0]
    output = {"output_type": "execute_result", "data": data, "metadata": {}, "execution_count": 1}
    notebook["cells"][CELLS.index(ASK)]["outputs"] = [output]
    (tmp_path / "play").mkdir()
    (tmp_path / "play" / "n.ipynb").write_text(json.dumps(notebook))
    (tmp_path / "play" / "chapter.ipynb").write_text(json.dumps({**notebook, "cells": parts_of_a_chapter()}))
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    token = secrets.token_hex(8)
    log = open(tmp_path / "lab.log", "w")
    command = [
        sys.executable,
        "-m",
        "jupyterlab",
        "--no-browser",
        "--allow-root",
        f"--port={port}",
        f"--IdentityProvider.token={token}",
        "--LabApp.news_url=",
        "--LabApp.extension_manager=readonly",
        f"--ServerApp.root_dir={tmp_path / 'play'}",
    ]
    home = {"HOME": str(tmp_path), "JUPYTER_CONFIG_DIR": str(tmp_path / "config")}
    server = subprocess.Popen(command, stdout=log, stderr=log, cwd=tmp_path, env={**os.environ, **home})
    try:
        hangs = time.monotonic() + PATIENCE / 1000
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/api?token={token}", timeout=PATIENCE / 1000)
                break
            except OSError:  # not there yet
                assert server.poll() is None and time.monotonic() < hangs, (tmp_path / "lab.log").read_text()
                time.sleep(0.25)
        yield f"http://127.0.0.1:{port}", token
    finally:
        server.terminate()
        server.wait(PATIENCE / 1000)
        log.close()


@pytest.fixture
def opened(lab, browser, request):
    """(page with the notebook in JupyterLab, its cells, run(number of a cell), errors of its scripts)"""
    address, token = lab
    context = browser.new_context(viewport={"width": 1280, "height": 1000})
    page, errors = context.new_page(), []
    page.set_default_timeout(PATIENCE)
    page.on("pageerror", lambda e: errors.append(str(e)))
    # The widget's module comes from the kernel, so nothing but the local server is needed.
    context.route("**/*", lambda r: r.continue_() if r.request.url.startswith((address, "data:", "blob:")) else r.abort())
    name = getattr(request, "param", "n.ipynb")
    page.goto(f"{address}/lab/tree/{name}?token={token}")
    cells = page.locator(".jp-Notebook .jp-CodeCell")
    cells.first.wait_for()

    def run(number: int) -> None:
        cells.nth(number).locator(".cm-content").click()
        page.keyboard.press("Control+Enter")
        cells.nth(number).locator(".jp-InputPrompt", has_text=re.compile(r"\[[*\d]+\]")).wait_for()

    # A key that is pressed before the kernel is there is lost.
    page.locator(".jp-StatusBar-Widget, #jp-main-statusbar").get_by_text("Idle").first.wait_for()
    yield page, cells, run, errors
    context.close()


def test_traits_and_figure_follow_each_other(opened):
    page, _, run, errors = opened
    run(0)
    shown = page.locator(".bl-x-softmax")
    shown.wait_for()
    first = float(shown.locator("rect[data-p]").first.get_attribute("data-p"))
    assert first == pytest.approx(0.50648, abs=1e-4)  # softmax of 2, 1, 0 at temperature 2
    assert page.locator("img.bl-fallback").count() == 0  # the picture is for pages without a kernel

    run(1)
    handle = shown.locator("[role=slider]").first
    handle.get_by_text("T = 5", exact=True).wait_for()
    assert float(shown.locator("rect[data-p]").first.get_attribute("data-p")) < 0.45

    handle.focus()
    page.keyboard.press("End")
    handle.get_by_text("T = 20", exact=True).wait_for()
    run(2)
    page.locator(".jp-OutputArea-output", has_text="temperature 20.0").wait_for()
    assert errors == []


def test_predict(opened):
    page, cells, run, errors = opened
    # Stored output, which JupyterLab does not trust yet: the question, and an answer that waits to be opened.
    stored = cells.nth(3).locator(".jp-OutputArea-output")
    assert "How many?" in stored.inner_text() and "15.2" not in stored.inner_text()
    stored.locator("summary", has_text="Show what was measured").click()
    assert "15.2 ± 2.1 %. So few." in stored.inner_text()

    run(3)
    shown = page.locator(".bl-x-predict")
    shown.wait_for()
    assert "15.2" not in cells.nth(3).locator(".jp-OutputArea").inner_text()
    shown.get_by_role("slider").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Shift+ArrowRight")
    shown.get_by_role("button", name="Show what was measured").press("Enter")
    shown.get_by_text("Your guess of 61 % is too high by 45.8 percentage points.").wait_for()
    assert shown.get_by_text("Measured: 15.2 ± 2.1 %.").is_visible()
    run(4)
    page.locator(".jp-OutputArea-output", has_text="guess 61 True").wait_for()
    assert errors == []


@pytest.mark.parametrize("opened", ["chapter.ipynb"], indirect=True)
def test_a_chapter_that_nobody_has_run(opened):
    """Its stored outputs show, and nothing is given away before it is opened."""
    page, cells, _, errors = opened
    setup, plot, predict, exercise, solution, quiz = (cells.nth(i) for i in range(6))
    for folded in (setup, predict):
        assert not folded.locator(".cm-content").is_visible()
    image = plot.locator(".jp-OutputArea-output img").first
    assert image.is_visible() and image.evaluate("e => e.naturalWidth") > 300
    assert "Predict." in predict.inner_text() and predict.locator("details[open]").count() == 0
    assert "raise NotImplementedError" in exercise.inner_text()
    assert "return" not in solution.locator(".jp-OutputArea").inner_text()
    solution.locator("summary").click()
    assert "return" in solution.locator(".jp-OutputArea").inner_text()
    reason = quiz.locator("details p").first
    assert not reason.is_visible()
    quiz.locator("summary").first.click()
    assert reason.is_visible()
    whole = page.locator(".jp-Notebook").inner_text()
    assert not re.search(r"```\{|\{\w+\}`|:::", whole)
    assert errors == []
