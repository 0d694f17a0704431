import greenkit.auto  # line 1: patches a gevent worker before anything else is imported

# isort: split
import os

from celery import Celery
from limiters import llm

import greenkit.celery
import greenkit.http

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")

app = Celery("project", broker=os.environ["BROKER_URL"])
app.conf.update(task_default_queue=os.environ["QUEUE"], worker_prefetch_multiplier=10)
greenkit.celery.install(app)

http = greenkit.http.session(50)
answer_tokens = llm.estimate(50, most=200)


@app.task(ignore_result=True)
def ask(prompt):
    for attempt in llm.attempts(tokens=answer_tokens.guess(len(prompt) / 4), deadline=60.0):
        with attempt as permit:
            reply = http.post(
                os.environ["LLM_URL"] + "/v1/chat/completions",
                json={"model": "mock", "messages": [{"role": "user", "content": prompt}]},
            )
            llm.observe(reply.status_code, reply.headers)
            reply.raise_for_status()
            permit.settle(tokens=reply.json()["usage"]["total_tokens"])
