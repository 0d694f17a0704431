"""Ask a pool for more connections than the server lets in, or than can be made; then let it have them.

`MORE`: "limited" for a role with two connections, "stuck" for connects that hang after the second, "cold" for
a server that refuses the third and later before it lets in the first.
"""

from pg_world import DSN, MORE, answer, connect, driver, gevent, postgres

CALLS, SIZE = 40, 8
made = []


def stuck():
    """Connect twice; from then on hang as behind a load balancer that accepts and says nothing."""
    made.append(True)
    if len(made) > 2:
        gevent.sleep(3600)
    return connect()


def cold():
    """Be let in twice, slowly, and refused at once otherwise."""
    made.append(True)
    if len(made) > 2:
        raise driver.OperationalError('FATAL:  53300: too many connections for role "x"')
    gevent.sleep(0.1)
    return connect()


def limit(connections):
    boss = driver.connect(DSN)
    boss.autocommit = True
    boss.cursor().execute(f"alter role greenkit_few connection limit {connections}")
    boss.close()


def use(pool, *, hold):
    def call():
        with pool.connection() as conn:
            conn.cursor().execute(f"select pg_sleep({hold})")
        return True

    calls = [gevent.spawn(call) for _ in range(CALLS)]
    gevent.joinall(calls)
    return sum(bool(one.value) for one in calls), sorted({type(one.exception).__name__ for one in calls})


if "limited" in MORE:
    boss = driver.connect(DSN)
    boss.autocommit = True
    boss.cursor().execute("create role greenkit_few login connection limit 2")
    boss.close()
    pool = postgres.ConnectionPool(lambda: connect(user="greenkit_few"), max_size=SIZE, timeout=5.0)
else:
    pool = postgres.ConnectionPool(cold if "cold" in MORE else stuck, max_size=SIZE, timeout=5.0)
if "cold" not in MORE:
    with pool.connection():
        pass
waves = [use(pool, hold=0.02) for _ in range(3)]
full = pool.statistics()
seen = {"waves": waves, "peak": full.peak, "full_at": full.full_at, "away": full.away, "repr": repr(pool)}
if "limited" in MORE:
    held = [pool.getconn() for _ in range(2)]
    try:
        pool.getconn(timeout=0.3)
    except driver.OperationalError as error:
        seen["told"] = str(error)
    for conn in held:
        pool.putconn(conn)
    limit(-1)
    with gevent.Timeout(20):
        while pool.statistics().size < SIZE:  # recovers by itself: one attempt in at most a second
            use(pool, hold=0.1)
    seen["recovered"] = pool.statistics().full_at
pool.close(timeout=1.0)
answer(**seen)
