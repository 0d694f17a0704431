"""Windows that begin by the clock on the wall: all of it whenever, never more, there again at the hour."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import gevent
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from greenkit.errors import ConfigError, CostTooHighError, LimitTimeout
from greenkit.limits import Limiter, Rate, _shared_budget, parse_rate
from greenkit.limits._gcra import rules_of
from greenkit.limits._protocol import MICRO, exchange
from greenkit.limits._rates import EPOCH, Calendar, charged, windows
from greenkit.testing import FakeClock
from tests.unit.limits.simulate import sleeping_moves_the_clock

LOS_ANGELES = ZoneInfo("America/Los_Angeles")
DAILY = "1000/day from 00:00 America/Los_Angeles"


def at(*moment, zone=LOS_ANGELES):
    return datetime(*moment, tzinfo=zone).timestamp()


@pytest.fixture
def clock(monkeypatch):
    """A clock on the eve of a new day in Los Angeles."""
    clock = FakeClock(wall=at(2026, 6, 30, 20))
    sleeping_moves_the_clock(monkeypatch, clock)
    gevent.get_hub()
    return clock


def granted(limiter, many, **costs):
    return sum(bool(limiter.try_permit(**costs)) for _ in range(many))


# -- boundaries ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("calendar", "moment", "start", "end"),
    [
        (Calendar("day", 0, 0, "America/Los_Angeles"), (2026, 3, 8, 12), (2026, 3, 8), (2026, 3, 9)),
        (
            Calendar("day", 2, 30, "America/Los_Angeles"),
            (2026, 3, 8, 12),
            (2026, 3, 8, 2, 30),
            (2026, 3, 9, 2, 30),
        ),
        (
            Calendar("day", 1, 30, "America/Los_Angeles"),
            (2026, 11, 1, 12),
            (2026, 11, 1, 1, 30),
            (2026, 11, 2, 1, 30),
        ),
        (Calendar("day", 9, 0, "America/Los_Angeles"), (2026, 6, 1, 8), (2026, 5, 31, 9), (2026, 6, 1, 9)),
        (Calendar("week", 0, 0, "America/Los_Angeles"), (2026, 6, 3), (2026, 6, 1), (2026, 6, 8)),
        (
            Calendar("week", 9, 0, "America/Los_Angeles", 6),
            (2026, 6, 7, 8),
            (2026, 5, 31, 9),
            (2026, 6, 7, 9),
        ),
        (Calendar("month", 0, 0, "America/Los_Angeles"), (2026, 2, 28, 23), (2026, 2, 1), (2026, 3, 1)),
        (Calendar("month", 6, 0, "America/Los_Angeles"), (2027, 1, 1, 5), (2026, 12, 1, 6), (2027, 1, 1, 6)),
    ],
)
def test_a_window_begins_at_its_hour(calendar, moment, start, end):
    """Also where the clocks change: at the hour that was written, or in its place."""
    span = calendar.span(at(*moment) - EPOCH)
    assert (span.start + EPOCH, span.end + EPOCH) == (at(*start), at(*end))
    assert span.before < span.start < span.end < span.after


@given(
    st.sampled_from(
        ["UTC", "America/Los_Angeles", "Australia/Lord_Howe", "Africa/Casablanca", "Asia/Kathmandu"]
    ),
    st.sampled_from(["day", "week", "month"]),
    st.integers(0, 23),
    st.integers(0, 59),
    st.integers(0, 6),
    st.floats(0, 2e8),
)
@settings(max_examples=300, deadline=None)
def test_windows_follow_each_other_without_a_gap(zone, unit, hour, minute, weekday, wall):
    """Every instant lies in one window, and the next begins where it ends."""
    calendar = Calendar(unit, hour, minute, zone, weekday)
    span = calendar.span(wall)
    assert span.start <= wall < span.end
    following = calendar.span(span.end)
    assert (following.before, following.start, following.end) == (span.start, span.end, span.after)
    assert calendar.span(span.start).start == span.start


@pytest.mark.parametrize(
    ("text", "column", "why"),
    [
        ("1/day from", 11, "expected a time of day"),
        ("1/day from 24:00", 12, "expected a time of day"),
        ("1/day from 00:00 Mars/Olympus", 18, "no time zone"),
        ("1/day from Monday 00:00", 12, "begins on no weekday"),
        ("1/week from Mo 00:00", 13, "no day of the week"),
        ("1/h from 00:00", 3, "only a day, a week or a month"),
        ("1/2day from 00:00", 3, "only a day, a week or a month"),
        ("1/day from 00:00 UTC burst 3", 12, "expected a time of day"),
    ],
)
def test_an_error_points_at_its_column(text, column, why):
    """As for every text that is no limit."""
    with pytest.raises(ConfigError, match=why) as caught:
        parse_rate(text)
    assert f"column {column}" in str(caught.value)


@pytest.mark.parametrize("text", [DAILY, "5/week from Sunday 09:05 UTC", "7/month from 00:00 Europe/Berlin"])
def test_a_rate_by_the_calendar_reads_as_it_is_written(text):
    """Its text is what makes it again."""
    rate = parse_rate(text)
    assert str(rate) == text
    assert parse_rate(str(rate)) == rate
    assert rate.burst == rate.largest == rate.amount
    with pytest.raises(ConfigError, match="no burst"):
        Rate(rate.amount, rate.period, 1, rate.calendar)


# -- one process ---------------------------------------------------------------------------------------


def test_all_of_it_goes_whenever_and_is_there_again_at_the_hour(clock):
    """A thousand at once at eight in the evening, none until midnight, a thousand then."""
    limiter = Limiter("a", requests=DAILY, clock=clock)
    assert granted(limiter, 1_500) == 1_000
    refusal = limiter.try_permit()
    assert refusal.window == f"requests {DAILY}"
    assert refusal.retry_after == pytest.approx(4 * 3600, abs=0.001)
    clock.advance(4 * 3600 - 0.01)
    assert not limiter.try_permit()
    clock.advance(0.02)
    assert granted(limiter, 1_500) == 1_000


def test_strict_is_no_obstacle(clock):
    """By the calendar it is never more than the amount in any case."""
    limiter = Limiter("a", requests="1_000/day from 00:00 UTC", strict=True, clock=clock)
    assert granted(limiter, 1_500) == 1_000


def test_a_waiter_is_let_through_at_the_hour(clock):
    """It waits in line, with a timeout that ends before told at once."""
    limiter = Limiter("a", requests=["1000/s", "3/day from 00:00 America/Los_Angeles"], clock=clock)
    assert granted(limiter, 5) == 3
    with pytest.raises(LimitTimeout, match="requests 3/day from 00:00 America/Los_Angeles is used up"):
        limiter.permit(timeout=3600).__enter__()
    passed = []

    def one():
        with limiter.permit():
            passed.append(clock.wall())

    gevent.joinall([gevent.spawn(one) for _ in range(4)], raise_error=True)
    first, *_, fourth = passed
    assert first == pytest.approx(at(2026, 7, 1), abs=0.1)
    assert fourth == pytest.approx(at(2026, 7, 2), abs=0.1)


def test_what_a_call_of_yesterday_gives_back_is_not_of_today(clock):
    """Reserved before midnight and settled after it: today has no more than its amount."""
    limiter = Limiter("a", tokens="1000/day from 00:00 America/Los_Angeles", clock=clock)
    with limiter.permit(tokens=900) as permit:
        clock.advance(5 * 3600)
        with limiter.permit(tokens=1000):
            permit.settle(tokens=10)
        assert permit.costs == {"tokens": 900}
        assert not limiter.try_permit(tokens=1)
    with limiter.permit(tokens=0) as permit:
        permit.settle(tokens=200)
    clock.advance(24 * 3600)
    with limiter.permit(tokens=500) as permit:
        permit.settle(tokens=100)
    assert limiter.statistics().available["tokens"] == pytest.approx(900), (
        "debts end with their day, refunds count"
    )


def test_a_waiter_that_runs_late_gives_nothing_back_over_midnight(clock):
    """Granted in the last moment of a day, it may run, and settle, in the first of the next."""
    rules = rules_of(
        {"tokens": windows("tokens", "10/day from 00:00 America/Los_Angeles")}, strict=False, clock=clock
    )
    clock.advance(4 * 3600 - 0.5)
    yesterday = rules.decide(rules.start(), (6.0,), clock.now(), credit=0.0)
    clock.advance(1.0)
    today = rules.decide(yesterday, (10.0,), clock.now(), credit=0.0)
    for waited, left in ((True, 0), (False, 6)):
        cost = charged((6.0,), clock, waited=waited)
        settled, _ = rules.settle(today, cost, {"tokens": 0.0}, clock.now())
        assert rules.rules[0].available(settled[0], clock.now()) == pytest.approx(left)


@pytest.mark.parametrize("owed", [1_500, 30_000, 1e7])
def test_a_debt_ends_with_its_window_however_large(clock, owed):
    """No later window is taken for the one it was made in, and none pays for it."""
    limiter = Limiter("a", tokens="1000/day from 00:00 America/Los_Angeles", clock=clock)
    with limiter.permit(tokens=900) as permit:
        permit.settle(tokens=owed)
    assert not limiter.try_permit(tokens=1)
    assert limiter.try_permit(tokens=1).retry_after == pytest.approx(4 * 3600)
    clock.advance(4 * 3600 + 1)
    assert granted(limiter, 5, tokens=500) == 2


@pytest.mark.parametrize("step", [-90.0, -3600.0])
def test_a_clock_that_steps_back_over_midnight_makes_no_second_day(clock, step):
    """What was used after midnight stays used, and the next one is at the hour."""
    limiter = Limiter("a", requests="10/day from 00:00 America/Los_Angeles", clock=clock)
    clock.advance(4 * 3600 + 60)
    assert granted(limiter, 7) == 7
    clock.step(step)
    assert granted(limiter, 7) == 3
    clock.advance(7200)
    assert granted(limiter, 7) == 0
    clock.advance(24 * 3600)
    assert granted(limiter, 20) == 10


def test_a_clock_that_was_years_ahead_stops_nobody(clock):
    """A state from further ahead than the next window is not believed."""
    limiter = Limiter("a", requests="10/day from 00:00 UTC", clock=clock)
    clock.step(3e8)
    assert granted(limiter, 20) == 10
    clock.step(-3e8)
    assert granted(limiter, 20) == 10


def test_a_clock_that_is_set_forward_reaches_a_waiter(clock):
    """It looks at the clock once a minute at least."""
    limiter = Limiter("a", requests="1/day from 00:00 America/Los_Angeles", clock=clock)
    assert limiter.try_permit()
    start = clock.now()

    def one():
        with limiter.permit():
            pass

    waiter = gevent.spawn(one)
    gevent.sleep(0)
    clock.step(4 * 3600 + 1)
    waiter.get(timeout=5)
    assert clock.now() - start <= 61


def test_keys_have_a_day_each_and_are_forgotten_when_it_is_over():
    """A key at rest keeps what it used until midnight."""
    clock = FakeClock(wall=at(2026, 6, 30, 20))
    limiter = Limiter("a", requests="3/day from 00:00 America/Los_Angeles", clock=clock)
    assert granted(limiter.key("x"), 5) == 3
    assert granted(limiter.key("y", weight=2.0), 9) == 6
    for _ in range(3):
        clock.advance(3600)
        limiter.key("z").try_permit()
        assert granted(limiter.key("x"), 1) == 0
    clock.advance(3601)
    assert granted(limiter.key("x"), 5) == 3
    for _ in range(60):
        clock.advance(3600)
        limiter.key("z").try_permit(requests=0)
    assert limiter.statistics().keys <= 1


def test_both_of_two_limiters_may_go_by_the_calendar(clock):
    """A permit of both keeps when it was charged."""
    users = Limiter("users", tokens="100/day from 00:00 UTC", clock=clock)
    llm = Limiter(
        "llm", tokens=["1000/day from 00:00 America/Los_Angeles", "1e6/week burst 1e5"], clock=clock
    )
    both = users.key("u").inside(llm)
    with both.permit(tokens=80) as permit:
        permit.settle(tokens=20)
    assert llm.statistics().windows["tokens 1000/day from 00:00 America/Los_Angeles"] == pytest.approx(980)
    assert granted(both, 9, tokens=20) == 4


def test_other_amounts_keep_what_was_used(clock):
    """And a slower pace after a 429 leaves the day alone; a server's limit of the day does not."""
    limiter = Limiter("a", requests=["60/s burst 9", "10/day from 00:00 UTC"], feedback="openai", clock=clock)
    assert granted(limiter, 4) == 4
    limiter.configure(requests=["60/s burst 9", "8/day from 00:00 UTC"])
    window = "requests 8/day from 00:00 UTC"
    assert limiter.statistics().windows[window] == pytest.approx(4)
    limiter.observe(429, {"retry-after": "1"})
    assert limiter.statistics().pace < 1
    assert limiter.statistics().windows[window] == pytest.approx(4)
    limiter.observe(200, {"x-ratelimit-limit-requests": "7", "x-ratelimit-remaining-requests": "2"})
    assert limiter.statistics().windows[window] == pytest.approx(2)
    with pytest.raises(TypeError, match="more windows"):
        limiter.configure(requests=["60/s", "8/day"])


