"""A real gunicorn with each of its workers, patched from each place there is."""

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

from tests.process.probe import AUTO, GREEN, RUN, furnish

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
def gunicorn(tmp_path):
    pytest.importorskip("gunicorn")
    place = furnish(tmp_path)
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
