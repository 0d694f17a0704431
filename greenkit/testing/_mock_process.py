"""Start the mock LLM server in a process of its own, read its counters, stop it."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
import time
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from greenkit.errors import ServerNotFoundError, ServerStartError

if TYPE_CHECKING:
    from types import TracebackType

    from typing_extensions import Self

__all__ = ["MockLLM"]

_START_WITHIN = 20.0
_STOP_WITHIN = 5.0
_ANSWER_WITHIN = 10.0


class MockLLM:
    """Run a mock LLM server; a context manager, or `start()` and `stop()` by hand.

    The server enforces its quota with one bucket per dimension: `burst` permits at once, refilled
    evenly. A call that finds room in all of them is charged in all of them; a refused or invalid
    call is charged nowhere. It never outlives this process, whichever way that ends.

    Args:
        requests: Quota such as ``"500/min"``, ``"200/s"`` or ``"200/s burst 20"``; None is no limit.
            Without `burst`, one second's worth may go at once.
        tokens: Quota of tokens, written alike.
        latency: Seconds to an answer: ``0.5``, ``"uniform:0.2:0.8"`` or ``"lognormal:0.5:0.3"``
            (median, sigma). A stream is spread over it.
        reply_tokens: Length of an answer in tokens (words), drawn the same way.
        charge: "usage" charges what the answer will report, "reserve" prompt plus max_tokens.
        error_rate: Share of admitted calls answered with 500 (Anthropic: 529), 0 to 1.
        reset_rate: Share of admitted calls whose connection is reset, 0 to 1.
        style: "openai" (`/v1/chat/completions`) or "anthropic" (`/v1/messages`).
        seed: Seed of everything drawn.
        port: TCP port; 0 picks a free one.
        host: Address to listen on.
        tls: Paths of a certificate and its key, to speak HTTPS; None speaks plain HTTP.
    """

    def __init__(
        self,
        *,
        requests: str | None = None,
        tokens: str | None = None,
        latency: str | float = 0.0,
        reply_tokens: str | float = 16,
        charge: str = "usage",
        error_rate: float = 0.0,
        reset_rate: float = 0.0,
        style: str = "openai",
        seed: int = 0,
        port: int = 0,
        host: str = "127.0.0.1",
        tls: tuple[str, str] | None = None,
    ) -> None:
        options = {
            "requests": requests, "tokens": tokens, "latency": latency, "reply-tokens": reply_tokens,
            "charge": charge, "error-rate": error_rate, "reset-rate": reset_rate, "style": style,
            "seed": seed, "port": port, "host": host,
            "tls-cert": tls and tls[0], "tls-key": tls and tls[1],
        }  # fmt: skip
        self._arguments = [f"--{name}={value}" for name, value in options.items() if value is not None]
        self._process: subprocess.Popen[bytes] | None = None
        self._owner = 0
        self._url = ""

    def __repr__(self) -> str:
        """Show where it listens."""
        return f"<MockLLM {self._url or 'stopped'}>"

    @property
    def url(self) -> str:
        """Return the root, such as ``http://127.0.0.1:40321``; an SDK's base URL is this plus ``/v1``."""
        if not self._url:
            raise RuntimeError(
                "the mock LLM server is not running; call start() or use it as a context manager"
            )
        return self._url

    @property
    def pid(self) -> int | None:
        """Return the process id while it runs."""
        return self._process.pid if self._process else None

    def start(self) -> Self:
        """Start the process and wait until it listens.

        Raises:
            ServerNotFoundError: h11 is not installed.
            ServerStartError: It said why it cannot (a taken port), ended, or was not ready in time.

        Switches: may.
        """
        if self._process is not None:
            raise RuntimeError(f"{self!r} is running already")
        if find_spec("h11") is None:
            raise ServerNotFoundError(
                "the mock LLM reads HTTP with h11, which is not installed: pip install 'greenkit[servers]'."
            )
        ready, theirs = os.pipe()
        try:
            try:
                self._process = self._spawn(theirs)
            finally:
                os.close(theirs)
            self._owner = os.getpid()
            self._url = self._await_url(ready)
        except BaseException:
            self.stop()
            raise
        finally:
            os.close(ready)
        return self

    def stop(self) -> None:
        """End the process and reap it; harmless when it does not run, or in a forked child.

        Switches: may.
        """
        process, self._process, self._url = self._process, None, ""
        if process is None or self._owner != os.getpid():
            return
        process.terminate()
        try:
            process.wait(_STOP_WITHIN)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(_STOP_WITHIN)

    def stats(self) -> dict[str, Any]:
        """Return the server's counters, as `GET /stats` gives them.

        Switches: may.
        """
        return self._ask("GET", "/stats")

    def reset(self) -> dict[str, Any]:
        """Return the counters and start them from zero; the quota's state stays.

        Switches: may.
        """
        return self._ask("POST", "/stats/reset")

    def __enter__(self) -> Self:
        """Start it."""
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop it."""
        self.stop()

    def _spawn(self, ready_fd: int) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "greenkit.testing.mock_llm", *self._arguments]
        command += [f"--parent-pid={os.getpid()}", f"--ready-fd={ready_fd}"]
        # A session of its own: Ctrl-C in the terminal reaches us, and we end it in our order.
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, pass_fds=(ready_fd,), start_new_session=True
        )

    def _await_url(self, fd: int) -> str:
        deadline = time.monotonic() + _START_WITHIN
        said = b""
        while not said.endswith(b"\n"):
            readable, _, _ = select.select([fd], [], [], max(0.0, deadline - time.monotonic()))
            if not readable:
                raise ServerStartError(f"the mock LLM server was not ready within {_START_WITHIN:g} s")
            piece = os.read(fd, 4096)
            if not piece:
                raise ServerStartError(
                    "the mock LLM server ended before it listened; see its message on stderr"
                )
            said += piece
        line = said.decode().strip()
        if not line.startswith(("http://", "https://")):
            raise ServerStartError(line)
        return line

    def _ask(self, method: str, path: str) -> dict[str, Any]:
        # Late: http.client loads ssl, which must not be loaded by merely importing this room early.
        import ssl
        from http.client import HTTPConnection, HTTPSConnection

        scheme, _, place = self.url.partition("://")
        host, _, port = place.rpartition(":")
        connection = HTTPConnection(host, int(port), timeout=_ANSWER_WITHIN)
        if scheme == "https":
            # Our own server on this machine: nothing to verify it by is needed.
            trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
            connection = HTTPSConnection(host, int(port), timeout=_ANSWER_WITHIN, context=trusting)
        try:
            connection.request(method, path)
            page: dict[str, Any] = json.loads(connection.getresponse().read())
        finally:
            connection.close()
        return page
