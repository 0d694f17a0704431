"""Which greenlets a task starts are its children, and which serve the process, in a patched interpreter."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from greenkit.testing import run_clean

PROGRAM = """
import greenkit.auto
import concurrent.futures, functools, json, sys, threading, time
import gevent, gevent.pool, gevent.threadpool
sys.path.append({folder!r})
import flusher
from gevent.event import AsyncResult
from greenkit.celery import Options, TaskPool
from greenkit.celery._task_body import _edged

stay = threading.Event()
def wait(*_): stay.wait(5)
def again(_, number): time.sleep(0.01 * number); return number
def left_pool():
    executor = concurrent.futures.ThreadPoolExecutor(2)
    executor.submit(wait)
    return executor

WAYS = dict({ways})
class Task:
    __module__ = "shop.tasks"
    name = "shop.tasks.work"
class Request:
    task, id = Task(), "1"
    def accept(self, *_): pass
    def revoked(self): return False
    @property
    def args(self): return ()

pool = TaskPool(1)
pool.settings = Options(children="kill", kill_grace=0.1)
pool.start()
told = {{}}
for name, start in WAYS.items():
    def body(start=start):
        kept.append(start())
        gevent.sleep(0.02)
        return [str(child) for child in gevent.getcurrent().job.children.alive()]
    kept, ended = [], AsyncResult()
    pool.apply_async(lambda: (0, _edged(body)(), 0.0), accept_callback=Request().accept,
        callback=lambda result: ended.set(result[1]), error_callback=lambda info: ended.set(info.traceback))
    told[name] = bool(ended.get(timeout=50))
print(json.dumps(told))
stay.set()
"""
LIBRARY = '''
import threading, gevent
class Flusher:
    """Start its own service on first use, by a method, as clients do."""
    def __init__(self, how): getattr(self, how)()
    def flush(self): threading.Event().wait(5)
    def greenlet(self): gevent.spawn(self.flush)
    def thread(self): threading.Thread(target=self.flush, daemon=False).start()
    def timer(self): threading.Timer(5, self.flush).start()
    def later(self): gevent.spawn_later(0.001, self.flush)
def fetch(): threading.Event().wait(5)
def fetch_in_greenlet(): return gevent.spawn(fetch)
'''

CHILDREN = {
    "gevent.spawn": "lambda: gevent.spawn(wait)",
    "spawn of a library's function": "lambda: gevent.spawn(flusher.fetch)",
    "a library's function that spawns": "lambda: flusher.fetch_in_greenlet()",
    "spawn of gevent's own": "lambda: gevent.spawn(gevent.sleep, 5)",
    "spawn_later": "lambda: gevent.spawn_later(0.001, wait)",
    "a partial": "lambda: gevent.spawn(functools.partial(wait, 1))",
    "group": "lambda: gevent.pool.Group().spawn(gevent.sleep, 5)",
    "map_async": "lambda: gevent.pool.Pool(2).map_async(wait, [1, 2])",
    "imap": "lambda: gevent.pool.Pool(2).imap(wait, [1, 2])",
    "thread": "lambda: threading.Thread(target=wait, daemon=False).start()",
    "threading.Timer": "lambda: threading.Timer(0.001, wait).start()",
}
SERVICES = {
    "daemon thread": "lambda: threading.Thread(target=wait, daemon=True).start()",
    "executor": "left_pool",
    "gevent.threadpool": "lambda: gevent.get_hub().threadpool.spawn(time.time)",
    "a library's greenlet": "lambda: flusher.Flusher('greenlet')",
    "a library's thread": "lambda: flusher.Flusher('thread')",
    "a library's timer": "lambda: flusher.Flusher('timer')",
    "a library's later greenlet": "lambda: flusher.Flusher('later')",
}


def run_ways(folder: Path, ways: dict[str, str]) -> dict[str, bool]:
    """Return, for each way to start a greenlet, whether the task had a child of it."""
    site = folder / "site-packages"
    site.mkdir()
    (site / "flusher.py").write_text(LIBRARY)
    text = "{" + ", ".join(f"{name!r}: {code}" for name, code in ways.items()) + "}"
    run = run_clean(PROGRAM.format(folder=str(site), ways=text))
    assert run.returncode == 0, run
    return json.loads(run.stdout.splitlines()[-1])


def test_what_a_task_starts_is_told_from_what_serves_the_process(tmp_path):
    """By how it is made: the project's work is the task's, a library's service is nobody's child."""
    told = run_ways(tmp_path, {**CHILDREN, **SERVICES})
    assert told == {**dict.fromkeys(CHILDREN, True), **dict.fromkeys(SERVICES, False)}


AGENTS = {
    "opentelemetry": (
        "opentelemetry-sdk",
        """
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import ConsoleMetricExporter, PeriodicExportingMetricReader
def start():
    provider = TracerProvider()
    provider.add_span_processor(BatchSpanProcessor(ConsoleSpanExporter(out=open("/dev/null", "w"))))
    reader = PeriodicExportingMetricReader(ConsoleMetricExporter(out=open("/dev/null", "w")))
    return provider, MeterProvider(metric_readers=[reader])
""",
    ),
    "sentry": (
        "sentry-sdk",
        """
import sentry_sdk
def start():
    sentry_sdk.init(dsn="http://key@127.0.0.1:9/1", auto_session_tracking=True, traces_sample_rate=1.0)
    sentry_sdk.capture_message("hello")
""",
    ),
}


@pytest.mark.skipif(
    subprocess.run([sys.executable, "-m", "uv", "--version"], check=False, capture_output=True).returncode
    != 0,
    reason="uv is not in this environment",
)
@pytest.mark.parametrize("agent", AGENTS)
def test_workers_of_tracers_are_nobodys_children(tmp_path, agent):
    """Started by the first task that reports something, they outlive it; installed apart from the tests."""
    package, code = AGENTS[agent]
    target = tmp_path / "site-packages"
    install = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--target", str(target), package]
    made = subprocess.run(install, check=False, capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"{package} cannot be installed here: {made.stderr[-300:]}")
    (target / "flusher.py").write_text(LIBRARY)
    start = f"exec({code!r}, globals()) or start()"
    program = PROGRAM.format(folder=str(target), ways=f"{{'agent': lambda: {start}}}")
    program = program.replace("import flusher", f"sys.path.insert(0, {str(target)!r})\nimport flusher")
    run = run_clean(program)
    assert run.returncode == 0, run
    assert json.loads(run.stdout.splitlines()[-1]) == {"agent": False}, run
