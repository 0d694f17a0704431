"""What must hold for asyncio in the greenlets of a patched process; prints "ok" for the check named.

`python asyncio_checks.py early NAME` imports asyncio, ssl and concurrent.futures before the patch.
"""

from __future__ import annotations

import sys

if sys.argv[1] == "early":
    import asyncio
    import concurrent.futures
    import ssl

import greenkit.auto

import asyncio
import contextvars
import gc
import os
import signal
import threading
import time
import traceback
from pathlib import Path

import gevent
from asgiref.sync import async_to_sync, sync_to_async
from gevent.monkey import get_original

from greenkit import aio, boot
from greenkit.errors import WaitTimeout

CHECKS = {}
var = contextvars.ContextVar("var", default=0)
local = threading.local()


def check(function):
    CHECKS[function.__name__] = function
    return function


def all_of(count, function, *args):
    """Run it in `count` greenlets at once and return what each returned; raise what the first raised."""
    jobs = [gevent.spawn(function, *args) for _ in range(count)]
    gevent.joinall(jobs)
    return [job.get() for job in jobs]


def descriptors_open():
    return len(list(Path("/proc/self/fd").iterdir()))


async def nap(value=None, seconds=0.01):
    await asyncio.sleep(seconds)
    return value


@check
def many_asyncio_runs_at_once_all_answer():
    assert all_of(200, lambda: asyncio.run(nap(1))) == [1] * 200


@check
def many_async_to_sync_at_once_all_answer():
    assert all_of(100, lambda: async_to_sync(nap)(1)) == [1] * 100


@check
def async_to_sync_runs_sync_code_in_the_callers_own_greenlet():
    def call():
        local.mine = me = gevent.getcurrent()

        async def back():
            await asyncio.sleep(0.001)
            return await sync_to_async(lambda: (gevent.getcurrent(), local.mine))()

        assert async_to_sync(back)() == (me, me)
        return True

    assert all(all_of(100, call))


@check
def five_layers_of_sync_and_async_all_answer():
    def inner():
        return async_to_sync(nap)(7)

    async def middle():
        return await sync_to_async(inner)()

    def outer():
        return async_to_sync(middle)()

    async def outermost():
        return await sync_to_async(outer)()

    assert all_of(50, lambda: async_to_sync(outermost)()) == [7] * 50


@check
def other_greenlets_see_no_running_loop():
    seen = []

    def look():
        while len(seen) < 50:
            try:
                seen.append(asyncio.get_running_loop())
            except RuntimeError:
                seen.append(None)
            gevent.sleep(0.0005)

    looker = gevent.spawn(look)
    all_of(20, lambda: asyncio.run(nap(seconds=0.05)))
    looker.join()
    assert seen == [None] * len(seen), seen


@check
def djangos_orm_is_refused_only_inside_a_coroutine():
    from django.core.exceptions import SynchronousOnlyOperation
    from django.utils.asyncio import async_unsafe

    query = async_unsafe(lambda: "rows")
    running = gevent.spawn(asyncio.run, nap(seconds=0.05))
    gevent.sleep(0.01)
    assert query() == "rows"

    async def inside():
        try:
            return query()
        except SynchronousOnlyOperation:
            return "refused"

    assert asyncio.run(inside()) == "refused"
    running.join()


@check
def a_killed_greenlet_cancels_its_coroutine():
    for run in (asyncio.run, lambda c: async_to_sync(lambda: c)(), aio.run):
        said = []

        async def work():
            said.append("began")
            try:
                await asyncio.sleep(30)
            finally:
                await asyncio.sleep(0.01)
                said.append("ended")

        if run is not asyncio.run and run is not aio.run:

            def run(_, work=work):
                return async_to_sync(work)()

        made = work() if run in (asyncio.run, aio.run) else None
        jobs = [gevent.spawn(run, made)]
        gevent.sleep(0.05)
        gevent.killall(jobs, timeout=5)
        assert said == ["began", "ended"], said
    assert aio.statistics().tasks == 0


@check
def a_timeout_cancels_the_coroutine():
    for run in (lambda w: asyncio.run(w()), lambda w: async_to_sync(w)(), lambda w: aio.run(w())):
        said = []

        async def work():
            try:
                await asyncio.sleep(30)
            finally:
                await asyncio.sleep(0.01)
                said.append("ended")

        try:
            with gevent.Timeout(0.05):
                run(work)
        except gevent.Timeout:
            said.append("timeout")
        assert said == ["ended", "timeout"], said


@check
def a_kill_before_the_coroutine_began_cancels_it():
    began = []

    async def work():
        began.append(True)
        await asyncio.sleep(30)

    for run in (lambda: async_to_sync(work)(), lambda: aio.run(work())):
        before = gevent.getcurrent()
        job = gevent.spawn(run)
        gevent.spawn(job.kill)  # runs right after it, before any loop had a turn
        job.join(5)
        assert job.ready() and before is gevent.getcurrent()
    gevent.sleep(0.05)
    assert aio.statistics().tasks == 0


