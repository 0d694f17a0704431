"""Reading faulthandler's words, and whom to blame."""

from __future__ import annotations

import sysconfig

from greenkit.watchdog._stack import Sample, common, parse

LIB = sysconfig.get_path("stdlib")
DUMP = f"""Thread 0x00007f0000000001 (most recent call first):
  File "{LIB}/json/decoder.py", line 353 in raw_decode
  File "/srv/shop/tasks.py", line 41 in load
  File "/srv/shop/tasks.py", line 12 in ask

Current thread 0x00007f0000000002 (most recent call first):
  File "/srv/shop/other.py", line 1 in other
"""


def test_the_users_innermost_line_is_blamed() -> None:
    """Not the library the user called, but the line that called it."""
    taken = parse(DUMP, 0x7F0000000001)
    assert taken is not None
    assert taken.where == "/srv/shop/tasks.py:41 load"
    assert taken.lines[-1] == "/srv/shop/tasks.py:12 ask"


def test_a_hub_that_waits_is_nobodys_fault() -> None:
    """Only a greenlet's stack can block; the loop's own is idle."""
    dump = 'Thread 0x0000000000000001 (most recent call first):\n  File "/x/gevent/hub.py", line 9 in run\n'
    assert parse(dump, 1) is None
    assert parse(dump, 2) is None


def test_two_looks_blame_what_they_share() -> None:
    """A loop that calls a helper is blamed at the loop, not at the helper it happened to be in."""
    first = Sample(("/a.py:9 helper", "/a.py:3 loop", "/a.py:1 task"), "/a.py:9 helper")
    second = Sample(("/b.py:2 other", "/a.py:4 loop", "/a.py:1 task"), "/b.py:2 other")
    assert common(first, second) == Sample(("/a.py:4 loop", "/a.py:1 task"), "/a.py:4 loop")
