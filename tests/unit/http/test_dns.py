"""Lookups of one name at the same moment are one lookup."""

from __future__ import annotations

import socket

import gevent
import pytest
from gevent.event import Event

from greenkit.http import coalesce_lookups
from greenkit.http._dns import _Coalescing

FOUND = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 443))]


class Resolver:
    """Answer when told to, and count."""

    def __init__(self):
        self.asked, self.told, self.error = [], Event(), None
        self.closed = False

    def getaddrinfo(self, *args, **kwargs):
        self.asked.append(args)
        self.told.wait(10)
        if self.error:
            raise self.error
        return list(FOUND)

    def close(self):
        self.closed = True


@pytest.fixture
def inside():
    """Give the resolver that is really asked."""
    return Resolver()


def crowd(resolver, size, name="api.example.org"):
    jobs = [gevent.Greenlet(resolver.getaddrinfo, name, 443) for _ in range(size)]
    for job in jobs:
        job.start()
    for _ in range(5):
        gevent.sleep(0)
    return jobs


def test_a_crowd_asks_once(inside):
    """200 greenlets, one question; each gets a list of its own."""
    resolver = _Coalescing(inside)
    jobs = crowd(resolver, 200)
    assert len(inside.asked) == 1
    inside.told.set()
    answers = [job.get(timeout=5) for job in jobs]
    assert answers == [FOUND] * 200
    answers[0].clear()
    assert answers[1] == FOUND


def test_nothing_is_remembered(inside):
    """Who comes after the answer asks anew; another name is another question."""
    resolver = _Coalescing(inside)
    inside.told.set()
    for name in ("a", "a", "b"):
        assert resolver.getaddrinfo(name, 443) == FOUND
    assert inside.asked == [("a", 443), ("a", 443), ("b", 443)]
    assert "0 under way" in repr(resolver)


def test_an_error_reaches_each_as_its_own(inside):
    """Everybody who waits gets the resolver's error, in a copy of its own."""
    resolver = _Coalescing(inside)
    inside.error = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    jobs = crowd(resolver, 3)
    inside.told.set()
    errors = []
    for job in jobs:
        with pytest.raises(socket.gaierror, match="not known") as caught:
            job.get(timeout=5)
        errors.append(caught.value)
    assert len({id(error) for error in errors}) == 3
    assert errors[0].errno == socket.EAI_NONAME


def test_the_first_may_die_without_the_others(inside):
    """The one who asked is killed while it waits; the others get their answer."""
    resolver = _Coalescing(inside)
    jobs = crowd(resolver, 3)
    jobs[0].kill()
    inside.told.set()
    assert [job.get(timeout=5) for job in jobs[1:]] == [FOUND, FOUND]
    assert len(inside.asked) == 1


def test_a_forked_child_asks_anew(inside):
    """What only the parent's threads would answer is forgotten."""
    resolver = _Coalescing(inside)
    jobs = crowd(resolver, 1)
    resolver._on_fork()
    jobs += crowd(resolver, 1)
    assert len(inside.asked) == 2
    inside.told.set()
    gevent.joinall(jobs, timeout=5, raise_error=True)


def test_what_else_a_resolver_does_is_passed_on(inside):
    """Reverse lookups and closing are the inner resolver's."""
    _Coalescing(inside).close()
    assert inside.closed


def test_an_unpatched_process_is_left_alone(monkeypatch):
    """Where sockets block natively there is nothing to share, and no hub is made for it."""
    monkeypatch.setattr("gevent.monkey.is_module_patched", lambda name: False)
    monkeypatch.setattr("gevent.get_hub", lambda: pytest.fail("it made a hub"))
    assert coalesce_lookups() is False
