"""Say when Celery or kombu no longer needs what `greenkit/celery/_upstream.py` does, or lost its footing."""

from __future__ import annotations

import inspect
import socket
import threading

import pytest
from amqp.transport import TCPTransport
from celery import Celery, platforms
from celery.apps import worker as worker_program
from celery.worker import loops
from kombu.asynchronous import Hub
from kombu.transport import redis as redis_transport


def test_celery_still_installs_handlers_through_one_object() -> None:
    """The signal handlers of a worker pass through `platforms.signals`, which we exchange."""
    assert "platforms.signals[sig] = " in inspect.getsource(worker_program)
    assert type(platforms.signals).__setitem__ is not None


def test_celery_still_picks_the_blocking_loop_under_gevent() -> None:
    """`should_use_eventloop` asks for the default environment; once it does not, ours is not needed."""
    from celery.worker.worker import WorkController

    assert "detect_environment() == 'default'" in inspect.getsource(WorkController.should_use_eventloop)
    assert "drain_events(timeout=2.0)" in inspect.getsource(loops.synloop)


def test_kombu_still_moves_messages_one_by_one() -> None:
    """Redis acks are a pipeline each and BRPOP takes one; once kombu batches, `RedisLedger` goes."""
    assert "_remove_from_indices(delivery_tag).execute()" in inspect.getsource(redis_transport.QoS.ack)
    assert "['BRPOP', *keys]" in inspect.getsource(redis_transport.Channel._brpop_start)
    assert "{'BRPOP': self._brpop_read" in inspect.getsource(redis_transport.Channel.__init__)
    booking = inspect.getsource(redis_transport.QoS.append)
    assert "dumps([message._raw, EX, RK])" in booking, "what the script writes is no longer kombu's"


def test_py_amqp_still_spins_on_half_a_frame() -> None:
    """At a time-out of 0 it asks again and again for the rest; once it stops, half of `BulkAmqp` goes."""
    ours, brokers = socket.socketpair()
    wire = TCPTransport("nowhere")
    asked = []

    def receive(size: int) -> bytes:
        asked.append(size)
        if len(asked) > 100:
            raise ConnectionAbortedError("enough")
        return ours.recv(size, socket.MSG_DONTWAIT)

    with ours, brokers:
        wire.sock, wire.connected = ours, True
        wire._setup_transport()
        wire._quick_recv = receive
        brokers.sendall(b"\x01\x00\x01\x00\x00\x00\x08half")
        with pytest.raises(ConnectionAbortedError), wire.having_timeout(0):
            wire.read_frame()


def test_celery_still_freezes_limits_into_request_classes() -> None:
    """`control time_limit` changes a task whose request class has copied the limits."""
    from celery.worker import control, request

    assert "default_time_limit = task.time_limit" in inspect.getsource(request.create_request_cls)
    assert control.Panel.data["time_limit"] is not None
    if "greenkit" not in control.Panel.data["time_limit"].__module__:
        assert "update_strategies" not in inspect.getsource(control.Panel.data["time_limit"])


def test_celery_still_restores_the_window_from_the_tasks_greenlet() -> None:
    """The promise of an ack sends `basic.qos` itself, wherever it was called."""
    from celery.worker.consumer import Consumer

    assert "ack_log_error_promise.then(self._restore_prefetch_count" in inspect.getsource(
        Consumer.create_task_handler
    )
    assert "self.qos.set(" in inspect.getsource(Consumer._restore_prefetch_count_after_connection_restart)


def test_the_hub_still_has_the_parts_we_exchange() -> None:
    """`GreenHub` overrides these two, and adds to `_ready`."""
    hub = Hub()
    assert callable(hub._create_poller)
    assert isinstance(hub._ready, set)
    hub.close()


def test_the_backend_is_still_bound_to_a_thread() -> None:
    """Each thread, so each greenlet, gets a backend of its own; once shared, `_results.py` goes."""
    app = Celery("canary", backend="cache+memory://", set_as_current=False)
    seen = [app.backend]
    thread = threading.Thread(target=lambda: seen.append(app.backend))
    thread.start()
    thread.join()
    assert seen[0] is not seen[1]
