"""The job under faults: an LLM call within a fleet-wide quota, then one INSERT, acknowledged late.

Each run of the task is written to a log that survives SIGKILL, with a number of its own that its row carries
too: the judge tells by it which run wrote which row. `FAULTS_PLAIN=1` is the same job on plain
`celery -P gevent` with psycogreen, as a careful project writes it.
"""

from __future__ import annotations

import os

PLAIN = os.environ["FAULTS_PLAIN"] == "1"
if PLAIN:
    from psycogreen.gevent import patch_psycopg

    patch_psycopg()
else:
    import greenkit.auto

import json
import random
import time
from urllib.parse import parse_qsl, urlsplit
from uuid import uuid4

import django
import requests
from celery import Celery
from celery.exceptions import SoftTimeLimitExceeded
from django.conf import settings

CONCURRENCY = int(os.environ["FAULTS_CONCURRENCY"])
VISIBILITY = float(os.environ["FAULTS_VISIBILITY"])
ON_REDIS = os.environ["BROKER_URL"].startswith("redis")
# Longer than any task may take, shorter than a run: what a killed worker held comes back within it. The lock
# for giving back is kombu's: who is killed while it holds it would keep the others from it for five minutes.
REDIS = {
    "visibility_timeout": VISIBILITY,
    "unacked_mutex_expire": 3,
    # kombu looks for them every 100 seconds only, which is the product of these two.
    "unacked_restore_interval": 2,
    "unacked_restore_throttle": 1,
}
# What a task sends, its own retry too, is there when RabbitMQ says so, and not when it is written to a
# socket.
RABBITMQ = {"confirm_publish": True}
WORKER = os.environ["FAULTS_WORKER"]


def database(url: str) -> dict[str, object]:
    """Return Django's settings for a postgresql:// URL."""
    parts = urlsplit(url)
    options: dict[str, object] = dict(parse_qsl(parts.query))
    if not PLAIN:
        options["pool"] = {"max_size": int(os.environ["FAULTS_CONNECTIONS"])}
    return {
        "ENGINE": "django.db.backends.postgresql" if PLAIN else "greenkit.django.postgresql",
        "NAME": parts.path.lstrip("/"), "USER": parts.username, "PASSWORD": parts.password,
        "HOST": parts.hostname, "PORT": parts.port, "OPTIONS": options,
    }  # fmt: skip


settings.configure(
    SECRET_KEY="x", USE_TZ=True, DEFAULT_AUTO_FIELD="django.db.models.BigAutoField", LOGGING_CONFIG=None,
    INSTALLED_APPS=[] if PLAIN else ["greenkit.django"],
    DATABASES={"default": database(os.environ["DATABASE_URL"])},
)  # fmt: skip
django.setup()

from django.db import InterfaceError, OperationalError, connection

app = Celery("faults_app", broker=os.environ["BROKER_URL"])
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=True,
    worker_prefetch_multiplier=1,
    task_default_queue="faults",
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    broker_transport_options=REDIS if ON_REDIS else RABBITMQ,
)
if not PLAIN:
    import greenkit.celery
    import greenkit.http
    from greenkit import Limiter
    from greenkit.errors import GreenkitError, RateLimited, WouldWait

    app.conf.update(greenkit_drain_timeout=3.0, greenkit_hold_limited=CONCURRENCY)
    greenkit.celery.install(app)
    llm = Limiter("llm", requests=os.environ["FAULTS_RATE"], tokens="100000/s", share=os.environ["LIMIT_URL"])
    http = greenkit.http.session(CONCURRENCY, timeout=(2.0, 4.0))
    MODE = os.environ["FAULTS_MODE"]
else:
    GreenkitError = RateLimited = WouldWait = ()
    http = requests.Session()
    http.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=CONCURRENCY, pool_block=True))
    MODE = "plain"

_log = os.open(os.environ["FAULTS_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def note(run: str, what: str, number: int, more: str = "") -> None:
    """Write one line, whole: the kernel has it when this returns, whatever happens to us."""
    line = {"at": time.time(), "worker": WORKER, "pid": os.getpid(), "run": run, "what": what, "task": number}
    os.write(_log, json.dumps({**line, "more": more}).encode() + b"\n")


def call(number: int) -> dict[str, object]:
    """Ask the LLM."""
    messages = [{"role": "user", "content": f"question {number}"}]
    answer = http.post(
        os.environ["LLM_URL"] + "/v1/chat/completions", json={"model": "m", "messages": messages},
        timeout=(2.0, 4.0),
    )  # fmt: skip
    answer.raise_for_status()
    return answer.json()


def ask(number: int) -> None:
    """Ask within the quota, in one of the three ways greenkit offers, or without one."""
    if MODE == "attempts":
        for attempt in llm.attempts(tokens=50, deadline=6.0):
            with attempt as permit:
                permit.settle(tokens=call(number)["usage"]["total_tokens"])
    elif MODE == "call":
        llm.call(call, number, tokens=50, max_wait=2.0)
    elif MODE == "limits":
        reply = call(number)
        permit = greenkit.celery.current_permit()
        if permit is not None:
            permit.settle(tokens=reply["usage"]["total_tokens"])
    else:
        call(number)


@app.task(
    bind=True, name="faults.work", max_retries=None,
    soft_time_limit=VISIBILITY * 0.4, time_limit=VISIBILITY * 0.5,
    **({"limits": llm, "cost": {"tokens": 50}} if MODE == "limits" else {}),
)  # fmt: skip
def work(self: object, number: int) -> None:
    """Ask, write one row; what may pass by is tried again."""
    run, how = uuid4().hex[:12], "interrupted"
    note(run, "start", number, f"redelivered={self.request.delivery_info.get('redelivered')}")
    try:
        ask(number)
        with connection.cursor() as cursor:
            cursor.execute("INSERT INTO answer (task, run) VALUES (%s, %s)", [number, run])
        note(run, "row", number)
        how = "done"
    except (RateLimited, WouldWait):
        how = "limited"
        raise  # greenkit makes it a retry
    except (OperationalError, InterfaceError) as error:
        how = f"database: {type(error).__name__}"
        raise self.retry(exc=error, countdown=1) from error
    except requests.HTTPError as error:
        how = f"http: {error.response.status_code}"
        if error.response.status_code == 429 and not PLAIN:
            raise  # greenkit makes it a retry
        raise self.retry(exc=error, countdown=random.uniform(1, 3)) from error
    except (requests.RequestException, SoftTimeLimitExceeded, GreenkitError) as error:
        how = f"passing: {type(error).__name__}"
        raise self.retry(exc=error, countdown=1) from error
    finally:
        note(run, "end", number, how)
