"""Classify an error or a server's response: its status, and whether and when to retry.

Reads attributes, not the classes of client libraries, so none needs to be installed. Never raises, and reads
nothing from a connection.
"""

from __future__ import annotations

import json
import re
import socket
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from greenkit.errors import GreenkitError, RateLimited
from greenkit.responses._when import asked_in, get, mapping, number_in, plain_headers, reset_in, sane, text_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

__all__ = ["BUSY", "Answer", "chain", "is_disconnect", "is_slow", "read", "read_answer", "register"]

TOO_MANY, PAYMENT_REQUIRED, SERVER_ERROR = 429, 402, 500
# Overload of the server, not a limit of the caller: 503, and Anthropic's and Cloudflare's 529.
BUSY = frozenset({503, 529})
_OVERLOADED = frozenset({408, 429, 503, 504, 529})
_TRANSIENT = frozenset({408, 409, 425, 429})
_LONGEST_BODY = 65_536
_LONGEST_CHAIN = 20

# Words for a status in bodies: of error events in a stream (whose HTTP status is 200), of gRPC and of AWS.
_STATUS_OF_WORD = {
    "rate_limit_error": 429, "rate_limit_exceeded": 429, "too_many_requests": 429,
    "insufficient_quota": 429, "credit_balance_exhausted": 429, "overloaded_error": 529,
    "overloaded": 529, "engine_overloaded": 503, "slow_down": 503, "service_unavailable": 503,
    "server_error": 500, "api_error": 500, "internal_error": 500, "internal_server_error": 500,
    "timeout_error": 504, "billing_error": 402, "authentication_error": 401, "permission_error":
    403, "not_found_error": 404, "invalid_request_error": 400, "request_too_large": 413,
}  # fmt: skip
_STATUS_OF_GRPC = {
    "cancelled": 499, "unknown": 500, "invalid_argument": 400, "deadline_exceeded": 504,
    "not_found": 404, "already_exists": 409, "permission_denied": 403, "unauthenticated": 401,
    "resource_exhausted": 429, "failed_precondition": 400, "aborted": 409, "out_of_range": 400,
    "unimplemented": 501, "internal": 500, "unavailable": 503, "data_loss": 500,
}  # fmt: skip
# AWS sends these under 400 as often as under 429 or 503 (botocore/retries/standard.py, AWS's error tables).
_STATUS_OF_AWS = {
    "throttling": 429, "throttlingexception": 429, "throttledexception": 429, "requestthrottled":
    429, "requestthrottledexception": 429, "toomanyrequestsexception": 429, "requestlimitexceeded":
    429, "provisionedthroughputexceededexception": 429, "bandwidthlimitexceeded": 429,
    "ec2throttledexception": 429, "limitexceededexception": 429, "priorrequestnotcomplete": 429,
    "modelnotreadyexception": 429, "slowdown": 503, "serviceunavailable": 503,
    "serviceunavailableexception": 503, "internalserverexception": 500, "modeltimeoutexception":
    408, "modelstreamerrorexception": 500, "requesttimeout": 408, "requesttimeoutexception": 408,
    "internalfailure": 500,
}  # fmt: skip
# Waiting does not resolve these; docs/reference/responses.md names the source of each.
_EXHAUSTED = re.compile(
    r"insufficient_?(quota|credits?|balance|funds)|credit_balance_exhausted|spend_limit|billing_(hard_limit|not_active|error)"
    r"|budget_exceeded|exceeded_?budget|payment_required|account_(deactivated|suspended)|access_terminated"
    r"|openrouter_(credits|key_limit)",
    re.IGNORECASE,
)
_EXHAUSTED_TEXT = re.compile(
    r"credit balance is too low|insufficient (credits?|balance|quota|funds)|budget has been exceeded"
    r"|ExceededBudget|add (more )?credits|purchase credits|spend(ing)? limit",
    re.IGNORECASE,
)
# Gemini also sends this for a limit per minute, then with a delay.
_PLAN_TEXT = re.compile(r"check your plan and billing details", re.IGNORECASE)
_HOPELESS = re.compile(
    r"context_length_exceeded|request_too_large|tokens_limit_reached|string_too_long", re.IGNORECASE
)
_HOPELESS_TEXT = re.compile(
    r"request too large|tokens? must be reduced|reduce the (length|size|number)|maximum context length"
    r"|prompt is too long|larger than the (limit|quota)",
    re.IGNORECASE,
)
_REQUESTED = re.compile(r"limit:?\s*(\d[\d,]*)\b.{0,60}?requested:?\s*(\d[\d,]*)", re.IGNORECASE | re.DOTALL)
# Network failures of clients whose classes are no subclass of `ConnectionError`.
_CLIENTS = frozenset((
    "aiohttp", "anthropic", "botocore", "h11", "h2", "http", "httpcore", "httpcore2", "httpx",
    "httpx2", "openai", "requests", "ssl", "urllib", "urllib3",
))  # fmt: skip
_BROKEN = frozenset((
    "APIConnectionError", "APITimeoutError", "ChunkedEncodingError", "ClientConnectionError",
    "ClientPayloadError", "CloseError", "ConnectError", "ConnectionClosedError",
    "ConnectTimeoutError", "ConnectionError", "ContentTooShortError", "EndpointConnectionError",
    "IncompleteRead", "NetworkError", "ProtocolError", "ProxyError", "ReadError",
    "ReadTimeoutError", "RemoteProtocolError", "ResponseStreamingError", "ServerDisconnectedError",
    "SSLEOFError", "SSLZeroReturnError", "StreamError", "Timeout", "TimeoutException",
    "TimeoutError", "WriteError",
))  # fmt: skip
_SLOW = frozenset(
    {"APITimeoutError", "ReadTimeoutError", "Timeout", "TimeoutException", "ConnectTimeoutError"}
)
# A request that is wrong stays wrong, and so does a certificate.
_FINAL = frozenset({"LocalProtocolError", "UnsupportedProtocol", "SSLCertVerificationError", "InvalidURL"})


