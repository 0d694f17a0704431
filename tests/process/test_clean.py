"""The clean interpreter is clean, and tells what the program did."""

from __future__ import annotations

import pytest

from greenkit.errors import WaitTimeout
from greenkit.testing import run_clean


def test_the_outcome_is_told_whole():
    """Status, both outputs and the last line as JSON."""
    run = run_clean("import sys; print('noise'); print('[1, 2]'); print('oh', file=sys.stderr); sys.exit(3)")
    assert (run.returncode, run.stdout, run.stderr) == (3, "noise\n[1, 2]\n", "oh\n")
    assert run.json == [1, 2]


def test_a_last_line_that_is_no_json_shows_the_outputs():
    """The error is enough to see what went wrong."""
    with pytest.raises(ValueError, match=r"(?s)no JSON.*ZeroDivisionError"):
        _ = run_clean("1/0").json


def test_nothing_of_the_parent_leaks_in(monkeypatch):
    """Modules and settings of this process are not there; what is passed is."""
    monkeypatch.setenv("GREENKIT_STRICT", "error")
    run = run_clean(
        "import sys, os, json; print(json.dumps([sorted(sys.modules), dict(os.environ)]))", env={"HERE": "1"}
    )
    modules, environ = run.json
    assert not {"gevent", "pytest", "greenkit", "threading"} & set(modules)
    assert "GREENKIT_STRICT" not in environ
    assert environ["HERE"] == "1"


def test_arguments_run_as_on_a_command_line():
    """A list is what follows `python`."""
    run = run_clean(["-c", "import sys; print(sys.argv[1:])", "a"])
    assert run.stdout == "['a']\n"


def test_a_program_that_hangs_is_killed_and_what_it_said_is_shown():
    """The wait ends at the timeout, with the output until then."""
    with pytest.raises(WaitTimeout, match=r"(?s)killed after 0.5 s.*still here"):
        run_clean("print('still here', flush=True)\nimport signal; signal.pause()", timeout=0.5)


PLUGIN = {"greenkit.testing._hub", "greenkit.testing.fixtures"}


def test_the_pytest_plugin_loads_nothing_of_weight():
    """Loading the fixtures in somebody's project brings neither gevent nor a server's code."""
    run = run_clean(
        "import sys, json, pytest; before = set(sys.modules); import greenkit.testing.fixtures;"
        "print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    assert [name for name in run.json if not name.startswith("greenkit")] == []
    assert set(run.json) == {"greenkit", "greenkit.errors", "greenkit.testing", *PLUGIN}


@pytest.mark.parametrize("early", [True, False])
def test_early_patches_before_the_projects_modules(tmp_path, early):
    """With `-p greenkit.testing.early` a conftest already finds a patched process."""
    (tmp_path / "conftest.py").write_text(
        "import socket, gevent.socket\nPATCHED = socket.socket is gevent.socket.socket\n"
    )
    (tmp_path / "test_it.py").write_text(f"import conftest\ndef test(): assert conftest.PATCHED is {early}\n")
    options = ["-p", "greenkit.testing.early"] if early else []
    run = run_clean(["-W", "error", "-m", "pytest", "-p", "no:cacheprovider", *options, str(tmp_path)])
    assert run.returncode == 0, run
    assert ("greenkit: patched before the tests" in run.stdout) is early


def test_early_serves_drivers_as_a_worker_does(tmp_path):
    """psycopg2 has its wait callback, and each greenlet its running loop, as under `import greenkit.auto`."""
    (tmp_path / "test_it.py").write_text(
        "import asyncio, gevent, psycopg2.extensions\n"
        "from greenkit.boot import loop_isolation\n"
        "async def nap(): await asyncio.sleep(0.01)\n"
        "def test():\n"
        "    assert loop_isolation().installed\n"
        "    jobs = [gevent.spawn(asyncio.run, nap()) for _ in range(3)]\n"
        "    gevent.joinall(jobs, raise_error=True)\n"
        "    assert psycopg2.extensions.get_wait_callback() is not None\n"
    )
    run = run_clean(["-m", "pytest", "-p", "no:cacheprovider", "-p", "greenkit.testing.early", str(tmp_path)])
    assert run.returncode == 0, run
