"""Every setting of Django's engine, as Django means it: one process, several aliases over one server."""

import io
import os
import subprocess

from dj_world import DATABASE, DRIVER, answer, set_up

PLAIN = {name: value for name, value in DATABASE["OPTIONS"].items() if name != "pool"}


def variant(options=(), *, pool=True, **settings):
    base = DATABASE["OPTIONS"] if pool else PLAIN
    return {**DATABASE, **settings, "OPTIONS": {**base, **dict(options)}}


ALIASES = {
    "default": variant(ATOMIC_REQUESTS=True),
    "strict": variant({"isolation_level": 4 if DRIVER == "psycopg" else 3}),  # SERIALIZABLE of each driver
    "role": variant({"assume_role": "pg_monitor"}),
    "kept": variant(pool=False, CONN_MAX_AGE=None),
    "closing": variant(pool=False, CONN_MAX_AGE=0),
    "healthy": variant(CONN_HEALTH_CHECKS=True),
    "kept_healthy": variant(pool=False, CONN_MAX_AGE=None, CONN_HEALTH_CHECKS=True),
}
if DRIVER == "psycopg":
    ALIASES["bound"] = variant({"server_side_binding": True})
set_up(DATABASES=ALIASES, ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"])

from django.core import signals
from django.core.management import call_command
from django.db import connection, connections, models, transaction
from django.http import HttpResponse
from django.test import Client
from django.urls import path


class Word(models.Model):
    text = models.TextField()

    class Meta:
        """Of no app's migrations."""

        app_label = "greenkit"
        db_table = "word"

    def __str__(self):
        return self.text


def one(alias, sql, *args):
    with connections[alias].cursor() as cursor:
        cursor.execute(sql, args)
        return cursor.fetchone()[0]


with connection.schema_editor() as editor:
    editor.create_model(Word)


def isolation():
    with transaction.atomic(using="strict"):
        return one("strict", "show transaction_isolation")


def write_and_fail(_request):
    Word.objects.create(text="never")
    raise RuntimeError


def write(_request):
    Word.objects.create(text="kept")
    return HttpResponse(str(connection.in_atomic_block))


urlpatterns = [path("fail/", write_and_fail), path("write/", write)]


def atomic_requests():
    client = Client(raise_request_exception=False)
    codes = [client.get("/fail/").status_code, client.get("/write/").content.decode()]
    return [*codes, list(Word.objects.values_list("text", flat=True))]


def pids(alias):
    """Backends of two requests after each other."""
    found = []
    for _ in range(2):
        found.append(one(alias, "select pg_backend_pid()"))
        signals.request_finished.send(sender=None)
    return found


def after_a_cut(alias):
    """A connection whose server process ended while nobody used it is replaced before it is used."""
    signals.request_started.send(sender=None)
    pid = one(alias, "select pg_backend_pid()")
    signals.request_finished.send(sender=None)
    one("closing", "select pg_terminate_backend(%s)", pid)
    while one("closing", "select count(*) from pg_stat_activity where pid = %s", pid):
        pass
    signals.request_started.send(sender=None)
    return one(alias, "select pg_backend_pid()") != pid


def persistent_cursors():
    """`iterator()` outside a transaction reads a cursor WITH HOLD; inside, one without."""
    Word.objects.bulk_create(Word(text=str(number)) for number in range(300))
    words = Word.objects.filter(text__lt="a").order_by("id")
    found = []
    for _ in (1, 2):
        rows = words.iterator(chunk_size=10)
        next(rows)
        found.append(one("default", "select bool_or(is_holdable) from pg_cursors"))
        found.append(1 + sum(1 for _ in rows))
    with transaction.atomic():
        rows = words.iterator(chunk_size=10)
        next(rows)
        found.append(one("default", "select bool_or(is_holdable) from pg_cursors"))
        found.append(1 + sum(1 for _ in rows))
    return found


def server_side_binding():
    if DRIVER != "psycopg":
        return None
    from django.db.backends.postgresql.base import ServerBindingCursor

    with connections["bound"].cursor() as cursor:
        return isinstance(cursor.cursor, ServerBindingCursor)


def shell():
    """`manage.py dbshell` starts psql with this database, whatever the pool."""
    called = {}

    def run(args, env=None, check=True):
        called.update(args=args, env=env)

    kept, subprocess.run = subprocess.run, run
    try:
        call_command("dbshell", "--", "-c", "select 7 as seven")
    finally:
        subprocess.run = kept
    done = kept(called["args"], env={**os.environ, **(called["env"] or {})}, capture_output=True, text=True)
    return done.stdout.split()[2:3]


def inspect():
    said = io.StringIO()
    call_command("inspectdb", "word", stdout=said)
    return "text = models.TextField()" in said.getvalue()


kept, closing = pids("kept"), pids("closing")
facts = {
    "isolation": isolation(),
    "isolation_of_others": one("default", "show transaction_isolation"),
    "role": [one("role", "select current_user"), one("role", "select current_user")],
    "role_of_others": one("default", "select current_user") != "pg_monitor",
    "atomic_requests": atomic_requests(),
    "kept": kept[0] == kept[1],
    "closing": closing[0] == closing[1],
    "healthy": after_a_cut("healthy"),
    "kept_healthy": after_a_cut("kept_healthy"),
    "cursors": persistent_cursors(),
    "binding": server_side_binding(),
    "shell": shell(),
    "inspect": inspect(),
}
for alias in connections:
    connections[alias].close()
answer(**facts)
