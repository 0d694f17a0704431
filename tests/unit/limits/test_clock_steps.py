"""What a shared record makes of a clock that steps, of other releases, and of numbers that cannot be."""

from __future__ import annotations

import math
import random

import pytest

from greenkit.limits import Limiter
from greenkit.limits._limiter import record_of
from greenkit.limits._protocol import MICRO, Item, RecordError, Request, checked, exchange, numbers_in

NOTHING = (0.0,)
NO_NEWS = (-1.0,)


class Process:
    """Ask for one permit at a time of 50/s burst 5, as a process does that counts by its own clock."""

    def __init__(self, record, name="a", names=("requests",)):
        self.record, self.name, self.names = record, name, names
        self.seen, self.floors, self.told, self.at = 0, NOTHING * len(names), -1.0, 0.0

    def ask(self, clock, now, *, expects=True, **news):
        """Return the reply of a store whose clock reads `clock` when `now` seconds have really passed."""
        many = len(self.names)
        expected = self.told + (now - self.at) * MICRO if self.seen and expects else -1.0
        request = Request(
            self.name, self.names, (0.02 * MICRO,) * many, (5.0,) * many, self.seen, self.floors,
            NOTHING * many, NO_NEWS * many, NO_NEWS * many, expected=expected,
            items=(Item((1.0,) * many, ahead=False),), **news,
        )  # fmt: skip
        reply = checked(exchange(self.record, request, clock * MICRO), request)
        self.seen, self.floors, self.told, self.at = reply.count, reply.tats, reply.now, now
        return reply


