"""The account of a Redis channel's messages: acks in batches, over any number of connections."""

from __future__ import annotations

from collections import OrderedDict
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import gevent
import pytest
from celery.bootsteps import CLOSE, RUN

from greenkit.celery._redis_broker import RedisLedger, _taken_from

if TYPE_CHECKING:
    from collections.abc import Callable


class Broker:
    """What a channel's QoS and its pipeline do, with a round trip that lets others run."""

    def __init__(self) -> None:
        self.paid: list[list[str]] = []
        self.restored: list[str] = []
        self.during_a_trip: Callable[[], None] = lambda: None
        self.fails = False
        self._delivered: OrderedDict[str, Any] = OrderedDict()
        self._dirty: set[str] = set()
        self._quick_ack = self._dirty.add
        self._on_collect = SimpleNamespace(cancel=lambda: None)
        self._quick_append = self._delivered.__setitem__
        self.restore_visible = lambda: None

    def _flush(self) -> None:
        for tag in self._dirty:
            self._delivered.pop(tag, None)
        self._dirty.clear()

    def append(self, message: Any, tag: str) -> None:
        self._quick_append(tag, message)

    def ack(self, tag: str) -> None:
        raise AssertionError("exchanged")

    def reject(self, tag: str, requeue: bool = False) -> None:
        self.restored.append(tag)

    def restore_by_tag(self, tag: str) -> None:
        if self.fails:
            raise ConnectionError
        self.restored.append(tag)

    def restore_unacked_once(self, stderr: Any = None) -> None:
        for tag in self._delivered:
            self.restore_by_tag(tag)

    pipe_or_acquire: Any = None  # kombu's has one


class Connection:
    """The ledger's own connection to the broker."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker

    def pack_commands(self, commands: list[tuple[str, ...]]) -> list[tuple[str, ...]]:
        return commands

    def send_packed_command(self, commands: list[tuple[str, ...]], check_health: bool) -> None:
        self.sent = commands

    def read_response(self) -> None:
        if len(self.sent) == 1:
            begin, (word, index, *tags), removed, _ = self.whole
            assert (begin, word, index, removed) == (("MULTI",), "ZREM", "p:index", ("HDEL", "p:tags", *tags))
            gevent.sleep(0)
            self.broker.during_a_trip()
            if self.broker.fails:
                raise ConnectionError
            self.broker.paid.append(tags)
        elif len(self.sent) == 4:
            self.whole = self.sent
        self.sent = self.sent[1:]

    def disconnect(self) -> None:
        pass


class Loop:
    """A loop that runs what it was given when told."""

    def __init__(self) -> None:
        self.todo: list[Callable[[], None]] = []
        self.on_tick: set[Callable[[], None]] = set()

    def call_repeatedly(self, seconds: float, callback: Callable[[], None]) -> Any:
        return SimpleNamespace(cancel=lambda: None)

    def run_soon_quietly(self) -> None:
        todo, self.todo = self.todo, []
        for callback in todo:
            callback()

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.todo.append(callback)

    def wake(self) -> None:
        pass

    def turn(self) -> None:
        todo, self.todo = self.todo, []
        for callback in todo:
            callback()
        for callback in self.on_tick:
            callback()


def channel_of(broker: Broker) -> Any:
    return SimpleNamespace(
        qos=broker, connection_errors=(ConnectionError,), ResponseError=KeyError,
        _brpop_start=None, _brpop_read=None, handlers={}, global_keyprefix="p:",
        unacked_index_key="index", unacked_key="tags",
        pool=SimpleNamespace(get_connection=lambda: Connection(broker)),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("get_connection", "given"),
    [
        (lambda: "none", "none"),
        (lambda command_name=None, *keys, **options: command_name or "none", "none"),
        (lambda command_name, *keys, **options: command_name, "MULTI"),
    ],
    ids=["redis 8", "redis 5.3", "redis 5.2"],
)
def test_a_connection_is_asked_for_as_each_release_wants(get_connection: Any, given: str) -> None:
    """Release 5.2 requires the name of a command, later ones warn of it."""
    assert _taken_from(SimpleNamespace(get_connection=get_connection)) == given


class Setting:
    def __init__(self) -> None:
        self.loop = Loop()
        conf = SimpleNamespace(worker_cancel_long_running_tasks_on_connection_loss=False)
        self.in_hand: list[Any] = []
        self.consumer = SimpleNamespace(
            blueprint=SimpleNamespace(state=RUN), app=SimpleNamespace(conf=conf),
            pool=SimpleNamespace(requests=lambda: self.in_hand), hub=self.loop,
        )  # fmt: skip
        self.ledger = RedisLedger(self.consumer, self.loop)  # type: ignore[arg-type]

    def connect(self, broker: Broker | None = None) -> Broker:
        broker = Broker() if broker is None else broker
        channel = channel_of(broker)
        channel.connection = SimpleNamespace(cycle=SimpleNamespace(discard=lambda _: None))
        channel._in_poll = None
        assert self.ledger.attach(channel)
        return broker

    def afresh(self, *, away: int = 0) -> Broker:
        """Return what a connection made at the worker's end finds, after `away` that are refused."""
        broker, refusals = Broker(), iter(range(away))

        class Connection:
            default_channel = channel_of(broker)

            def __enter__(self) -> Connection:
                return self

            def __exit__(self, *_: object) -> None:
                pass

            def connect(self) -> None:
                if next(refusals, None) is not None:
                    raise ConnectionError

        self.consumer.app.connection_for_read = Connection
        return broker


