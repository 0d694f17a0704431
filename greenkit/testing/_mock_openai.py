"""Speak OpenAI's chat completions API: bodies, events, errors and `x-ratelimit-*` headers. Pure."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from greenkit.testing._mock_dialect import Ask, Reply, compact, read_ask

if TYPE_CHECKING:
    from collections.abc import Mapping

    from greenkit.testing._mock_rules import Quota

__all__ = ["OpenAI", "go_duration"]

_MS_PER_MINUTE = 60_000
_TYPES = {429: "requests", 500: "server_error"}


class OpenAI:
    """Speak as api.openai.com does at `POST /v1/chat/completions`."""

    path = "/v1/chat/completions"
    overloaded = 500

    def read(self, body: bytes, headers: Mapping[str, str]) -> Ask:
        """Read a call; raise `AskError` when it is not one."""
        return read_ask(body, headers, needs_max_tokens=False)

    def whole(self, ask: Ask, reply: Reply) -> bytes:
        """Write the answer as one JSON body."""
        message = {"role": "assistant", "content": reply.text, "refusal": None}
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reply.finish}
        return compact(
            {**_head(ask, reply, "chat.completion"), "choices": [choice], "usage": _usage(ask, reply)}
        )

    def events(self, ask: Ask, reply: Reply) -> list[bytes]:
        """Write the answer as server-sent events, one per word; usage only when asked for."""
        head = _head(ask, reply, "chat.completion.chunk")
        if ask.include_usage:
            head["usage"] = None
        deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
        deltas += [{"content": f" {word}" if place else word} for place, word in enumerate(reply.words)]
        events = [{**head, "choices": [_piece(delta, None)]} for delta in deltas]
        events.append({**head, "choices": [_piece({}, reply.finish)]})
        if ask.include_usage:
            events.append({**head, "choices": [], "usage": _usage(ask, reply)})
        return [b"data: " + compact(event) + b"\n\n" for event in events] + [b"data: [DONE]\n\n"]

    def error(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> bytes:
        """Write an error body."""
        kind = code if status == 429 and code in ("insufficient_quota", "tokens", "requests") else None
        kind = kind or _TYPES.get(status, "invalid_request_error")
        if code in ("tokens", "requests"):
            code = "rate_limit_exceeded"
        return compact({"error": {"message": message, "type": kind, "param": param, "code": code}})

    def quota_headers(self, quota: Quota, now: float, *, wall: float) -> str:
        """Write the quota's state; limits are per minute, resets are Go durations.

        `remaining` is what may go at once, so it never exceeds the burst; `reset` is the time
        until that is whole again. A dimension without a limit has no headers.
        """
        lines = ""
        for name, bucket in (("requests", quota.requests), ("tokens", quota.tokens)):
            if bucket is not None:
                lines += (
                    f"x-ratelimit-limit-{name}: {bucket.rate.per_minute:.0f}\r\n"
                    f"x-ratelimit-remaining-{name}: {bucket.remaining(now)}\r\n"
                    f"x-ratelimit-reset-{name}: {go_duration(bucket.reset(now))}\r\n"
                )
        return lines


def go_duration(seconds: float) -> str:
    """Render seconds as Go does, rounded up to a millisecond: ``12ms``, ``1.5s``, ``6m0s``.

    Switches: never.
    """
    ms = math.ceil(seconds * 1000)
    if ms == 0:
        return "0s"
    if ms < 1000:
        return f"{ms}ms"
    minutes, rest = divmod(ms, _MS_PER_MINUTE)
    hours, minutes = divmod(minutes, 60)
    head = f"{hours}h{minutes}m" if hours else f"{minutes}m" if minutes else ""
    return f"{head}{rest / 1000:.15g}s"


def _head(ask: Ask, reply: Reply, kind: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-mock-{reply.serial}",
        "object": kind,
        "created": reply.created,
        "model": ask.model,
    }


def _piece(delta: dict[str, Any], finish: str | None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}


def _usage(ask: Ask, reply: Reply) -> dict[str, int]:
    made = len(reply.words)
    return {
        "prompt_tokens": ask.prompt_tokens,
        "completion_tokens": made,
        "total_tokens": ask.prompt_tokens + made,
    }
