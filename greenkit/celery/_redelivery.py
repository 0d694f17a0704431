"""A message that comes again although its task runs here, or ran.

A broker that loses a connection gives out again what was not acknowledged on it, also what still
runs. With AMQP an ack belongs to the connection its message came on, so the running task takes
over the new message and acknowledges that one, instead of running twice. A task that held the thread
for longer than two heartbeats acknowledges on a connection the broker has closed already: what was
acknowledged lately is known too.
"""

from __future__ import annotations

from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

from celery.utils.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["SecondDeliveries"]

_logger = get_logger(__name__)
_RECENT = 1000


class SecondDeliveries:
    """Recognise second deliveries of what this worker had in hand when it lost its connection."""

    def __init__(self, consumer: Any) -> None:
        self.consumer = consumer
        self._orphans: dict[str, Any] = {}
        self._acked: deque[tuple[Any, ...]] = deque(maxlen=_RECENT)

    def connection_lost(self) -> None:
        """Remember what runs: its acks cannot reach the broker any more.

        Switches: never.
        """
        self._orphans = {request.id: request for request in self.consumer.pool.requests()}
        for request in self._orphans.values():
            request.on_reject = partial(self._rejected, request)

    def guard(self, receive: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """Return `receive`, Celery's message handler, with ours before it."""

        def on_message(message: Any) -> Any:
            if _redelivered(message) and (self._was_acked(message) or self._still_runs(message)):
                return None
            if not isinstance(message.headers, dict):
                return receive(message)
            # Not when the broker has it, which AMQP does not say, but when it is written.
            message.ack_log_error = partial(self._ack, message.ack_log_error, _key(message.headers))
            try:
                return receive(message)
            finally:
                # The request has it. A message that holds itself waits for the garbage collector.
                del message.ack_log_error

        return on_message

    def _ack(self, ack: Callable[..., None], key: tuple[Any, ...], *args: Any) -> None:
        self._acked.append(key)
        ack(*args)

    def _was_acked(self, message: Any) -> bool:
        if not isinstance(message.headers, dict) or _key(message.headers) not in self._acked:
            return False
        message.ack_log_error(_logger, self.consumer.connection_errors)
        _logger.info("task %s came again, its ack was lost; it is not run twice", message.headers.get("id"))
        return True

    def _rejected(self, request: Any, logger: Any, errors: Any, requeue: bool = False) -> None:  # noqa: FBT001, FBT002 - Celery's
        if requeue:  # the worker that gets it next is to run it
            self._orphans.pop(request.id, None)

    def _still_runs(self, message: Any) -> bool:
        headers = message.headers
        request = self._orphans.get(headers.get("id", "")) if isinstance(headers, dict) else None
        if request is None:
            return False
        if _key(headers) != _key(request.request_dict):
            return False
        if not request.acknowledged and request not in self.consumer.pool.requests():
            return False  # it was killed
        del self._orphans[request.id]
        if request.acknowledged:
            message.ack_log_error(_logger, self.consumer.connection_errors)
        else:
            # Celery before 5.7 has no call_soon_ack(): its tasks acknowledge through call_soon().
            soon = getattr(self.consumer, "call_soon_ack", None) or self.consumer.call_soon
            request._on_ack = partial(soon, message.ack_log_error)
            request.on_reject = partial(soon, message.reject_log_error)
        _logger.info("%s came again after a lost connection; it is not run twice", request.humaninfo())
        return True


def _key(headers: Any) -> tuple[Any, ...]:
    """Return what tells one message of a task from another.

    A retry carries the same id, one for a quota also the same `retries` but another `eta`, and
    what a task is replaced by another nesting.
    """
    names = ("id", "retries", "eta", "replaced_task_nesting")
    return tuple(headers.get(name) or 0 for name in names)


def _redelivered(message: Any) -> bool:
    # AMQP says it in the delivery, kombu's Redis in the headers.
    info: Any = message.delivery_info or {}
    headers = message.headers
    return bool(info.get("redelivered") or (isinstance(headers, dict) and headers.get("redelivered")))
