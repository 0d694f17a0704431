import greenkit.auto  # line 1: patches a gevent worker, and leaves prefork, beat and the client alone

# isort: split
import os
import time
from pathlib import Path

import requests
from celery import Celery
from celery.exceptions import SoftTimeLimitExceeded
from django.conf import settings

import greenkit.celery
from greenkit.limits import Limiter

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")
app = Celery("shop")
app.config_from_object("django.conf:settings", namespace="CELERY")
greenkit.celery.install(app, drain_timeout=20, children="join")
llm = Limiter("llm", requests="20/s burst 1")


def note(name, text=""):
    with Path(os.environ["EXAMPLE_DIR"], name).open("a") as file:
        file.write(f"{text}\n")


@greenkit.celery.on_worker_start
def open_session():
    app.http = requests.Session()  # one for all tasks of this worker
    note("life", f"opened with DEBUG={settings.DEBUG}")


@greenkit.celery.on_worker_stop
def close_session():
    app.http.close()
    note("life", "closed")


@app.task(soft_time_limit=0.3, time_limit=5)
def slow():
    try:
        time.sleep(60)
    except SoftTimeLimitExceeded:
        return "tidied up"
    return "never told"


@app.task(time_limit=0.3)
def stubborn():
    try:
        time.sleep(60)
    except:  # noqa: E722 - it does not help
        return "defeated the limit"


@app.task
def sleepy(seconds):
    time.sleep(seconds)
    note("done")
    return "slept"


@app.task(bind=True, max_retries=0)
def refused_twice(self):
    note("asked")
    asked = len(Path(os.environ["EXAMPLE_DIR"], "asked").read_text().splitlines())
    if asked < 3:  # what raise_for_status() does with a provider's "too many requests"
        answer = requests.Response()
        answer.status_code, answer.headers["Retry-After"] = 429, "0.2"
        answer.raise_for_status()
    return f"answered at the {asked}rd attempt, retries counted: {self.request.retries}"


@app.task(limits=llm)
def ask(number):
    note("permits", greenkit.celery.current_permit().costs["requests"])
    return number


@app.task
def total(numbers):
    return sum(numbers)


@app.task(ignore_result=True)
def tick():
    note("ticks")


@app.task
def count_primes(below):
    return os.getpid(), sum(all(n % d for d in range(2, int(n**0.5) + 1)) for n in range(2, below))
