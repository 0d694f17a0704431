import os

env = os.environ.get

SECRET_KEY = env("SECRET_KEY", "only-good-enough-for-an-example")
INSTALLED_APPS = ["greenkit.django", "tickets"]
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
DATABASES = {
    "default": {
        "ENGINE": "greenkit.django.postgresql",
        "NAME": env("PGDATABASE", "postgres"),  # host, port and user: libpq reads PGHOST and so on itself
        # One for the command, one for the feeder that reads the rows: the 200 calls need none.
        "OPTIONS": {"pool": {"max_size": 2}},
    }
}
LLM_URL = env("LLM_URL", "http://127.0.0.1:8001")
