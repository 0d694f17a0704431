"""What a type checker must say about the public names; read by mypy, never run.

A line that must be refused carries a `type: ignore` with the code of the refusal: with
`warn_unused_ignores` it fails as soon as it is accepted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from greenkit.errors import GreenkitError, LimitTimeout, PatchError, WaitTimeout, WouldWait
from greenkit.facts import PermitGranted, emit, snapshot, subscribe
from greenkit.findings import Finding, Severity, render
from greenkit.wait import Deadline, FdWatch, Gate, Pass, WaitLine, WaitLineStatistics

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from typing_extensions import assert_type


def errors_carry_facts(late: LimitTimeout, refused: WouldWait, patch: PatchError) -> None:
    assert_type(late.retry_after, float)
    assert_type(refused.eta, float)
    assert_type(patch.findings, tuple[object, ...])
    error: GreenkitError = late
    timeout: WaitTimeout = late
    LimitTimeout("no retry_after")  # type: ignore[call-arg]
    emit((error, timeout))


def lines_take_a_timeout_by_name(line: WaitLine) -> None:
    assert_type(line.acquire_nowait(), bool)
    assert_type(line.statistics(), WaitLineStatistics)
    assert_type(line.statistics().waiting, int)
    line.acquire(timeout=None)
    line.acquire()  # type: ignore[call-arg]
    line.acquire(1.0)  # type: ignore[call-arg]
    with line.slot(timeout=1.0) as nothing:
        assert_type(nothing, None)
    line.statistics().free = 1  # type: ignore[misc]


def deadlines_are_seconds(watch: FdWatch) -> None:
    deadline = Deadline.earliest(Deadline.after(1.5), Deadline.after(None))
    assert_type(deadline, Deadline)
    assert_type(deadline.remaining(), float)
    assert_type(deadline.timeout(), float | None)
    watch.wait_read(deadline.timeout())


def a_gate_lets_through(gate: Gate) -> None:
    with gate.permit(timeout=1.0, tokens=900) as permission:
        assert_type(permission, Pass)
        assert_type(permission.waited, float)
        permission.settle(tokens=850.5)


def findings_are_values() -> None:
    finding = Finding(id="GK101", severity=Severity.ERROR, message="late", hint="come first")
    assert_type(render([finding]), str)
    finding.id = "GK102"  # type: ignore[misc]


def facts_are_heard() -> None:
    def listener(fact: object) -> None: ...

    assert_type(subscribe(listener), Callable[[], None])
    assert_type(snapshot(), dict[str, dict[str, dict[str, Any]]])
    emit(PermitGranted(limiter="openai", waited=0.5))
