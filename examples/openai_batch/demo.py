"""Start Postgres, a broker, a mock model and a worker, and have questions answered in three ways."""

import argparse
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from greenkit.testing import MockLLM, PostgresServer, ValkeyServer

HERE = Path(__file__).resolve().parent
PG = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "password": "PGPASSWORD", "dbname": "PGDATABASE"}
STOPPED = 130  # by Ctrl-C
WAYS = ["sdk", "stream", "requests"]


def manage(env, *words):
    """Run a management command to its end; Ctrl-C in a terminal reaches it too, so let it end by itself."""
    command = subprocess.Popen([sys.executable, "manage.py", *words], cwd=HERE, env=env)
    while command.poll() is None:
        with suppress(KeyboardInterrupt):
            command.wait()
    return command.returncode


def start_worker(env):
    celery = ["-m", "greenkit", "celery", "-q", "-A", "project"]
    command = [sys.executable, *celery, "worker", "-P", "gevent", "-c", "200", "-l", "error"]
    # Not in the terminal's group: it gets one signal, ours, as in production.
    return subprocess.Popen(command, cwd=HERE, env=env, start_new_session=True)


def stop(worker):
    worker.send_signal(signal.SIGTERM)
    try:
        worker.wait()
    except KeyboardInterrupt:  # a second Ctrl-C: do not wait for what still runs
        worker.send_signal(signal.SIGQUIT)
        worker.wait()


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=500, help="questions per way")
    parser.add_argument("--rate", default="100/s", help="the quota the model really has")
    parser.add_argument("--believed", help="the quota the limiter is told; the real one by default")
    parser.add_argument("--latency", type=float, default=0.5, help="seconds one answer takes")
    parser.add_argument("--way", nargs="+", default=WAYS, choices=WAYS)
    options = parser.parse_args()
    with (
        PostgresServer() as postgres,
        ValkeyServer() as valkey,
        MockLLM(requests=options.rate, latency=options.latency) as llm,
    ):
        env = os.environ | {PG[name]: value for name, value in postgres.parameters.items()}
        env |= {"BROKER_URL": valkey.broker_url, "LLM_URL": f"{llm.url}/v1", "LLM_TOKENS": "1_000_000/s"}
        env |= {"LLM_REQUESTS": options.believed or options.rate, "PYTHONUNBUFFERED": "1"}
        code = manage(env, "migrate", "-v0")
        worker = start_worker(env)
        try:
            for way in [] if code else options.way:
                llm.reset()
                code = manage(env, "ask", way, str(options.count))
                if code == STOPPED:
                    stop(worker)
                    print(
                        "-- Ctrl-C: the worker ended what it had begun. A new one, from there --", flush=True
                    )
                    worker = start_worker(env)
                    code = manage(env, "ask", way, "0")
                if code:
                    break
                seen = llm.reset()
                print(f"          {seen['calls']} calls, {seen['rejected']} of them 429", flush=True)
        finally:
            stop(worker)
    return code


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(STOPPED)
