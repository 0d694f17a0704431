"""Say what the mock LLM server and its two API styles tell each other.

Pure. A dialect turns bodies into `Ask`s and `Reply`s into bodies; it knows nothing of quotas being
enforced, of time passing or of sockets.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from greenkit.testing._mock_rules import Quota

__all__ = ["Ask", "AskError", "Dialect", "Reply", "compact", "key_of", "read_ask", "write_reply"]

_CHARS_PER_TOKEN = 4
_FILLER = ("and", "so", "the", "mock", "server", "goes", "on")


class AskError(Exception):
    """Refuse a body; `param` names the part that is wrong."""

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


@dataclass(frozen=True, slots=True)
class Ask:
    """Hold what one call wants."""

    model: str
    prompt: str
    prompt_tokens: int
    max_tokens: int | None
    stream: bool
    include_usage: bool
    key: str | None


@dataclass(frozen=True, slots=True)
class Reply:
    """Hold the made-up answer to one `Ask`: one word is one token."""

    serial: int
    created: int
    words: list[str]
    finish: str  # "stop", or "length" when max_tokens cut it

    @property
    def text(self) -> str:
        """Return the whole answer."""
        return " ".join(self.words)


class Dialect(Protocol):
    """Speak one provider's API."""

    path: str
    overloaded: int

    def read(self, body: bytes, headers: Mapping[str, str]) -> Ask:
        """Read a call; raise `AskError` when it is not one."""

    def whole(self, ask: Ask, reply: Reply) -> bytes:
        """Write the answer as one JSON body."""

    def events(self, ask: Ask, reply: Reply) -> list[bytes]:
        """Write the answer as server-sent events."""

    def error(self, status: int, message: str, *, param: str | None = None, code: str | None = None) -> bytes:
        """Write an error body."""

    def quota_headers(self, quota: Quota, now: float, *, wall: float) -> str:
        """Write the quota's state as header lines."""


def compact(value: object) -> bytes:
    """Dump JSON without blanks.

    Switches: never.
    """
    return json.dumps(value, separators=(",", ":")).encode()


def read_ask(body: bytes, headers: Mapping[str, str], *, needs_max_tokens: bool) -> Ask:
    """Read the parts both APIs share; prompt tokens are one per four characters, rounded up.

    Raises:
        AskError: No JSON object, or `model`, `messages` or `max_tokens` is missing or wrong.

    Switches: never.
    """
    try:
        data = json.loads(body)
    except ValueError as error:
        raise AskError(f"We could not parse the JSON body of your request: {error}") from None
    if not isinstance(data, dict):
        raise AskError("The body of the request must be a JSON object.")
    model = data.get("model")
    if not isinstance(model, str) or not model:
        raise AskError("You must provide a model parameter.", param="model")
    texts = _texts(data.get("messages"))
    max_tokens = data.get("max_completion_tokens", data.get("max_tokens"))
    missing = max_tokens is None and needs_max_tokens
    wrong = max_tokens is not None and (type(max_tokens) is not int or max_tokens < 1)
    if missing or wrong:
        raise AskError("max_tokens must be an integer of at least 1.", param="max_tokens")
    options = data.get("stream_options")
    return Ask(
        model=model,
        prompt=texts[-1],
        prompt_tokens=max(1, -(-sum(map(len, texts)) // _CHARS_PER_TOKEN)),
        max_tokens=max_tokens,
        stream=data.get("stream") is True,
        include_usage=isinstance(options, dict) and options.get("include_usage") is True,
        key=key_of(data, headers),
    )


def key_of(data: Mapping[str, Any], headers: Mapping[str, str]) -> str | None:
    """Find what names the call: `Idempotency-Key`, `X-Request-Key`, `user` or `metadata.key`.

    Switches: never.
    """
    key = headers.get("idempotency-key") or headers.get("x-request-key") or data.get("user")
    if not key and isinstance(metadata := data.get("metadata"), dict):
        key = metadata.get("key")
    return str(key) if key else None


def write_reply(ask: Ask, *, serial: int, created: int, tokens: int) -> Reply:
    """Make up an answer of `tokens` words that begins with the prompt, cut at `max_tokens`.

    Switches: never.
    """
    wanted = max(1, tokens)
    length = min(wanted, ask.max_tokens) if ask.max_tokens else wanted
    words = ["You", "said:", *ask.prompt.split(None, length)][:length]
    missing = length - len(words)
    if missing:
        words += (_FILLER * (missing // len(_FILLER) + 1))[:missing]
    return Reply(serial, created, words, "length" if length < wanted else "stop")


def _texts(messages: object) -> list[str]:
    if not isinstance(messages, list) or not messages:
        raise AskError("messages must be a list with at least one message.", param="messages")
    return [_text(message, place) for place, message in enumerate(messages)]


def _text(message: object, place: int) -> str:
    if not isinstance(message, dict) or not isinstance(message.get("role"), str):
        raise AskError(f"messages[{place}] must be an object with a role.", param=f"messages[{place}]")
    content = message.get("content")
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        parts = [part.get("text", "") for part in content if isinstance(part, dict)]
        return "".join(part for part in parts if isinstance(part, str))
    if content is None:  # an assistant message that only calls tools
        return ""
    raise AskError(f"messages[{place}].content must be text or parts.", param=f"messages[{place}].content")
