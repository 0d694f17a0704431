"""Run the same two jobs under every pool Celery has, and as an asyncio program; draw who took how long."""

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import redis
from celery import Celery

from greenkit.testing import MockLLM, ValkeyServer

HERE = Path(__file__).parent
POOLS = ("solo", "prefork", "threads", "eventlet", "gevent")


def worker_takes(pool, slots, task, count, server):
    """Return the seconds from the first message to the last task, and the worker's memory in MiB."""
    notes = redis.Redis.from_url(server.url)
    notes.flushall()
    argv = [sys.executable, "-m", "celery", "-A", "job", "worker", "-P", pool, "-c", str(slots), "-l", "INFO"]
    with tempfile.TemporaryFile("w+") as log:
        quiet = ["--without-mingle", "--without-gossip"]
        worker = subprocess.Popen(argv + quiet, cwd=HERE, stdout=log, stderr=log)
        try:
            until(lambda: log.seek(0) or " ready." in log.read(), "the worker is not ready")
            with Celery(broker=server.broker_url, set_as_current=False) as app:
                began = time.monotonic()
                for _ in range(count):
                    app.send_task(f"job.{task}", ignore_result=True)
            until(lambda: int(notes.get("done") or 0) >= count, "the tasks did not end")
            return time.monotonic() - began, memory(worker.pid)
        finally:
            worker.terminate()
            worker.wait(30)
            notes.close()


def until(condition, trouble):
    end = time.monotonic() + 90
    while not condition():
        if time.monotonic() > end:
            raise SystemExit(trouble)
        time.sleep(0.02)


def memory(pid):
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20 + sum(memory(int(child)) for child in children)


async def twin(slots, count, url):
    """Do the calls with a keep-alive connection per slot and no queue."""
    where, body = urlsplit(url), b'{"model": "m", "messages": [{"role": "user", "content": "hello"}]}'
    head = f"POST {where.path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    request = head.encode() + b"Content-Length: %d\r\n\r\n" % len(body) + body

    async def slot(calls):
        reader, writer = await asyncio.open_connection(where.hostname, where.port)
        for _ in calls:
            writer.write(request)
            answer = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(answer.lower().split(b"content-length:")[1].split()[0]))
        writer.close()

    calls = iter(range(count))
    await asyncio.gather(*[slot(calls) for _ in range(slots)])


def draw(rows):
    longest = max((seconds for _, seconds, _ in rows if seconds), default=1.0)
    for name, seconds, note in rows:
        bar = "#" * max(1, round(40 * seconds / longest)) if seconds else ""
        print(f"  {name:24} {f'{seconds:6.1f} s' if seconds else '       -'}  {bar} {note}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--slots", type=int, default=50)
    parser.add_argument("--pools", default=",".join(POOLS))
    options = parser.parse_args()
    with ValkeyServer() as server, MockLLM(latency=0.2) as llm:
        url = f"{llm.url}/v1/chat/completions"
        os.environ |= {"EXAMPLE_BROKER": server.broker_url, "EXAMPLE_NOTES": server.url, "EXAMPLE_LLM": url}
        for task, count in (("ask", options.calls), ("count", 24)):
            what = f"calls of 0.2 s, {options.slots} at once" if task == "ask" else "computations"
            print(f"{count} {what}:")
            rows = []
            for pool in options.pools.split(","):
                slots = {"solo": 1, "prefork": 8}.get(pool, options.slots)
                if pool == "eventlet" and find_spec("eventlet") is None:
                    rows.append(("eventlet", 0.0, "not installed; its authors advise against new use"))
                    continue
                seconds, mib = worker_takes(pool, slots, task, count, server)
                rows.append((f"{pool}, {slots} slots", seconds, f"{mib:.0f} MiB"))
            if task == "ask":
                began = time.monotonic()
                asyncio.run(twin(options.slots, count, url))
                rows.append(("asyncio, no queue", time.monotonic() - began, ""))
            draw(rows)


if __name__ == "__main__":
    main()