def test_a_cost_above_the_amount_is_refused(clock):
    """No day could ever take it."""
    with pytest.raises(CostTooHighError, match="exceeds all of 100/day from 00:00 UTC"):
        Limiter("a", tokens="100/day from 00:00 UTC", clock=clock).permit(tokens=101)


steps = st.lists(
    st.tuples(st.sampled_from([0.0, 1.0, 3600.0, 40_000.0]), st.floats(0, 1), st.floats(0, 1.5)), max_size=60
)


@given(steps, st.sampled_from([7.0, 1_000.0, 1e6, 0.5]), st.sampled_from(["UTC", "America/Los_Angeles"]))
@settings(max_examples=200, deadline=None)
def test_no_day_ever_has_more_than_its_amount(asked, amount, zone):
    """Whatever is asked and settled when, also in a day of 23 hours; what is left of it goes at once."""
    clock = FakeClock(wall=datetime(2026, 3, 6, tzinfo=timezone.utc).timestamp())
    rate = parse_rate(f"{amount}/day from 00:00 {zone}")
    limiter = Limiter("a", tokens=rate, clock=clock)
    days: dict[object, float] = {}
    for gap, share, factor in asked:
        clock.advance(gap)
        day = datetime.fromtimestamp(clock.wall(), ZoneInfo(zone)).date()
        used, cost = days.get(day, 0.0), share * amount
        permit = limiter.try_permit(tokens=cost)
        if cost and used + cost <= amount * (1 - 1e-8):
            assert permit, "there was room"
        if cost > 1e-6 * amount and used + cost > amount * (1 + 1e-8):
            assert not permit
        if permit:
            permit.settle(tokens=cost * factor)
            days[day] = used + cost * factor


