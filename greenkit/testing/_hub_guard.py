"""Watch the hub through one test: what held it, what outlived it, which blocking calls it made."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import gevent

from greenkit.watchdog import LivingGreenlet, Watchdog, forbid, living_greenlets

if TYPE_CHECKING:
    from collections.abc import Iterator

    from greenkit.facts import HubBlocked
    from greenkit.testing._hub import HubRules

__all__ = ["HubGuard"]

_GRACE = 0.1
"""Seconds in which a greenlet that is about to end may do so."""


class HubGuard:
    """Hold a test to its rules; a context manager around its call.

    Args:
        rules: What it must keep.

    Attributes:
        blocks: Every block of the hub with a culprit, in the order they ended.
        leaked: The greenlets that outlived the test.
    """

    def __init__(self, rules: HubRules) -> None:
        self.blocks: list[HubBlocked] = []
        self.leaked: list[LivingGreenlet] = []
        self._rules = rules
        block = rules.max_block
        self._dog = Watchdog(block, report=self._note, name="test") if block is not None else None
        self._forbidden = forbid(allow=rules.allow) if rules.forbid else None
        self._stack = contextlib.ExitStack()
        self._before: set[int] = set()
        self._known: list[LivingGreenlet] = []

    def __enter__(self) -> HubGuard:
        if self._rules.max_leaked is not None:
            self._known = living_greenlets()  # kept, so that no id is used again
        if self._dog is not None:
            self._dog.start()
            self._stack.callback(gevent.sleep, 0)  # the last block's report
            self._stack.callback(self._dog.stop)
            gevent.sleep(0)  # from here on the hub is watched
        if self._forbidden is not None:
            self._stack.enter_context(self._forbidden)
        return self

    def __exit__(self, *exc: object) -> None:
        with contextlib.suppress(Exception):
            # forbid() raises again what other greenlets did; complaint() tells it all.
            self._stack.close()
        if self._rules.max_leaked is not None and exc[0] is None:
            self.leaked = self._outlived()

    @contextlib.contextmanager
    def expected(self) -> Iterator[None]:
        """Excuse a block, and blocking calls, that are known.

        Switches: never.
        """
        with contextlib.ExitStack() as stack:
            if self._dog is not None:
                stack.enter_context(self._dog.expected())
            if self._forbidden is not None:
                stack.enter_context(forbid(allow=["*"]))
            yield

    def complaint(self) -> str:
        """Return what the test did wrong, "" when nothing."""
        return "\n".join([*self._of_calls(), *self._of_blocks(), *self._of_leaks()])

    def _note(self, fact: HubBlocked) -> None:
        if fact.where or fact.greenlet:
            self.blocks.append(fact)

    def _of_calls(self) -> Iterator[str]:
        for one in self._forbidden.caught if self._forbidden is not None else ():
            yield f"blocking call: {one}"

    def _of_blocks(self) -> Iterator[str]:
        for one in self.blocks:
            calling = f", calling {one.call}" if one.call else ""
            yield (
                f"the hub was blocked for {one.seconds:.3f} s (at most {self._rules.max_block:g} allowed)"
                f" in {one.where}{calling}, by {one.greenlet or 'an unknown greenlet'}"
            )

    def _of_leaks(self) -> Iterator[str]:
        if len(self.leaked) > (self._rules.max_leaked or 0):
            yield (
                f"{len(self.leaked)} greenlet(s) outlived the test (at most {self._rules.max_leaked}"
                " allowed); join or kill them:"
            )
            yield from (f"  {one}" for one in self.leaked)

    def _outlived(self) -> list[LivingGreenlet]:
        known = {id(one.greenlet) for one in self._known}
        fresh = [one for one in living_greenlets() if id(one.greenlet) not in known]
        if fresh:
            gevent.joinall(
                [one.greenlet for one in fresh if isinstance(one.greenlet, gevent.Greenlet)], _GRACE
            )
        self._known = []
        return [one for one in fresh if not one.greenlet.dead]
