"""SQLAlchemy over greenkit: its pool over ours, and its own pool over a green driver."""

import warnings

warnings.simplefilter("error")

from pg_world import DRIVER, Eye, answer, connect, gevent, postgres, until
from sqlalchemy import create_engine, event, text
from sqlalchemy.exc import OperationalError

said = {}
pool = postgres.ConnectionPool(connect, max_size=3, timeout=10.0)
engine = create_engine(f"postgresql+{DRIVER}://", **postgres.for_sqlalchemy(pool))
set_up = []
event.listen(engine, "connect", lambda conn, record: set_up.append(conn))


def work(number):
    with engine.begin() as conn:
        conn.execute(text("insert into done values (:n)"), {"n": number})
        conn.execute(text("select pg_sleep(0.01)"))


def slow():
    with engine.connect() as conn:
        conn.execute(text("select pg_sleep(30)"))


with Eye() as eye:
    with engine.begin() as conn:
        conn.execute(text("create table done (n int)"))
    users = [gevent.spawn(work, number) for number in range(60)]
    gevent.joinall(users, raise_error=True, timeout=30)
    with engine.connect() as conn:
        said["done"] = conn.execute(text("select count(*) from done")).scalar()
    said["peak"], said["set up"] = eye.peak, len(set_up)

    victim = gevent.spawn(slow)
    until(lambda: eye.count("wait_event = 'PgSleep'"))
    victim.kill()
    said["killed"] = [eye.count("state = 'active'"), pool.statistics().in_use, type(victim.value).__name__]

    try:
        with postgres.deadline(0.2):
            slow()
    except OperationalError as error:
        said["deadline"] = isinstance(error.orig, postgres.QueryTimeout)

    eye.terminate()
    until(lambda: eye.count() == 0)
    with engine.connect() as conn:
        said["after terminate"] = conn.execute(text("select 1")).scalar()

    def lost():
        with engine.connect() as conn:
            conn.execute(text("select 1"))
            eye.terminate()
            until(lambda: eye.count() == 0)
            conn.execute(text("select 1"))

    try:
        lost()
    except OperationalError as error:
        said["lost"] = error.connection_invalidated
    said["left"] = [pool.statistics().in_use, pool.statistics().size]
    engine.dispose()
    with engine.connect() as conn:
        said["disposed"] = conn.execute(text("select 1")).scalar()

    own = create_engine(f"postgresql+{DRIVER}://", creator=connect, pool_size=2, max_overflow=0)
    with own.connect() as conn:
        pid = conn.execute(text("select pg_backend_pid()")).scalar()
    with gevent.Timeout(0.2, False), own.connect() as conn:
        conn.execute(text("select pg_sleep(30)"))
    said["own pool"] = eye.count("state = 'active'")
    own.dispose()
    answer(**said)