@pytest.fixture
def setting() -> Setting:
    return Setting()


def test_acks_that_fall_together_leave_together(setting: Setting) -> None:
    """Two acks before the loop turns are one round trip; a message that is dropped is one more."""
    qos = setting.connect()
    qos.ack("a")
    qos.ack("b")
    qos.reject("c", requeue=False)
    setting.loop.turn()
    assert (qos.paid, qos.restored) == ([["a", "b", "c"]], [])


def test_an_ack_that_comes_during_the_trip_is_paid_in_the_same_turn(setting: Setting) -> None:
    """Nobody schedules another flush while one is under way, so it must look again."""
    qos = setting.connect()
    late = iter(["b"])
    qos.during_a_trip = lambda: [qos.ack(tag) for tag in late]  # type: ignore[assignment, return-value]
    qos.ack("a")
    setting.loop.turn()
    assert (qos.paid, setting.ledger.owed) == ([["a"], ["b"]], [])


def test_what_a_lost_connection_left_owed_is_paid_by_the_next(setting: Setting) -> None:
    """The loss ends the loop's turn, not the acks queued behind; none is forgotten."""
    qos = setting.connect()
    qos.fails = True
    qos.ack("a")
    setting.loop.call_soon(lambda: qos.ack("b"))
    with pytest.raises(ConnectionError):
        setting.loop.turn()
    after = setting.connect()
    setting.loop.turn()
    assert (after.paid, setting.ledger.owed) == ([["a", "b"]], [])


def test_a_connection_that_was_dropped_idle_costs_nothing(setting: Setting) -> None:
    """It is made anew once, and what was owed is paid once."""
    qos = setting.connect()
    drops = iter([True])

    def drop() -> None:
        if next(drops, False):
            raise ConnectionError

    qos.during_a_trip = drop
    qos.ack("a")
    setting.loop.turn()
    assert (qos.paid, setting.ledger.owed) == ([["a"]], [])


def running(tag: str) -> Any:
    return SimpleNamespace(acknowledged=False, message=SimpleNamespace(delivery_tag=tag))


def test_what_runs_is_kept_and_what_waits_goes_back(setting: Setting) -> None:
    """After a reconnect the running task has its place in the window, and acknowledges on it."""
    qos = setting.connect()
    setting.in_hand.append(running("runs"))
    qos.append("message", "runs")
    qos.append("message", "waits")
    qos.restore_unacked_once()
    after = setting.connect()
    assert (qos.restored, after.restored) == ([], ["waits"])
    assert list(after._delivered) == ["runs"]
    qos.ack("runs")  # the request holds the old message
    setting.loop.turn()
    assert after.paid == [["runs"]]


