"""`manage.py check` in the configurations that go wrong."""

import sys
import types

from dj_world import DATABASE, answer, set_up

if "stock" in sys.argv:
    DATABASE.update(ENGINE="django.db.backends.postgresql", OPTIONS={})
set_up()

from django.conf import settings
from django.core import checks

WRONG = (
    {"min_size": "4"},
    {"max_size": "10"},
    {"timeout": "5"},
    {"reset": "shop.db.reset"},
    {"query_timeout": 0},
)


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


def layered(name, base):
    """Return an engine module of somebody else's that builds on `base`."""
    package, module = types.ModuleType(name), types.ModuleType(f"{name}.base")
    package.__path__ = []
    module.DatabaseWrapper = type("DatabaseWrapper", (base,), {})
    sys.modules.update({name: package, f"{name}.base": module})
    return {**DATABASE, "ENGINE": name}


from django.db.backends.postgresql import base as stock

from greenkit.django.postgresql import base as ours

on_stock, on_ours = layered("on_stock", stock.DatabaseWrapper), layered("on_ours", ours.DatabaseWrapper)
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
    own_pool=[
        one for one in ids({**DATABASE, "ENGINE": "django.db.backends.postgresql"}) if one[0] == "GK607"
    ],
    on_stock=[one for one in ids(on_stock) if one[0] == "GK608"],
    on_ours=[one for one in ids(on_ours) if one[0] == "GK608"],
    strings=[ids({**DATABASE, "OPTIONS": {"pool": wrong}}) for wrong in WRONG],
)
