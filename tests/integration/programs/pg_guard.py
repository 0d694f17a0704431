"""Touch a psycopg2 connection from a second greenlet while its query is in flight.

`MORE`: "twin" for psycopg2's own classes, where the first of these calls stops the process;
"prepared" to cancel a prepared transaction instead.
"""

import io

import psycopg2
import psycopg2.extras
from pg_world import MORE, answer, connect, gevent, postgres, time
from psycopg2 import extensions

TOUCHES = {
    "commit": lambda conn, _: conn.commit(),
    "rollback": lambda conn, _: conn.rollback(),
    "close": lambda conn, _: conn.close(),
    "reset": lambda conn, _: conn.reset(),
    "with": lambda conn, _: conn.__exit__(None, None, None),
    "autocommit": lambda conn, _: setattr(conn, "autocommit", True),
    "isolation_level": lambda conn, _: setattr(conn, "isolation_level", 3),
    "set_isolation_level": lambda conn, _: conn.set_isolation_level(3),
    "set_session": lambda conn, _: conn.set_session(readonly=True),
    "set_client_encoding": lambda conn, _: conn.set_client_encoding("UTF8"),
    "poll": lambda conn, _: conn.poll(),
    "tpc_recover": lambda conn, _: conn.tpc_recover(),
    "lobject": lambda conn, _: conn.lobject(),
    "execute": lambda _, cursors: cursors[0].execute("select 2"),
    "executemany": lambda _, cursors: cursors[0].executemany("select %s", [(1,)]),
    "callproc": lambda _, cursors: cursors[0].callproc("now"),
    "copy_expert": lambda _, cursors: cursors[0].copy_expert("copy t to stdout", io.StringIO()),
    "fetchone": lambda _, cursors: cursors[1].fetchone(),
    "fetchmany": lambda _, cursors: cursors[1].fetchmany(2),
    "fetchall": lambda _, cursors: cursors[1].fetchall(),
    "next": lambda _, cursors: next(cursors[1]),
    "scroll": lambda _, cursors: cursors[1].scroll(1),
    "close cursor": lambda _, cursors: cursors[1].close(),
}


class Mine(psycopg2.extras.DictConnection):
    """An application's own class, whose `commit` ends in psycopg2's."""

    def commit(self):
        super().commit()


def attempt(touch, conn, cursors):
    try:
        touch(conn, cursors)
    except postgres.ConcurrentUseError as error:
        return "refused" if isinstance(error, psycopg2.ProgrammingError) else "not the driver's"
    return "let through"


def concurrent(conn):
    named = conn.cursor("named")
    named.execute("select * from generate_series(1, 100)")
    other, one = conn.cursor(), conn.cursor()
    worker = gevent.spawn(one.execute, "select pg_sleep(0.5), 7")
    gevent.sleep(0.05)
    print("touching")
    said = {name: attempt(touch, conn, (other, named)) for name, touch in TOUCHES.items()}
    print("touched")
    in_flight = not worker.dead
    worker.get()
    unharmed = [one.fetchone()[1], named.fetchone()[0]]
    conn.rollback()
    return {"said": said, "in_flight": in_flight, "unharmed": unharmed}


def cancelled():
    conn = connect()
    worker = gevent.spawn(conn.cursor().execute, "select pg_sleep(30)")
    gevent.sleep(0.05)
    started = time.monotonic()
    conn.cancel()
    worker.join()
    conn.rollback()
    return [type(worker.exception).__name__, time.monotonic() - started < 5]


def cancel_is_refused():
    """A prepared transaction has nothing to cancel; psycopg2 says so, and so does the guard."""
    conn = connect()
    conn.tpc_begin("greenkit")
    conn.cursor().execute("select 1")
    conn.tpc_prepare()
    try:
        conn.cancel()
    except psycopg2.ProgrammingError:
        return True
    finally:
        conn.tpc_rollback()
    return False


class StandIn:
    """What a tool may put in a connection's place when it calls the callback itself."""

    def __init__(self, conn):
        self.poll, self.fileno = conn.poll, conn.fileno


def waited_for():
    conn = connect()
    callback = extensions.get_wait_callback()
    extensions.set_wait_callback(lambda one: callback(StandIn(one)))
    try:
        cursor = conn.cursor()
        cursor.execute("select 1 from pg_sleep(0.01)")
        return cursor.fetchone()[0]
    finally:
        extensions.set_wait_callback(callback)


if "prepared" in MORE:
    answer(refused=cancel_is_refused())
    raise SystemExit
if "twin" in MORE:
    extensions.set_wait_callback(extensions.get_wait_callback())
    import psycopg2 as module

    module._connect = module._connect.plain
plain, mine = connect(), connect(connection_factory=Mine)
answer(
    plain=concurrent(plain),
    mine=concurrent(mine),
    kinds=[isinstance(mine, Mine), isinstance(mine.cursor(), psycopg2.extras.DictCursor)],
    cancelled=cancelled(),
    waited_for=waited_for(),
)
