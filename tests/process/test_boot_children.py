"""The start-up hook: Python programs nobody of ours started, patched before their first import."""

from __future__ import annotations

import sys
from importlib.metadata import files
from pathlib import Path

import pytest

from greenkit import _children
from greenkit.testing import run_clean

HOOK = next((one for one in sys.path if (Path(one) / _children.FILE).is_file()), None)
pytestmark = pytest.mark.skipif(HOOK is None, reason="greenkit is not installed, so it has no start-up hook")

ARMED = {"GREENKIT_CHILDREN": "1"}
TELL = """
import json, sys, time
stale = None
if "gevent" in sys.modules:
    from greenkit import boot
    stale = [f.message for f in boot.evidence() if f.severity.value != "info"]
print(json.dumps([time.sleep.__module__, stale]))
"""
GREEN, NATIVE = ["gevent.hub", []], ["time", None]


def test_the_hook_is_installed_with_the_package():
    """Both files lie in site-packages and are the package's, so that uninstalling removes them."""
    names = {str(one) for one in files("greenkit") or ()}
    assert {_children.FILE, "_greenkit_children.start"} <= names


def test_unarmed_nothing_of_greenkit_is_loaded():
    """A process that asked for nothing loads no module for it."""
    program = "import sys, json; print(json.dumps([m for m in sys.modules if m.startswith('greenkit')]))"
    assert run_clean(["-c", program]).json == []
    assert run_clean(["-c", program], env={"GREENKIT_CHILDREN": "0"}).json == []


@pytest.mark.parametrize("kind", ["script", "-c", "-m", "from time import sleep"])
def test_an_armed_process_is_patched_before_its_first_import(tmp_path, kind):
    """However it is started, no line of it ran before the patch, and nothing is stale."""
    (tmp_path / "told.py").write_text(("from time import sleep\n" if " " in kind else "") + TELL)
    program = {"-c": ["-c", TELL], "-m": ["-m", "told"]}.get(kind, [str(tmp_path / "told.py")])
    run = run_clean(program, env=ARMED, cwd=str(tmp_path))
    assert (run.json, run.stderr) == (GREEN, "")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("-m celery -A proj worker -P gevent", GREEN),
        ("-m celery -A proj worker -P prefork", NATIVE),
        ("-m celery -A proj beat", NATIVE),
        ("-m gunicorn -k gthread shop", NATIVE),
        ("-m uvicorn shop", NATIVE),
        ("-m greenkit run -- -m celery -A proj worker -P prefork", NATIVE),
        ("-m greenkit run -- -m celery -A proj worker -Pgevent", GREEN),
    ],
)
def test_the_command_line_decides(tmp_path, line, told):
    """What greenkit.auto leaves alone the hook leaves alone, and `greenkit run` decides for itself."""
    for name in ("celery", "gunicorn", "uvicorn"):
        (tmp_path / f"{name}.py").write_text(TELL)
    assert run_clean(line.split(), env=ARMED, cwd=str(tmp_path)).json == told


def test_helpers_of_multiprocessing_are_left_alone(tmp_path):
    """A spawned worker is patched as its parent is; the process that only tracks resources is not."""
    (tmp_path / "spawns.py").write_text("""
import json, multiprocessing, sys, time
def work(queue):
    queue.put(time.sleep.__module__)
if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    queue = context.SimpleQueue()
    child = context.Process(target=work, args=(queue,))
    child.start()
    child.join(30)
    from multiprocessing import resource_tracker
    pid = resource_tracker._resource_tracker._pid
    maps = open(f"/proc/{pid}/maps").read()
    print(json.dumps([queue.get(), "greenlet" in maps]))
""")
    assert run_clean([str(tmp_path / "spawns.py")], env=ARMED).json == ["gevent.hub", False]


def test_a_broken_greenkit_is_said_and_ignored(tmp_path):
    """A half-removed package costs one line; the program runs."""
    (tmp_path / "greenkit").mkdir()
    (tmp_path / "greenkit" / "__init__.py").write_text("")
    run = run_clean(["-c", TELL], env={**ARMED, "PYTHONPATH": str(tmp_path)})
    assert run.json == NATIVE
    assert run.stderr.count("\n") == 1
    assert run.stderr.startswith("greenkit: GREENKIT_CHILDREN is set, but greenkit is not whole")


