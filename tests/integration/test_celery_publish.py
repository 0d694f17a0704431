"""publish_many() sends what a loop over apply_async() sends, and says what arrived when it fails."""

from __future__ import annotations

import json
from contextlib import ExitStack, contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any

import pytest
from celery import Celery, group, signals
from celery.app.task import Task
from kombu import Queue

from greenkit.celery import PublishError, publish_group, publish_many
from greenkit.celery import _publish as rooms
from greenkit.errors import ConfigError
from greenkit.testing import FaultProxy, RabbitServer, ValkeyServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.filterwarnings("ignore")

CALLS: list[Any] = [
    (),
    (1, 'it\'s "quoted"', None),
    {"text": "größer 漢字 \u2028", "deep": {"a": [1, [2, {"b": None}]]}},
    ("x" * 300_000,),
    ("%(id)s {id} \\u0000",),
    {"number": 1.5, "flag": True},
]


@pytest.fixture(params=["redis", "amqp"])
def app(request: pytest.FixtureRequest) -> Iterator[Celery]:
    """An app on each broker, with an empty queue."""
    if request.param == "redis":
        url = request.getfixturevalue("greenkit_valkey").broker_url
    else:
        url = request.getfixturevalue("greenkit_rabbitmq").url
    with made(url) as app:
        yield app


@contextmanager
def made(url: str, **settings: Any) -> Iterator[Celery]:
    app = Celery("publishing", broker=url, backend="cache+memory://")
    app.conf.update(task_default_queue="published", broker_connection_timeout=5, **settings)
    app.conf.task_queues = [Queue("published", max_priority=9), Queue("other")]

    @app.task(name="note", typing=False)
    def note(*args: object, **kwargs: object) -> None: ...

    @app.task(name="two")
    def two(first: int, second: int = 0) -> None: ...

    empty(app)
    yield app
    empty(app)
    app.close()


def empty(app: Celery) -> None:
    with app.connection_for_write() as connection:
        for queue in app.amqp.queues.values():
            bound = queue(connection.default_channel)
            bound.declare()
            bound.purge()


def drained(app: Celery, queue: str = "published") -> list[dict[str, Any]]:
    """Return what stands in the queue, in order, as a consumer gets it."""
    seen = []
    with app.connection_for_read() as connection:
        bound = app.amqp.queues[queue](connection.default_channel)
        bound.declare()
        while (message := bound.get(no_ack=True)) is not None:
            properties = dict(message.properties)
            properties.pop("delivery_tag", None)
            info = {
                key: value
                for key, value in message.delivery_info.items()
                if key in {"exchange", "routing_key", "priority"}
            }
            seen.append(
                {
                    "headers": message.headers,
                    "properties": properties,
                    "info": info,
                    "body": bytes(message.body) if isinstance(message.body, memoryview) else message.body,
                    "types": (message.content_type, message.content_encoding),
                }
            )
    return seen


