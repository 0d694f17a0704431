"""Metrics and probes of real processes: one, several on one port, forked ones, one whose hub stands still."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import termios
import time

import pytest

from greenkit.testing import run_clean
from tests.process.scrape import get

PROGRAM = """
import greenkit.auto
import os, sys, gevent
from gevent.monkey import get_original
from greenkit import Limiter
llm = Limiter("llm", requests="100/s", concurrency=5)

def wait_for_nothing():
    gevent.sleep(60)

def act():
    for line in sys.stdin:
        word = line.strip()
        if word == "call":
            with llm.permit(): pass
        elif word == "block":
            print("blocks", flush=True)
            get_original("time", "sleep")(6)
        elif word == "wait":
            gevent.spawn(wait_for_nothing)
            gevent.sleep(0)
        elif word == "fork":
            if os.fork() == 0:
                gevent.sleep(60)
                os._exit(0)
        elif word == "end":
            return
        print("done", flush=True)

from gevent.fileobject import FileObjectThread
sys.stdin = FileObjectThread(sys.stdin.buffer.raw, "rb")
sys.stdin = (line.decode() for line in sys.stdin)
print("ready", flush=True)
act()
"""


class Process:
    """A patched program that serves metrics and does what it is told."""

    def __init__(self, place, env) -> None:
        (place / "program.py").write_text(PROGRAM)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("GREENKIT")}
        self.process = subprocess.Popen(
            [sys.executable, str(place / "program.py")], env={**kept, **env}, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        self.pid = self.process.pid
        assert self.process.stdout.readline() == "ready\n", self.process.stderr.read()

    def tell(self, word: str) -> str:
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            with contextlib.suppress(OSError):
                pipe.close()


@pytest.fixture
def port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


@pytest.fixture
def start(tmp_path, port):
    started = []

    def one(**env: str) -> Process:
        given = {"GREENKIT_METRICS": f"127.0.0.1:{port}", "GREENKIT_METRICS_DIR": str(tmp_path / "metrics")}
        started.append(Process(tmp_path, {**given, "GREENKIT_ALIVE": str(tmp_path / "alive"), **env}))
        return started[-1]

    yield one
    for process in started:
        process.close()


def until(condition, what: str):
    end = time.monotonic() + 20
    while not (found := condition()):
        assert time.monotonic() < end, what
        time.sleep(0.05)
    return found


def processes(port: int) -> set[str]:
    """Return the numbers of the processes that a scrape shows."""
    return set(re.findall(r'greenkit_limiter_granted_total\{.*?process="(\d+)"\}', get(port, "/metrics")[1]))


def alive(place, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "greenkit", "alive", *words, str(place)],
        capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip


def test_a_scrape_tells_what_happened(start, port) -> None:
    """Permits, waits and hub lag are there, in Prometheus' format, with the program's own metrics."""
    one = start()
    until(lambda: get(port, "/healthz")[0] == 200, "nobody answered")
    for _ in range(3):
        assert one.tell("call") == "done"
    status, text = get(port, "/metrics")
    assert status == 200
    assert 'greenkit_limiter_granted_total{limiter="llm",process="0"} 3.0' in text
    assert 'greenkit_limiter_wait_seconds_count{limiter="llm",process="0"} 3.0' in text
    assert "# TYPE greenkit_hub_lag_seconds histogram" in text
    assert "process_resident_memory_bytes" in text
    assert get(port, "/readyz") == (200, "ok\n")
    assert get(port, "/nothing")[0] == 404


def test_several_processes_share_a_port_and_its_heir_takes_over(start, port) -> None:
    """One answers for all; when it is killed another does, and a newcomer takes the free number."""
    first = start()
    until(lambda: processes(port) == {"0"}, "the first does not answer")
    second = start()
    until(lambda: processes(port) == {"0", "1"}, "the second is not seen")
    second.tell("call")
    assert 'granted_total{limiter="llm",process="1"} 1.0' in get(port, "/metrics")[1]
    first.close()
    until(lambda: processes(port) == {"1"}, "nobody took the port")
    start()
    until(lambda: processes(port) == {"0", "1"}, "the number was not used again")


def test_a_forked_child_has_a_number_of_its_own(start, port, tmp_path) -> None:
    """As under gunicorn with --preload: it neither keeps the parent's port nor answers in its name."""
    parent = start()
    until(lambda: processes(port) == {"0"}, "the parent does not answer")
    parent.tell("fork")
    until(lambda: processes(port) == {"0", "1"}, "the child is not seen")
    place = tmp_path / "alive"
    until(lambda: alive(place).stdout.startswith("2 alive"), "the child does not beat")
    parent.close()
    until(lambda: processes(port) == {"1"}, "the child did not take the port")
    [child] = {int(file.name) for file in place.iterdir()} - {parent.pid}
    os.kill(child, signal.SIGKILL)


