"""Look at the job from outside: the API, Postgres' list of connections, the worker, the mock server."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading

import addresses

from driver.bell import Bell, TroubleError

LOOK_EVERY = 0.1  # seconds between two looks at the connections
ANSWER_WITHIN = 60.0

WORKER = "llm-batch-worker"
COUNT = "SELECT count(*) FROM pg_stat_activity WHERE application_name = %s"


class Api:
    """Talk to the batch API as any client would."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_WITHIN)

    def ask(self, method: str, path: str, body: object = None) -> dict:
        headers = {"Accept": "application/json", "Content-Type": "application/json"}
        try:
            self._connection.request(method, path, json.dumps(body) if body is not None else None, headers)
            answer = self._connection.getresponse()
            text = answer.read()
        except (OSError, http.client.HTTPException) as error:
            self._connection.close()
            raise TroubleError(f"{method} {path} failed: {error!r}") from None
        if answer.status >= 300:
            raise TroubleError(
                f"{method} {path} was answered {answer.status}: {text[:300].decode(errors='replace')}"
            )
        return json.loads(text)


class Connections:
    """Count the worker's database connections all the while, and remember the most."""

    def __init__(self, url: str) -> None:
        self.peak: int | None = None  # until the first look nobody knows
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, args=(url,), daemon=True)
        self._thread.start()

    def _look(self, url: str) -> None:
        import psycopg2

        try:
            connection = psycopg2.connect(url, connect_timeout=5)
            connection.autocommit = True
            with connection.cursor() as cursor:
                while not self._stop.wait(LOOK_EVERY):
                    cursor.execute(COUNT, (WORKER,))
                    self.peak = max(self.peak or 0, cursor.fetchone()[0])
            connection.close()
        except psycopg2.Error:
            return  # the server is gone, and with it all there was to count

    def stop(self) -> None:
        self._stop.set()
        self._thread.join(2.0)


class Control:
    """Ask the worker through the broker, as `celery inspect greenkit` does."""

    def __init__(self, url: str) -> None:
        from celery import Celery

        place, options = addresses.broker(url)
        self._app = Celery("demo", broker=place, set_as_current=False)
        self._app.conf.update(broker_transport_options=options, broker_connection_retry=False)

    def snapshot(self, timeout: float = 2.0) -> dict:
        """Return what the worker says about its pools, limits and hub; empty when it does not answer."""
        try:
            answers = self._app.control.broadcast("greenkit", reply=True, limit=1, timeout=timeout)
        except Exception:  # every transport has its own
            return {}
        return next(iter(answers[0].values())) if answers else {}

    def forget(self, queue: str) -> None:
        """Remove the run's queue, and what is in it, from a broker that goes on without us."""
        from kombu import Exchange, Queue

        exchange = Exchange(queue, type="direct")
        with contextlib.suppress(Exception), self._app.connection_for_write() as connection:
            ours = Queue(queue, exchange, routing_key=queue)(connection.default_channel)
            ours.declare()  # a transport knows the bindings it has declared, and deletes those
            ours.delete()
            exchange(connection.default_channel).delete()


def hub_lag(snapshot: dict) -> float | None:
    """Return the longest a worker's hub stood still; None for pools without a hub."""
    lags = [watched["worst_lag"] for watched in snapshot.get("watchdog", {}).values()]
    return max(lags, default=None)


def follow(bell: Bell, api: Api, path: str, *, show, alive, patience: float) -> dict:
    """Ask for the batch's progress until nothing is left, or nothing has come for `patience` seconds."""
    progress = api.ask("GET", path)
    idle = 0.0
    while progress["left"] and idle < patience:
        show(progress)
        bell.pause(0.2)
        alive()
        before, progress = progress["left"], api.ask("GET", path)
        idle = 0.0 if progress["left"] < before else idle + 0.2
    show(progress)
    return progress
