"""A hub that is really blocked, and one that is not."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import gevent
import pytest
from gevent.monkey import get_original

from greenkit import facts, watchdog
from greenkit.errors import ConfigError
from greenkit.testing import assert_no_switch
from greenkit.watchdog._log import BlockLog
from greenkit.watchdog._sentry import STUCK

if TYPE_CHECKING:
    from collections.abc import Iterator

start_thread = get_original("_thread", "start_new_thread")
new_lock = get_original("_thread", "allocate_lock")
PATIENCE = 20.0


class Told(list):
    """What an observer heard, in the native thread."""


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def dog(told: Told) -> Iterator[watchdog.Watchdog]:
    """Give a watching watchdog with a short threshold, whose hub has run."""
    made = watchdog.start(threshold=0.02)
    made.observe(told.append)
    gevent.sleep(0)
    yield made
    watchdog.stop()


@pytest.fixture
def ended() -> Iterator[list[facts.HubBlocked]]:
    """Give the facts emitted meanwhile."""
    heard: list[facts.HubBlocked] = []
    unsubscribe = facts.subscribe(heard.append)  # type: ignore[arg-type]
    yield heard
    unsubscribe()


def hog(told: Told, count: int = 1) -> None:
    """Hold the hub until observers were told `count` times."""
    end = time.monotonic() + PATIENCE
    while len(told) < count and time.monotonic() < end:
        pass


def until(condition) -> None:
    """Turn the hub until it holds."""
    end = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < end
        gevent.sleep(0)


def test_a_block_is_told_with_its_line(dog, told, ended) -> None:
    """While it lasts to observers, at its end as one fact: the function, the module, the greenlet."""
    gevent.spawn(hog, told).join()
    until(lambda: ended)
    assert [one.over for one in told] == [False]
    assert len(ended) == 1
    (fact,) = ended
    assert fact.over
    assert fact.where.rpartition(" ")[2] == fact.function == "hog"
    assert (fact.module, fact.task) == (__name__, "")
    assert "hog>" in fact.greenlet
    assert fact.seconds >= told[0].seconds - dog.interval >= dog.threshold - dog.interval
    seen = dog.statistics()
    assert (seen.blocks, seen.blocked_seconds) == (1, fact.seconds)
    assert seen.worst_where == fact.where


def test_a_stuck_hub_is_told_again(dog, told, capfd) -> None:
    """After ten thresholds observers hear of it a second time, and standard error for the first."""
    gevent.spawn(hog, told, 2).join()
    assert len(told) == 2
    assert told[1].seconds > STUCK * dog.threshold
    assert "hub has stood still" in capfd.readouterr().err


def test_an_observer_that_raises_is_survived(dog, told, capfd) -> None:
    """The thread goes on; the error is on standard error; an unsubscribed observer hears nothing."""
    dog.observe(lambda fact: 1 / 0)
    mute: list[object] = []
    dog.observe(mute.append)()
    for count in (1, 2):
        gevent.spawn(hog, told, count).join()
        gevent.sleep(0)
    assert len(told) >= 2
    assert mute == []
    assert "observer of the watchdog raised ZeroDivisionError" in capfd.readouterr().err


def test_an_expected_block_is_no_block(dog, told, ended) -> None:
    """Neither told nor counted, and what comes after it is watched again."""
    native = new_lock()
    native.acquire()
    with watchdog.expected(), watchdog.expected():
        native.acquire(timeout=3 * dog.threshold)
    worst = dog.statistics().worst_lag
    assert told == []
    assert worst < 3 * dog.threshold
    gevent.spawn(hog, told).join()
    until(lambda: ended)
    assert [one.function for one in ended] == ["hog"]


def test_an_idle_hub_is_nobodys_fault(dog, told) -> None:
    """A hub that waits for its loop is not blocked."""
    beats = [dog._pulse.last]
    until(lambda: beats.append(dog._pulse.last) or len(set(beats)) > 8)
    assert told == []


def test_stop_ends_the_thread_and_starting_again_keeps_observers(dog, told) -> None:
    """No thread is left behind, from whichever thread it is stopped; observers move to the next one."""
    sentry = dog._sentry
    second = watchdog.start(threshold=0.03)
    assert sentry._ended.acquire(False) is False  # taken by stop(), after the thread gave it back
    assert watchdog.running() is second
    gevent.sleep(0)
    gevent.spawn(hog, told).join()
    assert len(told) == 1
    done = new_lock()
    done.acquire()
    start_thread(lambda: (second.stop(), done.release()), ())
    done.acquire()
    assert "stopped" in repr(second)
    until(lambda: second._timer is None)  # its own hub put the timer away


def test_it_can_be_seen() -> None:
    """snapshot() shows a running watchdog."""
    watchdog.start(threshold=6)
    assert 6 in [one["threshold"] for one in facts.snapshot()["watchdog"].values()]
    watchdog.stop()
    assert watchdog.running() is None


def test_starting_and_stopping_never_switches() -> None:
    """What is called in the hub's thread does not leave it."""
    with assert_no_switch():
        made = watchdog.start(threshold=1)
        made.start()
        with made.expected():
            made.statistics()
        made.stop()
        made.stop()
        watchdog.stop()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"threshold": 0}, "threshold is 0"),
        ({"threshold": float("nan")}, "threshold is nan"),
        ({"threshold": 0.1, "interval": 0.06}, "at most half the threshold"),
        ({"threshold": 0.1, "interval": 0}, "interval is 0"),
        ({"quiet": -1}, "quiet is -1"),
    ],
)
def test_a_setting_that_cannot_work_is_refused(options, words) -> None:
    """With its value, and what it may be."""
    with pytest.raises(ValueError, match=words):
        watchdog.Watchdog(**options)