@check
def context_variables_go_in_and_come_back():
    async def change(n):
        assert var.get() == n
        await asyncio.sleep(0.001)
        var.set(n + 1)

    def call(run):
        n = id(gevent.getcurrent())
        var.set(n)
        run(n)
        assert var.get() == n + 1
        return True

    assert all(all_of(50, call, lambda n: async_to_sync(change)(n)))
    assert all(all_of(50, call, lambda n: aio.run(change(n))))


@check
def async_generators_are_finished_by_their_own_loop():
    finished = []

    async def generate(loop):
        try:
            while True:
                await asyncio.sleep(0.001)
                yield 1
        finally:
            await asyncio.sleep(0)
            finished.append(asyncio.get_running_loop() is loop)

    async def abandon():
        made = generate(asyncio.get_running_loop())
        await made.__anext__()
        del made
        gc.collect()
        await asyncio.sleep(0.01)

    all_of(30, lambda: asyncio.run(abandon()))
    assert finished == [True] * 30, finished
    assert sys.get_asyncgen_hooks() == (None, None)


@check
def a_blocking_wait_in_a_coroutine_stops_that_loop_only():
    async def block():
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        time.sleep(0.02)
        assert (asyncio.get_running_loop(), asyncio.current_task()) == (loop, task)

    begin = time.monotonic()
    all_of(50, lambda: asyncio.run(block()))
    assert time.monotonic() - begin < 0.9, "fifty waits of 20 ms ran one after another"


@check
def executors_and_names_answer_at_once():
    async def use():
        got = await asyncio.to_thread(time.sleep, 0.01)
        await asyncio.get_running_loop().getaddrinfo("localhost", 80)
        return got

    assert all_of(30, lambda: asyncio.run(use())) == [None] * 30


@check
def a_subprocess_runs_from_any_greenlet():
    async def shell():
        child = await asyncio.create_subprocess_exec("echo", "hello", stdout=asyncio.subprocess.PIPE)
        out, _ = await child.communicate()
        return out

    assert asyncio.run(shell()) == b"hello\n"
    assert all_of(5, lambda: asyncio.run(shell())) == [b"hello\n"] * 5


@check
def streams_talk_between_greenlets():
    async def serve(reader, writer):
        writer.write((await reader.readline()).upper())
        await writer.drain()
        writer.close()

    async def both():
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            writer.write(b"hello\n")
            answer = await reader.readline()
            writer.close()
            return answer

    assert all_of(30, lambda: asyncio.run(both())) == [b"HELLO\n"] * 30


@check
def a_nested_asyncio_run_is_still_refused():
    async def nest():
        inner = nap()
        try:
            asyncio.run(inner)
        except RuntimeError as error:
            inner.close()
            return str(error)

    assert "running event loop" in asyncio.run(nest())


@check
def loops_are_woken_from_greenlets_and_native_threads():
    async def wait_for(wake):
        done = asyncio.get_running_loop().create_future()
        wake(asyncio.get_running_loop(), lambda: done.set_result("woken"))
        return await asyncio.wait_for(done, 5)

    def from_a_greenlet(loop, call):
        gevent.spawn_later(0.01, loop.call_soon_threadsafe, call)

    def from_a_thread(loop, call):
        def thread():
            get_original("time", "sleep")(0.01)
            loop.call_soon_threadsafe(call)

        get_original("_thread", "start_new_thread")(thread, ())

    for wake in (from_a_greenlet, from_a_thread):
        assert all_of(20, lambda wake=wake: asyncio.run(wait_for(wake))) == ["woken"] * 20


@check
def a_future_set_by_another_greenlet_wakes_its_loop():
    """Channels' in-memory layer puts into the queue of a loop that waits; so does a plain set_result()."""

    async def wait_for(made):
        made.append(asyncio.get_running_loop().create_future())
        return await made[0]

    async def take(queue):
        return await queue.get()

    async def put(queue):
        queue.put_nowait("from another loop")

    for run in (asyncio.run, aio.run):
        made = []
        job = gevent.spawn(run, wait_for(made))
        gevent.sleep(0.01)
        made[0].set_result("set")
        assert job.get(timeout=5) == "set"
        queue = asyncio.Queue()
        job = gevent.spawn(run, take(queue))
        gevent.sleep(0.01)
        asyncio.run(put(queue))
        assert job.get(timeout=5) == "from another loop"


@check
def a_native_thread_has_a_loop_of_its_own():
    def native():
        loop = asyncio.new_event_loop()
        try:
            return type(loop).__name__, loop.run_until_complete(nap(5))
        finally:
            loop.close()

    running = gevent.spawn(asyncio.run, nap(seconds=0.05))
    assert gevent.get_hub().threadpool.apply(native)[1] == 5
    running.join()


