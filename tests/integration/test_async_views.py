"""Django's async views, ADRF's, and AsyncClient under gunicorn's gevent worker."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest

from greenkit.testing import PostgresServer

pytest.importorskip("adrf")  # admits no Django 6.1 yet
PROGRAMS = Path(__file__).parent / "programs"
AT_ONCE = 30


class Site:
    """One gunicorn with one gevent worker on a unix socket, asked by many threads at once."""

    def __init__(self, place: Path, database: dict[str, str]) -> None:
        self.socket = str(place / "site.sock")
        kept = {name: value for name, value in os.environ.items() if not name.startswith("GREENKIT")}
        env = {**kept, "DATABASE": json.dumps(database), "PYTHONPATH": str(PROGRAMS)}
        subprocess.run(
            [sys.executable, "-m", "dj_async"], env={**env, "MIGRATE": "1"}, check=True, timeout=60
        )
        self.log = (place / "log.txt").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "gunicorn", "-k", "gevent", "--bind", f"unix:{self.socket}", "dj_async"],
            env=env, stdout=self.log, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def said(self) -> str:
        self.log.flush()
        return Path(self.log.name).read_text()

    def ask(self, path: str) -> tuple[int, bytes]:
        with (
            socket.socket(socket.AF_UNIX) as plug,
            contextlib.closing(http.client.HTTPConnection("localhost")) as connection,
        ):
            plug.settimeout(60)
            plug.connect(self.socket)
            connection.sock = plug
            connection.request("GET", f"/{path}")
            answer = connection.getresponse()
            return answer.status, answer.read()

    def ask_all(self, paths: list[str]) -> dict[str, list[tuple[int, bytes]]]:
        got: dict[str, list[tuple[int, bytes]]] = {path: [] for path in paths}
        threads = [threading.Thread(target=lambda p=path: got[p].append(self.ask(p))) for path in paths]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return got

    def wait_until_it_answers(self) -> None:
        ready = threading.Event()
        for _ in range(300):
            assert self.process.poll() is None, self.said()
            try:
                assert self.ask("count")[0] == 200, self.said()
                return
            except OSError:
                ready.wait(0.1)
        pytest.fail(self.said())


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    pytest.importorskip("gunicorn")
    with PostgresServer(own=True) as server:
        site = Site(tmp_path_factory.mktemp("site"), server.parameters)
        try:
            site.wait_until_it_answers()
            yield site
        finally:
            site.process.terminate()
            assert site.process.wait(30) == 0, site.said()
            said = site.said()
            site.log.close()
            assert "Traceback" not in said, said
            assert "never awaited" not in said, said


@pytest.mark.parametrize("path", ["async", "sync", "aio", "class", "function", "mixed", "client"])
def test_many_requests_at_once_use_the_async_orm(site, path):
    """Each request finds the row it made, and the requests overlap."""
    got = site.ask_all([f"{path}?{number}" for number in range(AT_ONCE)])
    answers = [json.loads(body) for [(status, body)] in got.values() if status == 200]
    assert len(answers) == AT_ONCE, got
    assert {answer["found"] for answer in answers} == {1}
    assert max(answer["most"] for answer in answers) > 5, "they ran one after another"


def test_all_kinds_at_once_stay_within_the_pool(site):
    """A mixed crowd neither fails nor opens more connections than the pool admits."""
    kinds = ["async", "sync", "aio", "class", "function", "mixed", "client"]
    got = site.ask_all([f"{kind}?{number}" for number in range(10) for kind in kinds])
    assert Counter(status for answers in got.values() for status, _ in answers) == {200: 70}, site.said()
    assert json.loads(site.ask("count")[1])["connections"] <= 10


def test_an_async_generator_is_streamed(site):
    """Its parts arrive in order."""
    assert site.ask("streamed") == (200, b"0\n1\n2\n3\n4\n")


def test_async_code_under_a_transaction_is_rolled_back_with_it(site):
    """Under async_to_sync the async ORM uses the caller's connection, and so its transaction."""
    assert json.loads(site.ask("rolled-back")[1]) == {"left": 0}


def test_a_request_out_of_time_leaves_no_coroutine(site):
    """The coroutine is cancelled and its `finally` has run when the Timeout arrives."""
    assert json.loads(site.ask("abandoned")[1]) == {"running": 0}
