"""What a Celery task's coroutines leave behind, under one policy: `aio_children.py CHECK`."""

import greenkit.auto

import asyncio
import logging
import sys

import gevent
from asgiref.sync import async_to_sync
from gevent.event import AsyncResult

from greenkit import aio
from greenkit.celery import Options, TaskPool, current_task_id, on_worker_stop
from greenkit.celery._task_body import _edged

CHECKS = {}
logging.basicConfig(stream=sys.stdout, format="%(message)s")


def check(function):
    CHECKS[function.__name__] = function
    return function


def run(body, policy="join", **limits):
    """Return what `body` returned as a task of a pool."""
    pool = TaskPool(2)
    pool.settings = Options(children=policy, kill_grace=0.01)
    pool.start()
    ended = AsyncResult()
    pool.apply_async(
        lambda: (0, _edged(body)(), 0.0),
        callback=lambda result: ended.set(result[1]),
        error_callback=lambda info: ended.set_exception(info.exception),
        timeout_callback=lambda soft, limit: soft or ended.set_exception(RuntimeError("hard limit")),
        **limits,
    )
    return ended.get(timeout=10)


class Fate:
    """An asyncio task that a coroutine leaves on the loop, and how it ended."""

    def __init__(self):
        self.said = []
        self.kept = []

    async def leave(self, seconds):
        self.kept.append(asyncio.create_task(self.left_behind(seconds)))
        await asyncio.sleep(0.005)

    async def left_behind(self, seconds):
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            await asyncio.sleep(0.005)
            self.said.append("cancelled")
            raise
        self.said.append("ended")


@check
def join_waits_for_an_asyncio_task_left_on_the_loop():
    fate = Fate()
    run(lambda: aio.run(fate.leave(0.05)), "join")
    assert fate.said == ["ended"], fate.said


@check
def kill_cancels_an_asyncio_task_left_on_the_loop():
    fate = Fate()
    run(lambda: aio.run(fate.leave(30)), "kill")
    assert fate.said == ["cancelled"], fate.said
    assert aio.statistics().tasks == 0


@check
def report_names_the_coroutine_and_leaves_it():
    fate = Fate()
    run(lambda: aio.run(fate.leave(0.05)), "report")
    assert fate.said == []
    gevent.sleep(0.1)
    assert fate.said == ["ended"]


@check
def a_hard_limit_ends_what_a_joining_task_waits_for():
    fate = Fate()
    try:
        run(lambda: aio.run(fate.leave(30)), "join", timeout=0.1)
    except RuntimeError as error:
        assert str(error) == "hard limit"
    assert fate.said == ["cancelled"], fate.said


@check
def a_failed_task_leaves_no_asyncio_task_behind():
    fate = Fate()

    def body():
        aio.run(fate.leave(30))
        raise KeyError("failed")

    try:
        run(body, "kill")
    except Exception as error:
        fate.said.append("failed" if "failed" in str(error) else repr(error))
    assert fate.said == ["cancelled", "failed"], fate.said


@check
def a_greenlet_started_in_a_coroutine_is_the_tasks_own():
    said = []

    async def start():
        gevent.spawn(lambda: gevent.sleep(0.05) or said.append(current_task_id() is not None))

    run(lambda: aio.run(start()), "join")
    assert said == [True], said


@check
def code_in_a_coroutine_knows_its_task():
    async def ask():
        await asyncio.sleep(0.001)
        return current_task_id(), await asyncio.to_thread(current_task_id)

    def body():
        mine = current_task_id()
        assert mine is not None
        assert aio.run(ask()) == (mine, mine)
        assert asyncio.run(ask()) == (mine, mine)
        assert async_to_sync(ask)() == (mine, mine)
        return True

    assert run(body) is True
    assert aio.run(ask()) == (None, None)


@check
def what_a_client_keeps_on_the_loop_is_no_child():
    """The library of this check is what pip would have installed: its code lies in site-packages."""
    source = (
        "import asyncio\n"
        "class Client:\n"
        "    async def connect(self):\n"
        "        self.listening = asyncio.create_task(self._listen())\n"
        "    async def _listen(self):\n"
        "        await asyncio.sleep(30)\n"
    )
    library = {"__name__": "somelib.client"}
    exec(compile(source, "/usr/lib/site-packages/somelib/client.py", "exec"), library)
    client = library["Client"]()
    run(lambda: aio.run(client.connect()), "kill")
    run(lambda: aio.run(client.connect()), "join")
    assert not client.listening.done()


@check
def a_pool_that_stops_ends_the_loop():
    """After the closers, which may use it; what runs on it is cancelled and joined."""
    fate, said = Fate(), []

    async def close_client():
        await asyncio.sleep(0.001)
        said.append("client closed")

    on_worker_stop(lambda: aio.run(close_client()))
    pool = TaskPool(2)
    pool.settings = Options(children="ignore")
    pool.start()
    aio.run(fate.leave(30))
    loop = aio.loop()
    pool.stop()
    assert (said, fate.said) == (["client closed"], ["cancelled"])
    assert loop.is_closed()


@check
def a_pool_that_used_no_loop_makes_none():
    pool = TaskPool(2)
    pool.start()
    pool.stop()
    assert "greenkit.aio._portal" not in sys.modules


@check
def a_task_left_by_an_ended_job_counts_for_nobody():
    fate, late = Fate(), Fate()

    async def go_on():
        await asyncio.sleep(0.02)
        await late.leave(0.05)

    async def begin():
        fate.kept.append(asyncio.create_task(go_on()))

    run(lambda: aio.run(begin()), "ignore")
    gevent.sleep(0.1)
    assert late.said == ["ended"], late.said


if __name__ == "__main__":
    with gevent.Timeout(30):
        CHECKS[sys.argv[1]]()
    print("ok")
