"""Stop a whole server under queries that have a deadline, let it go on, and use the pool again."""

import pg_world
from pg_world import DRIVER, Eye, answer, connect, driver, gevent, postgres, until

from greenkit.testing import PostgresServer

SIZE = 8
ended, strays = [], []


def doomed():
    try:
        with pool.connection() as conn, postgres.deadline(0.6):
            conn.cursor().execute("select pg_sleep(0.4)")
    except driver.OperationalError as error:
        ended.append(type(error).__name__)


def innocent():
    try:
        with pool.connection() as conn:
            conn.cursor().execute("select pg_sleep(0.02)")
    except driver.OperationalError as error:
        strays.append(type(error).__name__)


with PostgresServer(own=True) as server:
    pg_world.DSN = pg_world.THROUGH = server.dsn
    with Eye() as eye:
        pool = postgres.ConnectionPool(connect, max_size=SIZE, timeout=20.0)
        users = [gevent.spawn(doomed) for _ in range(SIZE)]
        until(lambda: eye.count("wait_event = 'PgSleep'") == SIZE)
        server.freeze()
        gevent.sleep(2.0)  # deadlines pass, cancels are sent and given up; then the queries end by themselves
        server.thaw()
        gevent.joinall(users, timeout=10)
        for _ in range(20):
            gevent.joinall([gevent.spawn(innocent) for _ in range(SIZE)], timeout=20)
        answer(
            driver=DRIVER,
            ended=ended,
            strays=strays,
            hung=sum(not one.dead for one in users),
            orphans=eye.count("state = 'active'"),
        )
