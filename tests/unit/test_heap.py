"""What looks at every object of the process lets go of all of them."""

from __future__ import annotations

import gc
import sys

from greenkit._heap import instances, with_subclasses


class Kind:
    """Looked for by the tests."""


class Below(Kind):
    """A subclass, looked for when asked."""


class Lazy:
    """A proxy, whose class is whatever it is asked for."""

    asked = 0

    @property
    def __class__(self) -> type:  # type: ignore[override]
        Lazy.asked += 1
        return Kind


def test_the_objects_of_a_kind_are_found_by_their_type_alone() -> None:
    """Subclasses when they are named; nothing is evaluated."""
    mine, below, lazy = Kind(), Below(), Lazy()
    assert instances([Kind]) == [mine]
    assert set(map(id, instances(with_subclasses(Kind)))) == {id(mine), id(below)}
    assert (Lazy.asked, type(lazy)) == (0, Lazy)


def test_nothing_is_held_when_the_walk_has_ended() -> None:
    """Not even until the next collection: counted where the C function returns."""
    collected = gc.isenabled()
    gc.disable()
    try:
        young = [[number] for number in range(1000)]
        before = _counts(young)
        seen: list[list[int]] = []

        def note(_frame: object, event: str, called: object) -> None:
            if event == "c_return" and getattr(called, "__name__", "") == "extend":
                seen.append(_counts(young))

        sys.setprofile(note)
        try:
            instances([Kind])
        finally:
            sys.setprofile(None)
        assert before in seen, "the walk was not seen"
        assert all(counts == before for counts in [*seen, _counts(young)])
    finally:
        if collected:
            gc.enable()


def _counts(things: list[list[int]]) -> list[int]:
    return [sys.getrefcount(things[at]) for at in range(len(things))]
