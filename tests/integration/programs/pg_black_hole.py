"""A network that swallows every byte under queries of a pool with `query_timeout`, without a deadline."""

import io

import gevent.event
from pg_world import DRIVER, DSN, answer, driver, gevent, postgres, until

from greenkit.testing import FaultProxy
from greenkit.testing._dsn import parse_dsn

parts = parse_dsn(DSN)
said, ready, gone = {}, [], gevent.event.Event()


def query(conn):
    conn.cursor().execute("select 1")


def commit(conn):
    conn.commit()


def copy_in(conn):
    postgres.copy_in(conn.cursor(), "copy pg_temp.seen from stdin", source=io.StringIO("1\n" * 9))


def copy_out(conn):
    list(postgres.copy_out(conn.cursor(), "copy (select generate_series(1, 9)) to stdout"))


def rows(conn):
    named = conn.cursor("rows")
    named.execute("select generate_series(1, 1000)")
    lose_the_network(rows)
    named.fetchmany(200)


def under_way(conn):
    ready.append(under_way)
    conn.cursor().execute("select pg_sleep(60)")


def copying(conn):
    def source():
        yield "1\n"
        lose_the_network(copying)
        yield "2\n"

    postgres.copy_in(conn.cursor(), "copy pg_temp.seen from stdin", source=source())


def lose_the_network(kind):
    ready.append(kind)
    gone.wait()


SIMPLE = (query, commit, copy_in, copy_out)
KINDS = (*SIMPLE, rows, under_way, copying)


def use(kind):
    try:
        with pool.connection() as conn:
            conn.cursor().execute("create temp table seen (x int)")
            if kind in SIMPLE:
                lose_the_network(kind)
            kind(conn)
    except driver.Error as error:
        said[kind.__name__] = f"{type(error).__name__}: {error}"


def served():
    with pool.connection() as conn:
        conn.cursor().execute("select 1")
    return True


with FaultProxy(f"{parts['host']}/.s.PGSQL.{parts['port']}") as proxy:
    address = (
        f"host=127.0.0.1 port={proxy.port} user={parts['user']} dbname={parts['dbname']} sslmode=disable"
    )
    pool = postgres.ConnectionPool(
        lambda: driver.connect(address), max_size=len(KINDS), timeout=20.0, query_timeout=0.5
    )
    users = [gevent.spawn(use, kind) for kind in KINDS]
    until(lambda: len(ready) == len(KINDS))
    proxy.black_hole()
    gone.set()
    gevent.joinall(users, timeout=20)
    hung, in_use = sum(not user.dead for user in users), pool.statistics().in_use
    proxy.heal()
    crowd = [gevent.spawn(served) for _ in range(20)]
    gevent.joinall(crowd, timeout=20)
    answer(
        driver=DRIVER,
        kinds=[kind.__name__ for kind in KINDS],
        said=said,
        hung=hung,
        in_use=in_use,
        served=sum(bool(user.value) for user in crowd),
        peak=pool.statistics().peak,
        size=len(KINDS),
    )
