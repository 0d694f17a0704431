"""What differs between a laptop, the demo and production comes from the environment."""

import os

import addresses

env = os.environ.get

SECRET_KEY = env("SECRET_KEY", "only-good-enough-for-an-example")
DEBUG = env("DEBUG", "") == "1"
ALLOWED_HOSTS = env("ALLOWED_HOSTS", "127.0.0.1,localhost").split(",")
ROOT_URLCONF = "project.urls"
USE_TZ = True
TIME_ZONE = "UTC"
STATIC_URL = "static/"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "rest_framework",
    "greenkit.django",
    "batches",
    "live",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
REST_FRAMEWORK = {
    # Anybody who reaches the port may post: put your own authentication here.
    "DEFAULT_AUTHENTICATION_CLASSES": [],
    "DEFAULT_PAGINATION_CLASS": "rest_framework.pagination.LimitOffsetPagination",
    "PAGE_SIZE": 20,
}

DATABASES = {
    "default": addresses.database(
        env("DATABASE_URL", "postgresql://postgres@127.0.0.1/postgres"),
        # Rows per second x seconds per row x 2 is plenty; never the worker's concurrency.
        pool={"min_size": 1, "max_size": int(env("DB_POOL", "4"))},
    )
}

CELERY_BROKER_URL, CELERY_BROKER_TRANSPORT_OPTIONS = addresses.broker(
    env("BROKER_URL", "redis://127.0.0.1:6379/0")
)
CELERY_TASK_DEFAULT_QUEUE = env("QUEUE", "llm_batch")
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_WORKER_PREFETCH_MULTIPLIER = 1  # take what can run now, leave the rest to other workers
CELERY_TASK_IGNORE_RESULT = True  # the row is the result
CELERY_TASK_ACKS_LATE = True  # a worker that dies gives its tasks back
CELERY_TASK_REJECT_ON_WORKER_LOST = True
CELERY_GREENKIT_DRAIN_TIMEOUT = float(env("DRAIN_TIMEOUT", "60"))  # then running tasks go back, too

LLM_URL = env("LLM_URL", "http://127.0.0.1:8001")
LLM_MODEL = env("LLM_MODEL", "mock-small")
LLM_REQUESTS = env("LLM_REQUESTS", "500/min")
LLM_TOKENS = env("LLM_TOKENS", "90_000/min burst 9_000")
LLM_CONCURRENCY = int(env("LLM_CONCURRENCY", "200"))  # calls in flight at most: the HTTP pool's size
LLM_DEADLINE = float(env("LLM_DEADLINE", "600"))  # seconds one answer may take, waits and retries included
MAX_PROMPTS = int(env("MAX_PROMPTS", "10000"))

LIVE_NUMBERS = env("LIVE_NUMBERS", "")  # a file of measurements: the live page draws charts of them
LIVE_FLOWER = env("LIVE_FLOWER", "")  # where Flower runs, for a link to it

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    # Two lines per task cost a busy worker more than the task itself; failures are still logged.
    "loggers": {name: {"level": "WARNING"} for name in ("celery.app.trace", "celery.worker.strategy")},
}
