"""celery.contrib.testing's worker, in the process of the test, on an app with greenkit installed."""

import json

from celery import Celery
from celery.contrib.testing.worker import start_worker

import greenkit.celery

app = Celery("contrib", broker="memory://", backend="cache+memory://")
greenkit.celery.install(app)


@app.task
def add(one, two):
    return one + two


with start_worker(app, perform_ping_check=False):
    answers = [add.delay(number, 1).get(timeout=20) for number in range(10)]
print(json.dumps(answers))
