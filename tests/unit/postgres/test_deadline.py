"""Deadlines of queries: whose, and which of several."""

from __future__ import annotations

from contextlib import suppress
from contextvars import copy_context

import gevent

from greenkit.postgres import deadline
from greenkit.postgres._deadline import current, lifted


def test_the_earliest_of_nested_deadlines_wins() -> None:
    """An inner block cannot give itself more time than the outer one has."""
    with deadline(10.0) as outer:
        with deadline(60.0):
            assert current() is outer
        with deadline(1.0) as inner:
            assert current() is inner
        assert current() is outer
    assert current().timeout() is None


def test_none_sets_no_deadline_and_lifts_none() -> None:
    """`deadline(None)` leaves what is in force in force."""
    with deadline(10.0) as outer, deadline(None):
        assert current() is outer
    with deadline(None):
        assert current().timeout() is None


def test_a_deadline_is_the_greenlets_own() -> None:
    """A greenlet started inside has none; one that runs in a copy of the context has it."""
    with deadline(10.0) as outer:
        alone = gevent.spawn(current)
        with_context = gevent.spawn(copy_context().run, current)
        gevent.joinall([alone, with_context], raise_error=True)
    assert alone.value.timeout() is None
    assert with_context.value is outer


def test_a_lifted_deadline_is_back_after_the_block() -> None:
    """Cleaning up has bounds of its own, whatever ends it."""
    with deadline(10.0) as outer:
        with suppress(KeyError), lifted():
            assert current().timeout() is None
            with lifted(60.0):
                assert current().remaining() > 10.0
            raise KeyError
        assert current() is outer