# -- a fleet, every instant in the hands of the test ---------------------------------------------------


class Courier:
    """Carry requests one step at a time."""

    def __init__(self, clock):
        self.clock, self.record, self.served, self.away = clock, {}, [], False
        self.behind = 0.0  # how far the clock of the store is behind

    def serve(self, budget):
        if budget not in self.served:
            self.served.append(budget)

    def run(self):
        for budget in self.served:
            if budget.wants() <= 0:
                request = budget.compose()
                if self.away:
                    budget.lost(OSError("gone"))
                else:
                    wall = self.clock.wall() - EPOCH - self.behind
                    budget.apply(exchange(self.record, request, wall * MICRO))


@pytest.fixture
def courier(clock, monkeypatch):
    courier = Courier(clock)
    monkeypatch.setattr(_shared_budget, "sync_of", lambda *_: courier)
    return courier


def passes(limiter, courier, many):
    """Return how many of so many tries got a permit."""
    jobs = [gevent.spawn(limiter.try_permit) for _ in range(many)]
    gevent.sleep(0)
    for _ in range(3):
        courier.run()
        gevent.sleep(0)
    return sum(bool(job.get(timeout=5)) for job in jobs)


def make(clock, **options):
    text = "100/day from 00:00 America/Los_Angeles"
    return Limiter("fleet", requests=text, share="redis://nowhere", clock=clock, **options)


