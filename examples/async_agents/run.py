"""Start Postgres, Redis, a mock model and a worker; run the agents there and as an asyncio program."""

import argparse
import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from greenkit.testing import MockLLM, PostgresServer, ValkeyServer

HERE = Path(__file__).parent
PG = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "password": "PGPASSWORD", "dbname": "PGDATABASE"}


@contextlib.contextmanager
def running_worker():
    argv = [sys.executable, "-m", "celery", "-A", "project", "worker", "-P", "gevent", "-c", "100", "-lERROR"]
    # A session of its own: Ctrl-C is for us.
    worker = subprocess.Popen(argv, cwd=HERE, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        yield
        worker.terminate()
        worker.wait(30)
    finally:
        if worker.poll() is None:
            os.killpg(worker.pid, signal.SIGKILL)
            worker.wait()


async def watch(count, start):
    """Join the group the agents tell of their ends; return how they ended, and after how long."""
    from channels.layers import get_channel_layer

    layer = get_channel_layer()
    channel = await layer.new_channel()
    await layer.group_add("runs", channel)
    begun = time.monotonic()
    doing = asyncio.ensure_future(start())
    states, left = Counter(), 0
    async with asyncio.timeout(90) if hasattr(asyncio, "timeout") else contextlib.nullcontext():
        for _ in range(count):
            message = await layer.receive(channel)
            states[message["state"]] += 1
            left = message["tasks"]
    seconds = time.monotonic() - begun
    await doing
    await layer.flush()
    return states, seconds, left


def show(name, states, seconds, calls, rows):
    ended = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    print(f"{name:8} {ended}; {calls} calls, {rows} rows with an answer, {seconds:.1f} s", flush=True)


def compare(count, llm):
    from agents.models import Run
    from agents.tasks import impatient, research
    from twin import twin

    def rows(how_many):
        Run.objects.all().delete()
        made = Run.objects.bulk_create(Run(question=f"question {number}") for number in range(how_many))
        return [run.pk for run in made]

    def answered():
        return Run.objects.exclude(answer="").count()

    async def send(task, pks):
        await asyncio.to_thread(lambda: [task.delay(pk) for pk in pks])

    with running_worker():
        pks = rows(1)
        asyncio.run(watch(1, lambda: send(research, pks)))  # until it is there
        llm.reset()
        pks = rows(count)
        states, seconds, _ = asyncio.run(watch(count, lambda: send(research, pks)))
        show("worker", states, seconds, llm.reset()["calls"], answered())
        pks = rows(10)
        states, _, left = asyncio.run(watch(10, lambda: send(impatient, pks)))
        print(f"limits   {states['gave up']} gave up; {left} coroutines left", flush=True)
    llm.reset()
    pks = rows(count)
    states, seconds, _ = asyncio.run(watch(count, lambda: twin(pks)))
    show("asyncio", states, seconds, llm.reset()["calls"], answered())


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=100, help="agents each way")
    options = parser.parse_args()
    with PostgresServer() as postgres, ValkeyServer() as valkey, MockLLM(latency=0.3) as llm:
        os.environ |= {PG[name]: value for name, value in postgres.parameters.items()}
        os.environ |= {"BROKER_URL": valkey.broker_url, "REDIS_URL": valkey.url, "LLM_URL": f"{llm.url}/v1"}
        os.environ["DJANGO_SETTINGS_MODULE"] = "project.settings"
        import django
        from django.core.management import call_command

        django.setup()
        call_command("migrate", "-v0")
        compare(options.count, llm)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
