"""Serve the mock LLM API on asyncio: connections, and the course of one call.

Runs in its own, unpatched process (see `greenkit.testing.mock_llm`); rules, counters and bodies
live in the `_mock_*` files beside it. One protocol object per connection and one timer per call:
thousands of calls in flight cost no task each.
"""

from __future__ import annotations

import asyncio
import math
import random
import socket
import struct
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from greenkit.testing import _mock_wire as wire
from greenkit.testing._mock_anthropic import Anthropic
from greenkit.testing._mock_dialect import Ask, AskError, Dialect, Reply, compact, write_reply
from greenkit.testing._mock_draw import Draw
from greenkit.testing._mock_openai import OpenAI
from greenkit.testing._mock_rules import Quota, Rate, Verdict
from greenkit.testing._mock_stats import Stats

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["STYLES", "Config", "Connection", "MockServer"]

STYLES: dict[str, Callable[[], Dialect]] = {"openai": OpenAI, "anthropic": Anthropic}
_AT_ONCE = Draw("constant", 0.0)
_SIXTEEN = Draw("constant", 16.0)
_MODELS = ("mock-small", "mock-large")


@dataclass(frozen=True, slots=True)
class Config:
    """Hold what one mock server was asked to be; rates of errors are 0 to 1."""

    style: str = "openai"
    latency: Draw = _AT_ONCE
    reply_tokens: Draw = _SIXTEEN
    requests: Rate | None = None
    tokens: Rate | None = None
    charge: str = "usage"
    error_rate: float = 0.0
    reset_rate: float = 0.0
    seed: int = 0


class MockServer:
    """Hold what all connections share: quota, counters, the dialect and the dice."""

    def __init__(self, config: Config, loop: asyncio.AbstractEventLoop) -> None:
        self.config = config
        self.loop = loop
        self.dialect = STYLES[config.style]()
        self.quota = Quota(requests=config.requests, tokens=config.tokens)
        self.stats = Stats()
        self._rng = random.Random(config.seed)
        self._serial = 0

    def headers(self) -> str:
        """Return the quota's header lines as of now."""
        return self.dialect.quota_headers(self.quota, self.loop.time(), wall=time.time())

    def admit(self, ask: Ask) -> tuple[Verdict, Reply]:
        """Make up the answer to `ask` and let the quota decide whether it may be given.

        With `charge="usage"` a call costs what its answer will say it used; with "reserve",
        the prompt and the whole of max_tokens, as providers that reserve do.
        """
        self._serial += 1
        tokens = round(self.config.reply_tokens.sample(self._rng))
        reply = write_reply(ask, serial=self._serial, created=int(time.time()), tokens=tokens)
        answer_cost = len(reply.words)
        if self.config.charge == "reserve" and ask.max_tokens:
            answer_cost = ask.max_tokens
        cost = ask.prompt_tokens + answer_cost
        now = self.loop.time()
        verdict = self.quota.take(now, tokens=cost)
        if verdict.admitted:
            self.stats.admit(now, tokens=cost)
        else:
            self.stats.reject(verdict.dimension)
        return verdict, reply

    def fate(self) -> tuple[float, str]:
        """Draw a call's latency, and whether it ends "ok", in an "error" or in a "reset"."""
        latency = self.config.latency.sample(self._rng)
        dice = self._rng.random()
        if dice < self.config.error_rate:
            return latency, "error"
        return latency, "reset" if dice < self.config.error_rate + self.config.reset_rate else "ok"


