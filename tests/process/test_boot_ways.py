"""Every way in but Celery's, each in a clean interpreter: patched or rightly not, and nothing stale."""

from __future__ import annotations

import json
import sys

import pytest

from greenkit.testing import run_clean
from tests.process.probe import AUTO, GREEN, NATIVE, RUN, furnish


@pytest.fixture
def place(tmp_path):
    return furnish(tmp_path)


def started(place, *words, **env):
    run = run_clean(words, cwd=str(place), env={"PYTHONPATH": str(place), **env})
    assert run.returncode == 0, run
    assert run.stderr == ""
    return run.json


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("auto.py",), GREEN),
        (("-m", "auto"), GREEN),
        (("-c", AUTO + "import probe; probe.tell()"), GREEN),
        (("-I", "-c", "import sys; sys.path.insert(0, '')\n" + AUTO + "import probe; probe.tell()"), GREEN),
        (("-X", "dev", "-W", "error", "auto.py"), GREEN),
        ((*RUN, "plain.py"), GREEN),
        ((*RUN, "python", "plain.py"), GREEN),
        ((*RUN, "python", "-m", "plain"), GREEN),
        ((*RUN, "auto.py"), GREEN),
        ((*RUN, "-m", "http.server", "--help"), None),
        (("plain.py",), NATIVE),
    ],
    ids=lambda one: " ".join(one[:5]) if isinstance(one, tuple) else None,
)
def test_a_program(place, words, told):
    """Line 1 of a script, or the launcher in front of it."""
    if told is None:
        run = run_clean(words, cwd=str(place))
        assert (run.returncode, run.stderr) == (0, "")
        assert "usage:" in run.stdout
    else:
        assert started(place, *words) == told


@pytest.mark.parametrize("way", [(), RUN], ids=["auto", "greenkit run"])
def test_a_console_script_of_a_framework(place, way):
    """`flask run` loads its framework, then the application: both after the patch."""
    (place / "framework.py").write_text(
        "from time import sleep\nfrom socket import socket\nfrom threading import Thread, local\n"
        "from ssl import SSLContext\nimport importlib, sys\n"
        "class Server(Thread): pass\nclass State(local): pass\n"
        "def main():\n    importlib.import_module(sys.argv[-1])\n"
    )
    flask = place / "flask"
    line_one = "" if way else AUTO
    flask.write_text(
        f"#!{sys.executable}\n{line_one}import sys\nfrom framework import main\nsys.exit(main())\n"
    )
    flask.chmod(0o755)
    (place / "shop.py").write_text("import probe\nprobe.tell()\n")
    assert started(place, *way, str(flask), "run", "--app", "shop") == GREEN


DJANGO = """
import os, sys
os.environ["DJANGO_SETTINGS_MODULE"] = "shop_settings"
from django.core.management import execute_from_command_line
execute_from_command_line(sys.argv)
from django.db import connections
import gevent, probe
seen = set()
def look():
    seen.add(id(connections["default"]))
gevent.joinall([gevent.spawn(look) for _ in range(3)])
assert len(seen) == 3, "greenlets share a connection"
probe.tell()
"""


def test_manage_py(place):
    """Line 1 of manage.py: every greenlet has its own Django connection."""
    pytest.importorskip("django")
    (place / "shop_settings.py").write_text(
        "SECRET_KEY = 'x'\n"
        "DATABASES = {'default': {'ENGINE': 'django.db.backends.sqlite3', 'NAME': ':memory:'}}\n"
    )
    (place / "manage.py").write_text(AUTO + DJANGO)
    assert started(place, "manage.py", "check") == GREEN


def test_pytest_patched_early(place):
    """`-p greenkit.testing.early` patches before conftest.py and the tests are imported."""
    (place / "conftest.py").write_text("from time import sleep\nfrom ssl import SSLContext\n")
    (place / "test_it.py").write_text(
        "import probe\nfrom time import sleep\n"
        "def test_it():\n    assert probe.together() == 4\n    assert sleep.__module__ == 'gevent.hub'\n"
        "    assert probe.stale() == []\n"
        "    from greenkit.boot import evidence\n"
        "    assert [one.message for one in evidence() if one.severity.name != 'INFO'] == []\n"
    )
    run = run_clean(
        ["-m", "pytest", "-q", "-p", "greenkit.testing.early", "-p", "no:randomly", "-p", "no:cacheprovider"],
        cwd=str(place),
        env={"PYTHONPATH": str(place)},
    )
    assert run.returncode == 0, run
    assert "1 passed" in run.stdout