@dataclass(frozen=True, slots=True)
class Answer:
    """Hold the meaning of an error or a response; None and False where it says nothing.

    Attributes:
        status: The HTTP status, or the one that means the same in HTTP.
        headers: Names in lower case.
        retry_after: Seconds until a retry makes sense, above 0, at most a year.
        exhausted: A quota is used up and waiting does not help: it must be paid for or raised.
        hopeless: This call will always be refused, such as one larger than the whole limit.
    """

    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    retry_after: float | None = None
    exhausted: bool = False
    hopeless: bool = False

    @property
    def limited(self) -> bool:
        """Tell whether the server refused because of a rate: 429, and neither exhausted nor hopeless."""
        return self.status == TOO_MANY and self.heals

    @property
    def heals(self) -> bool:
        """Tell whether waiting can help, as far as known."""
        return not (self.exhausted or self.hopeless)

    @property
    def later(self) -> bool:
        """Tell whether to retry later: a 429, or a 503 or 529 with a time."""
        return self.limited or (self.status in BUSY and self.retry_after is not None and self.heals)

    @property
    def overloaded(self) -> bool:
        """Tell whether the server was overloaded or too slow: 408, 429, 503, 504, 529."""
        return self.status in _OVERLOADED and self.heals

    @property
    def transient(self) -> bool:
        """Tell whether the same call may succeed later: 408, 409, 425, 429, 5xx."""
        if self.status is None or not self.heals or self.headers.get("x-should-retry") == "false":
            return False
        return self.status in _TRANSIENT or self.status >= SERVER_ERROR


_NOTHING = Answer()
_readers: dict[type[BaseException], Callable[[Any], Answer | None]] = {}


