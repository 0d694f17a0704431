"""Count what happened at the mock LLM server, for its `/stats` page.

Pure: times come in as arguments. Every call ends in exactly one of `ok`, `rejected`, `errors`,
`resets`, `invalid`, `disconnected`, or is still `in_flight`; the sum is `calls`.
"""

from __future__ import annotations

from collections import deque
from typing import Any

__all__ = ["Stats", "Window"]

_REPEATED_KEYS_SHOWN = 100


class Window:
    """Find the most that fell within any window of `length` seconds: half open, [t, t + length)."""

    __slots__ = ("_inside", "_sum", "length", "worst")

    def __init__(self, length: float = 1.0) -> None:
        self.length = length
        self.worst = 0
        self._inside: deque[tuple[float, int]] = deque()
        self._sum = 0

    def add(self, now: float, amount: int = 1) -> None:
        """Count `amount` at `now`; times must not go back.

        Switches: never.
        """
        inside = self._inside
        inside.append((now, amount))
        self._sum += amount
        oldest = now - self.length
        while inside[0][0] <= oldest:
            self._sum -= inside.popleft()[1]
        self.worst = max(self.worst, self._sum)


class Stats:
    """Hold the counters of one server; `page()` is what `GET /stats` answers."""

    __slots__ = (
        "_keys", "_requests_window", "_tokens_window", "admitted", "calls", "completion_tokens",
        "connections", "disconnected", "errors", "first", "in_flight", "invalid", "last", "ok",
        "open_connections", "peak_connections", "peak_in_flight", "prompt_tokens", "rejected",
        "rejected_by", "resets", "streams",
    )  # fmt: skip

    def __init__(self) -> None:
        self.calls = self.admitted = self.ok = self.rejected = self.errors = self.resets = 0
        self.invalid = self.disconnected = self.streams = 0
        self.in_flight = self.peak_in_flight = 0
        self.connections = self.open_connections = self.peak_connections = 0
        self.prompt_tokens = self.completion_tokens = 0
        self.rejected_by = {"requests": 0, "tokens": 0}
        self.first: float | None = None
        self.last = 0.0
        self._keys: dict[str, int] = {}
        self._requests_window = Window(1.0)
        self._tokens_window = Window(1.0)

    def successor(self) -> Stats:
        """Return counters from zero that still know what is in flight and connected now.

        Switches: never.
        """
        fresh = Stats()
        # A call in flight ends in the new counters, so it must also have begun in them.
        fresh.calls = fresh.in_flight = fresh.peak_in_flight = self.in_flight
        fresh.open_connections = fresh.peak_connections = self.open_connections
        return fresh

    def connected(self) -> None:
        """Count one more open connection."""
        self.connections += 1
        self.open_connections += 1
        self.peak_connections = max(self.peak_connections, self.open_connections)

    def reject(self, dimension: str) -> None:
        """Count a refusal by `dimension` of the quota."""
        self.rejected += 1
        self.rejected_by[dimension] += 1

    def admit(self, now: float, *, tokens: int) -> None:
        """Count a call the quota let through and charged with `tokens`."""
        self.admitted += 1
        if self.first is None:
            self.first = now
        self.last = now
        self._requests_window.add(now)
        self._tokens_window.add(now, tokens)
        self.in_flight += 1
        self.peak_in_flight = max(self.peak_in_flight, self.in_flight)

    def work(self, key: str | None) -> None:
        """Remember that the work of `key` was begun; a second time for one key is a repeat."""
        if key is not None:
            self._keys[key] = self._keys.get(key, 0) + 1

    def page(self) -> dict[str, Any]:
        """Return all counters as plain data, ready for JSON.

        Switches: never.
        """
        repeated = {key: times for key, times in self._keys.items() if times > 1}
        hidden = {"first", "last", "_keys", "_requests_window", "_tokens_window"}
        page = {name: getattr(self, name) for name in self.__slots__ if name not in hidden}
        page["span"] = 0.0 if self.first is None else self.last - self.first
        page["worst_second"] = self._requests_window.worst
        page["worst_second_tokens"] = self._tokens_window.worst
        page["keys"] = len(self._keys)
        page["repeats"] = sum(repeated.values()) - len(repeated)
        page["repeated_keys"] = dict(list(repeated.items())[:_REPEATED_KEYS_SHOWN])
        return dict(sorted(page.items()))
