"""The check after the build finds what jupyter-book passes over."""

import json

import pytest
from test_site import check_book

TOC = "format: jb-book\nroot: index\nparts:\n  - chapters:\n    - file: a/one\n      sections:\n      - file: a/two\n"


@pytest.fixture
def book(tmp_path):
    html = tmp_path / "_build" / "html"
    (html / "a").mkdir(parents=True)
    (tmp_path / "a").mkdir()
    (tmp_path / "_toc.yml").write_text(TOC)
    for page in ("index", "a/one", "a/two"):
        (html / f"{page}.html").write_text("<html>")
    notebook = {"cells": [{"cell_type": "code", "source": "1", "outputs": [{"output_type": "execute_result"}]}]}
    (tmp_path / "a" / "two.ipynb").write_text(json.dumps(notebook))
    return tmp_path


def test_a_whole_book(book):
    assert check_book.problems_of(book) == []


def test_missing_page(book):
    (book / "_build/html/a/two.html").unlink()
    assert check_book.problems_of(book) == ["a/two is in _toc.yml, but _build/html/a/two.html was not built"]


@pytest.mark.parametrize("outputs, message", [([], "holds no outputs"), ([{"output_type": "error"}], "cell 1 is an error")])
def test_notebooks(book, outputs, message):
    (book / "a/two.ipynb").write_text(json.dumps({"cells": [{"cell_type": "code", "source": "1", "outputs": outputs}]}))
    assert message in check_book.problems_of(book)[0]


def test_vendored_scripts_are_what_the_manifest_says():
    assert check_book.vendor_web.check() == []


def test_a_changed_vendored_script_is_found(tmp_path, monkeypatch):
    import shutil

    copy = tmp_path / "static" / "vendor"
    shutil.copytree(check_book.vendor_web.VENDOR, copy)
    monkeypatch.setattr(check_book.vendor_web, "VENDOR", copy)
    monkeypatch.setattr(check_book.vendor_web, "MANIFEST", copy / "manifest.json")
    (copy / "mathjax" / "tex-mml-chtml.js").write_text("alert(1)")
    (copy / "mathjax" / "extra.js").write_text("")
    problems = check_book.vendor_web.check()
    assert any("is not the file of mathjax@3.2.2" in p for p in problems)
    assert any("extra.js is not in the manifest" in p for p in problems)
