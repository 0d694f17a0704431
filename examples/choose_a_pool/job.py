import greenkit.auto  # line 1: patches a gevent worker, and no other

# isort: split
import os

import redis
from celery import Celery

import greenkit.celery
import greenkit.http

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")
app = Celery("job")
app.config_from_object("django.conf:settings", namespace="CELERY")
greenkit.celery.install(app)
shared = {}


@greenkit.celery.on_worker_start  # in each child of a prefork worker, which must not share sockets
def connect():
    shared["http"] = greenkit.http.session(100)
    shared["notes"] = redis.Redis.from_url(os.environ["EXAMPLE_NOTES"], max_connections=200)


@app.task
def ask():
    body = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
    shared["http"].post(os.environ["EXAMPLE_LLM"], json=body).raise_for_status()
    shared["notes"].incr("done")


@app.task
def count():
    sum(all(n % d for d in range(2, int(n**0.5) + 1)) for n in range(2, 30_000))
    shared["notes"].incr("done")
