"""Start Postgres, a broker, a mock model and a worker, and have questions answered in three ways."""

import argparse
import os
import signal
import subprocess
import sys
from pathlib import Path

from greenkit.testing import MockLLM, PostgresServer, ValkeyServer

HERE = Path(__file__).resolve().parent
PG = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "password": "PGPASSWORD", "dbname": "PGDATABASE"}
WAYS = ["sdk", "stream", "requests"]


def run(env, *words):
    return subprocess.run([sys.executable, *words], cwd=HERE, env=env, check=True)


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
        run(env, "manage.py", "migrate", "-v0")
        celery = ["-m", "greenkit", "celery", "-q", "-A", "project"]
        command = [sys.executable, *celery, "worker", "-P", "gevent", "-c", "200", "-l", "error"]
        worker = subprocess.Popen(command, cwd=HERE, env=env)
        try:
            for way in options.way:
                llm.reset()
                run(env, "manage.py", "ask", way, str(options.count))
                seen = llm.reset()
                print(f"          {seen['calls']} calls, {seen['rejected']} of them 429", flush=True)
        finally:
            worker.send_signal(signal.SIGTERM)
            worker.wait()


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
