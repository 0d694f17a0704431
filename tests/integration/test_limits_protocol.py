"""The script inside Redis against the same arithmetic in Python, request by request."""

from __future__ import annotations

import random
import time

import pytest
import redis

from greenkit.limits._protocol import Item, Request, exchange
from greenkit.limits._rates import EPOCH
from greenkit.limits._redis import RedisWire

MICRO = 1e6


@pytest.fixture
def client(greenkit_valkey):
    with redis.Redis.from_url(greenkit_valkey.url) as client:
        yield client


# Windows by the calendar that end while the test runs: microseconds.
_WINDOW = 30_000.0


def spans(by_calendar):
    """Return the windows around now, of which an asker's clock may be one off."""
    end = (time.time() - EPOCH) * MICRO // _WINDOW * _WINDOW + _WINDOW
    around = tuple(end + _WINDOW * number for number in (-2, -1, 0, 1))
    return tuple(around if one else (0.0,) * 4 for one in by_calendar)


def draw(rng, dims, seen, floors, half_open, by_calendar=()):
    """Return a request of any kind."""
    bursts = tuple(rng.choice([1.0, 5.0, 100.0]) for _ in range(dims))

    def news(chance, value):
        return tuple(value() if rng.random() < chance else -1.0 for _ in range(dims))

    def cost(place):
        return rng.choice([0.0, 1.0, 0.25]) * rng.choice([1.0, bursts[place], 4 * bursts[place]])

    items = tuple(
        Item(tuple(cost(place) for place in range(dims)), rng.choice([False, True]))
        for _ in range(rng.randrange(8))
    )
    return Request(
        worker=rng.choice(["a", "b", "c"]),
        names=("requests", "tokens", "others")[:dims],
        intervals=tuple(rng.choice([100.0, 5_000.0, 700_000.0]) for _ in range(dims)),
        bursts=bursts,
        seen=seen + rng.choice([0, 0, 0, 5]),
        floors=floors,
        deltas=tuple(rng.choice([0.0, 0.0, 3.0, -2.5]) for _ in range(dims)),
        left=news(0.1, lambda: rng.random() * 5),
        shares=news(0.1, lambda: rng.choice([0.001, 0.5, 1.0])),
        pause=rng.choice([0, 0, 0, 0, 20_000.0]),
        asked=rng.random() < 0.7,
        probe=rng.choice([0, half_open]),
        passed=rng.random() < 0.5,
        resume=rng.random() < 0.1,
        cut=rng.random() < 0.2,
        back=rng.random() < 0.1,
        held=rng.randrange(4),
        size=rng.choice([0, 3, 8]),
        items=items,
        spans=spans(by_calendar),
    )


def compare(client, record, *, seed, dims, arithmetic=exchange, by_calendar=()):
    """Send 60 requests; return how often each kind of answer was seen."""
    rng = random.Random(seed)
    wire = RedisWire(client, own=False)
    mirror, seen, floors, half_open = {}, 0, (0.0,) * dims, 0
    kinds = {"booked": 0, "ahead": 0, "refused": 0, "full": 0, "slower": 0, "half open": 0, "blocked": 0}
    for _ in range(60):
        request = draw(rng, dims, seen, floors, half_open, by_calendar)
        if rng.random() < 0.05:
            client.script_flush()
        (reply,) = wire.ask([(record, request)])
        # The clock it had read is not in the reply; where its time stood still any earlier one will do.
        expected = arithmetic(mirror, request, reply.now - mirror.get("o", 0.0))
        assert reply.offsets == pytest.approx(expected.offsets, rel=1e-9, abs=0.02), request
        assert reply.tats == pytest.approx(expected.tats, rel=1e-12)
        for name in ("count", "workers", "full", "half_open", "blocked"):
            assert getattr(reply, name) == getattr(expected, name), name
        assert reply.factor == pytest.approx(expected.factor)
        assert reply.horizon == pytest.approx(expected.horizon)
        assert reply.paused == pytest.approx(expected.paused)
        seen, floors, half_open = reply.count, reply.tats, reply.half_open
        kinds["booked"] += sum(offset == 0 for offset in reply.offsets)
        kinds["ahead"] += sum(offset > 0 for offset in reply.offsets)
        kinds["refused"] += sum(offset < 0 for offset in reply.offsets)
        kinds["full"] += reply.full
        kinds["slower"] += reply.factor < 1
        kinds["half open"] += reply.half_open > 0
        kinds["blocked"] += reply.blocked
    return kinds