def by_loop(app: Celery, calls: list[Any], ids: list[str], **options: Any) -> list[dict[str, Any]]:
    for item, name in zip(calls, ids, strict=True):
        args, kwargs = ((), item) if isinstance(item, dict) else (item, {})
        app.tasks["note"].apply_async(args, kwargs, task_id=name, **options)
    return drained(app, options.get("queue", "published"))


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Count what goes one by one, to see that the template was used."""
    slow: list[int] = []
    original = rooms._one_by_one

    def counted(task: Any, calls: list[Any], *rest: Any) -> None:
        slow.append(len(calls))
        original(task, calls, *rest)

    monkeypatch.setattr(rooms, "_one_by_one", counted)
    return lambda: sum(slow)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"priority": 3},
        {"queue": "other", "headers": {"tenant": "ä"}, "eta": "2031-01-01T00:00:00+00:00"},
        {"shadow": "called", "time_limit": 9, "soft_time_limit": 8, "ignore_result": True},
        {"serializer": "pickle"},
        {"argsrepr": "(secret)", "root_id": "the-root", "parent_id": "the-parent"},
    ],
    ids=["plain", "priority", "queue", "limits", "pickle", "given"],
)
def test_the_messages_are_celerys_own(app: Celery, fast: Callable[[], int], options: dict[str, Any]) -> None:
    """Headers, properties and body are the same, and in the order of the items."""
    ids = publish_many(app.tasks["note"], CALLS, **options)
    assert fast() == 0, "no template was made"
    got = drained(app, options.get("queue", "published"))
    if app.conf.broker_url.startswith("redis") or "priority" not in options:
        assert [message["headers"]["id"] for message in got] == ids
    assert got == by_loop(app, CALLS, ids, **options)


def test_hundreds_arrive_in_order_each_once(app: Celery, fast: Callable[[], int]) -> None:
    """More than one batch."""
    ids = publish_many(app.tasks["two"], ((number,) for number in range(1_203)))
    assert fast() == 0
    assert [message["headers"]["id"] for message in drained(app)] == ids
    assert len(set(ids)) == 1_203


def test_a_group_of_one_task_is_a_group(app: Celery, fast: Callable[[], int]) -> None:
    """Its id and each member's place in it stand in the messages."""
    result = publish_group(group(app.tasks["two"].s(number, second=1) for number in range(5)))
    assert fast() == 0
    got = drained(app)
    assert [message["headers"]["group_index"] for message in got] == list(range(5))
    assert {message["headers"]["group"] for message in got} == {result.id}
    assert [message["headers"]["id"] for message in got] == [child.id for child in result.results]
    args, kwargs, _ = json.loads(got[3]["body"])
    assert (args, kwargs) == ([3], {"second": 1})


def test_a_group_of_two_tasks_goes_celerys_way(app: Celery) -> None:
    """Nothing is dropped that this way of sending does not know."""
    publish_group(group(app.tasks["two"].s(1), app.tasks["note"].s(2)))
    assert {message["headers"]["task"] for message in drained(app)} == {"two", "note"}


def test_messages_of_a_task_descend_from_it(app: Celery, fast: Callable[[], int]) -> None:
    """Root, parent and inherited priority are the running task's, and it knows its children."""
    app.conf.task_inherit_parent_priority = True
    parent = app.tasks["note"]
    parent.push_request(
        id="parent", root_id="root", delivery_info={"priority": 4}, children=[], called_directly=False
    )
    from celery._state import _task_stack

    _task_stack.push(parent)
    try:
        ids = publish_many(app.tasks["two"], [(1,), (2,), (3,)])
        assert [child.id for child in parent.request.children] == ids
    finally:
        _task_stack.pop()
        parent.pop_request()
    assert fast() == 0
    got = drained(app)
    assert {(one["headers"]["root_id"], one["headers"]["parent_id"]) for one in got} == {("root", "parent")}
    assert {one["properties"].get("priority", one["info"].get("priority")) for one in got} == {4}


def on_publish(**_: object) -> None: ...


def to_the_other(*_: object, **__: object) -> dict[str, str]:
    return {"queue": "other"}


def one_argument(number: int) -> None: ...


class Overridden(Task):
    """A task of a project that sends in its own way."""

    def apply_async(self, *args: Any, **kwargs: Any) -> Any:
        kwargs.setdefault("headers", {})["own"] = "yes"
        return super().apply_async(*args, **kwargs)


def test_who_looks_at_each_message_sees_each(app: Celery, fast: Callable[[], int]) -> None:
    """A receiver of a signal, an overridden method, a callable router, a link, an event: Celery's way."""
    note = app.tasks["note"]
    signals.before_task_publish.connect(on_publish)
    try:
        publish_many(note, [(1,), (2,)])
    finally:
        signals.before_task_publish.disconnect(on_publish)
    assert fast() == 2
    own = app.task(name="own", base=Overridden)(one_argument)
    publish_many(own, [(1,), (2,)])
    assert [one["headers"].get("own") for one in drained(app)] == [None, None, "yes", "yes"]
    publish_many(note, [(1,), (2,)], link=app.tasks["two"].si(1))
    app.conf.task_send_sent_event = True
    publish_many(note, [(1,), (2,)])
    app.conf.task_send_sent_event = False
    app.amqp.router.routes = [to_the_other]
    publish_many(note, [(1,), (2,)])
    assert (len(drained(app)), len(drained(app, "other"))) == (4, 2)
    assert fast() == 10


