"""Errors greenkit raises, one class per thing the caller may do differently.

This module imports nothing, because it is loaded before gevent patches the process. Caller mistakes are also
`TypeError` or `ValueError`. Facts about an error are attributes; its message says what happened, what it
costs and what to do next.
"""

from __future__ import annotations

__all__ = [
    "BlockingCallError",
    "ConcurrentUseError",
    "ConfigError",
    "CostTooHighError",
    "GreenkitError",
    "LimitTimeout",
    "PatchError",
    "PoolClosedError",
    "RateLimited",
    "ServerNotFoundError",
    "ServerStartError",
    "WaitTimeout",
    "WouldWait",
]


class GreenkitError(Exception):
    """Base class of the errors greenkit raises on purpose."""


class WaitTimeout(GreenkitError):  # noqa: N818 - the usual name
    """A wait reached its deadline; nothing is held, and a retry is safe.

    Not a `TimeoutError`: that is an `OSError`, whose C layout no class can share with
    psycopg2's errors, and a connection pool's timeout must be an `OperationalError` too.
    """


class LimitTimeout(WaitTimeout):
    """A limit cannot be met in time.

    Attributes:
        retry_after: Seconds after which the same cost would pass, as known when raised.
        window: The limit that is used up, such as "requests 10000/day"; empty when the cause is not
            the rate, or not known.
    """

    def __init__(self, message: str, *, retry_after: float, window: str = "") -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.window = window


class CostTooHighError(GreenkitError, ValueError):
    """A cost exceeds what the limit can ever grant at once; no wait can help."""


class WouldWait(GreenkitError):  # noqa: N818 - not a failure: the caller asked not to wait
    """The call would have to wait longer than the caller allowed.

    Attributes:
        eta: Seconds until the call would have been let through.
    """

    def __init__(self, message: str, *, eta: float) -> None:
        super().__init__(message)
        self.eta = eta


class RateLimited(GreenkitError):  # noqa: N818 - the server's term
    """The server refused with "too many requests".

    Attributes:
        retry_after: Seconds the server asks to wait, or None when it did not say.
    """

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class PatchError(GreenkitError):
    """The process is not, or only partly, cooperative.

    Attributes:
        findings: The `greenkit.findings.Finding`s that led to the refusal.
    """

    def __init__(self, message: str, *, findings: tuple[object, ...] = ()) -> None:
        super().__init__(message)
        self.findings = findings


class ConfigError(GreenkitError, ValueError):
    """A setting is wrong; the message says its value and the allowed ones."""


class PoolClosedError(GreenkitError):
    """A pool was closed and takes no more work."""


class ConcurrentUseError(GreenkitError):
    """A second greenlet used an object that is in use by another."""


class BlockingCallError(GreenkitError):
    """A call would have blocked the hub; it was not made.

    Attributes:
        call: The C function as `module.name`.
        where: `file:line function` of the innermost line of the user's own code, or of the call itself.
    """

    def __init__(self, message: str, *, call: str, where: str) -> None:
        super().__init__(message)
        self.call = call
        self.where = where


class ServerNotFoundError(GreenkitError):
    """No binary of a test server was found; the message names the package that has it."""


class ServerStartError(GreenkitError):
    """A test server did not start; the message ends with its log."""
