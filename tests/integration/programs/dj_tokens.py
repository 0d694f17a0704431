"""An engine built on greenkit's that signs in with tokens: they are exchanged, and one is refused."""

from dj_world import DATABASE, DRIVER, DSN, SIZE, answer, set_up

# isort: split
import sys
import types

import gevent

from greenkit.django.postgresql import base
from greenkit.testing._dsn import parse_dsn

tokens, asked = ["first"], []


class DatabaseWrapper(base.DatabaseWrapper):
    """Ask for a token for each new connection, as engines for RDS do."""

    def get_connection_params(self):
        gevent.sleep(0.001)  # the call to the service
        asked.append(tokens[-1])
        return {**super().get_connection_params(), "password": tokens[-1]}


for name in ("token_engine", "token_engine.base"):
    sys.modules[name] = types.ModuleType(name)
sys.modules["token_engine.base"].DatabaseWrapper = DatabaseWrapper
admin = parse_dsn(DSN)
set_up(
    DATABASES={
        "default": {**DATABASE, "ENGINE": "token_engine", "USER": "signs_in", "PASSWORD": ""},
        "admin": {**DATABASE, "OPTIONS": {}},
    }
)
from django.db import close_old_connections, connections


def ask(sql, using="default"):
    try:
        with connections[using].cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchone()[0] if cursor.description else None
    finally:
        close_old_connections()


def crowd(count):
    """Return how many of `count` requests were served, and what the others were told."""
    requests = [gevent.spawn(ask, "select 1 from pg_sleep(0.02)") for _ in range(count)]
    gevent.joinall(requests, timeout=30)
    return sum(r.successful() for r in requests), sorted(
        {str(r.exception).strip() for r in requests if r.exception}
    )


def exchange(password):
    ask(f"alter role signs_in password '{password}'", "admin")
    ask("select count(pg_terminate_backend(pid)) from pg_stat_activity where usename = 'signs_in'", "admin")
    gevent.sleep(0.1)


ask("drop role if exists signs_in", "admin")
ask("create role signs_in login password 'first'", "admin")
before = crowd(12)
tokens.append("second")
exchange("second")
after = crowd(12)
opened, signed = connections["default"].pool.statistics().created, len(asked)
exchange("third")
refused = crowd(3)
answer(
    driver=DRIVER,
    before=before,
    after=after,
    opened=opened,
    signed=signed,
    refused=refused,
    attempts=connections["default"].pool.statistics().connect_errors,
    size=SIZE,
)
