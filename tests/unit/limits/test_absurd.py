"""What makes no sense is said, clearly, and changes nothing."""

from __future__ import annotations

import functools

import pytest

from greenkit.errors import ConfigError
from greenkit.limits import Limiter
from greenkit.limits._postgres import PostgresWire
from greenkit.testing import FakeClock


@pytest.fixture
def limiter():
    return Limiter("a", requests="500/min", tokens="90_000/min", concurrency=5, clock=FakeClock(1000))


@pytest.mark.parametrize(
    ("cost", "error", "why"),
    [
        (-1, ValueError, "0 or more"),
        (float("nan"), ValueError, "nan"),
        (float("inf"), ValueError, "end somewhere"),
        (1.7e12, ValueError, r"35\.\d years at 90000/min"),
        ("900", TypeError, "'900'"),
        (True, TypeError, "True"),
        ([900], TypeError, "number"),
    ],
)
def test_a_cost_that_cannot_be_is_refused(limiter, cost, error, why):
    """Settled or asked for, and nothing is charged of it."""
    with limiter.permit(tokens=900) as permit:
        before = limiter.statistics().available
        with pytest.raises(error, match=why):
            permit.settle(tokens=cost)
        with pytest.raises(error, match=why):
            permit.settle(requests=1, tokens=cost)
        assert limiter.statistics().available == before
        assert permit.costs["tokens"] == 900
    with pytest.raises((error, ValueError)):
        limiter.permit(tokens=cost)
    with pytest.raises((error, ValueError)):
        limiter.try_permit(tokens=cost)


def test_a_large_debt_is_none_of_that(limiter):
    """A call that cost a week of the rate is charged."""
    with limiter.permit(tokens=900) as permit:
        permit.settle(tokens=90_000 * 60 * 24 * 7)
    assert limiter.statistics().available["tokens"] < -9e8


def generator():
    yield 1


async def coroutine():
    return 1


async def stream():
    yield 1


@pytest.mark.parametrize(
    "fn",
    [generator, coroutine, stream, functools.partial(coroutine), lambda: [coroutine()][0]],
    ids=["generator", "coroutine", "stream", "partial", "lambda"],
)
def test_call_does_not_run_what_begins_later(limiter, fn):
    """A generator or coroutine would run after its permit had ended."""
    with pytest.raises(TypeError, match=r"call\(\) cannot hold a permit"):
        limiter.call(fn)
    assert limiter.statistics().in_use == 0


def test_adaptive_concurrency_of_a_shared_limiter_is_refused_later_too():
    """As by the constructor, and the limits stay as they were."""
    limiter = Limiter(
        "a", requests="5/s", concurrency=4, share="redis://127.0.0.1:1/0", clock=FakeClock(1000)
    )
    with pytest.raises(ConfigError, match="adaptive"):
        limiter.configure(concurrency=(1, 4), requests="7/s")
    assert limiter.statistics().concurrency == 4
    assert "5/" in repr(limiter)


@pytest.mark.parametrize(
    "share",
    [
        "mysql://me:s3cret@db/0",
        "redis://:s3cret/@h:6379/0",
        "redis://me:s3cret#@h:6379/0",
        "redis://me:s3c@s3cret@h:port/0",
        "redis://:s3cret@[::1/0",
        "s3cret-with-no-scheme password=s3cret",
        b"redis://:s3cret@h/0",
        "amqp://h/0?password=s3cret",
        "host=h user=me password='s3cret it is'",
    ],
)
def test_a_password_is_in_no_error(share):
    """An address is quoted without it, whatever is wrong with it."""
    with pytest.raises(ConfigError) as found:
        Limiter("a", requests="5/s", share=share)
    text = str(found.value).replace("s3cret-with-no-scheme", "")
    assert "s3cret" not in text
    assert found.value.__cause__ is None
    assert found.value.__suppress_context__ or found.value.__context__ is None


@pytest.mark.parametrize(
    "share", ["postgresql://me:s3cret%zz@127.0.0.1:1/db", "postgresql://me:s3cret@h:1/d?bad=1"]
)
def test_a_password_is_in_no_error_of_a_database_driver(share):
    """It quotes the address it cannot read."""
    pytest.importorskip("psycopg2")
    limiter = Limiter("a", requests="5/s", share=share)
    assert "s3cret" not in repr(limiter)
    with pytest.raises(ConfigError) as found:
        PostgresWire(share)._connect()
    assert "s3cret" not in str(found.value)