@pytest.mark.parametrize(
    ("text", "seconds"), [("100ms", 0.1), (" 0.25s ", 0.25), ("0.5", 0.5), ("1.5 s", 1.5), (".2", 0.2)]
)
def test_the_environment_starts_it(monkeypatch, text, seconds) -> None:
    """GREENKIT_WATCHDOG is a duration."""
    monkeypatch.setenv("GREENKIT_WATCHDOG", text)
    made = watchdog.from_environ()
    assert made is watchdog.running()
    assert made.threshold == seconds
    watchdog.stop()


@pytest.mark.parametrize("text", ["", "0", "off", "No"])
def test_the_environment_leaves_it_off(monkeypatch, text) -> None:
    """Nothing is started without being asked for."""
    monkeypatch.setenv("GREENKIT_WATCHDOG", text)
    assert watchdog.from_environ() is None
    assert watchdog.running() is None


@pytest.mark.parametrize("text", ["fast", "-1", "100 ms ms", "0ms", "1h", "1e400"])
def test_the_environment_is_told_what_is_wrong(monkeypatch, text) -> None:
    """A value that is no duration is an error with the value and an example."""
    monkeypatch.setenv("GREENKIT_WATCHDOG", text)
    with pytest.raises(ConfigError, match=r"GREENKIT_WATCHDOG=.* is no duration.*100ms"):
        watchdog.from_environ()


def blocked(where: str, seconds: float = 0.2, call: str = "") -> facts.HubBlocked:
    return facts.HubBlocked(seconds, where, call=call)


def test_a_flood_is_one_line_with_a_count(caplog) -> None:
    """The first at once, the rest together; another place is not silenced by it."""
    log = BlockLog(quiet=10)
    with caplog.at_level(logging.WARNING):
        for now in range(5):
            log.note(blocked("/a.py:1 f"), now)
        log.note(blocked("/b.py:2 g"), 5)
        assert log.due == 10
        log.flush(9)
        assert len(caplog.messages) == 2
        log.flush(10)
        log.note(blocked("/a.py:1 f"), 20)
    first, other, flood, again = caplog.messages
    assert first == again
    assert "/b.py:2" in other
    assert "4 more time(s) in /a.py:1 f within 10 s: 0.800 s together, 0.200 s at worst" in flood


def test_the_line_says_what_to_do_instead(caplog) -> None:
    """A known call has its own remedy; an unknown place is not blamed on anybody."""
    log = BlockLog(quiet=0)
    with caplog.at_level(logging.WARNING):
        log.note(blocked("/a.py:1 f", call="fcntl.flock"), 0)
        log.note(blocked(""), 0)
    assert "calling fcntl.flock" in caplog.messages[0]
    assert "LOCK_NB" in caplog.messages[0]
    assert "without one greenlet to blame" in caplog.messages[1]


def test_the_log_forgets_places(caplog) -> None:
    """A program that blocks in a thousand places does not fill the memory, and loses no count."""
    log = BlockLog(quiet=10)
    with caplog.at_level(logging.WARNING):
        log.note(blocked("first"), 0)
        log.note(blocked("first"), 0)
        for number in range(1000):
            log.note(blocked(str(number)), 0)
    assert len(log._places) <= 100
    assert sum("1 more time(s) in first" in line for line in caplog.messages) == 1
