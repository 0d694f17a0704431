"""`GREENKIT_*` in a real process: typing mistakes, Django's settings, pools that do not fit."""

from __future__ import annotations

import sys

import pytest

from greenkit.testing import run_clean


def test_a_misspelt_variable_gets_one_line():
    """The program runs, patched, and standard error holds the one sentence."""
    run = run_clean("import greenkit.auto; print(greenkit.auto.report.patched)", env={"GREENKIT_REPIAR": "1"})
    assert run.stdout == "True\n"
    assert run.stderr == (
        "greenkit: GREENKIT_REPIAR is not a setting of greenkit; did you mean GREENKIT_REPAIR?\n"
    )


@pytest.mark.parametrize("env", [{"GREENKIT": "on"}, {"GREENKIT_REPAIR": "yes"}])
def test_a_wrong_value_stops_the_command_with_one_line(env):
    """`greenkit run` shows no traceback for a typing mistake."""
    run = run_clean(["-m", "greenkit", "run", "--", "-c", "print(1)"], env=env)
    assert run.returncode == 2
    assert run.stdout == ""
    assert run.stderr.count("\n") == 1
    assert run.stderr.startswith(f"greenkit: {next(iter(env))}=")


def test_repair_by_its_own_variable():
    """`GREENKIT_REPAIR=1` repairs in any mode that patches."""
    program = "from time import sleep\nimport greenkit.auto\nprint(sleep.__module__)"
    assert run_clean(program, env={"GREENKIT_REPAIR": "1"}).stdout == "gevent.hub\n"


WATCHED = "import json; from greenkit import watchdog; print(json.dumps(repr(watchdog.running())))"


@pytest.mark.parametrize("watch", ["100ms", "0.1"])
def test_run_watch_starts_the_watchdog(watch):
    """`greenkit run --watch=100ms` watches the hub of the program; without it nobody does."""
    run = run_clean(["-m", "greenkit", "run", f"--watch={watch}", "--", "-c", WATCHED])
    assert "over 0.1s" in run.json, run
    assert run_clean(["-m", "greenkit", "run", "--", "-c", WATCHED]).json == "None"


def test_a_watchdog_that_waits_for_no_time_is_refused():
    """A duration that is none ends the command before the program."""
    run = run_clean(["-m", "greenkit", "run", "--watch=soon", "--", "-c", "print('ran')"])
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr.startswith("greenkit: GREENKIT_WATCHDOG='soon' is no duration")
    assert run.stderr.count("\n") == 1


SETTINGS = "import greenkit.auto\nSECRET_KEY = 'x'\nINSTALLED_APPS = []\n"


@pytest.fixture
def django_project(tmp_path):
    pytest.importorskip("django")
    (tmp_path / "shop_settings.py").write_text(SETTINGS)
    (tmp_path / "manage.py").write_text(
        "import os, sys, time\n"
        "os.environ['DJANGO_SETTINGS_MODULE'] = 'shop_settings'\n"
        "from django.core.management import execute_from_command_line\n"
        "execute_from_command_line(sys.argv)\n"
        "print(time.sleep.__module__)\n"
    )
    return tmp_path


def test_settings_refuse_to_patch_under_native_connections(django_project):
    """django.db is there before settings.py runs: it stays unpatched and says which line asked."""
    run = run_clean(["manage.py", "check"], cwd=str(django_project))
    assert run.returncode == 0, run
    assert run.stdout.splitlines()[-1] == "time"
    assert run.stderr.splitlines()[0].startswith(
        f"greenkit: not patched by {django_project}/shop_settings.py:1: django.db is loaded"
    )
    assert "line 1 of manage.py" in run.stderr


def test_a_celery_app_imported_by_django_says_nothing(django_project):
    """Every process of a project imports its Celery app; that it does not patch there is no news."""
    (django_project / "shop_settings.py").write_text("SECRET_KEY = 'x'\nINSTALLED_APPS = ['proj']\n")
    (django_project / "proj.py").write_text("import greenkit.auto\n")
    run = run_clean(["manage.py", "check"], cwd=str(django_project))
    assert run.stdout.splitlines()[-1] == "time"
    assert "greenkit" not in run.stderr


@pytest.mark.parametrize("where", ["script", "module"])
def test_a_program_whose_line_comes_after_django_is_told(tmp_path, where):
    """A library that looks for Django (sentry's does) has loaded it first: not patched, and told so."""
    pytest.importorskip("django")
    (tmp_path / "helper.py").write_text("import greenkit.auto\n")
    line = "import greenkit.auto" if where == "script" else "import helper"
    (tmp_path / "program.py").write_text(f"import django.db, time\n{line}\nprint(time.sleep.__module__)\n")
    run = run_clean(["program.py"], cwd=str(tmp_path))
    place = "program.py:2" if where == "script" else "helper.py:1"
    assert run.stdout == "time\n"
    assert run.stderr.count("\n") == 1
    assert run.stderr.startswith(f"greenkit: not patched by {tmp_path}/{place}: django.db is loaded"), run


def test_line_one_of_manage_py_is_what_the_message_promises(django_project):
    """With the line in manage.py, too, settings.py finds a patched process and greenlet-local connections."""
    manage = django_project / "manage.py"
    manage.write_text("import greenkit.auto\n" + manage.read_text())
    run = run_clean(["manage.py", "check"], cwd=str(django_project))
    assert run.stdout.splitlines()[-1] == "gevent.hub"
    assert "greenkit" not in run.stderr


@pytest.mark.parametrize(
    ("module", "remedy"),
    [("celery.concurrency.prefork", "Use -P gevent"), ("gunicorn.workers.gthread", "Use -k gevent")],
)
def test_a_pool_that_cannot_be_patched_ends_at_once(tmp_path, module, remedy):
    """A patched process that turns out to be prefork or gthread stops before it takes work."""
    *packages, _ = module.split(".")
    for depth in range(1, len(packages) + 1):
        folder = tmp_path.joinpath(*packages[:depth])
        folder.mkdir()
        (folder / "__init__.py").write_text("")
    tmp_path.joinpath(*module.split(".")).with_suffix(".py").write_text("")
    program = f"import greenkit.auto\ntry:\n    import {module}\nexcept Exception: pass\nprint('went on')\n"
    run = run_clean(program, env={"PYTHONPATH": str(tmp_path)})
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr.startswith("greenkit: this process is patched by gevent and")
    assert remedy in run.stderr
    off = run_clean(program, env={"PYTHONPATH": str(tmp_path), "GREENKIT": "off"})
    assert (off.returncode, off.stdout) == (0, "went on\n")


def test_nothing_is_printed_by_an_ordinary_start():
    """A correct program on a correct machine: silence."""
    run = run_clean([*("-m", "greenkit", "run", "--"), "-c", "pass"])
    assert (run.returncode, run.stdout, run.stderr) == (0, "", ""), sys.version
