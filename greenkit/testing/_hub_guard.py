"""Watch the hub during a test: blocks, leaked greenlets, blocking calls."""

from __future__ import annotations

import contextlib
import weakref
from typing import TYPE_CHECKING, Any

import gevent

from greenkit.watchdog import LivingGreenlet, NewGreenlets, Watchdog, forbid, keep_instrumented

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from greenkit.facts import HubBlocked
    from greenkit.testing._hub import HubRules

__all__ = ["HubGuard", "release"]

_GRACE = 0.1
"""Seconds in which a greenlet that is about to end may do so."""


class HubGuard:
    """Check a test against its rules; a context manager around its call.

    Args:
        rules: The rules.

    Attributes:
        blocks: Every block of the hub with a culprit, in the order they ended.
        leaked: The greenlets that outlived the test.
    """

    def __init__(self, rules: HubRules) -> None:
        self.blocks: list[HubBlocked] = []
        self.leaked: list[LivingGreenlet] = []
        self._rules = rules
        self._dog: Watchdog | None = None
        self._forbidden = forbid(allow=rules.allow) if rules.forbid else None
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> HubGuard:
        # Mark first, so that greenlets the other checks wake have begun before the count at the end.
        if self._rules.max_leaked is not None:
            _new_greenlets.mark()
        if self._rules.max_block is not None:
            self._dog = _watching(self._rules.max_block, self._note)
            self._stack.callback(self._rest, self._dog)
        if self._forbidden is not None:
            keep_instrumented(True)
            self._stack.enter_context(self._forbidden)
        return self

    def _rest(self, dog: Watchdog) -> None:
        dog.settle()
        gevent.sleep(0)  # the last block's report
        _resting[dog] = dog.expected()
        _resting[dog].__enter__()

    def __exit__(self, *exc: object) -> None:
        with contextlib.suppress(Exception):
            # forbid() raises errors of other greenlets again; complaint() reports them all.
            self._stack.close()
        if self._rules.max_leaked is not None and exc[0] is None:
            self.leaked = self._outlived()

    @contextlib.contextmanager
    def expected(self) -> Iterator[None]:
        """Excuse a known block and known blocking calls.

        Switches: never.
        """
        with contextlib.ExitStack() as stack:
            if self._dog is not None:
                stack.enter_context(self._dog.expected())
            if self._forbidden is not None:
                stack.enter_context(forbid(allow=["*"]))
            yield

    def complaint(self) -> str:
        """Return the violations of the rules, or ""."""
        return "\n".join([*self._of_calls(), *self._of_blocks(), *self._of_leaks()])

    def _note(self, fact: HubBlocked) -> None:
        if fact.where or fact.greenlet:
            self.blocks.append(fact)

    def _of_calls(self) -> Iterator[str]:
        for error in self._forbidden.caught if self._forbidden is not None else ():
            yield f"blocking call: {error}"

    def _of_blocks(self) -> Iterator[str]:
        for block in self.blocks:
            calling = f", calling {block.call}" if block.call else ""
            yield (
                f"the hub was blocked for {block.seconds:.3f} s (at most {self._rules.max_block:g} allowed)"
                f" in {block.where}{calling}, by {block.greenlet or 'an unknown greenlet'}"
            )

    def _of_leaks(self) -> Iterator[str]:
        if len(self.leaked) > (self._rules.max_leaked or 0):
            yield (
                f"{len(self.leaked)} greenlet(s) outlived the test (at most {self._rules.max_leaked}"
                " allowed); join or kill them:"
            )
            yield from (f"  {leaked}" for leaked in self.leaked)

    def _outlived(self) -> list[LivingGreenlet]:
        fresh = _new_greenlets.living()
        if fresh:
            gevent.joinall(
                [found.greenlet for found in fresh if isinstance(found.greenlet, gevent.Greenlet)], _GRACE
            )
        return [found for found in fresh if not found.greenlet.dead]


_new_greenlets = NewGreenlets()
# One watchdog for all tests of a hub with one limit, excused between them: to start and end a native thread
# for every test takes longer than most tests.
_dogs: weakref.WeakKeyDictionary[Any, dict[float, tuple[Watchdog, _Report]]] = weakref.WeakKeyDictionary()
_resting: dict[Watchdog, contextlib.AbstractContextManager[None]] = {}


class _Report:
    """Pass blocks to the running test."""

    def __init__(self) -> None:
        self.note: Callable[[HubBlocked], None] = _ignore

    def __call__(self, fact: HubBlocked) -> None:
        self.note(fact)


def _ignore(_: HubBlocked) -> None:
    """Ignore a block between two tests."""


def _watching(limit: float, note: Callable[[HubBlocked], None]) -> Watchdog:
    dogs = _dogs.setdefault(gevent.get_hub(), {})
    if limit not in dogs:
        report = _Report()
        dogs[limit] = Watchdog(limit, report=report, name="test"), report
        dogs[limit][0].start()
        gevent.sleep(0)  # from here on the hub is watched
    dog, report = dogs[limit]
    report.note = note
    if dog in _resting:
        _resting.pop(dog).__exit__(None, None, None)
    return dog


def release() -> None:
    """Stop the watchdogs shared by the guarded tests."""
    for dogs in list(_dogs.values()):
        for dog, _ in dogs.values():
            dog.stop()
    _dogs.clear()
    _resting.clear()
    _new_greenlets.close()
    keep_instrumented(False)
