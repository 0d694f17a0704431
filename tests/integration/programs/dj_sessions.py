"""What the last borrower left in its session, who holds connections, and when they are given back."""

from dj_world import DATABASE, DRIVER, answer, set_up

# isort: split
import gc

import gevent
import gevent.event

CALLS = []


def configure(conn):
    CALLS.append("configure")
    with conn.cursor() as cursor:
        cursor.execute("set lock_timeout = 4321")


def check(conn):
    CALLS.append("check")


def reset(conn):
    CALLS.append("reset")
    with conn.cursor() as cursor:
        cursor.execute("select pg_advisory_unlock_all()")
    conn.autocommit = False


def alias(name, **pool):
    options = {
        **DATABASE["OPTIONS"],
        "application_name": name,
        "pool": {"max_size": 1, "timeout": 5.0, **pool},
    }
    return {**DATABASE, "OPTIONS": options}


set_up(
    INSTALLED_APPS=["greenkit.django", "django.contrib.contenttypes"],
    DATABASES={
        "default": alias("default"),
        "reset": alias("reset", reset=reset, configure=configure, check=check),
        "slow": alias("slow", query_timeout=0.3),
        "held": alias("held", timeout=0.4),
        "brief": alias("brief", release_between_queries=True),
        "eye": DATABASE,
    },
)

from django.contrib.contenttypes.models import ContentType
from django.db import close_old_connections, connections, transaction

from greenkit import postgres


def ask(using, sql):
    with connections[using].cursor() as cursor:
        cursor.execute(sql)
        return cursor.fetchone()[0] if cursor.description else None


def request(using, function):
    def run():
        try:
            return function()
        finally:
            if using != "forgets":
                close_old_connections()

    return gevent.spawn(run)


def locks(key):
    return ask("eye", f"select count(*) from pg_locks where locktype = 'advisory' and objid = {key}")


def killed_with_a_lock(using, key, closes):
    """Be killed while holding a lock, with no query running; return how many locks and connects are left."""
    pool = connections[using].pool
    held = gevent.event.Event()

    def hold():
        ask(using, f"select pg_advisory_lock({key})")
        held.set()
        gevent.sleep(60)

    victim = request(using if closes else "forgets", hold)
    held.wait(10)
    before, created = locks(key), pool.statistics().created
    victim.kill()
    request(using, lambda: ask(using, "select 1")).get(timeout=10)
    return [before, locks(key), pool.statistics().created - created]


killed = [killed_with_a_lock("default", 41, closes=True), killed_with_a_lock("default", 42, closes=False)]
pool = connections["default"].pool
created = pool.statistics().created
for _ in range(5):
    request("default", lambda: ask("default", "select 1")).get(timeout=10)
orderly = pool.statistics().created - created

kept = killed_with_a_lock("reset", 43, closes=True)
settings = request("reset", lambda: ask("reset", "show lock_timeout")).get(timeout=10)

# An iterator abandoned half-way: its cursor is gone from the session when the connection is.
with connections["default"].schema_editor() as editor:
    editor.create_model(ContentType)
ContentType.objects.bulk_create([ContentType(app_label="a", model=f"m{n}") for n in range(20)])
close_old_connections()
abandoned = []


def half():
    rows = ContentType.objects.all().iterator(chunk_size=5)
    next(rows)
    abandoned.append(rows)
    return ask("default", "select count(*) from pg_cursors")


open_before = request("default", half).get(timeout=10)
open_after = request("default", lambda: ask("default", "select count(*) from pg_cursors")).get(timeout=10)
request("default", half).get(timeout=10)
abandoned.clear()
gc.collect()

# A query that takes too long; a deadline gives it more time.
try:
    ask("slow", "select pg_sleep(5)")
    slow = ""
except Exception as error:
    slow = f"{type(error).__name__}: {error}"
with postgres.deadline(5.0):
    longer = ask("slow", "select 1 from pg_sleep(0.5)")
close_old_connections()


def call_an_api(entered, done):
    entered.set()
    done.wait(10)  # the API call


entered, done = gevent.event.Event(), gevent.event.Event()


def transaction_around_an_api():
    with transaction.atomic(using="held"):
        ask("held", "select 1")
        call_an_api(entered, done)


holder = request("held", transaction_around_an_api)
entered.wait(10)
waiters = [request("held", lambda: ask("held", "select 1")) for _ in range(5)]
gevent.joinall(waiters, timeout=10)
timed_out = str(waiters[0].exception)
seconds = sum(connections["held"].pool.idle_holders.values())
seen = connections["held"].pool.statistics().borrowers[0]
while sum(connections["held"].pool.idle_holders.values()) < 1.0:
    gevent.joinall([request("held", lambda: ask("held", "select 1"))], timeout=10)
findings = [f"{finding.id} {finding.where}" for finding in postgres.check()]
done.set()
holder.get(timeout=10)

# Given back between queries, kept in a transaction.
brief = connections["brief"].pool
steps = []


def two_queries():
    ask("brief", "select 1")
    steps.append(brief.statistics().in_use)
    with transaction.atomic(using="brief"):
        ask("brief", "create temp table brief_seen (x int) on commit drop")
        ask("brief", "select count(*) from brief_seen")
        steps.append(brief.statistics().in_use)
        transaction.on_commit(lambda: steps.append(brief.statistics().in_use), using="brief")
    steps.append(brief.statistics().in_use)
    rows = ContentType.objects.using("brief").all().iterator(chunk_size=5)
    next(rows)
    ask("brief", "select 1")
    steps.append(brief.statistics().in_use)
    steps.append(sum(1 for _ in rows))
    steps.append(brief.statistics().in_use)
    steps.append(len(ContentType.objects.using("brief").all()))
    steps.append(brief.statistics().in_use)


request("brief", two_queries).get(timeout=20)
answer(
    driver=DRIVER,
    killed=killed,
    orderly=orderly,
    kept=kept,
    settings=settings,
    calls=CALLS,
    cursors=[open_before, open_after],
    slow=slow,
    longer=longer,
    timed_out=timed_out,
    seconds=seconds,
    borrower=[seen.where, seen.seconds, seen.querying],
    findings=findings,
    steps=steps,
)
