"""A broker that is there and refuses: waited for like one that is away.

A Redis that is a replica after a fail-over, has no memory left or cannot save, a RabbitMQ that closes
the channel of a task that took longer than its consumer time-out: kombu calls these channel errors,
and Celery ends the worker (celery/worker/consumer/consumer.py 5.7, `start`), unless told otherwise by
`broker_channel_error_retry`. What is wrong from the start, such as a queue that was declared in
another way, still ends it: waiting does not mend that. A state of the broker passes, so a
worker that starts meanwhile waits too.
"""

from __future__ import annotations

from time import monotonic
from typing import TYPE_CHECKING, Any

import gevent
from celery.utils.log import get_logger
from celery.worker.state import maybe_shutdown
from kombu.exceptions import LimitExceeded, OperationalError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Pause", "RefusedError", "wait_at_start", "wait_for_refusing_broker"]

_logger = get_logger(__name__)
_SHORTEST, _LONGEST = 0.5, 10.0
# A broker that took orders for this long has not been refusing since.
_FORGOTTEN = 60.0
# What Redis says of its state. By class where redis-py has one and takes the code off the text, else by code.
_STATES = frozenset(
    {"ReadOnlyError", "OutOfMemoryError", "BusyLoadingError", "MasterDownError", "ClusterDownError"}
)
_STATE_CODES = ("MISCONF", "NOREPLICAS", "UNBLOCKED", "READONLY", "OOM", "LOADING", "MASTERDOWN")
_PRECONDITION_FAILED, _EXCHANGE, _QUEUE = (
    406,
    40,
    50,
)  # AMQP 0-9-1: reply code, method classes


class RefusedError(ConnectionError):
    """Say that the broker refused, in a way the consumer reconnects on."""


def wait_for_refusing_broker(consumer: Any) -> Callable[..., None]:
    """Return the consumer's loop; from its first run on channel errors are connection errors."""
    run = consumer.loop

    def loop(*args: Any) -> None:
        refusals = consumer.channel_errors
        if not set(refusals) <= set(consumer.connection_errors):
            consumer.connection_errors = (*consumer.connection_errors, *refusals)
        try:
            run(*args)
        except refusals as exc:
            # The list that Celery looks into now was made before the first run.
            raise RefusedError(f"the broker refuses: {exc!r}") from exc

    return loop


def wait_at_start(consumer: Any) -> Callable[[Any], None]:
    """Return the start of the consumer's blueprint: connecting waits for a state of the broker to pass."""
    start = consumer.blueprint.start

    def patient_start(parent: Any) -> None:
        try:
            start(parent)
        except LimitExceeded as exc:
            # Greeting the other workers takes a producer, without waiting; after an outage tasks that
            # publish may have them all.
            raise RefusedError(f"all {exc} producers are in use by tasks") from exc
        except OperationalError as exc:
            # A producer says it of a lost connection (kombu/connection.py 5.7, `_reraise_as_library_errors`);
            # it is none of the transport's errors, and the consumer would end the worker.
            raise ConnectionError(f"the broker does not answer: {exc}") from exc
        except consumer.channel_errors as exc:
            if isinstance(exc, RefusedError) or not _passes(exc):
                raise
            raise RefusedError(f"the broker refuses: {exc!r}") from exc

    return patient_start


def _passes(exc: BaseException) -> bool:
    """Tell whether a refusal is about the state of the broker, and not about what it was asked for."""
    if getattr(exc, "reply_code", None) == _PRECONDITION_FAILED:
        # A declaration that does not fit what is there never will; a channel closed for another reason may.
        return (getattr(exc, "method_sig", None) or (0, 0))[0] not in (_EXCHANGE, _QUEUE)
    return any(kind.__name__ in _STATES for kind in type(exc).__mro__) or str(exc).startswith(_STATE_CODES)


class Pause:
    """Wait longer each time a broker refuses again; a broker that is away is Celery's to wait for."""

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer
        self._seconds = 0.0
        self._last = float("-inf")

    def __call__(self, exc: BaseException) -> None:
        """Wait, unless `exc` is no refusal; a worker told to stop goes at once.

        Switches: may.
        """
        if not isinstance(exc, (RefusedError, *self._consumer.channel_errors)):
            return
        fresh = monotonic() - self._last > _FORGOTTEN
        self._seconds = _SHORTEST if fresh else min(2 * self._seconds, _LONGEST)
        _logger.warning("%s; the next try is in %g s", exc, self._seconds)
        until = monotonic() + self._seconds
        while (left := until - monotonic()) > 0:
            maybe_shutdown()
            gevent.sleep(min(left, _SHORTEST))
        self._last = monotonic()