@check
def a_forked_child_runs_loops_of_its_own():
    aio.run(nap())
    running = gevent.spawn(aio.run, nap(3, seconds=0.1))
    gevent.sleep(0.01)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            with gevent.Timeout(5):
                assert asyncio.run(nap(1)) == 1
                assert aio.run(nap(2)) == 2
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0
    assert running.get(timeout=5) == 3


@check
def an_error_arrives_with_both_tracebacks():
    async def deep():
        await asyncio.sleep(0)
        raise KeyError("deep")

    def caller_of_it():
        aio.run(deep())

    try:
        caller_of_it()
    except KeyError as error:
        names = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
    assert "caller_of_it" in names and "deep" in names, names


@check
def the_long_lived_loop_keeps_clients_across_calls():
    loops = all_of(20, lambda: aio.run(running_loop()))
    assert set(loops) == {aio.loop()}


async def running_loop():
    await asyncio.sleep(0)
    return asyncio.get_running_loop()


@check
def sync_code_of_a_long_lived_loop_runs_in_the_caller():
    def call():
        local.mine = me = gevent.getcurrent()

        async def back():
            await asyncio.sleep(0.001)
            return await sync_to_async(lambda: (gevent.getcurrent(), local.mine))()

        assert aio.run(back()) == (me, me)
        return True

    assert all(all_of(50, call))


@check
def bare_loops_do_not_wait_for_one_worker():
    async def sync_wait():
        await sync_to_async(time.sleep)(0.05)

    begin = time.monotonic()
    all_of(40, lambda: asyncio.run(sync_wait()))
    assert time.monotonic() - begin < 1.5, "forty waits of 50 ms ran one after another"


@check
def a_generator_is_consumed_item_by_item():
    made = []

    async def generate():
        try:
            for n in range(100):
                made.append(n)
                yield n
        finally:
            await asyncio.sleep(0.001)
            made.append("closed")

    taken = []
    for item in aio.iterate(generate()):
        taken.append(item)
        assert made == taken, "the generator runs ahead"
        if item == 4:
            break
    gc.collect()
    assert made == [0, 1, 2, 3, 4, "closed"], made
    assert list(aio.iterate(generate())) == list(range(100))


@check
def a_killed_consumer_closes_the_generator():
    said = []

    async def generate():
        try:
            while True:
                yield 1
                await asyncio.sleep(30)
        finally:
            said.append("closed")

    def consume():
        for _ in aio.iterate(generate()):
            said.append("item")

    job = gevent.spawn(consume)
    gevent.sleep(0.05)
    job.kill(timeout=5)
    assert said == ["item", "closed"], said
    assert aio.statistics().tasks == 0


@check
def gather_runs_all_and_cancels_the_rest_on_an_error():
    assert aio.gather(*(nap(n) for n in range(20)), limit=3) == list(range(20))
    ended = []

    async def long():
        try:
            await asyncio.sleep(30)
        finally:
            ended.append(True)

    async def fail():
        await asyncio.sleep(0.01)
        raise KeyError(1)

    try:
        aio.gather(long(), fail(), long())
    except KeyError:
        ended.append("error")
    assert ended == [True, True, "error"], ended


@check
def a_coroutine_out_of_time_is_cancelled_and_said():
    try:
        aio.run(nap(seconds=30), timeout=0.05)
    except WaitTimeout as error:
        assert "nap" in str(error)
    else:
        raise AssertionError("no timeout")
    assert aio.statistics().tasks == 0


@check
def a_coroutine_that_computes_has_its_ways():
    from greenkit import offload

    async def compute():
        await asyncio.sleep(0)
        return threading.get_native_id()

    async def part():
        return await asyncio.get_running_loop().run_in_executor(None, offload, threading.get_native_id)

    mine = threading.get_native_id()
    assert offload(lambda: asyncio.run(compute())) != mine
    assert mine not in set(all_of(5, lambda: aio.run(part())))


@check
def a_signal_handler_on_a_loop_is_called():
    async def wait():
        got = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, got.set)
        gevent.spawn_later(0.01, os.kill, os.getpid(), signal.SIGUSR1)
        await asyncio.wait_for(got.wait(), 5)
        asyncio.get_running_loop().remove_signal_handler(signal.SIGUSR1)

    asyncio.run(wait())


@check
def set_event_loop_belongs_to_the_greenlet():
    def call():
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        gevent.sleep(0.01)
        assert asyncio.get_event_loop() is loop
        loop.run_until_complete(nap())
        loop.close()
        return True

    assert all(all_of(20, call))


@check
def uninstalling_puts_everything_back():
    from gevent.hub import Hub

    aio.uninstall_asgiref()
    aio.uninstall_loop()
    boot.share_loops()
    assert "switch" not in vars(Hub)
    loop = asyncio.new_event_loop()
    assert type(loop).__name__ == "_UnixSelectorEventLoop"
    loop.close()
    assert not boot.loop_isolation().installed
    boot.isolate_loops()
    assert boot.loop_isolation().installed


if __name__ == "__main__":
    with gevent.Timeout(60):
        CHECKS[sys.argv[2]]()
    print("ok")