def register(kind: type[BaseException], reader: Callable[[Any], Answer | None], /) -> None:
    """Have `reader(error)` classify errors of a type and its subclasses.

    Args:
        kind: The type; the reader of the nearest class in an error's `__mro__` is called.
        reader: Returns an `Answer`, or None for the built-in classification, as does a reader that raises.
            It runs where the error is classified, so it must not wait.

    Raises:
        TypeError: `kind` is not an exception type, or `reader` cannot be called.

    Switches: never.
    """
    given: Any = kind
    if not (isinstance(given, type) and issubclass(given, BaseException)):
        msg = f"responses.register(type, reader) takes a type of exceptions first, not {kind!r}"
        raise TypeError(msg)
    given = reader
    if not callable(given):
        msg = f"responses.register({kind.__name__}, reader) takes a function second, not {reader!r}"
        raise TypeError(msg)
    _readers[kind] = reader


def read(error: BaseException | None, *, since: BaseException | None = None) -> Answer:
    """Return the meaning of `error`, or of the first of its causes that has a status.

    Args:
        error: The exception of a call, of any library.
        since: The exception that was being handled when the call began; it and older ones are ignored.

    Switches: never.
    """
    for link in chain(error, since=since):
        answer = _read_link(link)
        if answer.status is not None:
            return answer
    return _NOTHING


def read_answer(status: int, headers: Any, *, body: object = None) -> Answer:
    """Return the meaning of a server's response.

    Args:
        status: Its status.
        headers: Any mapping, names in any case.
        body: Bytes, text, or parsed JSON; None when unknown.

    Switches: never.
    """
    return _judge(status, plain_headers(headers), _errors_in(body))


def is_disconnect(error: BaseException | None, *, since: BaseException | None = None) -> bool:
    """Tell whether a connection could not be made, broke, or was too slow, in `error` or its causes.

    Switches: never.
    """
    links = list(chain(error, since=since))
    if any(_named(link, _FINAL) for link in links):
        return False
    return any(
        isinstance(link, ConnectionError | TimeoutError | socket.gaierror) or _named(link, _BROKEN)
        for link in links
    )


def is_slow(error: BaseException | None, *, since: BaseException | None = None) -> bool:
    """Tell whether a call ran out of time, in `error` or its causes.

    Switches: never.
    """
    return any(isinstance(link, TimeoutError) or _named(link, _SLOW) for link in chain(error, since=since))


def chain(error: BaseException | None, *, since: BaseException | None = None) -> Iterator[BaseException]:
    """Yield `error` and its causes, newest first, up to `since`.

    An implicit context counts too, unless the error is a bug raised while another was handled (a
    `ValueError`, a `KeyError`).

    Switches: never.
    """
    seen: set[int] = set()
    while isinstance(error, BaseException) and error is not since and id(error) not in seen:
        yield error
        # greenkit's own refusals are not a server's response, and their causes belong to earlier calls.
        if len(seen) > _LONGEST_CHAIN or (
            isinstance(error, GreenkitError) and not isinstance(error, RateLimited)
        ):
            return
        seen.add(id(error))
        cause = get(error, "__cause__")
        if cause is None and not _is_bug(error) and get(error, "__suppress_context__") is not True:
            cause = get(error, "__context__")
        error = cause


# -- one error ---------------------------------------------------------------------------------------


def _read_link(error: BaseException) -> Answer:
    for kind in type(error).__mro__:
        reader = _readers.get(kind)
        if reader is not None:
            try:
                answer = reader(error)
            except Exception:  # an error in a user's reader must not replace the one it reads
                answer = None
            if isinstance(answer, Answer):
                return answer
            break
    try:
        return _built_in(error)
    except Exception:  # foreign attributes may raise; the caller must see the original error
        return _NOTHING


def _built_in(error: BaseException) -> Answer:
    response = get(error, "response")
    if isinstance(response, dict) and "ResponseMetadata" in response:
        return _aws(response)
    headers = plain_headers(get(response, "headers") or get(error, "headers") or {})
    errors = [_own_words(error), *_errors_in(get(error, "body")), *_errors_in(_content(response))]
    status = _status_of(error, response, headers)
    if status is None or status < 400:
        status = _status_in_words(errors, status)
    errors += _details_of(error)
    if isinstance(error, RateLimited):
        seconds = sane(number_in(error.retry_after)) if error.retry_after is not None else None
        answer = _judge(TOO_MANY, headers, errors)
        return Answer(TOO_MANY, headers, seconds or answer.retry_after, answer.exhausted, answer.hopeless)
    return _NOTHING if status is None else _judge(status, headers, errors)


