import greenkit.auto  # line 1: patches a gevent worker before anything else is imported

# isort: split
import os

import telemetry
from celery import Celery
from opentelemetry import trace

import greenkit.celery
import greenkit.http
from greenkit import Limiter

app = Celery("shop", broker=os.environ["BROKER_URL"])
app.conf.update(task_ignore_result=True, worker_send_task_events=True)  # events are what Flower reads
greenkit.celery.install(app)
llm = Limiter("llm", requests="100/s burst 10", concurrency=20)
http = greenkit.http.session(20)
tracer = trace.get_tracer("shop")


@greenkit.celery.on_worker_start
def begin():
    telemetry.start()


@greenkit.celery.on_worker_stop
def end():
    telemetry.stop()


@app.task
def ask(prompt):
    with tracer.start_as_current_span("ask"), llm.permit(), tracer.start_as_current_span("call"):
        reply = http.post(
            os.environ["LLM_URL"] + "/v1/chat/completions",
            json={"model": "mock", "messages": [{"role": "user", "content": prompt}]},
        )
        llm.observe(reply.status_code, reply.headers)
        reply.raise_for_status()
