import os

SECRET_KEY = "only for the example"
INSTALLED_APPS = ["greenkit.django"]
CELERY_BROKER_URL = CELERY_RESULT_BACKEND = os.environ["EXAMPLE_BROKER"]
CELERY_TASK_ACKS_LATE = True
CELERY_WORKER_PREFETCH_MULTIPLIER = 3
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
# Work that holds the CPU stops every task of a gevent worker; a prefork worker takes this queue.
CELERY_TASK_ROUTES = {"shop.count_primes": {"queue": "cpu"}}
CELERY_BEAT_SCHEDULE = {"tick": {"task": "shop.tick", "schedule": 0.5}}
CELERY_BEAT_SCHEDULE_FILENAME = os.path.join(os.environ["EXAMPLE_DIR"], "schedule")  # noqa: PTH118
