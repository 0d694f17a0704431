"""A pool on its own: warming, idling, ageing, a server that is away, new bounds."""

from pg_world import DRIVER, Eye, answer, connect, driver, gevent, postgres, time, until

said = {}


class server:
    away = False
    trying = most_trying = attempts = 0


def fragile():
    """Connect, slowly enough to see who else does, or be refused."""
    server.trying += 1
    server.attempts += 1
    server.most_trying = max(server.most_trying, server.trying)
    try:
        gevent.sleep(0.05)
        if server.away:
            raise driver.OperationalError("connection refused")
        return connect()
    finally:
        server.trying -= 1


def use(pool, sql="select 1"):
    with pool.connection() as conn:
        cursor = conn.cursor()
        cursor.execute(sql)
        return cursor.fetchone()[0]


def fails(call, *args, **options):
    started = time.monotonic()
    try:
        call(*args, **options)
    except driver.OperationalError as error:
        return [type(error).__name__, time.monotonic() - started < 0.5, str(error)]
    return "nothing"


def warm():
    with_floor = postgres.ConnectionPool(fragile, min_size=4, max_size=6)
    before = eye.count()
    with_floor.wait(timeout=10.0)
    said["warm"] = [before, eye.count(), server.most_trying]
    eye.terminate()
    until(lambda: eye.count() == 0)
    with_floor._tend()  # what the greenlet does in its own time
    said["refilled"] = [eye.count(), with_floor.statistics().thrown_away]
    with_floor.close()
    pool = postgres.ConnectionPool(connect, min_size=1, max_size=4, max_idle=0.2)
    for one in [pool.getconn() for _ in range(3)]:
        pool.putconn(one)
    full = pool.statistics().idle
    said["idle"] = [full, until(lambda: pool.statistics().size == 1)]
    pool.close()
    pool = postgres.ConnectionPool(connect, max_size=1, max_lifetime=0.3)
    first = use(pool, "select pg_backend_pid()")
    until(lambda: pool.statistics().size == 0)
    said["lifetime"] = use(pool, "select pg_backend_pid()") != first
    pool.close()


def outage():
    pool = postgres.ConnectionPool(fragile, max_size=8, timeout=20.0, name="away")
    server.away = True
    said["never reached"] = fails(use, pool)
    server.away = False
    use(pool)
    server.away = True
    eye.terminate()
    until(lambda: eye.count() == 0)
    server.most_trying = server.attempts = 0
    users = [gevent.spawn(use, pool) for _ in range(100)]
    gevent.sleep(0.7)
    said["while away"] = [pool.statistics().away > 0, "server away" in repr(pool)]
    said["late"] = fails(pool.getconn, timeout=0.2)
    with postgres.deadline(0.2):
        said["deadline"] = fails(pool.getconn)[:2]
    before = server.attempts
    server.away = False
    gevent.joinall(users, timeout=20)
    said["rode out"] = [sum(one.successful() for one in users), before, pool.statistics().away]
    # A connect that is under way would be let in after the drain, and stay.
    until(lambda: pool.statistics().size == pool.statistics().idle)
    server.away = True
    pool.drain()
    said["drained"] = until(lambda: eye.count() == 0)
    server.away = False
    pool.close()
    fast = postgres.ConnectionPool(fragile, max_size=8, reconnect_timeout=0.0)
    use(fast)
    server.away = True
    fast.drain()
    said["fail fast"] = [fails(use, fast)[:2], fails(use, fast)[:2]]
    server.away = False
    said["back"] = until(lambda: fails(use, fast) == "nothing")
    fast.close()


def bounds():
    pool = postgres.ConnectionPool(connect, max_size=2, max_waiting=1, timeout=5.0)
    held = [pool.getconn(), pool.getconn()]
    waiter = gevent.spawn(use, pool, "select pg_sleep(0.2), 3")
    gevent.sleep(0)
    said["too many"] = fails(pool.getconn)
    pool.resize(max_size=3)
    said["let in"] = until(lambda: pool.statistics().in_use == 3)
    pool.resize(max_size=1)
    for one in held:
        pool.putconn(one)
    waiter.get(timeout=5)
    said["resized"] = [pool.statistics().size, until(lambda: eye.count() == 1), pool.statistics().peak]
    held = pool.getconn()
    pool.drain()
    pool.putconn(held)
    said["lent and drained"] = pool.statistics().size
    use(pool)
    eye.terminate()
    until(lambda: eye.count() == 0)
    pool.check()
    said["checked"] = pool.statistics().size
    pool.close()


def hooks():
    def configure(conn):
        conn.cursor().execute("set application_name = 'configured'")

    pool = postgres.ConnectionPool(connect, max_size=1, configure=configure)
    said["configured"] = use(pool, "select current_setting('application_name')")
    pool.close()
    bouncer = postgres.ConnectionPool(connect, max_size=1, pgbouncer=True)
    with bouncer.connection() as conn:
        said["prepares"] = getattr(conn, "prepare_threshold", None)
    bouncer.close()
    try:
        postgres.ConnectionPool(connect, max_size=1, pgbouncer=True, configure=configure)
    except ValueError as error:
        said["refused"] = "SET LOCAL" in str(error)


def leaked():
    pool = postgres.ConnectionPool(connect, max_size=1, name="leaky")
    gevent.spawn(pool.getconn).join()
    until(lambda: pool.statistics().in_use == 0)
    said["finding"] = [[one.id, "leaky" in one.message] for one in postgres.check() if one.id == "GK304"]
    pool.close()


with Eye() as eye:
    for scene in (warm, outage, bounds, hooks, leaked):
        scene()
    answer(driver=DRIVER, **said)
