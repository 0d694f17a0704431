"""The order of things: start, migrate, post, watch, count, stop."""

from __future__ import annotations

import contextlib
import socket
import time
from typing import TYPE_CHECKING

from driver.bell import Bell, Later, StoppedError, TroubleError
from driver.child import Child
from driver.flight import Flight, cpu_of, memory_of
from driver.flower import address, flower, wanted
from driver.page import USER, Page
from driver.report import loads, numbers
from driver.servers import QUEUE, Servers, environment
from driver.watch import Api, Connections, Control, follow, hub_lag
from greenkit.errors import GreenkitError

if TYPE_CHECKING:
    import argparse

    from driver.show import Show

START_WITHIN = 120.0  # RabbitMQ on a busy machine
STOP_WITHIN = 6.0


class Run:
    """One run of the demo.

    Attributes:
        result: The numbers as far as it came.
        kept: Seconds the demo was kept running after its batch; None when it did not come to that.
    """

    def __init__(self, options: argparse.Namespace, bell: Bell, show: Show) -> None:
        self.options = options
        self.bell = bell
        self.show = show
        self.result: dict | None = None
        self.kept: float | None = None
        self._page: Page | None = None
        self._children: list[Child] = []
        self._flower: Child | None = None
        self._flight: Flight | None = None
        self._cpu_before: float | None = None
        self._servers: Servers | None = None
        self._api: Api | None = None
        self._control: Later | None = None
        self._connections: Connections | None = None
        self._path = ""
        bell.last_resort = self.kill

    def go(self) -> None:
        """Do it all; whatever happens, nothing is left running."""
        try:
            with listening(self.options.port) as listener:
                self._start(listener)
                self._work()
                if self.options.keep:
                    self._keep(listener.getsockname()[1])
        finally:
            self.stop()

    def _start(self, listener: socket.socket) -> None:
        port = listener.getsockname()[1]
        options, bell = self.options, self.bell
        servers = self._servers = Servers(bell, options)
        bell.wait(servers.ready, timeout=START_WITHIN, what="starting the servers")
        self.show.say(f"Postgres, {options.broker} and mock LLM run; starting the web server and a worker")
        env = environment(options, servers)
        beside = address() if wanted(options) else ""
        self._serve(listener.fileno(), {**env, "DB_POOL": "2", **flower_at(beside)})
        command, checked = worker(options, events=bool(beside)), {**env, "CELERY_SKIP_CHECKS": "true"}
        self._worker = self._child("worker", command, checked)
        self._control = Later(bell, Control, servers.broker_url)
        self._connections = Connections(servers.database_url)
        self._api = Api(port)
        first = Later(bell, self._api.ask, "GET", "/batches/?limit=1")
        bell.wait(lambda: self._alive() and first(), timeout=START_WITHIN, what="starting the web server")
        self._say_where(port)
        bell.wait(
            lambda: self._alive() and self._worker.ready, timeout=START_WITHIN, what="starting the worker"
        )
        if beside:
            self._flower = self._child("Flower", flower(beside), checked)
            self.show.say(f"Flower starts at http://{beside}/")

    def _say_where(self, port: int) -> None:
        self.show.say(f"the API answers on http://127.0.0.1:{port}/batches/")
        if self._page is not None:
            self.show.say(f"the live page: http://127.0.0.1:{port}/live/")
            if self._page.password:
                self.show.say(f"the admin takes the user {USER!r} with the password {self._page.password!r}")

    def _serve(self, fd: int, env: dict[str, str]) -> None:
        command = ["serve.py", "--migrate", "--fd", str(fd)]
        if self.options.keep:
            page = self._page = Page(self.options, self._servers)
            command, env = command + page.arguments(), env | page.environment()
        self._child("web server", command, env, pass_fds=(fd,))

    def _child(self, name: str, arguments: list[str], env: dict[str, str], **popen) -> Child:
        child = Child(self.bell, name, arguments, env=env, **popen)
        self._children.append(child)
        return child

    def _alive(self) -> bool:
        """Tell that the web server and the worker run; raise when one does not."""
        for child in self._children:
            if child is not self._flower and not child.alive():  # nothing depends on Flower
                raise TroubleError(f"the {child.name} ended on its own")
        return True

    def _work(self) -> None:
        options, bell = self.options, self.bell
        self.show.say(
            f"the worker is ready ({options.pool}, concurrency {options.concurrency}); posting the batch"
        )
        prompts = {"prompts": [f"What is {number} times {number}?" for number in range(options.calls)]}
        self._cpu_before = cpu_of(self._worker.process.pid)
        if options.json:
            self._flight = Flight(self._servers.llm.stats)
        post = Later(bell, self._api.ask, "POST", "/batches/", prompts)
        bell.wait(post, timeout=120.0, what="posting the batch")
        self._path = f"/batches/{post.value['id']}/"
        self.show.say(f"accepted as {self._path}")
        patience = 30.0 + 3 * options.latency + 10 / options.rate.per_second
        last = follow(
            bell, self._api, self._path, show=self.show.progress, alive=self._alive, patience=patience
        )
        if last["left"]:
            self.show.say(
                f"no answer for {patience:.0f} s: giving up; --logs shows what the worker said of it"
            )

    def _keep(self, port: int) -> None:
        """Count the batch, then leave everything running until a signal; batches may come from the page."""
        self.show.end_progress()
        self.result = self._count()
        self.show.say(f"go on at http://127.0.0.1:{port}/live/; Ctrl-C ends the demo")
        began = time.monotonic()
        self.kept = 0.0
        with contextlib.suppress(StoppedError):
            while self._alive():
                self.bell.pause(1.0)
        self.kept = time.monotonic() - began

    def stop(self) -> None:
        """Count, then stop everything in order, each within its deadline."""
        self.show.end_progress()
        if self._page is not None:
            self._page.stop()
        if self._flight is not None:
            self._flight.stop()
        if self.result is None and (self._path or self.bell.signal):
            self.result = self._count()
        began = [child for child in self._children if child.process.poll() is None]
        for child in began:
            child.terminate()
        for child in began:
            if not child.join(STOP_WITHIN):
                self.show.say(f"the {child.name} did not stop within {STOP_WITHIN:g} s and was killed")
        if self.options.broker_url and self._control is not None and self._control.value:
            self._control.value.forget(QUEUE)
        if self._connections is not None:
            self._connections.stop()
        if self._servers is not None:
            self._servers.stop()

    def _count(self) -> dict:
        lag, progress, stats = None, {}, {}
        if self._path:
            lag = hub_lag(self._control.value.snapshot()) if self._control.value else None
            progress = stats = None
            with contextlib.suppress(TroubleError, OSError):
                progress = self._api.ask("GET", self._path)
            with contextlib.suppress(GreenkitError, OSError):
                stats = self._servers.llm.stats()
        peak = self._connections.peak if self._connections else None
        most = self.options.db_pool * self.options.processes
        found = numbers(self.options, progress, stats, peak=peak, most=most, lag=lag)
        return found | loads(found, self._flight, self._burden())

    def _burden(self) -> tuple[float | None, float | None]:
        """Return (CPU seconds since the batch was posted, MiB) of the worker; None of one with children."""
        if self.options.processes > 1 or self._cpu_before is None:
            return None, None
        pid = self._worker.process.pid
        now = cpu_of(pid)
        return None if now is None else now - self._cpu_before, memory_of(pid)

    def kill(self) -> None:
        for child in self._children:
            child.kill()
        if self._page is not None:
            self._page.remove()

    def logs(self) -> list[tuple[str, list[str]]]:
        return [(child.name, child.log()) for child in self._children]


def listening(port: int) -> socket.socket:
    """Return a listening socket; the web server inherits it, so that nobody can take the port meanwhile."""
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(("127.0.0.1", port))
        listener.listen(128)
    except (OSError, OverflowError) as error:
        listener.close()
        why = getattr(error, "strerror", None) or error
        raise TroubleError(f"cannot listen on 127.0.0.1:{port}: {why}; give another --port", code=2) from None
    return listener


def flower_at(place: str) -> dict[str, str]:
    return {"LIVE_FLOWER": f"http://{place}/"} if place else {}


def worker(options: argparse.Namespace, *, events: bool) -> list[str]:
    """Return the command of the worker, as one would type it after `python`.

    Args:
        events: Tell what tasks and the worker do, as Flower wants to hear.
    """
    told = "--task-events" if events else "--without-heartbeat"
    quiet = ["--without-gossip", "--without-mingle", told, "--loglevel=INFO"]
    program = ["-m", "greenkit", "celery"] if options.pool == "gevent" else ["-m", "celery"]
    return [*program, "-A", "project", "worker", "-P", options.pool, "-c", str(options.concurrency), *quiet]