def _own_words(error: BaseException) -> dict[str, Any]:
    """Return the error's own attributes, as an SDK copies them from a body."""
    words = {name: get(error, name) for name in ("code", "type", "message")}
    own: dict[str, Any] = {name: word for name, word in words.items() if isinstance(word, str)}
    if own.get("code", "").isdecimal():
        del own["code"]  # a database's
    own.setdefault("message", text_of(error))
    return own


def _status_of(error: BaseException, response: Any, headers: Mapping[str, str]) -> int | None:
    for thing, name in (
        (error, "status_code"),
        (response, "status_code"),
        (response, "status"),
        (error, "status"),
    ):
        status = _http(get(thing, name))
        if status is not None:
            return status
    code, word = get(error, "code"), get(error, "status")
    if callable(code) and callable(get(error, "trailing_metadata")):  # grpc.RpcError
        return _STATUS_OF_GRPC.get(text_of(get(code(), "name")).lower())
    # Databases have an integer `code` too; HTTP's has headers, is an HTTPStatus, or has Google's status word.
    if isinstance(code, HTTPStatus) or headers or text_of(word).lower() in _STATUS_OF_GRPC:
        return _http(code)
    return None


def _status_in_words(errors: list[dict[str, Any]], status: int | None) -> int | None:
    for error in errors:
        for name in ("code", "type", "status"):
            word = error.get(name)
            found = _http(word) if isinstance(word, int) else _STATUS_OF_WORD.get(text_of(word).lower())
            if found is None and isinstance(word, str) and word.isdecimal() and len(word) == 3:
                found = _http(int(word))  # OpenRouter's, which the openai SDK turns into text
            if found is not None and found >= 400:
                return found
    return status


def _aws(response: dict[str, Any]) -> Answer:
    said, error = mapping(response.get("ResponseMetadata")), mapping(response.get("Error"))
    status = _STATUS_OF_AWS.get(text_of(error.get("Code")).lower()) or _http(said.get("HTTPStatusCode"))
    if status is None:
        return _NOTHING
    words = {"code": error.get("Code"), "message": error.get("Message")}
    return _judge(status, plain_headers(said.get("HTTPHeaders") or {}), [words])


def _details_of(error: BaseException) -> list[dict[str, Any]]:
    """Return Google's: JSON of google-genai, messages of google-api-core, the trailer of grpc."""
    details = get(error, "details")
    if isinstance(details, dict):
        return _errors_in(details)
    found: list[dict[str, Any]] = []
    if isinstance(details, list | tuple):
        found = [{"retryDelay": get(part, "retry_delay")} for part in details]
    elif callable(details) and callable(get(error, "trailing_metadata")):
        for pair in error.trailing_metadata() or ():  # type: ignore[attr-defined]  # grpc.RpcError
            name, value = pair[0], pair[1]
            if name == "grpc-status-details-bin" and isinstance(value, bytes):
                found.append({"retryDelay": _retry_info(value)})
            elif name == "grpc-retry-pushback-ms":
                found.append({"retryDelay": (number_in(value) or 0.0) / 1000.0})
    return found


def _retry_info(status: bytes) -> float | None:
    """Return the delay of a RetryInfo inside a serialised google.rpc.Status."""
    # Field numbers: google/rpc/error_details.proto and google/protobuf/{any,duration}.proto.
    at = status.find(b"google.rpc.RetryInfo\x12")
    if at < 0:
        return None
    # Any.value (length), then RetryInfo.retry_delay (tag 0x0a, length), then Duration.
    inner = status[at + len(b"google.rpc.RetryInfo\x12") + 1 :]
    if len(inner) < 2 or inner[0] != 0x0A:
        return None
    duration, numbers, here = inner[2 : 2 + inner[1]], {8: 0, 16: 0}, 0
    while here < len(duration) and duration[here] in numbers:
        tag, shift, here = duration[here], 0, here + 1
        while here < len(duration):
            numbers[tag] |= (duration[here] & 0x7F) << shift
            shift, here = shift + 7, here + 1
            if duration[here - 1] < 0x80:
                break
    return numbers[8] + numbers[16] / 1e9


