"""django-tenants over greenkit's engine: two schemas, a pool smaller than the crowd, kills in between.

After `green`: "limit" for TENANT_LIMIT_SET_CALLS, "release" for release_between_queries.
"""

import sys

from dj_world import DATABASE, DRIVER, SIZE, answer, set_up

# isort: split
import random

import gevent

dice = random.Random(5)
options = {
    **DATABASE["OPTIONS"],
    "pool": {"max_size": SIZE, "timeout": 20.0, "release_between_queries": "release" in sys.argv},
}
set_up(
    DATABASES={"default": {**DATABASE, "ENGINE": "django_tenants.postgresql_backend", "OPTIONS": options}},
    ORIGINAL_BACKEND="greenkit.django.postgresql",
    TENANT_LIMIT_SET_CALLS="limit" in sys.argv,
    INSTALLED_APPS=["greenkit.django", "django.contrib.contenttypes"],
)

from django.db import close_old_connections, connection, transaction
from django_tenants.utils import schema_context

SCHEMAS = ("a", "b")
wrong, done, killed = [], dict.fromkeys(SCHEMAS, 0), 0


def ask(sql):
    with connection.cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchone()[0] if cursor.description else None


def work(schema):
    try:
        with schema_context(schema):
            if ask("select current_schema()") != schema:
                wrong.append(schema)
            ask(f"select pg_sleep({dice.random() * 0.02})")
            with transaction.atomic():
                ask("insert into thing default values")
                ask(f"select pg_sleep({dice.random() * 0.01})")
            done[schema] += 1
        if ask("select current_schema()") != "public":
            wrong.append("public")
    finally:
        close_old_connections()


for schema in SCHEMAS:
    ask(f"create schema {schema}")
    ask(f"create table {schema}.thing (id serial)")
close_old_connections()
crowd = []
for number in range(120):
    crowd.append(gevent.spawn(work, SCHEMAS[number % 2]))
    if number % 5 == 4:
        gevent.sleep(dice.random() * 0.02)
        victim = dice.choice(crowd)
        killed += not victim.dead
        victim.kill(block=False)
gevent.joinall(crowd, timeout=60)
rows = [ask(f"select count(*) from {schema}.thing") for schema in SCHEMAS]
pool = connection.pool
close_old_connections()
answer(
    driver=DRIVER,
    killed=killed,
    unfinished=sum(not greenlet.dead for greenlet in crowd),
    wrong=wrong,
    done=list(done.values()),
    rows=rows,
    peak=pool.statistics().peak,
    in_use=pool.statistics().in_use,
    size=SIZE,
)
