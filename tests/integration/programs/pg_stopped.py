"""Stop a whole server under queries that have a deadline, let it go on, and use the pool again."""

import gevent.event
import pg_world
from pg_world import DRIVER, Eye, answer, connect, driver, gevent, postgres, until

from greenkit.postgres import _idle_connections
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


def gives_back_late():
    """Give back, without a deadline, a connection whose rollback nobody answers."""
    with pool.connection() as conn:
        conn.cursor().execute("select 1")
        waiting.append(True)
        frozen.wait()
        raise LookupError


waiting, frozen = [], gevent.event.Event()
_idle_connections._CLEANUP_TIMEOUT = 0.3
with PostgresServer(own=True) as server:
    pg_world.DSN = pg_world.THROUGH = server.dsn
    with Eye() as eye:
        pool = postgres.ConnectionPool(connect, max_size=SIZE, timeout=20.0)
        late = gevent.spawn(gives_back_late)
        until(lambda: waiting)
        users = [gevent.spawn(doomed) for _ in range(SIZE - 1)]
        until(lambda: eye.count("wait_event = 'PgSleep'") == SIZE - 1)
        server.freeze()
        frozen.set()
        gevent.sleep(4.0)  # deadlines pass, cancels are sent and given up; then the queries end by themselves
        given_back = late.dead
        server.thaw()
        gevent.joinall(users, timeout=10)
        for _ in range(20):
            gevent.joinall([gevent.spawn(innocent) for _ in range(SIZE)], timeout=20)
        answer(
            driver=DRIVER,
            ended=ended,
            given_back=given_back,
            strays=strays,
            hung=sum(not one.dead for one in users),
            orphans=eye.count("state = 'active'"),
        )
