from __future__ import annotations

import sys

import pytest

from greenkit.doctor._standstill import Standstill
from greenkit.findings import Severity


@pytest.fixture
def green(monkeypatch):
    """Have the process pass for a patched one."""
    monkeypatch.setitem(sys.modules, "gevent.monkey", type("monkey", (), {"saved": {"time": {}}}))


def stand(still: Standstill, seconds: float, *, samples: int = 20) -> bool:
    frame = sys._getframe()
    return [still.watch(frame, at * seconds / samples) for at in range(samples + 1)][-1]


def test_one_instruction_for_the_limit_is_a_standstill(green):
    """It is told with the line, the function and the whole stack."""
    still = Standstill(3.0)
    assert not stand(still, 2.9)
    still = Standstill(3.0)
    assert stand(still, 3.1)
    (found,) = still.findings()
    assert (found.id, found.effect, found.attribute) == ("GK401", "hangs", "stand")
    assert found.where.startswith(f"{__file__}:")
    assert len(found.evidence) > 2


def test_a_thread_that_goes_on_is_not_told(green):
    """The thread ends, or another frame runs: it begins anew."""
    still = Standstill(3.0)
    assert stand(still, 3.1)
    assert not still.watch(None, 4.0)
    assert [one.severity for one in still.findings()] == [Severity.INFO], "it went on: nobody is accused"
    assert not any(still.watch(sys._getframe(at % 2), 5.0 + at) for at in range(20))


@pytest.mark.parametrize("limit", [0.0, 3.0])
def test_a_process_without_gevent_may_wait(monkeypatch, limit):
    """Nothing is patched, or the limit is off: nobody stands still."""
    monkeypatch.setitem(sys.modules, "gevent.monkey", type("monkey", (), {"saved": {}}))
    still = Standstill(limit)
    assert not stand(still, 100.0)
    assert still.findings() == ()


def test_a_busy_machine_is_no_standstill(green):
    """Two samples a long time apart say that nobody had a turn, not that one thread had none."""
    assert not stand(Standstill(3.0), 100.0, samples=5)


def test_a_thread_that_computes_does_not_stand_still(green):
    """It is on a CPU, or ready and kept from it by others: it comes to an end by itself."""
    clock = iter(range(1000))
    assert not stand(Standstill(3.0, used=lambda: next(clock)), 30.0, samples=200)
    assert not stand(Standstill(3.0, ready=lambda: True), 30.0, samples=200)
    assert stand(Standstill(3.0, ready=lambda: False), 30.0, samples=200)


def test_a_look_of_the_doctor_is_no_standstill(green):
    """Its own frames, anywhere in the stack, and those of the walk through the heap."""
    for module in ("greenkit.doctor._observed", "greenkit.boot._graph"):
        still = Standstill(3.0)
        space = {"__name__": module, "stand": stand, "still": still, "sys": sys}
        code = "def look():\n    frame = sys._getframe()\n"
        exec(code + "    return [still.watch(frame, at / 10) for at in range(60)]", space)
        assert not any(space["look"]())
