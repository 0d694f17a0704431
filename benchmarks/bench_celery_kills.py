"""Is a late-acknowledged task ever lost, or repeated that was not in flight, when workers die by SIGKILL?

One worker after the other is killed while it works, and the next goes on with the same queue; a last one
finishes. In flight is what ran at a kill, or had ended less than a second before it, whose ack may still
have been on its way. Options: `--kills 20 --seconds 0.1`.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import celery
import redis

from greenkit.testing import RabbitServer, ValkeyServer

APP = Path(__file__).parent / "rivals"
CONCURRENCY, PER_KILL, ACK_TIME = 20, 60, 1.0
# What a killed worker had is given out again soon and not after an hour, and not while a live one has it.
SOON = {"visibility_timeout": 5, "unacked_restore_interval": 1, "unacked_restore_throttle": 1}


class Kills:
    """One queue of tasks, the workers that die on it, and what the tasks noted."""

    def __init__(self, broker, notes, tasks, seconds):
        self.notes = redis.Redis.from_url(notes)
        self.notes.flushall()
        self.tasks = tasks
        self.environment = {
            **os.environ, "KILLS_BROKER": broker, "KILLS_NOTES": notes, "PYTHONWARNINGS": "ignore",
            "KILLS_TRANSPORT": repr(SOON if broker.startswith("redis") else {}),
        }  # fmt: skip
        with (
            celery.Celery(broker=broker, set_as_current=False) as app,
            app.connection_for_write() as connection,
            connection.Producer() as producer,
        ):
            for number in range(tasks):
                app.send_task("celery_kills.count", (number, seconds), producer=producer)

    @contextlib.contextmanager
    def worker(self):
        argv = [sys.executable, "-m", "celery", "-A", "celery_kills", "worker", "-P", "gevent"]
        argv += ["-c", str(CONCURRENCY), "-l", "ERROR", "--without-gossip", "--without-mingle"]
        with tempfile.TemporaryFile("w+") as log:
            process = subprocess.Popen(argv, env=self.environment, cwd=APP, stdout=log, stderr=log)
            try:
                yield
            finally:
                process.kill()  # SIGKILL
                process.wait()

    def log(self):
        """Return when each task began and ended, in seconds on the machine's clock."""
        begun, ended = defaultdict(list), defaultdict(list)
        for line in self.notes.lrange("log", 0, -1):
            what, number, moment = line.decode().split()
            (begun if what == "begun" else ended)[number].append(float(moment))
        return begun, ended

    def run(self, kills):
        dice, moments = random.Random(7), []
        for _ in range(kills):
            goal = self.notes.llen("log") + 2 * PER_KILL
            with self.worker():
                wait_for(lambda goal=goal: self.notes.llen("log") >= goal)
                time.sleep(dice.uniform(0, 0.1))
            moments.append(time.monotonic())
        with self.worker():
            wait_for(lambda: len(self.log()[1]) == self.tasks)
            time.sleep(2 * SOON["visibility_timeout"])  # a second delivery would run now
        begun, ended = self.log()
        return {
            "tasks": self.tasks,
            "lost": self.tasks - len(ended),
            "kills": kills,
            "running at the kills": sum(
                runs_at(kill, since, starts, ended[number])
                for since, kill in zip([0.0, *moments], moments, strict=False)
                for number, starts in begun.items()
            ),
            "repeats": sum(len(starts) - 1 for starts in begun.values()),
            "repeats of what was not in flight": sum(
                not in_flight(starts, again, ended[number], moments)
                for number, starts in begun.items()
                for again in sorted(starts)[1:]
            ),
        }


def runs_at(kill, since, starts, ended):
    """Tell whether the worker that lived from `since` to `kill` died over the task."""
    mine = [one for one in starts if since < one < kill]
    return bool(mine) and not any(mine[-1] < one < kill for one in ended)


def in_flight(starts, again, ended, kills):
    """Tell whether a kill before the start `again` found the task running, or its ack on the way."""
    return any(
        min(starts) < kill < again and not any(one < kill - ACK_TIME for one in ended) for kill in kills
    )


def wait_for(condition, seconds=120.0):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise SystemExit(f"nothing came of it in {seconds:g} s")
        time.sleep(0.01)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=0.1, help="how long a task takes")
    options = parser.parse_args()
    tasks = 2 * PER_KILL * options.kills
    print(
        f"Python {platform.python_version()}, Celery {celery.__version__}, concurrency {CONCURRENCY}",
        flush=True,
    )
    with ValkeyServer() as valkey, RabbitServer() as rabbit:
        for name, broker in {"redis": valkey.broker_url, "rabbitmq": rabbit.url}.items():
            found = Kills(broker, valkey.url, tasks, options.seconds).run(options.kills)
            print(f"  {name:9} " + ", ".join(f"{count} {what}" for what, count in found.items()), flush=True)


if __name__ == "__main__":
    main()
