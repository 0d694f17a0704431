"""What is patched in Celery for the releases that need it."""

from __future__ import annotations

from typing import Any

import gevent
import pytest
from celery import Celery
from celery.backends.base import Backend

from greenkit.celery._upstream import store_base_exceptions


def encode_of_celery_5_6(backend: Any, result: Any, state: str) -> Any:
    """As celery/backends/base.py has it there."""
    if state in backend.EXCEPTION_STATES and isinstance(result, Exception):
        return backend.prepare_exception(result)
    return backend.prepare_value(result)


@pytest.fixture
def backend() -> Any:
    return Celery("results", backend="cache+memory://", set_as_current=False).backend


def test_a_result_holds_an_exception_that_is_no_exception(backend: Any, monkeypatch: Any) -> None:
    """Celery before 5.7 hands `gevent.Timeout` to the serializer, which knows no such thing."""
    monkeypatch.setattr(Backend, "encode_result", encode_of_celery_5_6)
    assert isinstance(backend.encode_result(gevent.Timeout(1), "FAILURE"), gevent.Timeout)
    undo = store_base_exceptions()
    assert backend.encode_result(gevent.Timeout(1), "FAILURE")["exc_type"] == "Timeout"
    assert backend.encode_result({"a": 1}, "SUCCESS") == {"a": 1}
    undo()
    assert Backend.encode_result is encode_of_celery_5_6


def test_a_release_that_can_is_left_alone() -> None:
    """Celery 5.7 stores each `BaseException` itself."""
    before = Backend.encode_result
    undo = store_base_exceptions()
    if "BaseException" in before.__code__.co_names:
        assert Backend.encode_result is before
    undo()
    assert Backend.encode_result is before