def test_a_fleet_shares_the_day(clock, courier):
    """What one process used another has not; at the hour all of it is there again."""
    one, two = make(clock), make(clock)
    assert passes(one, courier, 70) == 70
    assert passes(two, courier, 70) == 30
    clock.advance(4 * 3600 + 1)
    assert passes(two, courier, 70) == 70
    assert passes(one, courier, 70) == 30


@pytest.mark.parametrize("behind", [-40.0, 30.0, 5 * 86_400.0])
def test_the_clock_of_the_store_decides(clock, courier, behind):
    """Also where that of the process is days away."""
    courier.behind = behind
    limiter = make(clock)
    passes(limiter, courier, 1)
    clock.advance(1.5)
    used = passes(limiter, courier, 150)
    assert used in {99, 100}
    left = 4 * 3600 + (behind if abs(behind) < 3600 else 0)
    clock.advance(left - 10)
    assert passes(limiter, courier, 9) == 0
    clock.advance(20)
    assert passes(limiter, courier, 150) == 100


def test_a_store_whose_clock_steps_back_makes_no_second_day(clock, courier):
    """And one that has forgotten is told what was used."""
    limiter = make(clock)
    clock.advance(4 * 3600 + 60)
    assert passes(limiter, courier, 70) == 70
    courier.behind = 3600
    assert passes(limiter, courier, 70) == 30
    courier.behind = 0
    courier.record.clear()
    assert passes(limiter, courier, 70) == 0


