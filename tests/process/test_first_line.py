"""Where the first line belongs: in the file of this project that Python runs first."""

from __future__ import annotations

import sys

import pytest

from greenkit.testing import run_clean

LATE = "import requests\nimport greenkit.auto\n"
LOOK = "from greenkit import boot\nfrom greenkit.findings import render\nprint(render(boot.evidence()))\n"


def _write(directory, files):
    for name, text in files.items():
        path = directory / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")


def test_the_package_that_celery_names(tmp_path, monkeypatch):
    """`shop/__init__.py` imports `shop/celery.py`, which patches: the line belongs in the first of them."""
    pytest.importorskip("celery")
    _write(
        tmp_path,
        {
            "shop/__init__.py": "from shop.celery import app\n",
            "shop/celery.py": f"{LATE}{LOOK}from celery import Celery\napp = Celery('shop')\n",
        },
    )
    monkeypatch.chdir(tmp_path)
    run = run_clean(["-m", "celery", "-A", "shop", "worker", "-Pgevent", "--help"], cwd=tmp_path)
    assert "GK101" in run.stdout, run
    assert '-> Make "import greenkit.auto" line 1 of shop/__init__.py, or' in run.stdout
    assert "imported by shop/celery.py:1)" in run.stdout


@pytest.mark.parametrize("module", ["shop.tasks", "tasks"])
def test_a_script_that_imports_them(tmp_path, module):
    """A script is the first file, whatever the package is that patches."""
    path = module.replace(".", "/") + ".py"
    package = {"shop/__init__.py": ""} if "." in module else {}
    _write(tmp_path, {"run.py": f"import {module}\n", path: LATE + LOOK, **package})
    run = run_clean([str(tmp_path / "run.py")], cwd=tmp_path)
    assert "line 1 of run.py, or" in run.stdout, run


def test_nobody_of_the_project_is_known(tmp_path):
    """Where nobody patched, the hint names no file."""
    run = run_clean(["-c", LOOK], cwd=tmp_path)
    assert "line 1 of the program, or" in run.stdout, run
    assert sys.executable not in run.stdout