def test_a_tracers_wrapper_sees_each(
    app: Celery, fast: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """functools.wraps() hides a wrapper from its name and module, not from us."""
    seen = []
    original = Task.apply_async

    @wraps(original)
    def traced(self: Task, *args: Any, **kwargs: Any) -> Any:
        seen.append(self.name)
        return original(self, *args, **kwargs)

    monkeypatch.setattr(Task, "apply_async", traced)
    publish_many(app.tasks["two"], [(1,), (2,)])
    assert (fast(), seen) == (2, ["two", "two"])


def test_a_prefix_of_all_keys_is_kept(greenkit_valkey: ValkeyServer) -> None:
    """Kombu's client puts it on; the messages are found below it."""
    with made(greenkit_valkey.broker_url, broker_transport_options={"global_keyprefix": "mine:"}) as app:
        ids = publish_many(app.tasks["two"], [(1,), (2,)])
        assert [message["headers"]["id"] for message in drained(app)] == ids


@pytest.mark.parametrize(
    ("items", "words"),
    [
        (["abc"], r"item 0 of publish_many\(\) is 'abc' \(str\): give a tuple"),
        ([(1,), 7], r"item 1 .* is 7 \(int\)"),
        ([(1,), (1, 2, 3)], "positional arguments"),
    ],
)
def test_a_wrong_item_sends_nothing(app: Celery, items: list[Any], words: str) -> None:
    """It is said which, and what an item may be."""
    with pytest.raises(TypeError, match=words):
        publish_many(app.tasks["two"], items)
    assert drained(app) == []


def test_one_id_for_all_is_refused(app: Celery) -> None:
    """It would be every message's."""
    with pytest.raises(ConfigError, match="task_id='x'"):
        publish_many(app.tasks["two"], [(1,)], task_id="x")


def test_what_cannot_be_serialized_is_told_from_what_was_sent(app: Celery) -> None:
    """The batches before it are in the broker, its own is not."""
    with pytest.raises(PublishError, match=r"published 500|published 400|published 600") as caught:
        publish_many(app.tasks["note"], [(number,) for number in range(700)] + [(object(),)])
    got = [message["headers"]["id"] for message in drained(app)]
    assert caught.value.sent == got
    assert not caught.value.unsure
    assert len(caught.value.unsent) == 701 - len(got)


@pytest.mark.parametrize("kind", ["redis", "amqp"])
def test_what_a_cut_connection_did_is_told(kind: str, request: pytest.FixtureRequest) -> None:
    """What was sent is in the broker, what was not is not, and the rest is called unsure."""
    in_the_middle = 0
    with ExitStack() as stack:
        if kind == "redis":
            url = stack.enter_context(ValkeyServer(own=True, tcp=True)).broker_url
        else:
            url = request.getfixturevalue("greenkit_rabbitmq").url
        proxy = stack.enter_context(FaultProxy(url))
        beside, app = stack.enter_context(made(url)), stack.enter_context(made(proxy.url))
        for after in (150_000, 900_000, 1_100_000):
            proxy.cut_after(after, direction="up")
            with pytest.raises(PublishError) as caught:
                publish_many(app.tasks["note"], [("x" * 200,)] * 1_500)
            proxy.heal()
            error = caught.value
            assert len(error.sent) + len(error.unsure) + len(error.unsent) == 1_500
            got = {message["headers"]["id"] for message in drained(beside)}
            assert got >= set(error.sent)
            assert not got & set(error.unsent)
            in_the_middle += bool(error.sent and error.unsent)
    assert in_the_middle, "the connection was never cut after a batch and before another"


def test_a_broker_that_is_away_gets_nothing(greenkit_rabbitmq: RabbitServer) -> None:
    """All of it is unsent."""
    app = Celery("away", broker="redis://127.0.0.1:1/0", broker_connection_timeout=1)
    task = app.task(name="note")(one_argument)
    policy = {"max_retries": 1, "interval_start": 0}
    with pytest.raises(PublishError, match="published 0 of 2") as caught:
        publish_many(task, [(1,), (2,)], retry_policy=policy)
    assert len(caught.value.unsent) == 2
