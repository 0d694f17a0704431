"""The settings of a Django worker whose greenlets share ten connections."""

from __future__ import annotations

import os

SECRET_KEY = "only for an example"
INSTALLED_APPS = ["greenkit.django"]
USE_TZ = True

DATABASES = {
    "default": {
        "ENGINE": "greenkit.django.postgresql",
        "NAME": "postgres",
        "USER": "postgres",
        "HOST": os.environ["PGHOST"],
        "PORT": os.environ["PGPORT"],
        "OPTIONS": {
            "application_name": "worker",
            "pool": {"max_size": 10, "timeout": 30},
        },
    }
}
