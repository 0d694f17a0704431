"""The `greenkit` command as its users start it."""

from __future__ import annotations

import pytest

from greenkit.testing import run_clean

SCRIPT = """
import json, sys, time
print(json.dumps([__name__, sys.argv, time.sleep.__module__, sys.path[0], __file__]))
import __main__
assert __main__.__dict__ is globals()
"""


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    return str(path)


@pytest.mark.parametrize("python", [(), ("python",)])
def test_a_script_runs_as_main_and_patched(script, python, tmp_path):
    """It sees the argv, the path and the `__main__` it would see without us, and a green sleep."""
    run = run_clean(["-m", "greenkit", "run", "--", *python, script, "-x", "--strict"])
    assert run.json == ["__main__", [script, "-x", "--strict"], "gevent.hub", str(tmp_path), script]
    assert run.stderr == ""


def test_a_module_runs_as_main_and_patched(script, tmp_path):
    """`-m` finds modules in the current directory."""
    run = run_clean(["-m", "greenkit", "run", "--", "-m", "script", "a"], cwd=str(tmp_path))
    assert run.json == ["__main__", [script, "a"], "gevent.hub", str(tmp_path), script]


def test_code_runs_as_main_and_patched():
    """`-c` works as the interpreter's does."""
    code = "import sys, time, json; print(json.dumps([sys.argv, time.sleep.__module__, __name__]))"
    run = run_clean(["-m", "greenkit", "run", "--", "python", "-c", code, "a"])
    assert run.json == [["-c", "a"], "gevent.hub", "__main__"]


def test_a_console_script_runs_patched(tmp_path):
    """A Python command on the PATH is run in this process."""
    command = tmp_path / "hello-green"
    command.write_text(f"#!/usr/bin/env python3\n{SCRIPT}")
    command.chmod(0o755)
    run = run_clean(["-m", "greenkit", "run", "--", "hello-green"], env={"PATH": str(tmp_path)})
    assert run.json[:3] == ["__main__", [str(command)], "gevent.hub"]


def test_the_programs_exit_code_is_ours(script):
    """What the program raises or returns is what the shell sees."""
    run = run_clean(["-m", "greenkit", "run", "--", "-c", "raise SystemExit(7)"])
    assert run.returncode == 7
    run = run_clean(
        ["-m", "greenkit", "run", "--", "-c", "from greenkit import GreenkitError; raise GreenkitError"]
    )
    assert run.returncode == 1
    assert "Traceback" in run.stderr


def test_a_program_that_is_not_python_is_refused():
    """One line says why and what to do; the code is 2."""
    run = run_clean(["-m", "greenkit", "run", "--", "/bin/sh", "-c", "true"])
    assert run.returncode == 2
    assert run.stderr.count("\n") == 1
    assert "/bin/sh is not a Python program" in run.stderr


def test_a_celery_command_that_must_not_be_patched_is_not(tmp_path):
    """`greenkit run` on beat says that it did not patch."""
    (tmp_path / "celery.py").write_text("import sys; print('gevent' in sys.modules)")
    run = run_clean(["-m", "greenkit", "run", "--", "-m", "celery", "beat"], cwd=str(tmp_path))
    assert run.stdout == "False\n"
    assert run.stderr == "greenkit: not patched: celery beat runs no tasks\n"


def test_without_a_command_the_usage_is_shown():
    """A bare `greenkit` lists its commands and ends with 2."""
    run = run_clean(["-m", "greenkit"])
    assert run.returncode == 2
    assert "usage: greenkit" in run.stderr