CHILDREN = """
import json, multiprocessing, os, sys
import probe

def work(answer):
    with open(answer, "w") as file:
        json.dump([probe.time.sleep.__module__, probe.together(), probe.stale()], file)

if __name__ == "__main__":
    method = sys.argv[1]
    if method == "os.fork":
        child = os.fork()
        if child == 0:
            work("answer.json")
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
    else:
        child = multiprocessing.get_context(method).Process(target=work, args=("answer.json",))
        child.start()
        child.join(30)
        assert child.exitcode == 0, child
    print(open("answer.json").read())
"""


@pytest.mark.parametrize("way", [(), RUN], ids=["auto", "greenkit run"])
@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver", "os.fork"])
def test_children_of_a_patched_process(place, method, way):
    """A forked child is as green as its parent; a fresh one is when its main module has the line."""
    (place / "parent.py").write_text(("" if way else AUTO) + CHILDREN)
    fresh = method in {"spawn", "forkserver"}
    assert started(place, *way, "parent.py", method) == (NATIVE if way and fresh else GREEN)


# What agents and tools import before the program's first line.
EARLY = """
import asyncio, concurrent.futures, contextlib, functools, http.client, importlib.metadata, json, logging
import multiprocessing, os, queue, selectors, signal, socket, ssl, subprocess, tempfile, threading, time
_stop = threading.Event()
_changed = threading.Condition()
"""


@pytest.mark.parametrize("kind", ["sitecustomize", "pth", "a thread of its own"])
@pytest.mark.parametrize("way", [("auto.py",), (*RUN, "plain.py")], ids=["auto", "greenkit run"])
def test_an_agent_that_imports_everything_first(place, kind, way):
    """Modules imported early by attribute do no harm; a native thread that already runs is named."""
    if kind == "a thread of its own":
        (place / "sitecustomize.py").write_text(
            EARLY + "threading.Thread(target=_stop.wait, daemon=True, name='agent').start()\n"
        )
        run = run_clean(way, cwd=str(place), env={"PYTHONPATH": str(place)})
        module, most, stale = run.json
        assert (run.returncode, module, most) == (0, "gevent.hub", 4)
        assert ["agent" in one for one in stale] == [True], stale
        assert "GK107" in run.stderr
        return
    (place / "agent.py").write_text(EARLY)
    if kind == "pth":
        program = f"import site; site.addsitedir({str(place / 'site')!r})\n"
        (place / "site").mkdir()
        (place / "site" / "agent.pth").write_text("import agent\n")
        (place / "sitecustomize.py").write_text(program)
    else:
        (place / "sitecustomize.py").write_text("import agent\n")
    assert started(place, *way) == GREEN


# What ddtrace-run does: its own modules keep their copies, the application gets fresh ones.
COPIES = """
import logging, threading, sys
threading.Thread(target=threading.Event().wait, daemon=True).start()
for name in ("time", "threading", "_thread", "reprlib", "queue", "socket", "select", "selectors"):
    sys.modules.pop(name, None)
"""


@pytest.mark.parametrize("way", [("auto.py",), (*RUN, "plain.py"), ("-c", "import auto")])
def test_an_agent_that_gives_the_program_copies_of_its_own(place, way):
    """The import that patches ends as it should, though importlib has another `_thread` than the program."""
    (place / "sitecustomize.py").write_text(COPIES)
    assert started(place, *way) == GREEN


@pytest.mark.parametrize(
    "tool",
    [
        ("-m", "coverage", "run", "--data-file=c"),
        ("-m", "cProfile", "-o", "p"),
        ("-m", "trace", "--count", "-C", "t"),
    ],
    ids=["coverage", "cProfile", "trace"],
)
def test_tools_that_run_programs(place, tool):
    """A tool that imported sockets and threads for itself holds nothing that harms the program."""
    if "coverage" in tool:
        pytest.importorskip("coverage")
    run = run_clean([*tool, "auto.py"], cwd=str(place), env={"PYTHONPATH": str(place)})
    assert run.returncode == 0, run
    told = [line for line in run.stdout.splitlines() if line.startswith("[")]
    assert json.loads(told[0]) == GREEN
    assert "greenkit" not in run.stderr


def test_a_debugger(place):
    """The debugger runs the program patched, to its end."""
    run = run_clean(["-m", "pdb", "-c", "continue", "-c", "quit", "auto.py"], cwd=str(place))
    assert json.dumps(GREEN) in run.stdout, run
