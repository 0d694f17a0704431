"""The main job, run as its user runs it: one command, real servers, a table at the end."""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections import namedtuple
from pathlib import Path

import pytest
import redis

from greenkit.testing import MockLLM, PostgresServer, ValkeyServer

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "llm_batch"
MARK = "LLM_BATCH_TEST"
PATIENCE = 100.0

pytestmark = pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="looks for processes in /proc")


class Demo:
    """One run of demo.py, whose every process can be told by its environment."""

    def __init__(self, *arguments: str, **environment: str) -> None:
        self.mark = uuid.uuid4().hex
        # Servers of a root-run test run as somebody else, who must be able to walk in.
        self.tmp = tempfile.mkdtemp(prefix="gk-demo-", dir="/tmp")
        Path(self.tmp).chmod(0o755)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("GREENKIT", "PG"))}
        self.process = subprocess.Popen(
            [sys.executable, "demo.py", *arguments],
            cwd=EXAMPLE,
            env={**kept, MARK: self.mark, "TMPDIR": self.tmp, "PYTHONUNBUFFERED": "1", **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.out = self.err = ""

    def until(self, text: str) -> None:
        """Read its output up to a line that holds `text`."""
        for line in self.process.stdout:
            self.out += line
            if text in line:
                return
        self.finish()
        pytest.fail(f"it ended with {self.process.returncode} before it said {text!r}:\n{self.out}{self.err}")

    def finish(self) -> int:
        out, err = self.process.communicate(timeout=PATIENCE)
        self.out += out
        self.err += err
        return self.process.returncode

    @property
    def result(self) -> dict:
        return json.loads(self.out.splitlines()[-1])

    def left(self) -> list[str]:
        """Return the command lines of its processes that still run."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if self.mark.encode() in (process / "environ").read_bytes():
                    found.append((process / "cmdline").read_text().replace("\0", " "))
        return found

    def gone_within(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while self.left() and time.monotonic() < deadline:
            time.sleep(0.05)
        return not self.left()

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()
        self.gone_within(10.0)
        shutil.rmtree(self.tmp, ignore_errors=True)


@pytest.fixture
def demo():
    runs: list[Demo] = []

    def start(*arguments: str, **environment: str) -> Demo:
        runs.append(Demo(*arguments, **environment))
        return runs[-1]

    yield start
    for run in runs:
        run.close()


def whole(run: Demo, calls: int) -> dict:
    """Wait for the end of a run; check that every prompt has one row and that nothing is left of it."""
    code = run.finish()
    assert code == 0, f"exit code {code}\n{run.out}\n{run.err}"
    assert run.left() == []
    assert list(Path(run.tmp).iterdir()) == []
    found = run.result
    assert (found["rows"], found["duplicates"], found["lost"]) == (calls, 0, 0), run.out
    assert found["peak_db_connections"] <= found["max_db_connections"]
    return found


def test_one_command_answers_the_whole_batch(demo):
    """Through the API, a gevent worker and the quota, every prompt gets one row and no call a 429."""
    size = ["--concurrency", "30", "--db-pool", "3", "--tokens", "3000/s"]
    run = demo("--calls", "60", "--rate", "60/s", "--latency", "0.2", "--json", *size)
    found = whole(run, 60)
    assert found["rejected"] == 0
    assert found["max_db_connections"] == 3
    assert found["worker_cpu_ms"] > 0
    assert found["worker_memory_mib"] > 10
    assert found["wall_s"] >= 0.9 * found["ideal_s"], "the quota was not kept"
    assert found["peak_db_connections"] > 0
    assert found["hub_lag_max_s"] is not None
    assert found["limiter_wait_p50_s"] <= found["limiter_wait_p95_s"]
    assert set(found["versions"]) >= {"python", "greenkit", "gevent", "celery", "django"}


def test_the_mean_in_flight_is_that_of_the_middle():
    """Weighed by time, from a quarter of the answers to the last call; a short batch has none."""
    middle = runpy.run_path(str(EXAMPLE / "driver" / "flight.py"))["middle"]
    looks = [(0, 10, 0, 10), (1, 20, 10, 10), (2, 35, 25, 10), (3, 50, 30, 20), (6, 80, 60, 20),
             (7, 90, 70, 20), (8, 99, 79, 20), (9, 100, 90, 10)]  # fmt: skip
    kind = namedtuple("Sample", "at admitted ok in_flight")
    samples = [kind(*look) for look in looks]
    assert middle(samples, 100) == (pytest.approx((15 + 60 + 20 + 20) / 6), 9.0)
    assert middle(samples[:6], 100) is None


def test_a_server_stricter_than_the_limiter_costs_retries_and_loses_nothing(demo):
    """With a server of half the rate calls are refused, tried again, and all answered."""
    run = demo("--calls", "60", "--rate", "80/s", "--server-rate", "40/s", "--latency", "0.1", "--json")
    assert whole(run, 60)["rejected"] > 0


@pytest.mark.parametrize(
    ("pool", "broker"),
    [("threads", "redis"), ("prefork", "redis"), ("solo", "redis"), ("gevent", "filesystem")],
)
def test_any_pool_and_broker_does_the_same_job(demo, pool, broker):
    """Whatever pool and broker are compared, they do the same work with the same outcome."""
    size = {"threads": "20", "prefork": "3", "solo": "1", "gevent": "20"}[pool]
    arguments = ["--calls", "20", "--rate", "60/s", "--concurrency", size, "--latency", "0.05", "--json"]
    found = whole(demo(*arguments, "--pool", pool, "--broker", broker), 20)
    assert (found["pool"], found["broker"]) == (pool, broker)
    assert (found["hub_lag_max_s"] is None) == (pool != "gevent")


def test_two_hundred_threads_that_wait_for_one_limit_all_come_through(demo):
    """The process is not patched: some threads have a hub by then, others have none; all stand in line."""
    size = ["--calls", "300", "--concurrency", "200", "--rate", "200/s", "--latency", "0.1"]
    whole(demo(*size, "--pool", "threads", "--json"), 300)


def test_amqp_does_the_same_job(demo):
    """RabbitMQ carries the batch as Redis does."""
    if shutil.which("rabbitmq-server") is None and not Path("/usr/lib/rabbitmq").is_dir():
        pytest.skip("no rabbitmq-server; apt-get install rabbitmq-server")
    arguments = ["--calls", "20", "--rate", "60/s", "--concurrency", "20", "--latency", "0.05", "--json"]
    assert whole(demo(*arguments, "--broker", "amqp"), 20)["broker"] == "amqp"


def test_servers_that_run_already_are_used_and_left_as_they_were(demo):
    """With a database and a broker given, only tables stay behind; no queue, no task."""
    with PostgresServer(own=True) as postgres, ValkeyServer(own=True) as valkey:
        given = ["--database-url", postgres.dsn, "--broker-url", valkey.broker_url]
        run = demo(*given, "--calls", "30", "--rate", "100/s", "--latency", "0.1", "--json")
        whole(run, 30)
        with contextlib.closing(redis.Redis.from_url(valkey.url)) as client:
            assert not [key for key in client.scan_iter() if b"llm_batch" in key]


MOMENTS = random.Random(2)


@pytest.mark.parametrize("seconds", [MOMENTS.uniform(0.3, 1.0), MOMENTS.uniform(1.0, 3.0)])
def test_interrupted_start_leaves_nothing(demo, seconds):
    """Ctrl-C while the parts are starting stops those that are, with exit code 130."""
    run = demo("--calls", "2000")
    with contextlib.suppress(subprocess.TimeoutExpired):
        run.process.wait(seconds)
    run.process.send_signal(signal.SIGINT)
    assert run.finish() == 130, run.out + run.err
    assert "Traceback" not in run.err
    assert run.left() == []
    assert list(Path(run.tmp).iterdir()) == []


@pytest.mark.parametrize("keep", [[], ["--keep"]], ids=["plain", "keep"])
def test_interrupted_batch_ends_with_the_table_so_far(demo, keep):
    """Ctrl-C in the middle of the batch stops everything and shows what there is."""
    run = demo("--calls", "2000", "--rate", "100/s", "--json", *keep)
    run.until("/2000 answers")
    run.process.send_signal(signal.SIGINT)
    assert run.finish() == 130, run.out + run.err
    assert "So far" in run.out
    assert "Traceback" not in run.err
    assert "not answered" in run.out  # stopped is not lost
    found = run.result
    assert found["interrupted"]
    assert found["rows"] + found["lost"] == 2000
    assert found["lost"] > 0, "it was not interrupted in the middle"
    assert run.left() == []
    assert list(Path(run.tmp).iterdir()) == []


def test_kept_it_runs_until_interrupted_and_ends_with_the_whole_table(demo):
    """With --keep the page and the admin answer after the batch too; Ctrl-C ends it with exit code 0."""
    run = demo("--keep", "--calls", "40", "--rate", "60/s", "--latency", "0.1", "--json")
    run.until("go on at")
    page = re.search(r"http://\S+/live/", run.out)[0]
    user, password = re.search(r"the user '(.+)' with the password '(.+)'", run.out).groups()
    with urllib.request.urlopen(page, timeout=PATIENCE) as answer:
        assert b"Start another batch" in answer.read()
    with urllib.request.urlopen(f"{page}events/", timeout=PATIENCE) as stream:
        events = (json.loads(line[6:]) for line in stream if line.startswith(b"data: "))
        news = next(event for event in events if event["samples"] and event["samples"][-1]["answered"] == 40)
    assert news["batch"]["answered"] == 40
    assert news["quota"]["per_second"] == 60
    assert logged_in(page.replace("/live/", "/admin/login/"), user, password)
    run.process.send_signal(signal.SIGINT)
    found = whole(run, 40)
    assert not found["interrupted"]
    assert "The whole job" in run.out
    assert "Traceback" not in run.err


FLOWER = """
import http.server
import click

@click.command(name="flower")
@click.option("--address")
@click.option("--port", type=int)
def flower(address, port):
    http.server.HTTPServer((address, port), http.server.SimpleHTTPRequestHandler).serve_forever()
"""


def stand_in(site: Path) -> str:
    """Install what Flower is to the demo: a command of celery that serves pages at an address."""
    info = site / "Flower-2.dist-info"
    info.mkdir(parents=True)
    (site / "fake_flower.py").write_text(FLOWER)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: Flower\nVersion: 2\n")
    (info / "entry_points.txt").write_text("[celery.commands]\nflower = fake_flower:flower\n")
    return str(site)


def answers(url: str) -> bool:
    """Ask `url` until somebody listens there."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with contextlib.suppress(ConnectionRefusedError, urllib.error.URLError):
            return urllib.request.urlopen(url, timeout=PATIENCE).status == 200
        time.sleep(0.05)
    return False


def test_flower_runs_beside_a_kept_demo_where_it_is_installed(demo, tmp_path):
    """The live page links to it, it answers there, and Ctrl-C ends it with everything else."""
    size = ["--keep", "--calls", "20", "--rate", "60/s", "--latency", "0.1", "--json"]
    run = demo(*size, PYTHONPATH=stand_in(tmp_path / "site"))
    run.until("go on at")
    flower = re.search(r"Flower starts at (\S+)", run.out)[1]
    page = re.search(r"http://\S+/live/", run.out)[0]
    with urllib.request.urlopen(page, timeout=PATIENCE) as answer:
        assert f'<a href="{flower}">Flower</a>' in answer.read().decode()
    assert answers(flower)
    run.process.send_signal(signal.SIGINT)
    whole(run, 20)
    assert "Traceback" not in run.err


def logged_in(login: str, user: str, password: str) -> bool:
    """Say whether Django's admin takes the password."""
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
    form = browser.open(login, timeout=PATIENCE).read().decode()
    token = re.search(r'csrfmiddlewaretoken" value="(\w+)"', form)[1]
    fields = {"csrfmiddlewaretoken": token, "username": user, "password": password, "next": "/admin/"}
    answer = browser.open(login, urllib.parse.urlencode(fields).encode(), timeout=PATIENCE)
    return "Site administration" in answer.read().decode()


@pytest.mark.parametrize(
    "signals", [(signal.SIGINT, signal.SIGINT), (signal.SIGKILL,)], ids=["twice", "killed"]
)
def test_a_violent_end_leaves_nothing(demo, signals):
    """A second Ctrl-C, or SIGKILL, ends the driver at once; its programs and servers follow."""
    run = demo("--calls", "2000", "--pool", "prefork", "--concurrency", "2")
    run.until("posting the batch")
    assert len(run.left()) > 5, "the parts did not run yet"
    for number in signals:
        run.process.send_signal(number)
    run.finish()
    assert run.gone_within(20.0), run.left()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


WRONG = {
    "redis": ["--broker-url", "redis://127.0.0.1:{port}/0"],
    "amqp": ["--broker-url", "amqp://somebody:secret@127.0.0.1:{port}//"],
    "unknown": ["--broker-url", "carrier-pigeon://127.0.0.1"],
    "postgres": ["--database-url", "postgresql://somebody:secret@127.0.0.1:{port}/none"],
    "taken": ["--port", "{taken}"],
    "rate": ["--rate", "plenty"],
}


@pytest.mark.parametrize("what", sorted(WRONG))
def test_what_cannot_work_is_said_in_one_line(demo, what):
    """A wrong address, a taken port, a wrong number: one line, no password in it, exit code 2."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        arguments = [one.format(port=free_port(), taken=taken.getsockname()[1]) for one in WRONG[what]]
        run = demo("--calls", "5", *arguments)
        assert run.finish() == 2, run.out + run.err
    last = run.err.strip().splitlines()[-1]
    assert last.startswith("demo: ")
    assert "secret" not in run.err
    assert "Traceback" not in run.err
    assert run.left() == []


POSTS = """
import greenkit.auto
import json, os, django
os.environ["DJANGO_SETTINGS_MODULE"] = "project.settings"
os.environ["MAX_PROMPTS"] = "3"
django.setup()
from django.test import Client
for body in json.loads(input()):
    client = Client(SERVER_NAME="localhost")
    answer = client.post("/batches/", json.dumps(body), content_type="application/json")
    print(json.dumps([answer.status_code, answer.json()]))
"""


def test_a_wrong_batch_is_refused_with_the_reason():
    """Not a list, empty, too long, or with something else than text: 400, and what to send instead."""
    bodies = [
        {},
        {"prompts": "one"},
        {"prompts": []},
        {"prompts": ["a"] * 4},
        {"prompts": ["a", 7]},
        {"prompts": [""]},
    ]
    done = subprocess.run(
        [sys.executable, "-c", POSTS],
        cwd=EXAMPLE,
        input=json.dumps(bodies) + "\n",
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [status for status, _ in answers] == [400] * len(bodies)
    absent, no_list, empty, many, number, blank = [answer["prompts"] for _, answer in answers]
    assert absent == ["This field is required."]
    assert "a list of strings, not str" in no_list[0]
    assert empty == ["Send at least one prompt."]
    assert many == ["Send at most 3 prompts at once; make several batches of more."]
    assert number == {"1": ["A prompt is a string, not int."]}
    assert blank == {"0": ["This field may not be blank."]}


FORM = """
import greenkit.auto
import json, os, re, django
os.environ["DJANGO_SETTINGS_MODULE"] = "project.settings"
django.setup()
from django.core.management import call_command
from django.test import Client
from batches.models import Batch
call_command("migrate", verbosity=0)
client = Client(SERVER_NAME="localhost", HTTP_ACCEPT="text/html", enforce_csrf_checks=True)
page = client.get("/batches/")
sent = client.post("/batches/", {"prompts": ["What is 6 times 7?", "And 7 times 6?"]})
saved = [batch.prompts for batch in Batch.objects.all()]
forms = re.findall(r'<form action="/batches/" method="POST"', page.content.decode())
print(json.dumps([page.status_code, len(forms), sent.status_code, sent["Content-Type"], saved]))
"""


def test_the_browsable_api_takes_a_batch_as_a_form(tmp_path):
    """A browser gets a form; what the form sends becomes a batch with its tasks, and the answer is a page."""
    with PostgresServer(own=True) as postgres:
        done = subprocess.run(
            [sys.executable, "-c", FORM],
            cwd=EXAMPLE,
            env={**os.environ, "DATABASE_URL": postgres.dsn, "BROKER_URL": f"filesystem://{tmp_path}"},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    shown, forms, sent, kind, saved = json.loads(done.stdout.splitlines()[-1])
    assert (shown, sent, kind) == (200, 201, "text/html; charset=utf-8")
    assert forms >= 1, "no form that posts to the list"
    assert saved == [["What is 6 times 7?", "And 7 times 6?"]]
    assert list(tmp_path.glob("*.msg")), "saved, but no task was sent"


TWICE_DELIVERED = """
import greenkit.auto
import json, os, django
os.environ["DJANGO_SETTINGS_MODULE"] = "project.settings"
django.setup()
from django.core.management import call_command
from batches.models import Answer, Batch
from batches.tasks import ask
call_command("migrate", verbosity=0)
batch = Batch.objects.create(prompts=["What is 6 times 7?"])
for redelivered in (False, False, True):
    ask.push_request(delivery_info={"redelivered": redelivered})
    ask.run(batch.pk, 0, batch.prompts[0])
    ask.pop_request()
print(json.dumps({"rows": Answer.objects.count(), "left": batch.progress()["left"]}))
"""


def test_a_task_delivered_again_makes_no_second_row():
    """However often a task is delivered there is one row; marked as redelivered it costs no call either."""
    with PostgresServer(own=True) as postgres, MockLLM() as llm:
        done = subprocess.run(
            [sys.executable, "-c", TWICE_DELIVERED],
            cwd=EXAMPLE,
            env={**os.environ, "DATABASE_URL": postgres.dsn, "LLM_URL": llm.url},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout.splitlines()[-1]) == {"rows": 1, "left": 0}
        assert llm.stats()["ok"] == 2, "unmarked, the second delivery had to call; marked, the third had not"


def test_what_could_not_be_counted_is_unknown_and_not_zero():
    """An API or a model server that does not answer at the end is no proof of zero duplicates."""
    program = """
import json
from driver import options, report
found = report.numbers(options.read(["--calls", "5"]), None, None, peak=None, most=4, lag=None)
print(json.dumps([found, report.rows(found | {"interrupted": False}, quota="1/s")]))
"""
    run = subprocess.run(
        [sys.executable, "-c", program], cwd=EXAMPLE, capture_output=True, text=True, check=True, timeout=60
    )
    found, table = json.loads(run.stdout)
    unknown = ("rows", "duplicates", "lost", "rejected", "peak_db_connections", "server_calls")
    assert [found[name] for name in unknown] == [None] * len(unknown)
    shown = {what: number for what, number, _ in table}
    assert {shown[what] for what in ("rows written", "duplicates", "lost", "rejected (429)")} == {"unknown"}
