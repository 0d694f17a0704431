"""Decide what the end of a call means for a limit: what it cost, whether to try again. Pure.

What an error says is read by `greenkit.responses`; here it is judged.
"""

from __future__ import annotations

import enum
import socket

from greenkit.errors import GreenkitError, RateLimited
from greenkit.responses import Answer, chain, is_disconnect, is_slow, read

__all__ = ["LONGEST_PAUSE", "Ending", "answered", "ending_of", "too_busy", "worth_another"]

# A server once asked for 3.2 days and a client slept them. Whoever must wait longer than this is
# told 429 again, which costs one request every two minutes.
LONGEST_PAUSE = 120.0

# What a server answers that did not do the call: its rate is exceeded, or (529) it says it is overloaded.
_REFUSED = frozenset({429, 529})


class Ending(enum.Enum):
    """Say how a call ended, as far as its cost goes."""

    SPENT = "it went out, or may have: the cost stands"
    REJECTED = "the server refused it with 429 or 529: the request counts, the rest does not"
    NEVER_SENT = "it never left this machine: nothing counts"


def ending_of(
    error: BaseException | None, answer: Answer | None = None, *, since: BaseException | None = None
) -> Ending:
    """Return what `error`, raised by the call itself, says about its cost.

    Args:
        error: What the call ended with.
        answer: What `read()` makes of it, if it was asked already.
        since: What was being handled when the call began; it refunds nothing.

    Switches: never.
    """
    if error is None:
        return Ending.SPENT
    said = read(error, since=since) if answer is None else answer
    if said.status in _REFUSED:
        return Ending.REJECTED
    if said.status is not None:
        return Ending.SPENT
    # The connection was refused or the name unknown: clients wrap these, and chain them.
    links = chain(error, since=since)
    if any(isinstance(link, ConnectionRefusedError | socket.gaierror) for link in links):
        return Ending.NEVER_SENT
    return Ending.SPENT


def answered(
    error: BaseException, answer: Answer, ending: Ending, *, since: BaseException | None = None
) -> bool:
    """Tell whether a call that ended with `error` was let in by its server, so that others may follow.

    No for a refusal, an overload, a connection that broke or timed out, and a call that was killed.

    Switches: never.
    """
    if not isinstance(error, Exception) or ending is not Ending.SPENT:
        return False
    if answer.status is not None and answer.status >= 400:
        return not answer.overloaded
    return not is_disconnect(error, since=since)


def worth_another(error: BaseException, *, since: BaseException | None = None) -> bool:
    """Tell whether the same call may well succeed later.

    Yes for 408, 409, 425, 429, 5xx, and for connections that broke or timed out. No for an
    exhausted quota or a call that is too large (waiting heals neither), for anything the server asks
    not to repeat (`x-should-retry: false`), for greenkit's own refusals, and for what is not an
    `Exception` (a kill, a `gevent.Timeout`).

    Switches: never.
    """
    if not isinstance(error, Exception):
        return False
    if isinstance(error, GreenkitError) and not isinstance(error, RateLimited):
        return False
    answer = read(error, since=since)
    # A 200 whose body broke off is a disconnect.
    if answer.status is not None and answer.status >= 400:
        return answer.transient
    return is_disconnect(error, since=since)


def too_busy(error: BaseException, answer: Answer, *, since: BaseException | None = None) -> bool:
    """Tell whether the server had too much to do, or was too slow to answer.

    Switches: never.
    """
    return answer.overloaded if answer.status is not None else is_slow(error, since=since)