class Connection(asyncio.Protocol):
    """Answer one client's requests, one after the other."""

    __slots__ = ("_keep", "_reader", "_timer", "_told_continue", "_transport", "server")

    def __init__(self, server: MockServer) -> None:
        self.server = server
        self._reader = wire.RequestReader()
        self._keep = True
        self._timer: asyncio.TimerHandle | None = None  # set while a call is in flight
        self._told_continue = False
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self._transport = cast("asyncio.Transport", transport)
        self.server.stats.connected()

    def connection_lost(self, exc: Exception | None) -> None:
        """End; a call in flight ends with it."""
        stats = self.server.stats
        stats.open_connections -= 1
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            stats.in_flight -= 1
            stats.disconnected += 1

    def data_received(self, data: bytes) -> None:
        """Take bytes in; requests behind one in flight wait in the reader."""
        self._reader.feed(data)
        self._serve()

    def _serve(self) -> None:
        while self._timer is None:
            if self._transport is None or self._transport.is_closing():
                return
            try:
                request = self._reader.take()
            except wire.WireError as error:
                self._keep = False
                self._error(error.status, str(error))
                return
            if request is None:
                if not self._told_continue and self._reader.awaits_continue:
                    self._told_continue = True
                    self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                return
            self._told_continue = False
            self._keep = request.keep_alive
            self._route(request)

    def _route(self, request: wire.Request) -> None:
        path, dialect = request.path, self.server.dialect
        method = "POST" if path in (dialect.path, "/stats/reset") else "GET"
        if path not in (dialect.path, "/stats", "/stats/reset", "/v1/models"):
            message = f"Invalid URL ({request.method} {path}); this server has {dialect.path} and /v1/models"
            self._error(404, message, code="unknown_url")
        elif request.method != method:
            self._error(
                405, f"Not allowed to {request.method} {path}, use {method}", code="method_not_allowed"
            )
        elif path == dialect.path:
            self._call(request)
        elif path == "/v1/models":
            models = [{"id": m, "object": "model", "created": 0, "owned_by": "greenkit"} for m in _MODELS]
            self._answer(200, compact({"object": "list", "data": models}))
        else:
            page: dict[str, Any] = self.server.stats.page()
            if path == "/stats/reset":
                self.server.stats = self.server.stats.successor()
            self._answer(200, compact(page))

    def _call(self, request: wire.Request) -> None:
        server = self.server
        server.stats.calls += 1
        try:
            ask = server.dialect.read(request.body, request.headers)
        except AskError as error:
            server.stats.invalid += 1
            self._error(400, str(error), param=error.param)
            return
        verdict, reply = server.admit(ask)
        if not verdict.admitted:
            self._refuse(verdict)
            return
        latency, fate = server.fate()
        if fate != "ok":
            self._timer = server.loop.call_later(latency, self._fail, fate)
            return
        server.stats.work(ask.key)
        server.stats.prompt_tokens += ask.prompt_tokens
        server.stats.completion_tokens += len(reply.words)
        if ask.stream:
            self._stream(ask, reply, latency)
        else:
            self._timer = server.loop.call_later(latency, self._finish, ask, reply)

    def _refuse(self, verdict: Verdict) -> None:
        name = verdict.dimension
        if verdict.hopeless:
            message = f"Request too large: it costs more {name} than the quota ever grants at once"
            self._error(429, message, code=name)
            return
        # Round up: whoever waits as told must not be refused for a fraction of a millisecond.
        ms = math.ceil(verdict.retry_after * 1000)
        extra = f"retry-after: {math.ceil(verdict.retry_after)}\r\nretry-after-ms: {ms}\r\n"
        message = f"Rate limit reached on {name} per min. Please try again in {ms}ms."
        self._error(429, message, code=name, extra=extra)

    def _finish(self, ask: Ask, reply: Reply) -> None:
        self._settled().ok += 1
        self._answer(200, self.server.dialect.whole(ask, reply))
        self._serve()

    def _fail(self, fate: str) -> None:
        stats = self._settled()
        if fate == "error":
            stats.errors += 1
            self._error(
                self.server.dialect.overloaded, "The server had an error while processing your request."
            )
            self._serve()
            return
        stats.resets += 1
        assert self._transport is not None
        # Linger of zero: the client gets a reset, not an orderly end.
        raw = self._transport.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    def _stream(self, ask: Ask, reply: Reply, latency: float) -> None:
        assert self._transport is not None
        self.server.stats.streams += 1
        self._transport.write(wire.stream_head(headers=self.server.headers(), keep_alive=self._keep))
        pieces = [wire.chunk(event) for event in self.server.dialect.events(ask, reply)]
        pieces[-1] += wire.CHUNK_END
        pieces.reverse()
        self._timer = self.server.loop.call_later(
            latency / len(pieces), self._piece, pieces, latency / len(pieces)
        )

    def _piece(self, pieces: list[bytes], pause: float) -> None:
        assert self._transport is not None
        self._transport.write(pieces.pop())
        if pieces:
            self._timer = self.server.loop.call_later(pause, self._piece, pieces, pause)
            return
        self._settled().ok += 1
        if not self._keep:
            self._transport.close()
        self._serve()

    def _settled(self) -> Stats:
        self._timer = None
        self.server.stats.in_flight -= 1
        return self.server.stats

    def _error(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None, extra: str = ""
    ) -> None:
        self._answer(status, self.server.dialect.error(status, message, param=param, code=code), extra=extra)

    def _answer(self, status: int, body: bytes, *, extra: str = "") -> None:
        assert self._transport is not None
        headers = self.server.headers() + extra
        self._transport.write(wire.answer(status, body, headers=headers, keep_alive=self._keep))
        if not self._keep:
            self._transport.close()
