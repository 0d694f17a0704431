"""Close a psycopg 3 connection under a greenlet in its query, and look for notes without waiting."""

from pg_world import Eye, answer, connect, driver, gevent, until


def closed_in(work):
    """Return how `work`, under way when its connection is closed by another, ends."""
    conn = connect(autocommit=True)
    worker = gevent.spawn(work, conn)
    there = until(lambda: eye.count("wait_event = 'PgSleep'"))
    conn.close()
    worker.join(timeout=10)
    eye.terminate()
    until(lambda: not eye.count())
    return [there, worker.dead, isinstance(worker.exception, driver.OperationalError)]


def reading(conn):
    conn.execute("select pg_sleep(30)")


def writing(conn):
    """Fill the socket while the server is busy: the wait is for reading and for writing."""
    with conn.pipeline():
        conn.execute("select pg_sleep(30)")
        for _ in range(100):
            conn.execute("select %s", ["x" * 1_000_000])


def notes():
    conn = connect(autocommit=True)
    conn.execute("listen here")
    other = connect(autocommit=True)
    other.execute("notify here, 'one'")
    gevent.sleep(0.1)
    return [note.payload for note in conn.notifies(timeout=0)]


with Eye() as eye:
    answer(reading=closed_in(reading), writing=closed_in(writing), notes=notes())
