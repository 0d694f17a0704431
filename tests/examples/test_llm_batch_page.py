"""The live page of the main example: its form, its stream of events, and what a browser makes of them."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psycopg2
import pytest

from greenkit.testing import PostgresServer
from tests.examples.chromium import Chromium

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "llm_batch"
PATIENCE = 60.0
WEB = "llm-batch-page-test"
LISTENING = "0A"  # a socket's state in /proc/net/tcp

pytestmark = pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="looks for sockets in /proc")

SAMPLES = [
    {
        "number": n,
        "at": 0.0,
        "calls": 4 * n,
        "answered": 3 * n,
        "rejected": n,
        "in_flight": n,
        "hub_lag": 0.01,
    }
    for n in range(1, 5)
]


class Site:
    """serve.py on a free port, with a Postgres of its own and a broker of files."""

    def __init__(self, postgres: PostgresServer, folder: Path) -> None:
        self.dsn = postgres.dsn
        self.folder = folder
        self.numbers = folder / "numbers.json"
        (folder / "broker").mkdir()
        with socket.socket() as listener, (folder / "log").open("w") as log:
            listener.bind(("127.0.0.1", 0))
            listener.listen(128)
            self.port = listener.getsockname()[1]
            self.process = subprocess.Popen(
                [sys.executable, "serve.py", "--migrate", "--fd", str(listener.fileno())],
                cwd=EXAMPLE,
                env={
                    **os.environ,
                    "DATABASE_URL": f"{self.dsn}{'&' if '?' in self.dsn else '?'}application_name={WEB}",
                    "DB_POOL": "1",
                    "BROKER_URL": f"filesystem://{folder}/broker",
                    "LIVE_NUMBERS": str(self.numbers),
                    "LIVE_FLOWER": "http://127.0.0.1:5555/",
                },
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=(listener.fileno(),),
            )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(self, method: str, path: str, body: str = "", **headers: str) -> tuple[int, str, dict[str, str]]:
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)) as line:
            line.request(method, path, body, headers)
            answer = line.getresponse()
            return answer.status, answer.read().decode(), dict(answer.getheaders())

    def sql(self, statement: str, *values: object) -> list[tuple]:
        with contextlib.closing(psycopg2.connect(self.dsn)) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement, values)
                return cursor.fetchall() if cursor.description else []

    def batch(self, total: int, answers: int) -> int:
        """Insert a batch with some of its answers; return its id."""
        prompts = json.dumps([f"What is {n} times {n}?" for n in range(total)])
        insert = "INSERT INTO batches_batch (prompts, total) VALUES (%s, %s) RETURNING id"
        ((batch,),) = self.sql(insert, prompts, total)
        self.sql(
            "INSERT INTO batches_answer (batch_id, position, text, tokens, attempts, waited, latency)"
            " SELECT %s, n, 'answer <b>' || n || '</b>', 7, 1, 0.25, 0.5 FROM generate_series(0, %s) n",
            batch,
            answers - 1,
        )
        return batch

    @contextlib.contextmanager
    def stream(self, last_id: str = ""):
        """Open the events as a browser does; yield the socket and a file of its lines after the head."""
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)
        with contextlib.closing(connection), connection.makefile("rb") as lines:
            resume = f"Last-Event-ID: {last_id}\r\n" if last_id else ""
            # HTTP/1.0: the body comes as it is, not in chunks.
            connection.sendall(f"GET /live/events/ HTTP/1.0\r\nHost: localhost\r\n{resume}\r\n".encode())
            head = b"".join(iter(lines.readline, b"\r\n")).decode()
            assert "200 OK" in head
            assert "content-type: text/event-stream" in head.lower()
            yield connection, lines

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE)


@pytest.fixture(scope="module")
def postgres():
    with PostgresServer(own=True) as server:
        yield server


@contextlib.contextmanager
def serving(postgres: PostgresServer, folder: Path):
    site = Site(postgres, folder)
    try:
        assert site.ask("GET", "/batches/")[0] == 200
        yield site
    finally:
        site.process.kill()
        site.process.wait()


@pytest.fixture(scope="module")
def site(postgres, tmp_path_factory):
    with serving(postgres, tmp_path_factory.mktemp("site")) as site:
        yield site


def event(lines) -> tuple[str, dict]:
    """Return the id and the data of the next event; fail on a frame of any other form."""
    first, second, end = (lines.readline().decode() for _ in range(3))
    assert first.startswith("id: ")
    assert second.startswith("data: ")
    assert end == "\n"
    return first.removeprefix("id: ").strip(), json.loads(second.removeprefix("data: "))


def until(happened) -> bool:
    deadline = time.monotonic() + PATIENCE
    while not happened() and time.monotonic() < deadline:
        time.sleep(0.05)
    return happened()


def test_the_page_needs_nothing_from_elsewhere(site):
    """The page, its script and its style come from the server itself; it links to API, admin and Flower."""
    status, page, _ = site.ask("GET", "/live/")
    assert status == 200
    for link in ("/batches/", "/admin/", "http://127.0.0.1:5555/"):
        assert f'href="{link}"' in page
    for path in ("/static/live/page.js", "/static/live/page.css"):
        assert f'"{path}"' in page
        status, text, _ = site.ask("GET", path)
        assert status == 200
        assert "//cdn" not in text
        assert "@import" not in text


def test_the_form_starts_a_batch_with_its_tasks(site):
    """A form with its token makes a batch and sends its tasks; a wrong one is shown again with the reason."""
    _, page, headers = site.ask("GET", "/live/")
    cookie = headers["Set-Cookie"].partition(";")[0]
    token = page.partition('name="csrfmiddlewaretoken" value="')[2].partition('"')[0]
    send = {"Cookie": cookie, "Content-Type": "application/x-www-form-urlencoded"}
    assert site.ask("POST", "/live/", "prompts=2&question=And+{n}?", **send)[0] == 403
    body = f"csrfmiddlewaretoken={token}&question=And+%7Bn%7D%3F&prompts="
    status, again, _ = site.ask("POST", "/live/", body + "0", **send)
    assert (status, "greater than or equal to 1" in again) == (400, True)
    status, _, headers = site.ask("POST", "/live/", body + "2", **send)
    assert (status, headers["Location"]) == (302, "/live/")
    assert site.sql("SELECT prompts FROM batches_batch ORDER BY id DESC LIMIT 1") == [(["And 0?", "And 1?"],)]
    assert list((site.folder / "broker").glob("*.msg")), "saved, but no task was sent"


def test_an_event_holds_what_is_new(site):
    """The first event has the batch, its newest answers and all samples; later ones only what is new."""
    site.numbers.write_text(json.dumps({"quota": {"per_second": 8.0, "burst": 2.0}, "samples": SAMPLES}))
    batch = site.batch(total=30, answers=25)
    with site.stream() as (_, lines):
        seen, first = event(lines)
        _, second = event(lines)
    assert (first["batch"]["id"], first["batch"]["answered"], first["batch"]["total"]) == (batch, 25, 30)
    assert first["batch"]["ended"] is None
    assert [row["position"] for row in first["answers"]] == list(range(5, 25))
    assert first["samples"] == SAMPLES
    assert (second["answers"], second["samples"]) == ([], [])
    site.sql("DELETE FROM batches_answer WHERE batch_id = %s AND position = 24", batch)
    newest = site.batch(total=1, answers=1)
    with site.stream(last_id=seen) as (_, lines):
        _, resumed = event(lines)
    assert [row["batch_id"] for row in resumed["answers"]] == [newest]
    assert resumed["samples"] == []
    assert resumed["batch"]["ended"] >= resumed["batch"]["began"]


def test_streams_hold_no_connection_and_a_gone_browser_none_of_them(site):
    """Ten streams share a pool of one connection; a browser that goes away leaves nothing open."""
    assert until(lambda: sockets(site) == 0), "a browser of another test is still there"
    with contextlib.ExitStack() as browsers:
        streams = [browsers.enter_context(site.stream()) for _ in range(10)]
        for _, lines in streams:
            event(lines)
            event(lines)
        assert sockets(site) == 10
        asked = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s"
        assert site.sql(asked, WEB) == [(1,)]
    assert until(lambda: sockets(site) == 0), "a stream outlived its browser"
    assert site.ask("GET", "/batches/")[0] == 200, "a stream kept the only connection"


def sockets(site: Site) -> int:
    """Count the web server's accepted sockets."""
    inodes = set()
    for descriptor in Path(f"/proc/{site.process.pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            target = str(descriptor.readlink())
            inodes.add(target.removeprefix("socket:[").rstrip("]"))
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    ours = [row for row in rows if row[9] in inodes and row[1].endswith(f":{site.port:04X}")]
    return sum(row[3] != LISTENING for row in ours)


def test_a_browser_draws_the_page(site):
    """Chromium, without a network of its own, shows progress, answers as text, and a line in each chart."""
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium; apt-get install chromium")
    now = time.time()
    samples = [{**taken, "at": now + taken["number"]} for taken in SAMPLES]
    site.numbers.write_text(json.dumps({"quota": {"per_second": 8.0, "burst": 2.0}, "samples": samples}))
    batch = site.batch(total=12, answers=9)
    with Chromium(chromium, str(site.folder / "chromium")) as browser:
        browser.open(f"{site.url}/live/")
        drawn = browser.until("document.querySelectorAll('svg path').length >= 7", timeout=PATIENCE)
        shown = browser.evaluate("document.documentElement.outerHTML")
    assert drawn, shown
    assert f"Batch {batch}: 9 of 12 answers" in shown
    assert ">live</span>" in shown
    assert f"{batch}/8: answer &lt;b&gt;8&lt;/b&gt;" in shown, "an answer is text, not markup"
    for chart, lines in {"calls": 3, "quota": 2, "flight": 1, "lag": 1}.items():
        drawing = shown.partition(f'<svg id="{chart}"')[2].partition("</svg>")[0]
        assert drawing.count("<path ") == lines, chart
        assert "NaN" not in drawing


def test_open_streams_end_with_the_server(postgres, tmp_path):
    """Asked to stop, the server ends its streams after a whole event, with exit code 0 and nothing to say."""
    with serving(postgres, tmp_path) as site, site.stream() as (_, lines):
        event(lines)
        code = site.stop()
        rest = lines.read()
    assert code == 0
    assert rest == b"" or rest.endswith(b"\n\n"), "cut off in the middle of an event"
    assert (tmp_path / "log").read_text() == ""
