"""One quota, by one worker and by three; and a limit for each user of an API."""

import os
import subprocess
import sys
import time
from pathlib import Path

from greenkit.testing import MockLLM, ValkeyServer

HERE = Path(__file__).resolve().parent
CALLS = 40


def environment(valkey, llm, queue):
    given = {"BROKER_URL": valkey.broker_url, "REDIS_URL": valkey.url, "LLM_URL": llm.url, "QUEUE": queue}
    return {**os.environ, **given}


def worker(number, env):
    command = [sys.executable, "-m", "celery", "-A", "project", "worker", "-P", "gevent", "-c", "20"]
    return subprocess.Popen(
        [*command, "-n", f"{env['QUEUE']}{number}@here", "--without-mingle", "--without-gossip"],
        cwd=HERE,
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def batch(workers, valkey, llm):
    env = environment(valkey, llm, f"limits{workers}")
    running = [worker(number, env) for number in range(workers)]
    try:
        subprocess.run([sys.executable, "send.py", str(CALLS), str(workers)], cwd=HERE, env=env, check=True)
        while llm.stats()["ok"] < CALLS:
            time.sleep(0.1)
    finally:
        for one in running:
            one.terminate()
        for one in running:
            one.wait(30)
    seen = llm.reset()
    print(f"{workers} worker(s): {seen['ok']} answers, {seen['rejected']} rejected by the server", flush=True)


def main():
    with ValkeyServer(own=True) as valkey, MockLLM(requests="600/min burst 20", tokens="60_000/min") as llm:
        for workers in (1, 3):
            batch(workers, valkey, llm)
            time.sleep(1)  # the server's bucket is full again
        env = environment(valkey, llm, "web")
        subprocess.run([sys.executable, "visit.py"], cwd=HERE, env=env, check=True)


if __name__ == "__main__":
    main()
