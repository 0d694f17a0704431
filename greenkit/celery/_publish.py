"""Publish many messages of one task for a tenth of the CPU time of a loop over `apply_async()`.

Celery builds one message, as always; it becomes a template (`_publish_templates.py`) into which each
call's id and arguments are written, and hundreds of messages go to the broker in one write.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from types import FunctionType
from typing import TYPE_CHECKING, Any

import celery.app.amqp
import celery.app.base
import celery.app.task
import kombu.messaging
from celery import signals
from celery.app.routes import MapRoute
from celery.canvas import Signature, group
from kombu.exceptions import OperationalError
from kombu.utils.uuid import uuid

from greenkit.celery._publish_templates import Call, template_of
from greenkit.errors import ConfigError, GreenkitError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from celery.app.task import Task
    from celery.result import GroupResult

    from greenkit.celery._publish_templates import Template

__all__ = ["PublishError", "publish_group", "publish_many"]

# What a template repeats for each call. Anything else (links, chords, stamps, compression) is Celery's.
_OPTIONS = frozenset(
    {
        *("queue", "exchange", "routing_key", "priority", "delivery_mode", "declare", "headers"),
        *("countdown", "eta", "expires", "time_limit", "soft_time_limit", "ignore_result", "shadow"),
        *("serializer", "argsrepr", "kwargsrepr", "add_to_parent", "group_id", "root_id", "parent_id"),
        *("retry", "retry_policy", "reply_to"),
    }
)
_SIGNALS = (signals.before_task_publish, signals.after_task_publish, signals.task_sent)


class PublishError(GreenkitError):
    """Say which messages of a batch are in the broker, which may be, and which are not.

    Attributes:
        sent: Ids of the messages the broker has.
        unsure: Ids of those the connection broke under: the broker may have them or not.
        unsent: Ids of those the broker does not have.
    """

    def __init__(self, message: str, *, sent: list[str], unsure: list[str], unsent: list[str]) -> None:
        super().__init__(message)
        self.sent = sent
        self.unsure = unsure
        self.unsent = unsent


def publish_many(task: Task, items: Iterable[Any], *, timeout: float = 30.0, **options: Any) -> list[str]:
    """Send one message of `task` per item, as a loop over `task.apply_async()` would.

    The messages are the same to the byte, but for the ids; `countdown` and `expires` count from one
    instant for all. With RabbitMQ each is confirmed by the broker. In a task, `root_id`, `parent_id`
    and the priority are the running task's. Where Celery has to look at each message it gets each:
    with receivers of the publish signals (tracers), another `apply_async`, a router that is a function,
    options this function does not know, `task_always_eager`, `task_send_sent_event`, and brokers other
    than Redis and RabbitMQ.

    Args:
        task: A registered task.
        items: One per message: a tuple or list of positional arguments, a mapping of keyword
            arguments, or a signature of `task` for both. All are checked before the first is sent.
        timeout: Seconds RabbitMQ may take to confirm a batch of 200.
        options: Those of `Task.apply_async()`, for every message.

    Returns:
        The ids, in the order of `items`; `task.AsyncResult(id)` is the result.

    Raises:
        PublishError: The broker failed or refused; says what was sent.
        TypeError: An item is none of these, or does not fit the task's arguments; nothing was sent.
        ConfigError: `options` has a `task_id`, which would be every message's.

    Switches: may.
    """
    if "task_id" in options:
        msg = f"task_id={options['task_id']!r} would be every message's: publish_many() makes the ids"
        raise ConfigError(msg)
    calls = [Call(uuid(), *_arguments(task, number, item)) for number, item in enumerate(items)]
    _publish(task, calls, options, timeout)
    return [call.id for call in calls]


def publish_group(signature: group, *, timeout: float = 30.0) -> GroupResult:
    """Send a group whose members are calls of one task, as `signature.apply_async()` would.

    A group of several tasks, of chains, or whose members differ in their options goes Celery's way.

    Returns:
        The group's result.

    Raises:
        PublishError: As from `publish_many()`.

    Switches: may.
    """
    members = [member for member in signature.tasks if type(member) is Signature and not member.options]
    names = {member.task for member in members}
    if len(members) != len(signature.tasks) or len(names) != 1:
        return signature.apply_async()
    app = signature.app
    options = dict(signature.options)
    group_id = options.pop("task_id", None) or uuid()
    calls = [Call(uuid(), tuple(member.args), member.kwargs) for member in members]
    task = app.tasks[names.pop()]
    for call in calls:
        _check(task, call.args, call.kwargs)
    _publish(task, calls, {**options, "group_id": group_id, "add_to_parent": False}, timeout)
    result = app.GroupResult(group_id, [task.AsyncResult(call.id) for call in calls])
    if app.current_worker_task:
        app.current_worker_task.add_trail(result)
    return result


def _arguments(task: Task, number: int, item: Any) -> tuple[Sequence[Any], Mapping[str, Any]]:
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = {}
    if isinstance(item, Signature):
        if item.task != task.name or item.options:
            msg = (
                f"item {number} of publish_many() is {item!r} with options {dict(item.options)}: "
                f"give signatures of {task.name} without options of their own"
            )
            raise TypeError(msg)
        args, kwargs = tuple(item.args), item.kwargs
    elif isinstance(item, (tuple, list)):
        args = item
    elif isinstance(item, Mapping):
        kwargs = item
    else:
        msg = (
            f"item {number} of publish_many() is {item!r} ({type(item).__name__}): give a tuple of "
            f"positional arguments, such as (value,), a mapping of keyword arguments, or a signature"
        )
        raise TypeError(msg)
    _check(task, args, kwargs)
    return args, kwargs


def _check(task: Task, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    if task.typing and (header := getattr(task, "__header__", None)) is not None:
        header(*args, **kwargs)


def _publish(task: Task, calls: list[Call], options: dict[str, Any], timeout: float) -> None:
    if len(calls) < 2 or not _is_plain(task, options):
        _one_by_one(task, calls, options)
        return
    app = task.app
    with app.producer_or_acquire() as producer:
        try:
            template = _ensured(producer, task, calls[0], options)
        except OperationalError as error:
            raise _error(calls, [], [], error) from error
        if template is None:
            _one_by_one(task, calls, options, producer)
            return
        with closing(template):
            _send(template, calls, timeout)
    if options.get("add_to_parent", True) and (parent := app.current_worker_task):
        for call in calls:
            parent.add_trail(task.AsyncResult(call.id))


def _ensured(producer: Any, task: Task, call: Call, options: dict[str, Any]) -> Template | None:
    """Return the template, over a connection that was made anew when the broker had closed it."""
    conf = task.app.conf
    if not options.get("retry", conf.task_publish_retry):
        with producer.connection._reraise_as_library_errors():
            return template_of(producer, task, call, options)
    policy = {**conf.task_publish_retry_policy, **(options.get("retry_policy") or {})}
    ensured: Template | None = producer.connection.ensure(producer, template_of, **policy)(
        producer, task, call, options
    )
    return ensured


def _send(template: Template, calls: list[Call], timeout: float) -> None:
    for start in range(0, len(calls), template.size):
        sent = [call.id for call in calls[:start]]
        batch = calls[start : start + template.size]
        try:
            payloads = [template.render(call, start + place) for place, call in enumerate(batch)]
        except Exception as error:  # any serializer's, of any argument
            raise _error(calls, sent, [], error) from error
        try:
            template.write(payloads, timeout)
        except Exception as error:  # any transport's
            arrived, unsure = template.outcome(error, payloads)
            sent += [batch[place].id for place in sorted(arrived)]
            raise _error(calls, sent, [batch[place].id for place in sorted(unsure)], error) from error


def _one_by_one(task: Task, calls: list[Call], options: dict[str, Any], producer: Any = None) -> None:
    app = task.app
    if app.conf.task_always_eager:  # runs each here, and needs no broker
        for call in calls:
            task.apply_async(call.args, call.kwargs, task_id=call.id, **options)
        return
    in_group = "group_id" in options
    with app.producer_or_acquire(producer) as own:
        for place, call in enumerate(calls):
            extra = {"group_index": place} if in_group else {}
            try:
                task.apply_async(call.args, call.kwargs, task_id=call.id, producer=own, **options, **extra)
            except Exception as error:  # of a broker, a serializer, a receiver or another apply_async
                unsure = [call.id] if isinstance(error, OperationalError) else []
                raise _error(calls, [done.id for done in calls[:place]], unsure, error) from error


def _is_plain(task: Task, options: Mapping[str, Any]) -> bool:
    """Tell whether Celery would build each message alike, and no signal handler looks at it."""
    app = task.app
    return not (
        options.keys() - _OPTIONS
        or any(signal.receivers for signal in _SIGNALS)
        or app.conf.task_always_eager
        or app.conf.task_send_sent_event
        or app.conf.task_protocol != 2
        or getattr(task, "_dump_pydantic_arguments", None) is not None
        or not all(isinstance(route, MapRoute) for route in app.amqp.router.routes or ())
        or any(_is_exchanged(*place) for place in _celerys_own(task))
    )


def _celerys_own(task: Task) -> Iterator[tuple[Any, Any]]:
    app = task.app
    kind = task.__class__  # not type(), which is a proxy's own for @shared_task
    yield kind.apply_async, celery.app.task
    yield kind.shadow_name, celery.app.task
    yield type(app).send_task, celery.app.base
    yield app.amqp.as_task_v2, celery.app.amqp
    yield app.amqp.send_task_message, celery.app.amqp
    yield app.amqp.Producer.publish, kombu.messaging


def _is_exchanged(function: Any, module: Any) -> bool:
    """Tell whether `function` is not the one `module` defines: overridden, or wrapped by a tracer."""
    function = getattr(function, "__func__", function)
    # Not by __module__, which functools.wraps() copies.
    return not isinstance(function, FunctionType) or function.__globals__ is not vars(module)


def _error(calls: list[Call], sent: list[str], unsure: list[str], error: Exception) -> PublishError:
    known = {*sent, *unsure}
    unsent = [call.id for call in calls if call.id not in known]
    msg = (
        f"published {len(sent)} of {len(calls)} messages, then {type(error).__name__}: {error}. "
        f"{len(unsure)} may be in the broker or not, {len(unsent)} are not: "
        f"send those of `unsent` again, those of `unsure` when the task bears running twice"
    )
    return PublishError(msg, sent=sent, unsure=unsure, unsent=unsent)