def test_a_channel_that_dies_says_nothing_and_raises_nothing(setting: Setting) -> None:
    """Whatever a broker that is away makes of a call, kombu's close goes on; the next channel does it."""
    qos = setting.connect()
    qos.append("message", "waits")
    qos.append("message", "ended")
    qos.ack("ended")
    qos.restore_by_tag = None  # type: ignore[assignment]
    qos.restore_unacked_once()
    qos.restore_unacked_once()
    after = setting.connect()
    assert (after.restored, after.paid) == (["waits"], [["ended"]])


def test_what_the_broker_could_not_take_back_goes_back_once_later(setting: Setting) -> None:
    """The connection after the next takes what the next was lost over; what went back does not go twice."""
    qos = setting.connect()
    for tag in "abc":
        qos.append("message", tag)
    qos.restore_unacked_once()
    half = Broker()
    taken = iter([1, 1])

    def restore(tag: str) -> None:
        if next(taken, None) is None:
            raise ConnectionError
        half.restored.append(tag)

    half.restore_by_tag = restore  # type: ignore[method-assign]
    with pytest.raises(ConnectionError):
        setting.connect(half)
    assert sorted(half.restored + setting.connect().restored) == ["a", "b", "c"]


def test_a_task_that_ends_without_a_connection_is_not_given_back(setting: Setting) -> None:
    """Its ack waits for the next channel, whoever held the message meanwhile."""
    qos = setting.connect()
    setting.in_hand.append(running("runs"))
    qos.append("message", "runs")
    qos.append("message", "revoked")
    qos.restore_unacked_once()
    qos.ack("runs")
    qos.ack("revoked")
    setting.loop.turn()
    after = setting.connect()
    assert (after.restored, after.paid, list(after._delivered)) == ([], [["runs", "revoked"]], [])


def test_what_runs_at_a_loss_while_the_worker_stops_ends_in_peace(setting: Setting) -> None:
    """It ends during the drain and is acknowledged at the end; what does not end goes back."""
    qos = setting.connect()
    setting.in_hand += [running("ends"), running("killed")]
    qos.append("message", "ends")
    qos.append("message", "killed")
    setting.consumer.blueprint.state = CLOSE
    setting.ledger.let_go()
    assert (qos.paid, qos.restored) == ([], [])
    qos.ack("ends")
    last = setting.afresh()
    setting.ledger.close()
    assert (last.paid, last.restored) == ([["ends"]], ["killed"])


def test_the_end_waits_for_a_broker_that_comes_back(
    setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked again; one that stays away is given up, and the worker ends."""
    monkeypatch.setattr("greenkit.celery._redis_broker._PAUSE", 0.0)
    qos = setting.connect()
    qos.append("message", "waits")
    setting.consumer.blueprint.state = CLOSE
    qos.fails = True
    last = setting.afresh(away=3)
    qos.restore_unacked_once()
    assert last.restored == ["waits"]
    setting.connect().append("message", "lost")
    monkeypatch.setattr("greenkit.celery._redis_broker._LAST_WORD", 0.0)
    setting.ledger.close()


def test_at_shutdown_what_runs_goes_back_too(setting: Setting) -> None:
    """Nobody will acknowledge it any more."""
    qos = setting.connect()
    setting.in_hand.append(running("runs"))
    qos.append("message", "runs")
    setting.consumer.blueprint.state = CLOSE
    qos.restore_unacked_once()
    assert qos.restored == ["runs"]


def test_an_ack_that_comes_while_the_next_channel_pays_is_not_forgotten(setting: Setting) -> None:
    """A task that ends during that round trip has its ack paid by the same channel."""
    qos = setting.connect()
    setting.in_hand += [running("early"), running("late")]
    qos.append("message", "early")
    qos.append("message", "late")
    qos.restore_unacked_once()
    qos.ack("early")
    late = iter(["late"])
    after = Broker()
    after.during_a_trip = lambda: [qos.ack(tag) for tag in late]  # type: ignore[assignment, return-value]
    setting.connect(after)
    assert next(late, "came") == "came", "the ack under test never came"
    setting.loop.turn()
    assert (after.paid, after.restored, list(after._delivered)) == ([["early"], ["late"]], [], [])
