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

import pytest
from browser import PATIENCE

pytestmark = pytest.mark.site
CELLS = [
    "from bitlib.course.explore import Softmax\nw = Softmax(logits=[2.0, 1.0, 0.0], student=[0.0] * 3, labels=list('abc'))\nw",
    "w.temperature = 5.0",
    "print('temperature', round(w.temperature, 3))",
]


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
    (tmp_path / "play").mkdir()
    (tmp_path / "play" / "n.ipynb").write_text(json.dumps(notebook))
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


def test_traits_and_figure_follow_each_other(lab, browser):
    address, token = lab
    context = browser.new_context(viewport={"width": 1280, "height": 1000})
    page, errors = context.new_page(), []
    page.set_default_timeout(PATIENCE)
    page.on("pageerror", lambda e: errors.append(str(e)))
    # The widget's module comes from the kernel, so nothing but the local server is needed.
    context.route("**/*", lambda r: r.continue_() if r.request.url.startswith((address, "data:", "blob:")) else r.abort())
    page.goto(f"{address}/lab/tree/n.ipynb?token={token}")
    cells = page.locator(".jp-Notebook .jp-CodeCell")
    cells.first.wait_for()

    def run(number: int) -> None:
        cells.nth(number).locator(".cm-content").click()
        page.keyboard.press("Control+Enter")
        cells.nth(number).locator(".jp-InputPrompt", has_text=re.compile(r"\[[*\d]+\]")).wait_for()

    # A key that is pressed before the kernel is there is lost.
    page.locator(".jp-StatusBar-Widget, #jp-main-statusbar").get_by_text("Idle").first.wait_for()
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
    context.close()
