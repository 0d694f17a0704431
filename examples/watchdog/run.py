"""Start a broker and a gevent worker, run four tasks, show which of them held the worker up."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from celery import Celery

from greenkit.testing import ValkeyServer

HERE = Path(__file__).resolve().parent
SECRET = ("secret",)
TASKS = {"call_an_api": (), "set_password": SECRET, "price_list": (), "set_password_in_a_thread": SECRET}


@contextlib.contextmanager
def worker(redis_url, log):
    """Run the worker until the end of the block, then let it end by itself."""
    process = subprocess.Popen(
        [sys.executable, "-m", "celery", "-A", "project", "worker", "-P", "gevent", "-c", "10"],
        cwd=HERE,
        env={**os.environ, "EXAMPLE_REDIS": redis_url},
        stdout=subprocess.DEVNULL,
        stderr=log,
        start_new_session=True,  # Ctrl-C is for us; the worker ends by our SIGTERM
    )
    try:
        yield
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def main():
    with tempfile.TemporaryFile("w+") as log, ValkeyServer() as valkey:
        app = Celery(broker=valkey.broker_url, backend=valkey.broker_url)
        with worker(valkey.broker_url, log), app:
            for name, arguments in TASKS.items():
                app.send_task(f"shop.tasks.{name}", arguments).get(timeout=60)
                print(f"{name}: done", flush=True)
        log.seek(0)
        print("\nthe worker's log says of our code:")
        for line in log:
            if found := re.search(r"\] (the hub stood still for .*/shop/.*)", line):
                print(found[1].replace(f"{HERE}/", ""))


if __name__ == "__main__":
    main()
