import os

env = os.environ.get

SECRET_KEY = env("SECRET_KEY", "only-good-enough-for-an-example")
INSTALLED_APPS = ["greenkit.django", "questions"]
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES = {
    "default": {
        "ENGINE": "greenkit.django.postgresql",
        "NAME": env("PGDATABASE", "postgres"),  # host, port and user: libpq reads PGHOST and so on itself
        "OPTIONS": {"pool": {"max_size": 4}},
    }
}
CELERY_BROKER_URL = env("BROKER_URL", "redis://127.0.0.1:6379/0")
CELERY_TASK_DEFAULT_QUEUE = "openai_batch"
CELERY_TASK_IGNORE_RESULT = True  # the row is the result
CELERY_TASK_ACKS_LATE = True
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True

LLM_URL = env("LLM_URL", "https://api.openai.com/v1")
LLM_KEY = env("OPENAI_API_KEY", "not-needed-by-the-mock")
LLM_MODEL = env("LLM_MODEL", "mock-small")
LLM_REQUESTS = env("LLM_REQUESTS", "500/min")
LLM_TOKENS = env("LLM_TOKENS", "90_000/min burst 9_000")
LLM_CONCURRENCY = int(env("LLM_CONCURRENCY", "100"))
