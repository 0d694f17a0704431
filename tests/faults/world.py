"""The servers, the two workers and the network between them; what is sent, and what can be observed."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg2
import redis
from celery import Celery

from greenkit.testing import FaultProxy, MockLLM, PostgresServer, Program, RabbitServer, ValkeyServer
from tests.faults.evidence import Blow, Sample, read_runs
from tests.faults.plan import WORKERS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from greenkit.testing import ProgramEnd
    from tests.faults.plan import Plan

PROGRAMS = Path(__file__).parent / "programs"
APPLICATION = "faults"


class Timeline:
    """What happened, line by line; written to a file as it happens, so that a killed run has it too."""

    def __init__(self, path: Path, *, loud: bool) -> None:
        self.begin = time.time()
        self.blows: list[Blow] = []
        self._file = path.open("w", encoding="utf-8")
        self._loud = loud
        self._lock = threading.Lock()

    def say(self, words: str) -> None:
        """Write a line."""
        line = f"{time.time() - self.begin:7.2f} {words}"
        with self._lock:
            print(line, file=self._file, flush=True)
            if self._loud:
                print(line, flush=True)

    @contextlib.contextmanager
    def blow(self, kind: str, target: str, *, pid: int = 0) -> Iterator[None]:
        """Note what the block does, with its begin and end."""
        begin = time.time()
        self.say(f"{kind} {target}" + (f" pid {pid}" if pid else ""))
        try:
            yield
        finally:
            if time.time() - begin > 0.05:
                self.say(f"  {kind} over")
            self.blows.append(Blow(kind, target, begin, time.time(), pid))

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class World:
    """Everything one plan runs against."""

    def __init__(self, plan: Plan, folder: Path, *, loud: bool) -> None:
        self.plan, self.folder = plan, folder
        self.line = Timeline(folder / "timeline.txt", loud=loud)
        self.say = self.line.say
        self.ends: list[tuple[str, ProgramEnd]] = []
        self.samples: list[Sample] = []
        self.failures: list[str] = []
        self.lives = dict.fromkeys(WORKERS, 0)
        # Who hurts a thing, sends or looks after a worker holds its lock: two hands would undo each other.
        self.locks = {name: threading.RLock() for name in (*WORKERS, "broker", "postgres", "limiter", "llm")}
        self._open = contextlib.ExitStack()

    def __enter__(self) -> World:
        with self._open:
            enter = self._open.enter_context
            room = 300 if self.plan.plain else 40
            self.postgres = enter(PostgresServer(own=True, tcp=True, max_connections=room))
            # Appending every write: what a broker has confirmed it has after a kill.
            keep = {"appendonly": "yes", "appendfsync": "always"}
            on_redis = self.plan.broker == "redis"
            self.broker = enter(
                ValkeyServer(own=True, tcp=True, settings=keep) if on_redis else RabbitServer(own=True)
            )
            self.broker_url = self.broker.broker_url
            self.limiter = enter(ValkeyServer(own=True, tcp=True))
            self.to_postgres = enter(FaultProxy(self.postgres.dsn))
            self.to_broker = enter(FaultProxy(self.broker_url))
            self.to_limiter = enter(FaultProxy(self.limiter.url))
            self.llm = self.mock()
            self._open.callback(lambda: self.llm.stop())  # noqa: PLW0108 - whichever runs by then
            self.app = Celery("faults", broker=self.broker_url, set_as_current=False)
            self._open.callback(self.app.close)
            self.sql("CREATE TABLE answer (id bigserial, task int, run text, at timestamptz DEFAULT now())")
            self.workers = {name: enter(contextlib.closing(self._worker(name))) for name in WORKERS}
            self._open = self._open.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._open.close()
        self.line.close()

    def failed(self, what: str, error: Exception) -> None:
        """Note that the rig itself could not do something; such a run proves nothing."""
        self.failures.append(f"{what}: {type(error).__name__}: {error}")
        self.say(f"RIG: {self.failures[-1]}")

    # -- the LLM ---------------------------------------------------------------------------------
    def mock(self, *, latency: str = "lognormal:0.3:0.4", **more: float) -> MockLLM:
        """Start the LLM, again on the same port."""
        self.llm_port = getattr(self, "llm_port", 0)
        mock = MockLLM(
            port=self.llm_port, latency=latency, requests="100/s burst 60", seed=self.plan.seed, **more
        )
        mock.start()
        self.llm_port = int(mock.url.rpartition(":")[2])
        return mock

    # -- workers ---------------------------------------------------------------------------------
    def _worker(self, name: str) -> Program:
        plan = self.plan
        arguments = ["-P", "gevent", "-c", str(plan.concurrency), "-l", "INFO", "-n", f"{name}@localhost"]
        return Program(
            [sys.executable, "-m", "celery", "-A", "faults_app", "worker", *arguments],
            cwd=PROGRAMS, ready=" ready.", log=self.folder / f"{name}.log", start_timeout=60.0,
            env={
                **{key: None for key in os.environ if key.startswith(("CELERY_", "GREENKIT"))},
                **({"GREENKIT": "off"} if plan.plain else {}),
                "FAULTS_WORKER": name, "FAULTS_PLAIN": str(int(plan.plain)), "FAULTS_MODE": plan.mode,
                "FAULTS_CONCURRENCY": str(plan.concurrency), "FAULTS_CONNECTIONS": str(plan.connections),
                "FAULTS_VISIBILITY": str(plan.visibility), "FAULTS_RATE": plan.rate,
                "FAULTS_LOG": str(self.folder / "runs.jsonl"), "LLM_URL": self.llm.url,
                "BROKER_URL": self.to_broker.url, "LIMIT_URL": self.to_limiter.url, "PYTHONUNBUFFERED": "1",
            },
        )  # fmt: skip

    def start(self, name: str, *, wait: bool = True) -> None:
        """Start a worker; each of its lives has a name of its own in Postgres."""
        worker = self.workers[name]
        self.lives[name] += 1
        life = f"{APPLICATION}-{name}-{self.lives[name]}"
        url = self.to_postgres.url
        worker.env["DATABASE_URL"] = f"{url}{'&' if '?' in url else '?'}application_name={life}"
        worker.ready = " ready." if wait else ""
        worker.start()
        self.say(f"{name} runs, pid {worker.pid}")

    def ended(self, name: str, end: ProgramEnd) -> None:
        """Note how a worker ended."""
        self.ends.append((name, end))
        if end.by_itself or end.forced or (end.asked == "stop" and end.status):
            self.say(f"ANOMALY: {name} {end}")

    def look_after(self, name: str) -> None:
        """Note that a worker ended by itself, and start it again."""
        if not self.locks[name].acquire(blocking=False):
            return
        try:
            worker = self.workers[name]
            known = len(worker.ends)
            if not worker.running:
                for end in worker.ends[known:]:
                    self.ended(name, end)
                self.start(name, wait=False)
        finally:
            self.locks[name].release()

    # -- what is sent and what is seen -----------------------------------------------------------
    def send(self, numbers: range) -> None:
        """Send tasks straight to the broker, past the proxy, on a connection of their own."""
        with self.app.connection_for_write(transport_options={"confirm_publish": True}) as connection:
            connection.ensure_connection(max_retries=50, interval_start=0.1, interval_step=0.1)
            with self.app.amqp.Producer(connection) as producer:
                for number in numbers:
                    self.app.send_task("faults.work", (number,), queue="faults", producer=producer)

    def sql(self, statement: str) -> list[tuple[object, ...]]:
        """Ask Postgres directly."""
        connection = psycopg2.connect(self.postgres.dsn, connect_timeout=5)
        try:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement)
                return cursor.fetchall() if cursor.description else []
        finally:
            connection.close()

    def sample(self) -> None:
        """Count the connections of each life of a worker."""
        found = self.sql(
            "SELECT application_name, count(*) FROM pg_stat_activity"
            f" WHERE application_name LIKE '{APPLICATION}-%' GROUP BY 1"
        )
        now = time.time()
        self.samples += [Sample(now, str(name), int(many)) for name, many in found]

    def rows(self) -> list[tuple[int, str]]:
        """Return (task, run) of every row."""
        return [(int(task), str(run)) for task, run in self.sql("SELECT task, run FROM answer ORDER BY id")]

    def done(self) -> int:
        """Return how many tasks have a row."""
        return int(self.sql("SELECT count(DISTINCT task) FROM answer")[0][0])

    def queued(self) -> dict[str, int]:
        """Return what is left at the broker."""
        if self.plan.broker == "redis":
            with redis.Redis.from_url(self.broker.url) as client:
                waiting = sum(client.llen(key) for key in client.scan_iter("faults*", _type="list"))
                return {
                    "messages in the queue": waiting,
                    "messages in unacked": client.hlen("unacked"),
                    "messages in unacked_index": client.zcard("unacked_index"),
                }
        with self.app.connection_for_read() as connection:
            connection.ensure_connection(max_retries=50, interval_start=0.1, interval_step=0.1)
            ready = connection.default_channel.queue_declare("faults", passive=True).message_count
        return {"messages in the queue": ready}

    def runs(self) -> list[object]:
        """Return what the run log says."""
        with (self.folder / "runs.jsonl").open(encoding="utf-8", errors="replace") as lines:
            return read_runs(lines)
