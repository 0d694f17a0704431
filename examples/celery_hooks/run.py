"""Start a broker, a gevent worker, a prefork worker and beat; show what hooks and limits do; stop all."""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import redis
from celery import Celery, chord

from greenkit.errors import GreenkitError
from greenkit.testing import ValkeyServer

HERE = Path(__file__).parent


@contextlib.contextmanager
def running(*arguments):
    """Run `celery ARGUMENTS`; it ends with the block, whichever way that ends."""
    with Path(os.environ["EXAMPLE_DIR"], f"log-{arguments[-1]}").open("wb") as log:
        argv = [sys.executable, "-m", "celery", "-A", "shop", *arguments]
        # A session of its own: Ctrl-C is for us.
        process = subprocess.Popen(argv, cwd=HERE, stdout=log, stderr=log, start_new_session=True)
    try:
        yield process
        process.terminate()
        process.wait(30)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def until(condition):
    end = time.monotonic() + 60
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("it took too long")
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
    with redis.Redis.from_url(server.url) as broker:
        until(lambda: broker.hlen("unacked") >= 10)
        time.sleep(0.3)
        green.terminate()
        status = green.wait(30)
        ended, back = len(lines("done")), broker.llen("celery")
    print(f"drain       status {status}; ended: {ended}, back in the queue: {back}")
    print("resources  ", lines("life")[-1])


def show(server):
    impatient = {"retry_policy": {"max_retries": 1}}  # a broker that is gone is gone
    quiet = "--without-mingle", "--without-gossip"
    with (
        Celery("client", broker=server.broker_url, backend=server.broker_url) as app,
        running("worker", *quiet, "-c", "1", "-Q", "cpu", "-P", "prefork"),
        running("worker", *quiet, "-c", "4", "-P", "gevent") as green,
    ):
        app.conf.update(
            broker_transport_options={"max_retries": 1}, result_backend_transport_options=impatient
        )
        with running("beat"):  # no longer: what it sends would be counted in the queue
            tour(app, green)
        drain(app, green, server)


def attempt(directory):
    """Return what went wrong, with the ends of the logs, or "" when nothing did."""
    os.environ["EXAMPLE_DIR"] = directory
    try:
        with ValkeyServer() as server:
            os.environ["EXAMPLE_BROKER"] = server.broker_url
            show(server)
    except (Exception, KeyboardInterrupt) as error:
        if isinstance(error, (GreenkitError, KeyboardInterrupt)):
            return str(error) or "stopped"
        logs = [f"\n{log.name}:\n" + log.read_text()[-1000:] for log in Path(directory).glob("log-*")]
        return "".join([f"{type(error).__name__}: {error}", *logs])
    return ""


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__).parse_args()
    with tempfile.TemporaryDirectory() as place:
        trouble = attempt(place)
    if trouble:
        print(trouble, file=sys.stderr, flush=True)
        os._exit(130 if trouble == "stopped" else 1)  # Celery's results would ask a broker that is gone
