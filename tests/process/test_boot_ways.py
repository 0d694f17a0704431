"""Every way in but Celery's, each in a clean interpreter: patched or rightly not, and nothing stale."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from greenkit.testing import run_clean

# What each program ends with: four naps at once, counted, and what the evidence says.
PROBE = """
import json, sys, threading, time

running = most = 0

def nap():
    global running, most
    running += 1
    most = max(most, running)
    time.sleep(0.05)
    running -= 1

def together():
    if "gevent" not in sys.modules:
        return 0
    import gevent
    gevent.joinall([gevent.spawn(nap) for _ in range(4)])
    return most

def stale():
    if "gevent" not in sys.modules:
        return []
    from greenkit import boot
    return [f.message for f in boot.evidence() if f.severity.value != "info"]

def tell():
    print(json.dumps([time.sleep.__module__, together(), stale()]))
"""
GREEN, NATIVE = ["gevent.hub", 4, []], ["time", 0, []]
AUTO = "import greenkit.auto\n"
RUN = ("-m", "greenkit", "run", "--")


@pytest.fixture
def place(tmp_path):
    """A directory of programs that all can `import probe`."""
    (tmp_path / "probe.py").write_text(PROBE)
    (tmp_path / "plain.py").write_text("import probe\nprobe.tell()\n")
    (tmp_path / "auto.py").write_text(AUTO + "import probe\nprobe.tell()\n")
    return tmp_path


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


WSGI = """
import json, os, threading, time
import probe
running = most = 0

def application(environ, start_response):
    global running, most
    running += 1
    most = max(most, running)
    for _ in range(250):
        if most >= int(os.environ["EXPECTED"]):
            break
        time.sleep(0.02)
    running -= 1
    start_response("200 OK", [])
    return [json.dumps([time.sleep.__module__, most, probe.stale()]).encode()]
"""


class Gunicorn:
    """A real gunicorn on a loopback socket, asked by four threads at once."""

    def __init__(self, place: Path, words: list[str], expected: int) -> None:
        self.place = place
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("GREENKIT", "GUNICORN"))}
        self.log = (place / "log.txt").open("w")
        self.process = subprocess.Popen(
            [sys.executable, *words, "--bind", "unix:shop.sock"],
            cwd=place,
            env={**kept, "HOME": str(place), "PYTHONPATH": str(place), "EXPECTED": str(expected)},
            stdout=self.log,
            stderr=subprocess.STDOUT,
        )

    def ask(self) -> bytes:
        for _ in range(600):
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as client:
                client.settimeout(30)
                client.connect(str(self.place / "shop.sock"))
                client.sendall(b"GET / HTTP/1.0\r\n\r\n")
                answer = b"".join(iter(lambda: client.recv(65536), b""))
                return answer.partition(b"\r\n\r\n")[2]
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        return b""

    def answers(self) -> list[bytes]:
        got: list[bytes] = []
        threads = [threading.Thread(target=lambda: got.append(self.ask())) for _ in range(4)]
        for one in threads:
            one.start()
        for one in threads:
            one.join()
        return got

    def end(self) -> str:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()
        return (self.place / "log.txt").read_text()


@pytest.fixture
def gunicorn(place):
    pytest.importorskip("gunicorn")
    servers = []

    def serve(*words, wsgi=AUTO, conf="", expected=4):
        (place / "shop.py").write_text(wsgi + WSGI)
        (place / "conf.py").write_text(conf)
        servers.append(Gunicorn(place, [*words, "-c", "conf.py", "shop"], expected))
        return servers[-1]

    yield serve
    for one in servers:
        one.process.kill()
        one.process.wait()
        one.log.close()


GUNICORN = ("-m", "gunicorn")


@pytest.mark.parametrize("preload", [(), ("--preload",)], ids=["", "preload"])
@pytest.mark.parametrize(
    ("words", "files"),
    [
        ((*GUNICORN, "-k", "gevent"), {}),
        ((*GUNICORN, "-k", "gevent"), {"wsgi": "", "conf": AUTO}),
        (GUNICORN, {"conf": AUTO + "worker_class = 'gevent'\n"}),
        ((*RUN, "-m", "gunicorn", "-k", "gevent"), {"wsgi": ""}),
    ],
    ids=["wsgi.py", "conf.py", "both", "greenkit run"],
)
def test_gunicorn_with_its_gevent_worker(gunicorn, words, files, preload):
    """Line 1 of wsgi.py or of the configuration, or the launcher; preloaded or not: four at once, clean."""
    server = gunicorn(*words, *preload, **files)
    answers = [json.loads(one) for one in server.answers()]
    log = server.end()
    assert answers == [GREEN] * 4, log
    assert "greenkit" not in log


@pytest.mark.parametrize(
    ("words", "files"),
    [
        ((*GUNICORN, "--threads", "4"), {}),
        (GUNICORN, {"conf": "threads = 4\n"}),
        ((*RUN, "-m", "gunicorn", "-k", "gthread", "--threads", "4"), {}),
    ],
    ids=["argv", "configuration", "greenkit run"],
)
def test_gunicorn_with_threads_is_left_alone(gunicorn, words, files):
    """A patched gthread worker never answers, so wsgi.py does not patch it."""
    server = gunicorn(*words, **files)
    answers = [json.loads(one) for one in server.answers()]
    log = server.end()
    assert answers == [["time", 4, []]] * 4, log


def test_gunicorn_with_threads_and_a_patched_configuration_is_refused(gunicorn):
    """Patched by conf.py before the worker class is known: it ends, and names the way out."""
    server = gunicorn(*GUNICORN, conf=AUTO + "threads = 4\n")
    assert server.process.wait(30) != 0
    assert "gunicorn's worker is gthread" in server.end()


def test_gunicorn_with_its_sync_worker_answers(gunicorn):
    """One request at a time, patched, is still one request at a time."""
    server = gunicorn(*GUNICORN, expected=1)
    assert json.loads(server.ask()) == ["gevent.hub", 1, []]
    assert "greenkit" not in server.end()


def test_pytest_patched_early(place):
    """`-p greenkit.testing.early` patches before conftest.py and the tests are imported."""
    (place / "conftest.py").write_text("from time import sleep\nfrom ssl import SSLContext\n")
    (place / "test_it.py").write_text(
        "import probe\nfrom time import sleep\n"
        "def test_it():\n    assert probe.together() == 4\n    assert sleep.__module__ == 'gevent.hub'\n"
        "    assert [one for one in probe.stale() if '_pytest' not in one] == []\n"
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