def test_the_script_says_what_the_arithmetic_says(client):
    """Bookings, refusals, slots, pauses, pace, lost memory: the same answers and the same record."""
    total = {}
    for seed in range(25):
        kinds = compare(client, f"protocol-{seed}", seed=seed, dims=1 + seed % 3)
        total = {kind: total.get(kind, 0) + many for kind, many in kinds.items()}
    assert min(total.values()) > 20, total


def test_the_script_says_the_same_of_windows_by_the_calendar(client):
    """Alone and beside rates: used up, there again at the boundary, forgotten, settled, limited."""
    total = {}
    for seed in range(25):
        kinds = compare(
            client,
            f"protocol-calendar-{seed}",
            seed=seed,
            dims=3,
            by_calendar=(seed % 2, True, seed % 3 == 0),
        )
        total = {kind: total.get(kind, 0) + many for kind, many in kinds.items()}
    assert min(total.values()) > 10, total


def test_a_record_of_a_day_lives_until_it_is_over(client):
    """However little of it was used, and however long nobody asks."""
    wire = RedisWire(client, own=False)
    nothing, now = (0.0,), (time.time() - EPOCH) * MICRO
    day = tuple(now + hours * 3600 * MICRO for hours in (-30, -6, 18, 42))
    request = Request(
        "a", ("requests@day",), (MICRO,), (50.0,), 0, nothing, nothing, (-1.0,), (-1.0,), spans=(day,)
    )
    wire.ask([("protocol-day", request)])
    assert client.pttl("greenkit:limit:{protocol-day}") > 18 * 3600 * 1000


def test_the_comparison_sees_a_difference(client):
    """A twin that forgets to charge a debt is caught."""

    def forgetful(record, request, now):
        free = {name: getattr(request, name) for name in request.__slots__}
        return exchange(record, Request(**{**free, "deltas": (0.0,) * len(request.deltas)}), now)

    with pytest.raises(AssertionError):
        compare(client, "protocol-twin", seed=1, dims=2, arithmetic=forgetful)


def test_a_record_does_not_live_for_ever(client):
    """It expires when it is twice as old as the budget takes to fill, and a minute."""
    wire = RedisWire(client, own=False)
    nothing = (0.0,)
    request = Request("a", ("requests",), (MICRO,), (50.0,), 0, nothing, nothing, (-1.0,), (-1.0,))
    wire.ask([("protocol-ttl", request)])
    assert 100_000 < client.pttl("greenkit:limit:{protocol-ttl}") <= 160_000


def test_a_worker_that_died_gives_its_slots_back(client):
    """Not heard of for ten seconds, it counts no more."""
    wire = RedisWire(client, own=False)
    nothing = (0.0,)
    request = Request(
        "b",
        ("requests",),
        (1.0,),
        (50.0,),
        0,
        nothing,
        nothing,
        (-1.0,),
        (-1.0,),
        size=3,
        items=(Item((1.0,), ahead=False),),
    )
    (reply,) = wire.ask([("protocol-dead", request)])
    key = "greenkit:limit:{protocol-dead}"
    for ago, through in ((9.0, False), (11.0, True)):
        client.hset(key, mapping={"w:a": reply.now - ago * MICRO, "h:a": 3})
        (again,) = wire.ask([("protocol-dead", request)])
        assert (again.offsets[0] >= 0, again.full) == (through, not through)
    assert not client.hexists(key, "h:a")


def test_thousands_of_processes_that_end_at_once_are_forgotten(client):
    """More names than one command takes; none of theirs is left, and the script goes on."""
    wire = RedisWire(client, own=False)
    nothing = (0.0,)
    request = Request("a", ("requests",), (MICRO,), (50.0,), 0, nothing, nothing, (-1.0,), (-1.0,))
    wire.ask([("protocol-gone", request)])
    key = "greenkit:limit:{protocol-gone}"
    gone = {f"{kind}:dead-{number}": 1.0 for number in range(4_100) for kind in "wh"}
    client.hset(key, mapping=gone)
    (reply,) = wire.ask([("protocol-gone", request)])
    assert (reply.workers, reply.count) == (1, 2)
    assert [name for name in client.hkeys(key) if b"dead" in name] == []
