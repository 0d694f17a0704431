"""Throw 200 greenlets at a cold pool of ten.

`MORE`: "twin" for a pool that counts a connection when it is open, not when it is decided.
"""

from pg_world import MORE, Eye, answer, connect, gevent, postgres

SIZE = 10


class Twin:
    """The usual mistake: connecting switches, and the others look at a count that is too low."""

    def __init__(self):
        self.idle, self.open = [], 0

    def use(self, work):
        while not self.idle and self.open >= SIZE:
            gevent.sleep(0.001)
        if self.idle:
            conn = self.idle.pop()
        else:
            conn = connect()
            self.open += 1
        work(conn)
        self.idle.append(conn)


def work(conn):
    conn.cursor().execute("select pg_sleep(0.01)")


def use():
    with pool.connection() as conn:
        work(conn)


twin = Twin()
pool = postgres.ConnectionPool(connect, max_size=SIZE, timeout=30.0)
with Eye() as eye:
    burst = [gevent.spawn(twin.use, work) if "twin" in MORE else gevent.spawn(use) for _ in range(200)]
    gevent.joinall(burst, raise_error="twin" not in MORE, timeout=60)
    seen = pool.statistics()
    answer(peak=eye.peak, size=SIZE, done=sum(one.successful() for one in burst), created=seen.created)