def _content(response: Any) -> object:
    # Only the part already read: `content` and `text` would read from the connection, and wait.
    content = get(response, "_content")
    return content if isinstance(content, bytes) else None


# -- bodies ------------------------------------------------------------------------------------------


def _errors_in(body: object) -> list[dict[str, Any]]:
    """Return the objects of a body that describe its error, outermost first; a text becomes a message."""
    if isinstance(body, bytes | bytearray | str):
        text = text_of(body[:_LONGEST_BODY])
        try:
            body = json.loads(text)
        except (ValueError, RecursionError):
            return [{"message": text}] if text else []
        if isinstance(body, str | int | float):
            return [{"message": text}]
    if isinstance(body, list) and body:
        body = body[0]
    found: list[dict[str, Any]] = []
    while isinstance(body, dict) and len(found) < 4:
        found.append(body)
        inner = body.get("error")
        if isinstance(inner, str):
            found.append({"message": inner, "code": inner})
        body = inner
    for error in list(found):
        more = error.get("details"), error.get("metadata")
        for part in more:
            parts = part if isinstance(part, list) else [part]
            found.extend(each for each in parts[:20] if isinstance(each, dict))
    return found


def _judge(status: int, headers: Mapping[str, str], errors: list[dict[str, Any]]) -> Answer:
    if status < 400:
        return Answer(status, headers)
    try:
        words, text = _words(errors), _messages(errors)
        seconds = asked_in(headers, errors, text)
        exhausted = status == PAYMENT_REQUIRED or bool(
            _EXHAUSTED.search(words) or _EXHAUSTED_TEXT.search(text)
        )
        # A quota of 0, as for a model the account does not include (google.rpc.QuotaFailure).
        exhausted = exhausted or "quota_value=0;" in words
        if not exhausted and seconds is None and "resource_exhausted" not in words:
            exhausted = bool(_PLAN_TEXT.search(text))
        hopeless = bool(_HOPELESS.search(words) or _HOPELESS_TEXT.search(text) or _larger_than_limit(text))
        # 402 with a time to wait is a budget that refills (OpenRouter).
        exhausted = exhausted and not (status == PAYMENT_REQUIRED and seconds is not None)
    except Exception:  # a malformed body; keep the status
        return Answer(status, headers)
    if seconds is None and (status == TOO_MANY or status in BUSY):
        seconds = reset_in(headers)
    return Answer(status, headers, seconds, exhausted, hopeless)


def _words(errors: list[dict[str, Any]]) -> str:
    names = ("code", "type", "status", "reason", "error_code", "limit_source")
    words = [text_of(error.get(name)) for error in errors for name in names if error.get(name) is not None]
    for error in errors:
        violations = error.get("violations")
        several = violations[:20] if isinstance(violations, list) else ()
        words.extend(f"quota_value={mapping(each).get('quotaValue')};" for each in several)
    return " ".join(words).lower()


def _messages(errors: list[dict[str, Any]]) -> str:
    return " ".join(text_of(error.get("message"))[:4096] for error in errors if error.get("message"))


def _larger_than_limit(text: str) -> bool:
    found = _REQUESTED.search(text)
    if found is None:
        return False
    limit, requested = (int(number.replace(",", "")[:18] or 0) for number in found.groups())
    return requested > limit


def _http(status: object) -> int | None:
    is_status = isinstance(status, int) and not isinstance(status, bool) and 100 <= status <= 599
    return int(status) if is_status else None  # type: ignore[call-overload]  # an int


def _named(error: BaseException, names: frozenset[str]) -> bool:
    return any(
        kind.__name__ in names and str(kind.__module__).partition(".")[0] in _CLIENTS
        for kind in type(error).__mro__
    )


def _is_bug(error: BaseException) -> bool:
    # A builtin that reports a mistake, not an operation: raised in an `except`, its context is accidental.
    return type(error).__module__ == "builtins" and not isinstance(error, OSError | RuntimeError)
