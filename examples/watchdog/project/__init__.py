import greenkit.auto  # noqa: F401 - line 1 of the package that Celery names: patches a gevent worker first

# isort: split
from project.celery import app as celery_app

__all__ = ["celery_app"]
