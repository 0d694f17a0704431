"""Live through what a pool lives through: waiting, leaking, a dead server, a fork, the end."""

import os

from pg_world import Eye, answer, connect, driver, gevent, postgres, time, until

from greenkit import facts

said = {}


def use(pool, sql="select 1"):
    with pool.connection() as conn:
        cursor = conn.cursor()
        cursor.execute(sql)
        return cursor.fetchone()[0]


def exhausted():
    held = pool.getconn()
    started = time.monotonic()
    try:
        pool.getconn(timeout=0.1)
    except driver.OperationalError as error:
        said["exhausted"] = [isinstance(error, postgres.PoolTimeout), str(error), time.monotonic() - started]
    pool.putconn(held)


def leaked():
    def forget():
        pool.getconn()

    seen = []
    end = facts.subscribe(seen.append)
    gevent.spawn(forget).join()
    said["leak heals"] = use(pool)
    end()
    now = pool.statistics()
    said["leak"] = [now.taken_back, "in forget" in seen[0].borrowed_at, now.in_use]


def stale():
    use(pool)
    eye.terminate()
    until(lambda: eye.count() == 0)
    before = pool.statistics().thrown_away
    said["stale"] = [use(pool), pool.statistics().thrown_away - before]


def in_order():
    came = []

    def wait(number):
        with pool.connection():
            came.append(number)

    held = pool.getconn()
    waiting = [gevent.spawn(wait, number) for number in range(20)]
    gevent.sleep(0)
    said["waiting"] = pool.statistics().waiting
    pool.putconn(held)
    gevent.joinall(waiting, raise_error=True)
    said["in order"] = came == sorted(came)


def forked():
    mine = use(pool, "select pg_backend_pid()")
    held = pool.getconn()
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            pool.putconn(held)
            os.write(writing, str(use(pool, "select pg_backend_pid()")).encode())
            pool.close()
        finally:
            os._exit(0)
    os.close(writing)
    theirs = int(os.read(reading, 100) or 0)
    os.waitpid(child, 0)
    held.rollback()
    pool.putconn(held)
    said["fork"] = [theirs not in {0, mine}, use(pool, "select pg_backend_pid()") == mine]


def closed():
    other = postgres.ConnectionPool(connect, max_size=1)
    held = other.getconn()
    waiter = gevent.spawn(other.getconn)
    gevent.sleep(0)
    closer = gevent.spawn(other.close, timeout=5.0)
    waiter.join(timeout=5)
    other.putconn(held)
    closer.join(timeout=5)
    until(lambda: eye.count() == pool.statistics().size)
    said["close"] = [
        type(waiter.exception).__name__,
        eye.count() - pool.statistics().size,
        other.statistics().size,
    ]


with Eye() as eye:
    pool = postgres.ConnectionPool(connect, max_size=1, timeout=5.0, name="life")
    for scene in (exhausted, leaked, stale, in_order, forked, closed):
        scene()
    said["snapshot"] = facts.snapshot()["connections"]["life"]["max_size"]
    answer(**said)
