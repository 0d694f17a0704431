"""The servers of the demo: Postgres, a broker, a mock LLM; started in parallel, or given by URL."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from typing import TYPE_CHECKING

import addresses

from driver.bell import Bell, Later, TroubleError
from greenkit.errors import GreenkitError
from greenkit.testing import MockLLM, PostgresServer, RabbitServer, ValkeyServer

if TYPE_CHECKING:
    import argparse

QUEUE = f"llm_batch_{os.getpid()}"  # a broker that was given may hold other people's tasks
PATIENCE = 4.0  # seconds a server that runs already has to answer


class Servers:
    """Start what was not given, and check what was.

    Attributes:
        database_url: Once `postgres` is done.
        broker_url: Once `broker` is done.
        llm: The mock server, once `mock` is done.
        tokens: The quota of tokens of one process's limiter.
    """

    def __init__(self, bell: Bell, options: argparse.Namespace) -> None:
        self.bell = bell
        self.options = options
        self.database_url = options.database_url
        self.broker_url = options.broker_url
        self.max_db_connections = options.db_pool * options.processes
        # Real on both sides, and wide: this demo is about requests.
        per_second = options.server_rate.per_second
        wide = 100 * max(options.concurrency, per_second)
        self.tokens = tokens = f"{max(1.0, 100 * per_second):.0f}/s burst {wide:.0f}"
        if options.tokens:
            self.tokens, tokens = options.tokens.tokens(options.processes), options.tokens.server()
        quota = options.server_rate.server()
        self.llm = MockLLM(requests=quota, tokens=tokens, latency=options.latency)
        self._running: list[object] = []
        self._folder = ""
        self.postgres = Later(bell, self._start_postgres)
        self.broker = Later(bell, self._start_broker)
        self.mock = Later(bell, self._start, self.llm)

    def ready(self) -> bool:
        """Tell whether all of them run; raise what the first failure was."""
        return all([self.postgres(), self.broker(), self.mock()])  # a list: each is asked every time

    def _start(self, server):
        self._running.append(server)  # first: whatever happens from here, it is stopped
        try:
            return server.start()
        except GreenkitError as error:
            raise TroubleError(str(error)) from None

    def _start_postgres(self) -> None:
        if self.database_url:
            check_database(self.database_url)
            return
        spare = 20  # the web server, this driver, Postgres' own
        server = PostgresServer(max_connections=self.max_db_connections + spare)
        self._start(server)
        self.database_url = server.dsn

    def _start_broker(self) -> None:
        if self.broker_url:
            check_broker(self.broker_url)
        elif self.options.broker == "filesystem":
            self._folder = tempfile.mkdtemp(prefix="llm-batch-")
            self.broker_url = f"filesystem://{self._folder}"
        else:
            server = ValkeyServer() if self.options.broker == "redis" else RabbitServer()
            self._start(server)
            self.broker_url = server.broker_url

    def stop(self) -> None:
        """Stop all of them at the same time.

        One that is still starting gets a moment to finish; what is left then is ended by its
        guardian, which this process waits for when it exits.
        """
        starting = (self.postgres, self.broker, self.mock)
        self.bell.wait(lambda: all(one.done for one in starting), timeout=3.0, ending=True)
        stopping = [Later(self.bell, server.stop) for server in self._running]
        self.bell.wait(lambda: all(one.done for one in stopping), timeout=15.0, ending=True)
        if self._folder:
            shutil.rmtree(self._folder, ignore_errors=True)


def check_database(url: str) -> None:
    """Raise when no Postgres answers at `url`."""
    import psycopg2

    try:
        psycopg2.connect(url, connect_timeout=int(PATIENCE)).close()
    except psycopg2.Error as error:
        why = " ".join(str(error).split())
        raise TroubleError(f"no Postgres answers at {hidden(url)}: {why}", code=2) from None


def check_broker(url: str) -> None:
    """Raise when no broker answers at `url`."""
    import kombu

    try:
        place, options = addresses.broker(url)
        options |= {"socket_connect_timeout": PATIENCE, "socket_timeout": PATIENCE}
        connection = kombu.Connection(place, connect_timeout=PATIENCE, transport_options=options)
        with contextlib.closing(connection):
            connection.connect()
            connection.default_channel.close()
    except Exception as error:  # every transport has its own
        why = " ".join(str(error).split()) or type(error).__name__
        raise TroubleError(f"no broker answers at {hidden(url)}: {why}", code=2) from None


def hidden(url: str) -> str:
    """Return a URL without its password."""
    head, at, place = url.rpartition("@")
    scheme, slashes, who = head.partition("://")
    return f"{scheme}{slashes}{who.partition(':')[0]}:***@{place}" if at and ":" in who else url


def environment(options: argparse.Namespace, servers: Servers) -> dict[str, str]:
    """Return what the project's programs read from their environment."""
    return {
        "DATABASE_URL": servers.database_url,
        "DB_POOL": str(options.db_pool),
        "BROKER_URL": servers.broker_url,
        "QUEUE": QUEUE,
        "LLM_URL": servers.llm.url,
        "LLM_REQUESTS": options.rate.limiter(options.processes),
        "LLM_TOKENS": servers.tokens,
        "LLM_CONCURRENCY": str(1 if options.pool == "prefork" else options.concurrency),
        "MAX_PROMPTS": str(max(10_000, options.calls)),
        "DRAIN_TIMEOUT": "2",
    }