def test_a_fault_of_the_hook_does_not_stop_the_program(tmp_path):
    """An exception nobody foresaw is one line, too."""
    (tmp_path / "gevent.py").write_text("raise KeyError('ours')")
    run = run_clean(["-c", "print('ran')"], env={**ARMED, "PYTHONPATH": str(tmp_path)})
    assert (run.returncode, run.stdout) == (0, "ran\n")
    assert run.stderr == "greenkit: the start-up hook failed: KeyError: 'ours'; not patched\n"


@pytest.mark.parametrize("env", [{"GREENKIT": "on"}, {"GREENKIT_CHILDREN": "yes"}])
def test_a_wrong_value_ends_the_process(env):
    """A typing mistake is an error in every process it reaches: one line, status 2."""
    run = run_clean(["-c", "print('ran')"], env={**ARMED, **env})
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr.count("\n") == 1


def test_ddtrace_run_goes_first(tmp_path):
    """Its sitecustomize runs in a native process, the program in a patched one."""
    bootstrap = tmp_path / "ddtrace" / "bootstrap"
    bootstrap.mkdir(parents=True)
    (bootstrap / "sitecustomize.py").write_text(
        "import sys, threading, time\nprint('ddtrace', time.sleep.__module__, 'gevent' in sys.modules)\n"
        "threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
        "for name in ('time', 'threading', '_thread'): sys.modules.pop(name)\n"
    )
    run = run_clean(["-c", TELL], env={**ARMED, "PYTHONPATH": str(bootstrap)})
    assert run.stdout.splitlines()[0] == "ddtrace time False"
    assert run.json == GREEN


def test_an_agent_that_preloads_everything_comes_after_the_patch(tmp_path):
    """A sitecustomize that takes names from socket, ssl and time takes the cooperative ones."""
    (tmp_path / "sitecustomize.py").write_text(
        "from time import sleep\nfrom socket import socket, getaddrinfo\nfrom ssl import SSLContext\n"
        "from threading import Lock, local, Thread\nfrom subprocess import Popen\n"
        "from queue import SimpleQueue\n"
    )
    assert run_clean(["-c", TELL], env={**ARMED, "PYTHONPATH": str(tmp_path)}).json == GREEN


def test_run_children_patches_what_a_shell_starts():
    """`greenkit run --children -- sh …` runs any command; the Python in it is patched."""
    script = f"exec {sys.executable} -c '{TELL}'".replace('"', '\\"').replace("\\", "")
    run = run_clean(["-m", "greenkit", "run", "--children", "--", "/bin/sh", "-c", script])
    assert run.json == GREEN


def test_run_without_children_says_where_the_patch_ends():
    """A program that replaces its process gets a line; with `--children` the patch lives on."""
    program = f"import os, sys\nos.execl(sys.executable, 'python', '-c', {TELL!r})"
    run = run_clean(["-m", "greenkit", "run", "--", "-c", program])
    assert run.json == NATIVE
    assert run.stderr == (
        f"greenkit: {sys.executable} replaces this process, and the patch ends here;"
        " start it with: greenkit run --children -- …\n"
    )
    run = run_clean(["-m", "greenkit", "run", "--children", "--", "-c", program])
    assert (run.json, run.stderr) == (GREEN, "")


def test_run_children_without_the_hook_is_refused(tmp_path):
    """A checkout on PYTHONPATH has no hook in site-packages, and says so instead of doing nothing."""
    import greenkit

    root = Path(greenkit.__file__).parents[1]
    places = [str(root), *(one for one in sys.path if one and one != HOOK)]
    program = f"import sys; sys.path[:] = {places!r}\nfrom greenkit.cli import main; sys.exit(main())"
    run = run_clean(["-c", program, "run", "--children", "--", "-c", "print(1)"])
    assert (run.returncode, run.stdout) == (2, "")
    assert "--children needs _greenkit_children.pth in site-packages" in run.stderr