def test_a_blocked_hub_fails_the_probes(start, port, tmp_path) -> None:
    """Its own port does not answer, the port of another names it, and `alive` says for how long."""
    first, second = start(), start()
    until(lambda: processes(port) == {"0", "1"}, "they do not answer")
    assert alive(tmp_path / "alive", "--max-age", "5").returncode == 0
    assert second.tell("block") == "blocks"
    status, text = until(
        lambda: (found := get(port, "/healthz"))[0] in {0, 503} and found, "a blocked hub was called healthy"
    )
    assert status == 503
    assert "process 1: no answer within 1 s: its hub stands still" in text
    said = until(
        lambda: (found := alive(tmp_path / "alive", "--max-age", "1.5")).returncode == 1 and found, "alive"
    )
    assert f"the hub of process {second.pid} has stood still for" in said.stderr
    assert second.process.stdout.readline() == "done\n"
    until(lambda: get(port, "/healthz")[0] == 200, "it did not recover")
    first.tell("block")
    assert get(port, "/healthz", timeout=1)[0] == 0


def test_alive_knows_the_dead_and_the_wrong_words(start, tmp_path) -> None:
    """A killed process's file is nobody's life; without a directory it is a wrong command line."""
    place = tmp_path / "alive"
    assert alive(place).returncode == 1
    one = start()
    until(lambda: alive(place).returncode == 0, "no beat")
    two = start()
    until(lambda: alive(place).stdout.startswith("2 alive"), "no second beat")
    two.close()
    assert alive(place).stdout.startswith("1 alive")
    assert one.tell("end") == ""
    one.process.wait(10)
    assert alive(place).returncode == 1
    assert not (place / str(one.pid)).exists()
    done = run_clean(["-m", "greenkit", "alive"])
    assert (done.returncode, "GREENKIT_ALIVE" in done.stderr) == (2, True)
    assert run_clean(["-m", "greenkit", "alive", "--max-age", "x", "y"]).returncode == 2


def test_alive_loads_nothing_of_weight() -> None:
    """A probe that runs every few seconds must not import gevent, argparse or the project."""
    done = run_clean(
        "import sys; before = set(sys.modules)\n"
        "from greenkit.cli import main\n"
        "main(['alive', '/nowhere'])\n"
        "print(sorted(name for name in set(sys.modules) - before if not name.startswith('greenkit')))"
    )
    assert done.stdout == "['__future__']\n", str(done)


