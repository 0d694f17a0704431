"""A message that comes again although its task runs here, or ran.

A broker that loses a connection gives out again what was not acknowledged on it, also what still
runs. With AMQP an ack belongs to the connection its message came on, so the running task takes
over the new message and acknowledges that one, instead of running twice.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from celery.utils.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["SecondDeliveries"]

_logger = get_logger(__name__)


class SecondDeliveries:
    """Recognise second deliveries of what this worker had in hand when it lost its connection."""

    def __init__(self, consumer: Any) -> None:
        self.consumer = consumer
        self._orphans: dict[str, Any] = {}

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
            if self._orphans and self._is_known(message):
                return None
            return receive(message)

        return on_message

    def _rejected(self, request: Any, logger: Any, errors: Any, requeue: bool = False) -> None:  # noqa: FBT001, FBT002 - Celery's
        if requeue:  # whoever gets it again is to run it
            self._orphans.pop(request.id, None)

    def _is_known(self, message: Any) -> bool:
        headers = message.headers
        request = self._orphans.get(headers.get("id", "")) if isinstance(headers, dict) else None
        if request is None or not _redelivered(message):
            return False
        if headers.get("retries", 0) != request.request_dict.get("retries", 0):
            return False  # a retry carries the same id
        if not request.acknowledged and request not in self.consumer.pool.requests():
            return False  # it was killed
        del self._orphans[request.id]
        if request.acknowledged:
            message.ack_log_error(_logger, self.consumer.connection_errors)
        else:
            request._on_ack = partial(self.consumer.call_soon_ack, message.ack_log_error)
            request.on_reject = partial(self.consumer.call_soon_ack, message.reject_log_error)
        _logger.info("%s came again after a lost connection; it is not run twice", request.humaninfo())
        return True


def _redelivered(message: Any) -> bool:
    # AMQP says it in the delivery, kombu's Redis in the headers.
    info: Any = message.delivery_info or {}
    return bool(info.get("redelivered") or message.headers.get("redelivered"))
