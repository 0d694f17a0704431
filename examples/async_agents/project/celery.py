import greenkit.auto  # line 1: patches a gevent worker before anything else is imported

# isort: split
import os

from celery import Celery

import greenkit.celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "project.settings")

app = Celery("project")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
greenkit.celery.install(app)
