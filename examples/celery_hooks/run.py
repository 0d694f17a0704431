"""Start a broker, a gevent worker, a prefork worker and beat; show what hooks and limits do; stop all."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import redis
from celery import Celery, chord

from greenkit.testing import ValkeyServer

HERE = Path(__file__).parent


def start(*arguments):
    name = "-".join(arguments)[:60]
    with Path(os.environ["EXAMPLE_DIR"], f"log-{name}").open("wb") as log:
        argv = [sys.executable, "-m", "celery", "-A", "shop", *arguments]
        return subprocess.Popen(argv, cwd=HERE, stdout=log, stderr=log)


def until(condition, seconds=60.0):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise SystemExit("it took too long; the logs are in " + os.environ["EXAMPLE_DIR"])
        time.sleep(0.05)


def lines(name):
    path = Path(os.environ["EXAMPLE_DIR"], name)
    return path.read_text().splitlines() if path.exists() else []


def tour(app, green):
    def task(name, *arguments):
        return app.signature(f"shop.{name}", arguments)

    until(lambda: lines("life"))
    print("resources  ", lines("life")[0], flush=True)
    print("soft limit ", task("slow").delay().get(timeout=30))
    print("hard limit ", type(task("stubborn").delay().get(timeout=30, propagate=False)).__name__)
    doomed = task("sleepy", 60).delay()
    time.sleep(0.5)
    doomed.revoke(terminate=True)
    until(lambda: doomed.state == "REVOKED")
    print("revoke     ", doomed.state)
    print("429        ", task("refused_twice").delay().get(timeout=30))
    began = time.monotonic()
    answer = (
        chord((task("ask", number) for number in range(20)), task("total"), app=app).delay().get(timeout=30)
    )
    print(f"chord       {answer}; 20 calls at 20/s took a second: {time.monotonic() - began > 0.9}")
    pid, primes = task("count_primes", 20_000).apply_async(queue="cpu").get(timeout=60)
    print(f"cpu         {primes} primes, in another process: {pid != green.pid}")
    until(lambda: lines("ticks"))
    print("beat        ticked", flush=True)


def drain(app, green, server):
    for _ in range(10):
        app.send_task("shop.sleepy", (1.5,), ignore_result=True)
    broker = redis.Redis.from_url(server.url)
    until(lambda: broker.hlen("unacked") >= 10)
    time.sleep(0.3)
    green.terminate()
    status = green.wait(30)
    ended, back = len(lines("done")), broker.llen("celery")
    print(f"drain       status {status}; ended: {ended}, back in the queue: {back}")
    print("resources  ", lines("life")[-1])
    broker.close()


def main():
    with tempfile.TemporaryDirectory() as directory, ValkeyServer() as server:
        os.environ |= {"EXAMPLE_DIR": directory, "EXAMPLE_BROKER": server.broker_url}
        quiet = "--without-mingle", "--without-gossip"
        green = start("worker", "-P", "gevent", "-c", "4", *quiet)
        others = [start("worker", "-P", "prefork", "-c", "1", "-Q", "cpu", *quiet), start("beat")]
        try:
            with Celery("client", broker=server.broker_url, backend=server.broker_url) as app:
                tour(app, green)
                others[1].terminate()  # beat: what it sends now would be counted below
                others[1].wait(20)
                drain(app, green, server)
        finally:
            for process in (green, *others):
                process.terminate()
                process.wait(20)


if __name__ == "__main__":
    main()
