import os

env = os.environ.get

SECRET_KEY = "only-good-enough-for-an-example"
INSTALLED_APPS = ["greenkit.django", "agents"]
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES = {
    "default": {
        "ENGINE": "greenkit.django.postgresql",
        "NAME": env("PGDATABASE", "postgres"),  # host, port and user: libpq reads PGHOST and so on itself
        "OPTIONS": {"pool": {"max_size": 4}},
    }
}
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
        "CONFIG": {"hosts": [env("REDIS_URL", "redis://127.0.0.1:6379/0")]},
    }
}
CELERY_BROKER_URL = env("BROKER_URL", "redis://127.0.0.1:6379/0")
CELERY_TASK_DEFAULT_QUEUE = "async_agents"
CELERY_TASK_IGNORE_RESULT = True  # the row is the result
CELERY_TASK_ACKS_LATE = True

LLM_URL = env("LLM_URL", "https://api.openai.com/v1")
LLM_KEY = env("OPENAI_API_KEY", "not-needed-by-the-mock")
