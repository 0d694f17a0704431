"""Kill and time out greenlets at every point of borrowing and using, then look what is left.

`MORE`: seed, seconds at most, greenlets, and "twin" for a pool that undoes its reservation on `Exception`
only. The storm lasts until it has struck often enough, however busy the machine.
"""

import random
from collections import Counter

from pg_world import DRIVER, DSN, MORE, THROUGH, Eye, answer, connect, driver, gevent, postgres, time

SIZE = 8
seed, seconds, GREENLETS, twin = int(MORE[0]), float(MORE[1]), int(MORE[2]), "twin" in MORE
bouncer = THROUGH != DSN
dice = random.Random(seed)


class Twin(postgres.ConnectionPool):
    """The usual mistake: GreenletExit and gevent.Timeout are not Exceptions."""

    def getconn(self, *, timeout=None):
        line = self._line
        until = self._queue_up(line, 1.0)
        try:
            pooled = self._idle_connections.find(until)
            self._checked_out[id(pooled.conn)] = pooled
        except Exception:
            line.release()
            raise
        return pooled.conn


def discard(conn):
    with conn.cursor() as cursor:
        cursor.execute("select pg_advisory_unlock_all()")
    conn.commit()


pool = (Twin if twin else postgres.ConnectionPool)(
    connect,
    max_size=SIZE,
    timeout=1.0 if twin else 5.0,
    pgbouncer=bouncer,
    reset=discard if "reset" in MORE else None,
)
where, killed, errors, done = {}, Counter(), Counter(), Counter()


def use():
    me = gevent.getcurrent()
    where[me] = "waiting"
    try:
        with pool.connection() as conn:
            where[me] = "in_flight"
            conn.cursor().execute(f"select pg_sleep({dice.random() * 0.02})")
            done["ok"] += 1
    finally:
        del where[me]


def job():
    try:
        if dice.random() < 0.5:
            with gevent.Timeout(dice.random() * 0.03):
                use()
        else:
            use()
    except gevent.Timeout:
        done["timed out"] += 1
    except driver.errors.QueryCanceled:
        errors["stray cancel"] += 1
    except driver.OperationalError as error:
        errors[type(error).__name__] += 1


def struck():
    return killed["in_flight"] >= 40 and killed["waiting"] >= 100 and done["timed out"] >= 200


with Eye() as eye:
    live, end = [], time.monotonic() + seconds
    while not struck() and time.monotonic() < end:
        live = [one for one in live if not one.dead]
        live += [gevent.spawn(job) for _ in range(GREENLETS - len(live))]
        gevent.sleep(0.003)
        for _ in range(sum(dice.random() < 0.3 for _ in range(GREENLETS // 40))):
            # Few of the greenlets have a connection at a time, and to kill those is the point.
            busy = [one for one in live if where.get(one) == "in_flight"]
            victim = dice.choice(busy if busy and dice.random() < 0.3 else live)
            killed[where.get(victim, "elsewhere")] += 1
            victim.kill(block=False)
    gevent.joinall(live, timeout=15)
    hung = sum(not one.dead for one in live)
    usable = 0
    try:
        for _ in range(SIZE):
            pool.getconn(timeout=1.0).cursor().execute("select 1")
            usable += 1
    except driver.OperationalError:
        pass
    answer(
        driver=DRIVER,
        usable=usable,
        size=SIZE,
        peak=eye.peak,
        killed=killed,
        done=done,
        errors=errors,
        hung=hung,
        encrypted=eye.encrypted,
        orphans=eye.count("state = 'active'"),
        created=pool.statistics().created,
        statistics=repr(pool.statistics()),
    )
