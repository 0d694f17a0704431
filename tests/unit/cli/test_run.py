from __future__ import annotations

import sys

import pytest

from greenkit.cli._run import _understand
from greenkit.errors import ConfigError


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "script.py"
    path.write_text("")
    return str(path)


def test_the_ways_to_name_a_program(script):
    """A script, a module and code are told apart, with or without the interpreter's name."""
    for python in ([], ["python"], ["python3"], [sys.executable], ["--", "python"]):
        assert _understand([*python, script, "-x"]) == ("", [script, "-x"])
        assert _understand([*python, "-m", "json.tool", "f"]) == ("-m", ["json.tool", "f"])
        assert _understand([*python, "-c", "pass", "a"]) == ("-c", ["-c", "a"])


def test_a_command_is_found_next_to_the_interpreter(tmp_path, monkeypatch):
    """The environment's own command wins over the PATH's, activated or not."""
    for place in ("venv", "path"):
        (tmp_path / place).mkdir()
        command = tmp_path / place / "tool"
        command.write_text("#!/usr/bin/python\n")
        command.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "venv" / "python"))
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    assert _understand(["tool"]) == ("", [str(tmp_path / "venv" / "tool")])


@pytest.mark.parametrize(
    ("program", "says"),
    [
        ([], "usage"),
        (["--"], "usage"),
        (["-m"], "needs an argument"),
        (["python", "-X", "dev", "s.py"], "-X"),
        (["no-such-command-here"], "neither a file nor a command"),
        (["/bin/sh", "-c", "true"], "not a Python program"),
    ],
)
def test_what_cannot_be_run_is_refused_by_name(program, says):
    """The message says which word is wrong and what is possible."""
    with pytest.raises(ConfigError, match=says):
        _understand(program)
