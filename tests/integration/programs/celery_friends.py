"""A Django project whose results and schedule are in its database.

As a program it is the client: `python celery_friends.py migrate|ask|results`.
"""

from __future__ import annotations

import json
import os
import sys
import time

import django
from celery import Celery
from django.conf import settings

import greenkit.celery
from greenkit.testing._dsn import parse_dsn

BEAT = sys.version_info < (3, 12)  # as pyproject.toml has it
parts = parse_dsn(os.environ["TEST_DATABASE"])
settings.configure(
    DATABASES={
        "default": {
            "ENGINE": "greenkit.django.postgresql",
            "NAME": parts["dbname"],
            "USER": parts.get("user", ""),
            "HOST": parts.get("host", ""),
            "PORT": parts.get("port", ""),
            "OPTIONS": {"application_name": "friends", "pool": {"max_size": 4}},
        }
    },
    INSTALLED_APPS=["greenkit.django", "django_celery_results", *(["django_celery_beat"] if BEAT else [])],
    USE_TZ=True,
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
)
django.setup()
app = Celery("celery_friends", broker=os.environ["TEST_BROKER"], backend="django-db")
app.conf.update(task_acks_late=True, broker_connection_retry_on_startup=True, result_extended=True)
greenkit.celery.install(app)


@app.task
def double(number: int) -> int:
    time.sleep(0.05)
    return 2 * number


@app.task(rate_limit="20/s")
def rare(number: int) -> float:
    return time.time()


def ask() -> None:
    """Send sixty tasks and wait for their answers where they are: in a table."""
    answers = [double.delay(number) for number in range(60)]
    print(json.dumps([answer.get(timeout=30) for answer in answers]))


def rates() -> None:
    begun = sorted(answer.get(timeout=30) for answer in [rare.delay(number) for number in range(20)])
    print(json.dumps(begun[-1] - begun[0]))


def schedule() -> None:
    from django_celery_beat.models import IntervalSchedule, PeriodicTask

    often, _ = IntervalSchedule.objects.get_or_create(every=200_000, period=IntervalSchedule.MICROSECONDS)
    PeriodicTask.objects.create(interval=often, name="often", task="celery_friends.double", args="[21]")


def results() -> None:
    from django.db import connection
    from django_celery_results.models import TaskResult

    with connection.cursor() as cursor:
        cursor.execute("select count(*) from pg_stat_activity where application_name = 'friends'")
        open_now = cursor.fetchone()[0]
    done = TaskResult.objects.filter(status="SUCCESS")
    print(json.dumps({"done": done.count(), "of_21": done.filter(result="42").count(), "open": open_now}))


def migrate() -> None:
    from django.core.management import call_command

    call_command("migrate", verbosity=0)


if __name__ == "__main__":
    globals()[sys.argv[1]]()
