"""Run the same two jobs under every pool Celery has, and as an asyncio program; draw who took how long."""

import argparse
import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import redis
from celery import Celery
from twin import twin

from greenkit.testing import MockLLM, ValkeyServer

HERE = Path(__file__).parent
POOLS = ("solo", "prefork", "threads", "eventlet", "gevent")


@contextlib.contextmanager
def running_worker(pool, slots):
    """Run a worker until the end of the block, whichever way that ends; give its process and its log."""
    argv = [sys.executable, "-m", "celery", "-A", "job", "worker", "-P", pool, "-c", str(slots), "-l", "INFO"]
    argv += ["--without-mingle", "--without-gossip"]
    with tempfile.NamedTemporaryFile("w") as log:
        # A session of its own: Ctrl-C is for us.
        worker = subprocess.Popen(argv, cwd=HERE, stdout=log, stderr=log, start_new_session=True)
        try:
            yield worker, Path(log.name).read_text
            worker.terminate()
            worker.wait(30)
        finally:
            if worker.poll() is None:
                os.killpg(worker.pid, signal.SIGKILL)
                worker.wait()


def worker_takes(pool, slots, task, count, server):
    """Return the seconds from the first message to the last task, and the worker's memory in MiB."""
    with redis.Redis.from_url(server.url) as notes, running_worker(pool, slots) as (worker, log):
        notes.flushall()
        until(lambda: " ready." in log(), worker, log)
        with Celery(broker=server.broker_url, set_as_current=False) as app:
            began = time.monotonic()
            for _ in range(count):
                app.send_task(f"job.{task}", ignore_result=True)
        until(lambda: int(notes.get("done") or 0) >= count, worker, log)
        return time.monotonic() - began, memory(worker.pid)


def until(condition, process, log):
    end = time.monotonic() + 90
    while not condition():
        if time.monotonic() > end or process.poll() is not None:
            what = "it took too long" if time.monotonic() > end else "the worker has ended"
            raise TimeoutError(f"{what}\n{log()[-2000:]}")
        time.sleep(0.02)


def memory(pid):
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20 + sum(memory(int(child)) for child in children)


def draw(rows):
    longest = max((seconds for _, seconds, _ in rows if seconds), default=1.0)
    for name, seconds, note in rows:
        bar = "#" * max(1, round(40 * seconds / longest)) if seconds else ""
        took = f"{seconds:6.1f} s" if seconds else "       -"
        print(f"  {name:24} {took}  {bar} {note}".rstrip(), flush=True)


def options():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--slots", type=int, default=50)
    parser.add_argument("--pools", default=",".join(POOLS), help="some of %(default)s")
    given = parser.parse_args()
    if given.calls < 1 or given.slots < 1:
        parser.error("--calls and --slots are at least 1")
    if unknown := set(given.pools.split(",")) - set(POOLS):
        parser.error(f"no pool {', '.join(map(repr, sorted(unknown)))}; there are: {' '.join(POOLS)}")
    return given


def compare(options, server, llm):
    url = f"{llm.url}/v1/chat/completions"
    os.environ |= {"EXAMPLE_BROKER": server.broker_url, "EXAMPLE_NOTES": server.url, "EXAMPLE_LLM": url}
    for task, count in (("ask", options.calls), ("count", 24)):
        what = f"calls of 0.2 s, {options.slots} at once" if task == "ask" else "computations"
        print(f"{count} {what}:", flush=True)
        rows = []
        for pool in options.pools.split(","):
            slots = {"solo": 1, "prefork": 8}.get(pool, options.slots)
            if pool == "eventlet" and find_spec("eventlet") is None:
                rows.append(("eventlet", 0.0, "not installed; its authors advise against new use"))
                continue
            seconds, mib = worker_takes(pool, slots, task, count, server)
            rows.append((f"{pool}, {slots} slot{'s' * (slots > 1)}", seconds, f"{mib:.0f} MiB"))
        if task == "ask":
            began = time.monotonic()
            asyncio.run(twin(options.slots, count, url))
            rows.append(("asyncio, no queue", time.monotonic() - began, ""))
        draw(rows)


def main():
    wanted = options()
    try:
        with ValkeyServer() as server, MockLLM(latency=0.2) as llm:
            compare(wanted, server, llm)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
