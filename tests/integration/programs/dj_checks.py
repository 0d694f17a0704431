"""`manage.py check` in the configurations that go wrong."""

import sys

from dj_world import DATABASE, answer, set_up

if "stock" in sys.argv:
    DATABASE.update(ENGINE="django.db.backends.postgresql", OPTIONS={})
set_up()

from django.conf import settings
from django.core import checks


def ids(database=None, greenkit=None, databases=None):
    settings.GREENKIT = greenkit
    kept = settings.DATABASES["default"]
    settings.DATABASES["default"] = database or kept
    try:
        found = checks.run_checks(databases=databases)
    finally:
        settings.DATABASES["default"] = kept
        settings.GREENKIT = None
    return sorted([one.id, one.level, bool(one.hint)] for one in found if one.id.startswith("GK"))


answer(
    as_set_up=ids(),
    good=ids(databases=["default"]),
    settings=ids(greenkit={"procesess": 4}),
    kind=ids(greenkit={"processes": "4"}),
    options=ids({**DATABASE, "OPTIONS": {"pool": {"size": 4}}}),
    age=ids({**DATABASE, "CONN_MAX_AGE": 60}),
    lenient=ids({**DATABASE, "CONN_MAX_AGE": 60}, greenkit={"strict": False}),
    bouncer=ids(
        {**DATABASE, "OPTIONS": {"pool": {"pgbouncer": True}, "assume_role": "someone"}},
    ),
    room=ids(greenkit={"processes": 5000}, databases=["default"]),
)
