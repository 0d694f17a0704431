import greenkit.auto  # line 1: patches a gevent worker before anything else is imported

# isort: split
import os

import calls
from celery import Celery

import greenkit.celery

app = Celery("tasks", broker=os.environ["BROKER_URL"])
app.conf.update(task_ignore_result=True)
greenkit.celery.install(app)


@app.task
def ask(prompt):
    calls.ask(prompt, timeout=60.0)
