"""Speak Anthropic's messages API: bodies, events, errors and `anthropic-ratelimit-*` headers. Pure."""

from __future__ import annotations

import math
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from greenkit.testing._mock_dialect import Ask, Reply, compact, read_ask

if TYPE_CHECKING:
    from collections.abc import Mapping

    from greenkit.testing._mock_rules import Quota

__all__ = ["Anthropic"]

_TYPES = {404: "not_found_error", 429: "rate_limit_error", 500: "api_error", 529: "overloaded_error"}
_STOPS = {"stop": "end_turn", "length": "max_tokens"}


class Anthropic:
    """Speak as api.anthropic.com does at `POST /v1/messages`."""

    path = "/v1/messages"
    overloaded = 529

    def read(self, body: bytes, headers: Mapping[str, str]) -> Ask:
        """Read a call; raise `AskError` when it is not one."""
        return read_ask(body, headers, needs_max_tokens=True)

    def whole(self, ask: Ask, reply: Reply) -> bytes:
        """Write the answer as one JSON body."""
        return compact(
            {
                **_message(ask, reply),
                "content": [{"type": "text", "text": reply.text}],
                "stop_reason": _STOPS[reply.finish],
                "usage": {"input_tokens": ask.prompt_tokens, "output_tokens": len(reply.words)},
            }
        )

    def events(self, ask: Ask, reply: Reply) -> list[bytes]:
        """Write the answer as server-sent events, one per word between a start and a stop."""
        start = _message(ask, reply) | {"usage": {"input_tokens": ask.prompt_tokens, "output_tokens": 0}}
        events: list[dict[str, Any]] = [
            {"type": "message_start", "message": start},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        ]
        for place, word in enumerate(reply.words):
            delta = {"type": "text_delta", "text": f" {word}" if place else word}
            events.append({"type": "content_block_delta", "index": 0, "delta": delta})
        stop = {"stop_reason": _STOPS[reply.finish], "stop_sequence": None}
        events += [
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": stop, "usage": {"output_tokens": len(reply.words)}},
            {"type": "message_stop"},
        ]
        return [b"event: %b\ndata: %b\n\n" % (event["type"].encode(), compact(event)) for event in events]

    def error(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> bytes:
        """Write an error body."""
        kind = _TYPES.get(status, "invalid_request_error")
        return compact({"type": "error", "error": {"type": kind, "message": message}})

    def quota_headers(self, quota: Quota, now: float, *, wall: float) -> str:
        """Write the quota's state; limits are per minute, resets are instants (RFC 3339, UTC).

        `remaining` is what may go at once, so it never exceeds the burst. The one token bucket is
        told as `tokens`; input and output are not counted apart.
        """
        lines = ""
        for name, bucket in (("requests", quota.requests), ("tokens", quota.tokens)):
            if bucket is not None:
                reset = datetime.fromtimestamp(math.ceil(wall + bucket.reset(now)), timezone.utc)
                lines += (
                    f"anthropic-ratelimit-{name}-limit: {bucket.rate.per_minute:.0f}\r\n"
                    f"anthropic-ratelimit-{name}-remaining: {bucket.remaining(now)}\r\n"
                    f"anthropic-ratelimit-{name}-reset: {reset:%Y-%m-%dT%H:%M:%SZ}\r\n"
                )
        return lines


def _message(ask: Ask, reply: Reply) -> dict[str, Any]:
    return {
        "id": f"msg_mock_{reply.serial}",
        "type": "message",
        "role": "assistant",
        "model": ask.model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
    }
