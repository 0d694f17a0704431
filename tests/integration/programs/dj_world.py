"""A Django process with greenkit's engine.

Usage: `python program.py DSN psycopg2|psycopg green|plain [postgis]`; the last line printed is JSON.
"""

import json
import sys

DSN, DRIVER, WORLD = sys.argv[1:4]
if WORLD == "green":
    from gevent import monkey

    monkey.patch_all()
if DRIVER == "psycopg2":
    sys.modules["psycopg"] = None  # Django takes psycopg 3 wherever it can be imported


import django
from django.conf import settings

from greenkit.testing._dsn import parse_dsn

SIZE = 4
parts = parse_dsn(DSN)
DATABASE = {
    "ENGINE": "greenkit.django.postgis" if "postgis" in sys.argv[4:] else "greenkit.django.postgresql",
    "NAME": parts["dbname"],
    "USER": parts.get("user", ""),
    "PASSWORD": parts.get("password", ""),
    "HOST": parts.get("host", ""),
    "PORT": parts.get("port", ""),
    "OPTIONS": {"application_name": "dj", "pool": {"max_size": SIZE, "timeout": 20.0}},
}


def set_up(**more):
    defaults = {
        "DATABASES": {"default": DATABASE},
        "INSTALLED_APPS": ["greenkit.django"],
        "USE_TZ": True,
        "TIME_ZONE": "UTC",
        "DEFAULT_AUTO_FIELD": "django.db.models.BigAutoField",
    }
    settings.configure(**{**defaults, **more})
    django.setup()


def answer(**facts):
    print(json.dumps(facts))