def test_systemd_is_told_as_long_as_the_hub_turns(start, tmp_path) -> None:
    """READY once, WATCHDOG again and again, and silence while the hub stands still."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(10)
        one = start(NOTIFY_SOCKET=str(tmp_path / "notify"), WATCHDOG_USEC="600000")
        heard = [systemd.recv(100) for _ in range(5)]
        assert heard.count(b"READY=1") == 1
        assert heard.count(b"WATCHDOG=1") == 4
        assert one.tell("block") == "blocks"
        systemd.settimeout(1.5)
        with pytest.raises(TimeoutError):  # what was sent before the block first
            [systemd.recv(100) for _ in range(4)]
        systemd.settimeout(10)
        assert systemd.recv(100) == b"WATCHDOG=1"


def top(*words) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "greenkit", "top", *map(str, words)],
        capture_output=True, text=True, check=False, timeout=30, env={**os.environ, "COLUMNS": "160"},
    )  # fmt: skip


def test_top_shows_each_process_with_its_limits_and_waits(start, port, tmp_path) -> None:
    """Lines of the program stay off the port; a blocked process is shown as one."""
    place = tmp_path / "metrics"
    assert top(place, "--once").returncode == 2
    one, two = start(), start()
    until(lambda: processes(port) == {"0", "1"}, "they do not answer")
    one.tell("call")
    one.tell("wait")
    one.tell("wait")
    seen = json.loads(top(place, "--once", "--json").stdout)
    assert [seen[number]["pid"] for number in ("0", "1")] == [one.pid, two.pid]
    assert seen["0"]["facts"]["limiter"]["llm"]["granted"] == 1
    assert any(count == 2 and "wait_for_nothing" in line for count, line in seen["0"]["waits"]), seen
    until(lambda: json.loads(top(place, "--once", "--json").stdout)["0"]["lag"], "no lag is shown")
    text = top(place, "--once").stdout
    assert f"process 0, pid {one.pid}" in text
    assert "1 granted" in text
    assert "wait_for_nothing" in text
    assert get(port, "/top")[0] == 404
    two.tell("block")
    assert "no answer within a second: its hub stands still" in top(place, "--once").stdout


def test_top_is_live_until_q(start, port, tmp_path) -> None:
    """On a terminal it draws again and again, and leaves the terminal as it was."""
    start()
    until(lambda: processes(port) == {"0"}, "it does not answer")
    ours, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)
    command = [sys.executable, "-m", "greenkit", "top", str(tmp_path / "metrics"), "--every", "0.2"]
    shown = subprocess.Popen(
        command, stdin=theirs, stdout=theirs, stderr=theirs, env={**os.environ, "TERM": "xterm"}
    )
    said = b""
    while said.count(b"hub lag") < 3:
        said += os.read(ours, 65536)
    os.write(ours, b"q")
    while shown.poll() is None:
        if select.select([ours], [], [], 0.1)[0]:
            os.read(ours, 65536)
    assert shown.returncode == 0
    assert termios.tcgetattr(theirs) == before
    os.close(ours)
    os.close(theirs)


@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1:0", "1:99999", ":x"])
def test_a_wrong_address_is_an_error_at_the_start(address) -> None:
    """With what may be written."""
    done = run_clean("import greenkit.auto", env={"GREENKIT_METRICS": address})
    assert done.returncode == 1
    assert "is no address to serve metrics at" in done.stderr


def test_an_unpatched_process_is_refused() -> None:
    """It has no hub to answer; its own exporter may have the collector."""
    done = run_clean(
        "from greenkit import metrics\n"
        "from greenkit.errors import ConfigError\n"
        "try: metrics.serve()\n"
        "except ConfigError as error: print('patched process' in str(error))\n"
        "from prometheus_client import generate_latest\n"
        "metrics.collector()\n"
        "print('greenkit_hub_lag_seconds_count 0.0' in generate_latest().decode())\n"
        "metrics.stop()\n"
        "print('greenkit' in generate_latest().decode())\n"
    )
    assert done.stdout == "True\nTrue\nFalse\n", str(done)


def test_a_directory_of_somebody_else_is_refused(tmp_path) -> None:
    """Its owner could answer in our name; so could whoever set a link."""
    (tmp_path / "link").symlink_to(tmp_path)
    done = run_clean(
        "import greenkit.auto",
        env={"GREENKIT_METRICS": "26012", "GREENKIT_METRICS_DIR": str(tmp_path / "link")},
    )
    assert done.returncode == 1
    assert "could answer in the name of this process" in done.stderr


def test_opentelemetry_gets_the_same_numbers() -> None:
    """Through its metrics API; the SDK is the program's own."""
    done = run_clean(
        "import greenkit.auto, gevent\n"
        "from opentelemetry.sdk.metrics import MeterProvider\n"
        "from opentelemetry.sdk.metrics.export import InMemoryMetricReader\n"
        "from greenkit import Limiter, metrics\n"
        "reader = InMemoryMetricReader()\n"
        "provider = MeterProvider([reader])\n"
        "metrics.instrument(provider.get_meter('test'))\n"
        "llm = Limiter('llm', requests='100/s')\n"
        "for _ in range(3):\n"
        "    with llm.permit(): pass\n"
        "gevent.sleep(0.35)\n"
        "found = {}\n"
        "for metric in reader.get_metrics_data().resource_metrics[0].scope_metrics[0].metrics:\n"
        "    for point in metric.data.data_points:\n"
        "        value = getattr(point, 'value', None)\n"
        "        found[metric.name, metric.unit] = point.count if value is None else value\n"
        "print(found['greenkit.limiter.granted', '1'], found['greenkit.limiter.wait', 's'],\n"
        "      found['greenkit.hub.lag', 's'] >= 2)\n"
        "provider.shutdown()\n"
    )
    assert done.stdout == "3.0 3 True\n", str(done)


def test_without_prometheus_client_the_error_says_what_to_install() -> None:
    """At the start, not at the first scrape."""
    done = run_clean(
        "import sys; sys.modules['prometheus_client'] = None\nimport greenkit.auto",
        env={"GREENKIT_METRICS": "26014"},
    )
    assert done.returncode == 1
    assert "pip install 'greenkit[prometheus]'" in done.stderr
