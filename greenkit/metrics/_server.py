"""`/metrics`, `/healthz` and `/readyz` of this process, and of all that share its port.

Each process listens on a socket of its own in the common directory. One of them holds the port; asked there,
it asks the others. When it ends, another takes the port within two seconds.
"""

from __future__ import annotations

import json
import logging
import os
import socket
from typing import TYPE_CHECKING, Any

import gevent
from gevent.pywsgi import WSGIServer

from greenkit.metrics._health import not_ready
from greenkit.metrics._picture import picture
from greenkit.metrics._prometheus import CONTENT_TYPE, merged, page
from greenkit.metrics._slots import Slot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from greenkit.metrics._observed import Observed

__all__ = ["Endpoint"]

_log = logging.getLogger("greenkit.metrics")
_TRY_PORT_EVERY = 2.0
_ANSWER_WITHIN = 1.0


class Endpoint:
    """Answer for this process, and on the port for all; see `greenkit.metrics.serve()`.

    Args:
        host: Address of the port.
        port: The port.
        directory: Where the processes that share it meet.
        registry: What `/metrics` shows.
        observed: The hub's lag, for `greenkit top`.
    """

    def __init__(
        self, host: str, port: int, directory: Path, registry: Any, observed: Observed | None = None
    ) -> None:
        self._address = (host, port)
        self._directory = directory
        self._registry = registry
        self._observed = observed
        self._pid = os.getpid()
        self._slot = Slot(self._directory)
        own = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        own.bind(str(self._slot.socket))
        own.listen(16)
        own.setblocking(False)
        self._own = WSGIServer(own, self._answer_privately, log=None, error_log=_log)
        self._own.start()
        self._port: WSGIServer | None = None
        self._seeker = gevent.spawn(self._seek_port)

    @property
    def holds_port(self) -> bool:
        """Tell whether this process answers on the port."""
        return self._port is not None

    @property
    def is_of_this_process(self) -> bool:
        """Tell whether it was opened here, not in the parent before a fork."""
        return self._pid == os.getpid()

    def close(self) -> None:
        """End; of a parent's, in a forked child, only what this process has of it. Switches: may."""
        self._seeker.kill()
        self._own.stop(timeout=1)
        if self._port is not None:
            self._port.stop(timeout=1)
            self._port = None
        if self.is_of_this_process:
            self._slot.free()
        else:
            self._slot.forget()

    def withdraw(self) -> None:
        """Give the number back as the process ends. Switches: never."""
        if self.is_of_this_process:
            self._slot.free()

    def _seek_port(self) -> None:
        while not self._took_port():
            gevent.sleep(_TRY_PORT_EVERY)

    def _took_port(self) -> bool:
        server = WSGIServer(self._address, self._answer_for_all, log=None, error_log=_log)
        try:
            server.start()
        except OSError:  # another process of the directory has it, or a stranger
            return False
        self._port = server
        return True

    # -- answers ---------------------------------------------------------------

    def _answer_alone(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/metrics":
            return _say(start, "200 OK", page(self._registry), CONTENT_TYPE)
        if path == "/healthz":
            return _say(start, "200 OK", "ok\n")
        if path == "/readyz":
            return _verdict(start, not_ready())
        return _say(start, "404 Not Found", "there are /metrics, /healthz and /readyz\n")

    def _answer_privately(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        # Not on the port: it shows lines of the program.
        if environ["PATH_INFO"] == "/top":
            return _say(start, "200 OK", json.dumps(picture(self._observed)), "application/json")
        return self._answer_alone(environ, start)

    def _answer_for_all(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path not in {"/metrics", "/healthz", "/readyz"}:
            return self._answer_alone(environ, start)
        others = self._slot.others()
        jobs = {number: gevent.spawn(_ask, where, path) for number, where in others.items()}
        gevent.joinall(list(jobs.values()), timeout=_ANSWER_WITHIN)
        answers = {number: job.value or (0, "") for number, job in jobs.items()}
        gevent.killall(list(jobs.values()), block=False)
        if path == "/metrics":
            pages = {number: text for number, (status, text) in answers.items() if status == 200}
            return _say(
                start, "200 OK", merged({self._slot.number: page(self._registry), **pages}), CONTENT_TYPE
            )
        why = [f"process {self._slot.number}: {line}" for line in (not_ready() if path == "/readyz" else ())]
        for number, (status, text) in answers.items():
            if status == 0:
                why.append(f"process {number}: no answer within {_ANSWER_WITHIN:g} s: its hub stands still")
            elif status != 200:
                why += [f"process {number}: {line}" for line in text.splitlines()]
        return _verdict(start, why)


def _verdict(start: Callable[..., Any], why: list[str]) -> Iterable[bytes]:
    if not why:
        return _say(start, "200 OK", "ok\n")
    return _say(start, "503 Service Unavailable", "\n".join(why) + "\n")


def _say(
    start: Callable[..., Any], status: str, text: str, kind: str = "text/plain; charset=utf-8"
) -> Iterable[bytes]:
    body = text.encode()
    start(status, [("Content-Type", kind), ("Content-Length", str(len(body)))])
    return [body]


def _ask(where: str, path: str) -> tuple[int, str]:
    """Return (status, text) of another process's answer; (0, "") when there is none."""
    try:
        with gevent.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as plug:
            plug.connect(where)
            plug.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
            answer = b"".join(iter(lambda: plug.recv(65536), b""))
    except OSError:
        return 0, ""
    head, _, body = answer.partition(b"\r\n\r\n")
    status = head.split(b" ", 2)[1:2]
    return (int(status[0]), body.decode()) if status else (0, "")
