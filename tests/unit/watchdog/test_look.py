"""What a look says, and whom two looks blame."""

from __future__ import annotations

import json
import time
from typing import ClassVar

import gevent
import pytest
from gevent.monkey import get_original

from greenkit.watchdog._look import Culprit, Look, Spot, common, culprit, look, spot
from greenkit.watchdog._sentry import Block
from greenkit.watchdog._usage import Usage

start_thread = get_original("_thread", "start_new_thread")
new_lock = get_original("_thread", "allocate_lock")
get_ident = get_original("_thread", "get_ident")


def helper() -> None: ...
def other() -> None: ...
def loop() -> None: ...


HELPER, OTHER, LOOP = (Spot(one.__code__, 1) for one in (helper, other, loop))
LIBRARY = Spot(json.loads.__code__, 353)


def at(one: Spot, line: int) -> Spot:
    return Spot(one.code, line)


def test_two_looks_blame_what_they_share() -> None:
    """A loop that calls a helper is blamed at the loop, not at the helper it happened to be in."""
    seen = common(Look((HELPER, at(LOOP, 3)), "time.sleep"), Look((OTHER, at(LOOP, 4)), "time.sleep"))
    assert seen == Look((at(LOOP, 4),))


def test_the_same_place_twice_keeps_its_call() -> None:
    """Nothing is lost when nothing moved."""
    seen = Look((HELPER, LOOP), "time.sleep", "ask[7]")
    assert common(seen, seen) == seen


def test_two_greenlets_have_no_culprit() -> None:
    """Two looks with nothing in common were not one greenlet's."""
    assert common(Look((HELPER,)), Look((OTHER,))) is None
    assert common(Look(()), Look((OTHER,))) is None
    assert common(Look(()), Look(())) == Look(())


def test_a_block_that_moves_on_is_blamed_on_what_lasts() -> None:
    """A first look at something else does not hide the culprit; looks that never agree blame nobody."""
    block = Block(0.0, 0.0)
    block.add(Look((OTHER,)))
    assert block.certain  # one look is all a call that kept the interpreter to itself allows
    block.add(Look((HELPER,)))
    assert not block.certain
    block.add(Look((HELPER,)))
    assert block.certain
    assert block.fact(1.0, Usage(), over=True).function == "helper"


def test_a_library_line_in_common_is_not_enough() -> None:
    """Two phases below one library function: the one that lasts is the user's line."""
    block = Block(0.0, 0.0)
    block.add(Look((OTHER, LIBRARY)))
    block.add(Look((HELPER, LIBRARY)))
    block.add(Look((HELPER, LIBRARY)))
    assert block.certain
    assert block.fact(1.0, Usage(), over=True).function == "helper"


def test_a_library_that_tidies_up_after_a_block_is_not_blamed_for_it() -> None:
    """The last look at a task over its limit meets what stores its result."""
    block = Block(0.0, 0.0)
    block.add(Look((HELPER, LIBRARY)))
    block.add(Look((at(LIBRARY, 360),)))
    assert block.certain
    assert block.fact(1.0, Usage(), over=True).function == "helper"


def test_the_users_innermost_line_is_blamed() -> None:
    """Not the library the user called; without a user's line whoever spawned it; else anybody."""
    spawned = Culprit("<Greenlet>", LOOP)
    assert spot(Look((LIBRARY, HELPER, LOOP)), spawned) == HELPER
    assert spot(Look((LIBRARY,)), spawned) == LOOP
    assert spot(Look((LIBRARY,)), Culprit("the main greenlet")) == LIBRARY
    assert spot(Look(()), None) is None


def from_another_thread(question):
    """Return what `question()` answers in a native thread, while this greenlet does not switch."""
    answer: list[object] = []
    done = new_lock()
    done.acquire()
    start_thread(lambda: (answer.append(question()), done.release()), ())
    done.acquire()
    return answer[0]


def ask(hub: object) -> Culprit:
    return from_another_thread(lambda: culprit(hub))


def test_the_running_greenlet_is_found() -> None:
    """From another thread: by what it runs, and by the user's line that spawned it."""
    hub = gevent.get_hub()
    crowd = [gevent.spawn(gevent.sleep, 0) for _ in range(5)]
    one = gevent.spawn(ask, hub)
    one.name = "asker"
    one.join()
    gevent.joinall(crowd)
    assert one.value.text.startswith("<Greenlet asker: ")
    assert one.value.text.endswith(".ask>")
    assert one.value.spawned.code.co_name == "test_the_running_greenlet_is_found"
    assert ask(hub).text == "the main greenlet"


class Hostile:
    """Fails the test when any code of it is run by somebody who only looks."""

    ran: ClassVar[list[str]] = []

    def __repr__(self) -> str:
        self.ran.append("repr")
        return "hostile"

    @property
    def __class__(self):
        self.ran.append("__class__")
        return str

    def __eq__(self, other: object) -> bool:
        self.ran.append("eq")
        return False

    def __hash__(self) -> int:
        self.ran.append("hash")
        return 1


def test_nothing_foreign_is_called() -> None:
    """Neither the arguments of the greenlet nor any object of the process is asked anything."""
    hostile = Hostile()
    one = gevent.spawn(lambda hub, _: ask(hub), gevent.get_hub(), hostile)
    one.join()
    assert "lambda" in one.value.text
    assert Hostile.ran == []
    assert hostile is not None


def test_a_thread_is_seen_from_its_innermost_line() -> None:
    """File, line and module of every frame, this function's caller last."""
    me = get_ident()

    def seen_waiting() -> Look | None:
        """Look until this thread has come to its lock: the other one may be the first to run."""
        deadline = time.monotonic() + 20.0
        seen = look(me)
        while time.monotonic() < deadline and (seen is None or not seen.call.endswith("acquire")):
            seen = look(me)
        return seen

    seen = from_another_thread(seen_waiting)
    assert seen.spots[0].code is from_another_thread.__code__
    assert seen.spots[1].code is test_a_thread_is_seen_from_its_innermost_line.__code__
    assert seen.spots[0].module == __name__
    assert seen.call == "_thread.lock.acquire"


@pytest.mark.parametrize("ident", [0, 2**40])
def test_no_such_thread_is_no_frames(ident: int) -> None:
    """A thread that is gone has an empty stack, and no error."""
    assert look(ident) == Look(())
