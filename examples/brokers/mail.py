import greenkit.auto  # line 1: patches a gevent worker before anything else is imported

# isort: split
import os
import time
from pathlib import Path

from celery import Celery

import greenkit.celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "settings")
app = Celery("mail")
app.config_from_object("django.conf:settings", namespace="CELERY")
greenkit.celery.install(app)


@app.task
def send(number):
    time.sleep(0.2)  # an SMTP server, say
    with Path(os.environ["EXAMPLE_DIR"], f"mail-{number}").open("x"):
        pass
