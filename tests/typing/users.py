"""What users write, as they write it; read by mypy and by pyright, both strict, never run.

`api.py` beside this says what must be refused. Here everything must be accepted without a cast, an
ignore or an annotation that only a type checker needs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from typing_extensions import assert_type

import greenkit
from greenkit import GreenPool, Limiter, RateLimited, WouldWait
from greenkit.http import session

if TYPE_CHECKING:
    from collections.abc import Iterator

llm = Limiter("openai", requests="500/min", tokens="90_000/min burst 9_000", concurrency=64)
http = session(64, limiter=llm)


class Row:
    """A row of a table."""

    pk: int = 0
    text: str = ""


def ask(row: Row) -> str:
    """Call the model once."""
    for attempt in llm.attempts(tokens=900, deadline=120.0):
        with attempt as permit:
            reply = http.post("https://api.example.org/", json={"input": row.text})
            reply.raise_for_status()
            permit.settle(tokens=700)
            return str(reply.text)
    raise AssertionError


def rows() -> Iterator[Row]:
    """Read a table."""
    yield Row()


def estimate(row: Row) -> dict[str, float]:
    """Say what a row will cost."""
    return {"tokens": len(row.text) / 4 + 500}


def fan_out() -> dict[int, str]:
    """Ask about every row, and keep what was answered."""
    answers: dict[int, str] = {}
    with GreenPool(200, limiter=llm, cost=estimate) as pool:
        for row, out in pool.stream(ask, rows(), on_error="return"):
            if out.ok:
                answers[row.pk] = out.get()
        assert_type(pool.map(ask, rows()), list[str])
        assert_type(pool.map(ask, rows(), on_error="skip"), list[str])
        assert_type(pool.map(ask, rows(), on_error="return"), list[greenkit.Outcome[str]])
        assert_type(list(pool.imap(ask, rows())), list[str])
        child = pool.spawn(ask, Row())
        assert_type(child.get(), str)
    return answers


def a_view(user_id: int) -> float:
    """Answer at once, or say when to come back."""
    permit = llm.key(user_id).try_permit()
    if not permit:
        return permit.retry_after
    with permit:
        return 0.0


@llm.limited(tokens=900)
def summarise(text: str, *, words: int = 50) -> str:
    """Shorten a text."""
    return text[:words]


def a_task() -> str:
    """Leave the slot when the wait would be long."""
    try:
        return llm.call(summarise, "text", max_wait=2.0)
    except WouldWait as error:
        return f"later: {error.eta}"
    except RateLimited as error:
        return f"refused: {error.retry_after}"


@greenkit.offloaded(concurrency=2, timeout=30.0)
def digest(data: bytes) -> str:
    """Compute for a while."""
    return data.hex()


assert_type(digest(b"x"), str)
assert_type(summarise("text", words=3), str)
