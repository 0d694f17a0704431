"""Send 100 mails through each broker there is here: Valkey, RabbitMQ's quorum queue, files, and SQS."""

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from celery import Celery
from places import PLACES

from greenkit.errors import ServerNotFoundError

HERE = Path(__file__).parent
COUNT = 100


@contextlib.contextmanager
def running_worker():
    """Run the worker until the end of the block, whichever way that ends; give its process and its log."""
    argv = [sys.executable, "-m", "celery", "-A", "mail", "worker", "-P", "gevent", "-c", "50", "-l", "INFO"]
    argv += ["--without-mingle", "--without-gossip"]  # SQS has no fan-out
    with tempfile.NamedTemporaryFile("w") as log:
        # A session of its own: Ctrl-C is for us.
        worker = subprocess.Popen(argv, cwd=HERE, stdout=log, stderr=log, start_new_session=True)
        try:
            yield worker, Path(log.name).read_text
        finally:
            if worker.poll() is None:
                os.killpg(worker.pid, signal.SIGKILL)
                worker.wait()


def send_all(broker, options, kind):
    """Start a worker, send, wait for every mail; return the seconds and the worker's log."""
    with tempfile.TemporaryDirectory() as directory:
        os.environ |= {
            "EXAMPLE_DIR": directory, "EXAMPLE_BROKER": broker, "EXAMPLE_QUEUE_TYPE": kind,
            "EXAMPLE_TRANSPORT": json.dumps(options),
        }  # fmt: skip
        with running_worker() as (worker, log), Celery(broker=broker, set_as_current=False) as app:
            until(lambda: " ready." in log(), worker, log)
            app.conf.update(broker_transport_options=options, task_default_queue_type=kind)
            began = time.monotonic()
            for number in range(COUNT):
                app.send_task("mail.send", (number,), ignore_result=True)
            until(lambda: len(list(Path(directory).glob("mail-*"))) == COUNT, worker, log)
            took = time.monotonic() - began
            worker.terminate()
            worker.wait(30)
            return took, log()


def until(condition, worker, log):
    end = time.monotonic() + 60
    while not condition():
        if time.monotonic() > end or worker.poll() is not None:
            what = "it took too long" if time.monotonic() > end else "the worker has ended"
            raise TimeoutError(f"{what}\n{log()[-2000:]}")
        time.sleep(0.02)


def attempt(place):
    with contextlib.ExitStack() as stack:
        try:
            broker, options, kind = place(stack)
        except ServerNotFoundError as error:
            return f"not here: {error}"
        took, log = send_all(broker, options, kind)
        sent, twice = log.count("succeeded"), log.count("FileExistsError")
        return f"{sent} of {COUNT} sent, {twice} twice, {took:.1f} s"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("brokers", nargs="*", metavar="BROKER", help="one of " + ", ".join(PLACES))
    wanted = parser.parse_args().brokers or list(PLACES)
    if unknown := set(wanted) - set(PLACES):
        parser.error(f"no broker {', '.join(sorted(unknown))}; there are: {' '.join(PLACES)}")
    try:
        for name in wanted:
            print(f"{name:11} {attempt(PLACES[name])}", flush=True)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
