"""What a type checker must say about the public names; read by mypy, never run.

A line that must be refused carries a `type: ignore` with the code of the refusal: with
`warn_unused_ignores` it fails as soon as it is accepted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from greenkit.errors import GreenkitError, LimitTimeout, PatchError, WaitTimeout, WouldWait
from greenkit.facts import PermitGranted, emit, snapshot, subscribe
from greenkit.findings import Finding, Severity, render
from greenkit.http import anthropic_client, openai_client, session, warmup
from greenkit.limits import (
    Estimate,
    Guess,
    Limiter,
    LimiterStatistics,
    Permit,
    Price,
    Prices,
    Quota,
    Rate,
    Refusal,
)
from greenkit.pool import GreenPool, Outcome
from greenkit.testing import FaultProxy, KillReport, Program, ProgramEnd, kill_at_every_switch
from greenkit.wait import Deadline, FdWatch, Gate, Pass, WaitLine, WaitLineStatistics

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    import anthropic
    import openai
    import requests
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


def outcomes_keep_the_works_type(pool: GreenPool) -> None:
    for item, out in pool.stream(len, ["a", "bb"], on_error="return", deadline=1.0):
        assert_type(item, str)
        assert_type(out, Outcome[int])
        assert_type(out.get(), int)
        assert_type(out.value, int | None)
    assert_type(pool.statistics().max_size, int)
    GreenPool(5, adaptive=lambda error: isinstance(error, TimeoutError))
    GreenPool(5, adaptive="yes")  # type: ignore[arg-type]
    pool.map(len, ["a"], on_error="ignore")  # type: ignore[call-overload]


def clients_are_the_libraries_own() -> None:
    assert_type(openai_client(5, api_key="k"), openai.OpenAI)
    openai_client(5, limiter=Limiter("hosts", requests="5/s").key, api_key="k")
    assert_type(anthropic_client(5, api_key="k"), anthropic.Anthropic)
    client: requests.Session = session(5, max_wait=1.0)
    client.get("/")
    session(5, max_wait="1")  # type: ignore[arg-type]
    assert_type(warmup("openai"), dict[str, float])


def findings_are_values() -> None:
    finding = Finding(id="GK101", severity=Severity.ERROR, message="late", hint="come first")
    assert_type(render([finding]), str)
    finding.id = "GK102"  # type: ignore[misc]


def facts_are_heard() -> None:
    def listener(fact: object) -> None: ...

    assert_type(subscribe(listener), Callable[[], None])
    assert_type(snapshot(), dict[str, dict[str, dict[str, Any]]])
    emit(PermitGranted(limiter="openai", waited=0.5))


def limiters_answer_with_what_they_say(llm: Limiter) -> None:
    Limiter("a", requests="5/s", images="1/s", concurrency=(1, 9), share="redis://h", on_backend_error="open")
    Limiter("a", requests=["5/s", "9/day from 00:00 UTC"], cost=Rate(0.5, 60.0))
    prices = Prices({"m": Price(input=2.5, output=10)})
    assert_type(prices.estimate("m", input=3), float)
    Limiter("a", requests="5/s", on_backend_error="shut")  # type: ignore[arg-type]
    Limiter("a", feedback=lambda headers: {"requests": Quota(remaining=3.0)})
    permit = llm.permit(tokens=9, timeout=1.0, priority="batch")
    assert_type(permit, Permit)
    llm.permit(9)  # type: ignore[call-arg]
    assert_type(llm.key("ann").try_permit(), Permit | Refusal)
    assert_type(llm.call(len, "x", max_wait=1.0), int)
    assert_type(llm.statistics(), LimiterStatistics)
    guess = llm.estimate(500, most=4096)
    assert_type(guess, Estimate)
    assert_type(guess.guess(9), Guess)
    with permit as held:
        held.settle(tokens=3)


def faults_are_named_and_ends_are_values(program: Program, end: ProgramEnd) -> None:
    with FaultProxy(("127.0.0.1", 6379)) as proxy:
        proxy.pause(direction="sideways")  # type: ignore[arg-type]
        proxy.half_close("server")
        assert_type(proxy.cut(2), int)
    assert_type(program.stop(timeout=5.0), ProgramEnd)
    assert_type(program.wait(1.0), ProgramEnd | None)
    end.status = 0  # type: ignore[misc]


def a_kill_is_thrown_at_every_switch() -> None:
    def check(line: WaitLine) -> None: ...

    report = kill_at_every_switch(WaitLine.acquire_nowait, check, fresh=lambda: WaitLine(1))
    assert_type(report, KillReport)
    assert_type(report.points, int)


def the_lazy_door_is_typed() -> None:
    import greenkit

    assert_type(greenkit.Limiter, type[Limiter])
    assert_type(greenkit.GreenPool(2, limiter=greenkit.Limiter("llm", requests="1/s")), GreenPool)
    error: GreenkitError = greenkit.RateLimited("later", retry_after=1.0)
    assert_type(greenkit.offload(len, "ab", timeout=1.0), int)
    del error


def a_refusal_is_told_by_its_truth(llm: Limiter) -> None:
    answer = llm.try_permit()
    if not answer:
        assert_type(answer, Refusal)
        assert_type(answer.retry_after, float)
    else:
        assert_type(answer, Permit)


def limited_keeps_the_parameters(llm: Limiter) -> None:
    @llm.limited(tokens=1)
    def ask(prompt: str, *, model: str) -> int:
        return len(prompt + model)

    assert_type(ask("a", model="b"), int)
    ask(1, model="b")  # type: ignore[arg-type]


async def coroutines_take_permits(llm: Limiter) -> None:
    async with llm.permit(timeout=1.0) as permit:
        assert_type(permit, Permit)
    async for attempt in llm.attempts(deadline=1.0):
        async with attempt as permit:
            assert_type(permit, Permit)
