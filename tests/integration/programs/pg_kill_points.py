"""Kill borrowers at every switch of borrowing, asking and giving back; then the pool must be whole.

`MORE`: "twin" for a pool that undoes its reservation on `Exception` only, "cancel" for somebody
who cancels the first borrower's queries meanwhile.
"""

from contextlib import suppress

from pg_world import DRIVER, MORE, Eye, answer, connect, driver, gevent, postgres, until

from greenkit.testing import kill_at_every_switch

SIZE = 1 if "cancel" in MORE else 2
canceled = []


class Twin(postgres.ConnectionPool):
    """The usual mistake: GreenletExit and gevent.Timeout are not Exceptions."""

    def getconn(self, *, timeout=None):
        line = self._line
        until = self._queue_up(line, 0.3)
        try:
            pooled = self._idle_connections.find(until)
            self._checked_out[id(pooled.conn)] = pooled
        except Exception:
            line.release()
            raise
        return pooled.conn


class Scene:
    """Three borrowers of two connections."""

    def __init__(self):
        made = Twin if "twin" in MORE else postgres.ConnectionPool
        # With a `reset` the connection of a killed borrower is lent again, and must be nobody's.
        reset = (lambda conn: None) if "cancel" in MORE else None
        self.pool = made(connect, max_size=SIZE, timeout=1.0 if "twin" in MORE else 10.0, reset=reset)
        self.borrowers = []
        self.cancellers = []

    def borrow(self):
        with self.pool.connection() as conn:
            if "cancel" not in MORE or self.cancellers:
                conn.cursor().execute("select 1")
                return
            # One is over before the cancel is delivered, and its borrower waits for that; one is cancelled.
            for query in ("select 1", "select pg_sleep(0.05)"):
                self.cancellers.append(gevent.spawn(self.cancel, conn))
                try:
                    conn.cursor().execute(query)
                except driver.errors.QueryCanceled:
                    canceled.append(conn)  # meant for it
                    conn.rollback()

    def cancel(self, conn):
        with suppress(driver.OperationalError):  # its connection may be closed by then
            conn.cancel()

    def crowd(self):
        self.borrowers = [gevent.spawn(self.borrow) for _ in range(3)]
        gevent.joinall(self.borrowers)
        gevent.joinall(self.cancellers)

    def name(self, greenlet):
        if greenlet in self.borrowers:
            return "borrower"
        return "canceller" if greenlet in self.cancellers else None

    def check(self):
        """Whoever was not struck got its connection, all are to be had again, and none is one too many."""
        gevent.joinall(self.borrowers, timeout=20)
        failed = [type(one.exception).__name__ for one in self.borrowers if one.exception is not None]
        usable = []
        try:
            for _ in range(SIZE):
                usable.append(self.pool.getconn(timeout=0.3 if "twin" in MORE else 5.0))
                usable[-1].cursor().execute("select 1")
        except driver.OperationalError as error:
            failed.append(type(error).__name__)
        seen = eye.count()
        for conn in usable:
            self.pool.putconn(conn)
        left = self.pool.statistics().in_use
        self.pool.close(timeout=0.5)
        assert (failed, len(usable), left) == ([], SIZE, 0), (failed, len(usable), left)
        assert seen <= SIZE, f"{seen} connections"
        assert until(lambda: eye.count() == 0), "a connection outlived its pool"


with Eye() as eye:
    problem = ""
    report = None
    try:
        report = kill_at_every_switch(
            Scene.crowd, Scene.check, fresh=Scene, whom=lambda g, scene: scene.name(g)
        )
    except AssertionError as error:
        problem = str(error)
    answer(
        driver=DRIVER, points=report and report.points, victims=report and dict(report.victims),
        places=report and len(report.places), problem=problem, peak=eye.peak, size=SIZE,
        canceled=len(canceled),
    )  # fmt: skip