def test_without_the_store_each_keeps_to_its_share_of_what_is_left(clock, courier):
    """And says on coming back what went meanwhile."""
    one, two = make(clock), make(clock)
    assert passes(one, courier, 20) == 20
    assert passes(two, courier, 20) == 20
    gevent.spawn(one.try_permit, requests=0)  # which hears of the other
    passes(one, courier, 0)
    courier.away = True
    alone = passes(one, courier, 100)
    alone += passes(two, courier, 100)
    assert alone == 60
    clock.advance(2)
    courier.away = False
    assert passes(one, courier, 100) + passes(two, courier, 100) == 0
    clock.advance(timedelta(days=1).total_seconds())
    assert passes(one, courier, 150) == 100


def test_an_older_release_keeps_a_record_of_days_alive(clock, courier):
    """It knows stamps by their name, and no window by the calendar; the names differ."""
    limiter = make(clock)
    assert passes(limiter, courier, 70) == 70
    [name] = [name for name in courier.record if name.startswith("t:")]
    assert name == "t:requests@day from 00:00 America/Los_Angeles"
    assert courier.record[name] / MICRO + EPOCH == at(2026, 7, 1)
    rules = rules_of({"requests": windows("requests", ["9/s", "100/day from 00:00 UTC"])}, strict=False)
    assert rules.names == ("requests", "requests@day from 00:00 UTC")