def granted(steps, *, expects=True, seconds=20):
    """Return how many are let through in each second while the clock steps as told, by second."""
    record, offset, counts, factors = {}, 0.0, [], []
    processes = [Process(record, name) for name in "ab"]
    for tick in range(seconds * 200):
        now = tick / 200
        if tick % 200 == 0:
            offset += steps.get(tick // 200, 0.0)
            counts.append(0)
        reply = processes[tick % 2].ask(6e7 + now + offset, now, expects=expects)
        counts[-1] += reply.offsets[0] >= 0
        factors.append(reply.factor)
    return counts, factors


def test_whatever_the_clock_does_the_rate_is_kept():
    """Steps of a second to a year, forward and back: never more than rate and burst, and no lost second."""
    for seed in range(12):
        rng = random.Random(seed)
        sizes = [1.0, 30.0, 101.0, 3600.0, 3e7]
        steps = {second: rng.choice(sizes) * rng.choice([-1, 1]) for second in range(2, 20, 3)}
        counts, factors = granted(steps)
        assert max(counts[1:]) <= 51, (seed, steps, counts)
        assert min(counts) >= 48, (seed, steps, counts)
        assert sum(counts) <= 20 * 50 + 5, (seed, steps, counts)
        assert all(factor == 1.0 for factor in factors)


def test_a_step_forward_nobody_has_counted_is_seen():
    """The broken twin: without the processes' own clocks each step forward gives a burst away."""
    counts, _ = granted(dict.fromkeys(range(2, 20), 3600.0), expects=False)
    assert sum(counts) > 20 * 50 + 50


def test_a_pause_a_cut_and_a_dead_worker_last_as_long_as_ever():
    """All that is timed is timed by the record, and none of it jumps with the clock."""
    record = {}
    process, other = Process(record), Process(record, "b")
    other.ask(1000.0, 0.0)
    process.ask(1000.0, 0.0, pause=4 * MICRO, cut=True)
    reply = process.ask(1000.0 - 3600, 1.0)
    assert reply.paused == pytest.approx(4 * MICRO)
    assert 0.79 <= reply.factor <= 0.82
    reply = process.ask(1000.0 - 3597, 4.0)
    assert reply.paused == pytest.approx(1 * MICRO)
    assert reply.workers == 2
    assert process.ask(1000.0 - 3585, 16.0).workers == 1
    assert process.ask(1000.0 - 3584, 17.0, cut=True).factor < 0.8


def test_a_suspended_process_does_not_hold_the_others_back():
    """Its own clock stood still; the record's time is what the others have made of it."""
    record = {}
    asleep, awake = Process(record, "a"), Process(record, "b")
    asleep.ask(100.0, 0.0)
    for second in range(60):
        awake.ask(100.0 + second, float(second))
    asleep.at += 59.0  # as if no time had passed for it
    before = record["at"]
    asleep.ask(159.0, 59.0)
    assert record["at"] == before
    assert awake.ask(160.0, 60.0).offsets[0] >= 0


def test_a_dimension_is_found_by_its_name():
    """Two releases with other dimensions share those they have in common, and only those."""
    record = {}
    old = Process(record, "old", ("requests", "tokens"))
    new = Process(record, "new", ("tokens",))
    for _ in range(5):
        assert new.ask(1.0, 0.0).offsets[0] >= 0
    assert old.ask(1.0, 0.0).offsets[0] < 0, "the tokens are used up"
    assert Process(record, "third", ("requests",)).ask(1.0, 0.0).offsets[0] >= 0


def test_a_record_of_another_format_is_not_believed():
    """Its numbers mean something else; nothing is changed in it."""
    for record in ({"n": 3.0, "t0": 5.0}, {"v": 99.0, "n": 3.0}):
        before = dict(record)
        with pytest.raises(RecordError, match="format"):
            Process(record).ask(1.0, 0.0)
        assert record == before


@pytest.mark.parametrize("broken", [math.nan, math.inf, -math.inf, "x", None, [], {}, True, 10**400])
def test_numbers_that_are_none_are_left_out(broken):
    """A record somebody has spoilt is read as far as it can be, and gives a reply that can be used."""
    record = {}
    Process(record).ask(1.0, 0.0)
    for name in list(record):
        spoilt = numbers_in({**record, name: broken})
        try:
            reply = Process(spoilt).ask(2.0, 1.0)
        except RecordError:
            continue
        assert 0 < reply.factor <= 1
        assert reply.offsets[0] >= 0
    assert numbers_in([1]) == {}


@pytest.mark.parametrize(
    "wrong",
    [
        {"factor": 0.0},
        {"factor": math.nan},
        {"horizon": 0.0},
        {"horizon": 1e12},
        {"tats": ()},
        {"tats": (math.nan,)},
        {"offsets": (0.0, 0.0)},
        {"offsets": (1e9,)},
        {"paused": -1.0},
        {"workers": 0},
        {"count": 0},
        {"now": math.inf},
    ],
)
def test_a_reply_that_cannot_be_right_is_refused(wrong):
    """Nothing is divided by it, and nobody is let through by it."""
    good = Process({}).ask(1.0, 0.0)
    request = Request(
        "a", ("requests",), *([NOTHING] * 2), 0, *([NOTHING] * 4), items=(Item((1.0,), ahead=False),)
    )
    assert checked(good, request) is good
    fields = {name: getattr(good, name) for name in good.__slots__}
    with pytest.raises(RecordError, match="cannot be right"):
        checked(type(good)(**{**fields, **wrong}), request)


def test_crafted_names_and_keys_have_records_of_their_own():
    """Whatever stands in them: no limiter is a key of another, and no key is another's."""
    parts = [
        "login",
        "ip:1.2.3.4",
        "login:ip",
        "1.2.3.4",
        "",
        ":",
        "%3A",
        "a}b{",
        "a\0b",
        "\ud800",
        "x" * 999,
    ]
    pairs = [(name, key) for name in parts for key in parts]
    records = {record_of(*pair) for pair in pairs} | {record_of(name) for name in parts}
    assert len(records) == len(pairs) + len(parts)
    assert all(record.isascii() and "\0" not in record and "}" not in record for record in records)
    assert max(map(len, records)) < 700
    assert record_of("openai") == "openai"


def test_processes_are_a_whole_number_of_those_who_share():
    """Said where it is given."""
    for wrong in (0, -1, 1.5, True):
        with pytest.raises(ValueError, match="processes"):
            Limiter("a", requests="1/s", share="redis://nowhere", processes=wrong)
    with pytest.raises(TypeError, match="share="):
        Limiter("a", requests="1/s", processes=3)
