"""Listen, lose the connection, and go on listening; end when told."""

from contextlib import suppress

from pg_world import DSN, Eye, answer, connect, driver, gevent, postgres, time, until

heard, again = [], []


def listen():
    for note in postgres.listen(connect, "jobs", 'odd "name"', on_reconnect=lambda: again.append(True)):
        heard.append([note.channel, note.payload])


def notify(channel, payload):
    talk = driver.connect(DSN)
    talk.autocommit = True
    talk.cursor().execute("select pg_notify(%s, %s)", (channel, payload))
    talk.close()


def listening():
    return eye.count("state = 'idle' and query like 'LISTEN%name%'") == 1


def ends(**options):
    started = time.monotonic()
    notes = list(postgres.listen(connect, "jobs", **options))
    return [notes, time.monotonic() - started < 5]


def never():
    raise driver.OperationalError("no server")


with Eye() as eye:
    ear = gevent.spawn(listen)
    assert until(listening)
    notify("jobs", "one")
    notify('odd "name"', "")
    notify("others", "not for us")
    until(lambda: len(heard) == 2)
    eye.terminate()
    until(lambda: again)
    notify("jobs", "two")
    until(lambda: len(heard) == 3)
    ear.kill()
    left = until(lambda: eye.count() == 0)
    failed = "nothing"
    with suppress(driver.OperationalError):
        next(iter(postgres.listen(never, "jobs", timeout=60.0)))
        failed = "heard"
    answer(
        heard=heard,
        again=len(again),
        left=left,
        timeout=ends(timeout=0.3),
        ping=ends(timeout=0.5, ping=0.05),
        never=failed,
    )
