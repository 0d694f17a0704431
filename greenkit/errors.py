"""Errors greenkit raises, one class per thing the caller may do differently.

Nothing here waits, logs or imports anything: every room raises from this tree, and the ground
floor must be loadable before gevent patches the world. Caller mistakes are also `TypeError` or
`ValueError`; facts about an error are attributes, its message says what, so what and what next.
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
    """Stand above every error greenkit raises on purpose."""


class WaitTimeout(GreenkitError):  # noqa: N818 - a timeout is the field's word
    """Say that a wait reached its deadline; nothing is held, trying again is safe.

    Not a `TimeoutError`: that is an `OSError`, whose C layout no class can share with
    psycopg2's errors, and a connection pool's timeout must be an `OperationalError` too.
    """


class LimitTimeout(WaitTimeout):
    """Say that a limit cannot be met in time.

    Attributes:
        retry_after: Seconds after which the same cost would pass, as known when raised.
        window: The limit that is used up, such as "requests 10000/day"; empty when it is not the rate that
            holds the cost back, or not known.
    """

    def __init__(self, message: str, *, retry_after: float, window: str = "") -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.window = window


class CostTooHighError(GreenkitError, ValueError):
    """Say that a cost exceeds what the limit can ever grant at once; no wait can help."""


class WouldWait(GreenkitError):  # noqa: N818 - not a failure: the answer "later, then"
    """Answer instead of waiting longer than the caller allowed.

    Attributes:
        eta: Seconds until the call would have been let through.
    """

    def __init__(self, message: str, *, eta: float) -> None:
        super().__init__(message)
        self.eta = eta


class RateLimited(GreenkitError):  # noqa: N818 - the server's word for it
    """Say that the server refused with "too many requests".

    Attributes:
        retry_after: Seconds the server asks to wait, or None when it did not say.
    """

    def __init__(self, message: str, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class PatchError(GreenkitError):
    """Refuse to go on in a process that is not, or only half, cooperative.

    Attributes:
        findings: The `greenkit.findings.Finding`s that led to the refusal.
    """

    def __init__(self, message: str, *, findings: tuple[object, ...] = ()) -> None:
        super().__init__(message)
        self.findings = findings


class ConfigError(GreenkitError, ValueError):
    """Say which setting is wrong, its value, and what it may be."""


class PoolClosedError(GreenkitError):
    """Say that a pool was closed and takes no more work."""


class ConcurrentUseError(GreenkitError):
    """Refuse a second greenlet on something that is in use by another."""


class BlockingCallError(GreenkitError):
    """Refuse a call that would have blocked the hub; it was not made.

    Attributes:
        call: The C function as `module.name`.
        where: `file:line function` of the innermost line of the user's own code, or of the call itself.
    """

    def __init__(self, message: str, *, call: str, where: str) -> None:
        super().__init__(message)
        self.call = call
        self.where = where


class ServerNotFoundError(GreenkitError):
    """Say that no binary of a test server was found, and which package brings it."""


class ServerStartError(GreenkitError):
    """Say that a test server did not start, with the end of its log."""
