"""The watchdog in processes of its own: storms, forks, exits, hangs, and a process that was put to sleep."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from greenkit.testing import run_clean

PROGRAMS = Path(__file__).parent / "programs"

HEAD = """
import json, os
import greenkit.auto
import gevent
from gevent.monkey import get_original
from greenkit import facts, watchdog
native_sleep = get_original("time", "sleep")
told, ended = [], []
facts.subscribe(ended.append)

def start(threshold=0.05):
    dog = watchdog.start(threshold)
    dog.observe(told.append)
    gevent.sleep(0)
    return dog
"""


def test_looks_at_a_storm_do_not_kill_the_process() -> None:
    """Thousands of walks of a thread that switches, recurses and collects: none meets a torn stack."""
    run = run_clean(["-X", "faulthandler", str(PROGRAMS / "frame_storm.py"), "8000"], timeout=110)
    assert run.returncode == 0, run
    seen = run.json
    assert seen["looks"] == 8000
    assert seen["shapes"] > 20, "the storm did not move under the looks"
    assert seen["gc"] is True


def test_a_look_holds_no_tuple_that_the_program_is_building() -> None:
    """`tuple(generator)` in the watched thread, moved by a collection, while looks go on: no SystemError."""
    run = run_clean([str(PROGRAMS / "tuple_storm.py"), "500"], timeout=60)
    assert run.returncode == 0, run
    seen = run.json
    assert seen["looks"] == 500
    assert seen["moved"] > 500, "too few tuples were under construction"
    assert seen["spoilt"] == 0, seen


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="from 3.14 on CPython builds a tuple out of sight")
def test_the_tuples_see_a_look_that_holds_everything() -> None:
    """The usual list of all objects spoils some of them."""
    run = run_clean([str(PROGRAMS / "tuple_storm.py"), "500", "twin"], timeout=60)
    assert run.json["spoilt"] > 0, run


def test_a_greenlet_that_is_all_c_is_blamed_where_it_was_spawned() -> None:
    """Without one Python frame, and in a thread whose every frame is the library's."""
    run = run_clean(
        HEAD
        + """
import threading
start()
gevent.spawn(native_sleep, 0.4).join()  # long enough for two looks of a starved thread
gevent.sleep(0.03)
thread = threading.Thread(target=native_sleep, args=(0.4,), name="waiter")
thread.start()
thread.join()
print(json.dumps([[one.where, one.call, one.greenlet, one.module] for one in told]))
"""
    )
    alone, thread = run.json
    assert alone[0].endswith("program.py:19 <module>")
    assert alone[3] == "__main__"
    assert "builtin_function" in alone[2]
    assert thread[0].endswith("program.py:22 <module>")
    assert thread[1] == "time.sleep"
    assert "of waiter" in thread[2]


def test_two_blocks_without_a_turn_between_are_two() -> None:
    """Greenlets that block one after the other, with no beat between them, are each told and reported."""
    run = run_clean(
        HEAD
        + """
def first(): native_sleep(0.3)
def second(): native_sleep(0.3)

start()
gevent.joinall([gevent.spawn(first), gevent.spawn(second)])
gevent.sleep(0.05)
both = [[one.function for one in every] for every in (told, ended)]
print(json.dumps([both, sum(one.seconds for one in ended) < 0.9, watchdog.running().statistics().blocks]))
"""
    )
    assert run.json == [[["first", "second"]] * 2, True, 2], run


def test_a_hang_is_told_while_it_lasts(tmp_path: Path) -> None:
    """Two greenlets and one flock never end; an observer has written it down before the process is killed."""
    report = tmp_path / "report"
    run = run_clean(
        HEAD
        + f"""
import fcntl

def job():
    with open({str(tmp_path / "lock")!r}, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        gevent.sleep(0.01)

def write(fact):
    with open({str(report)!r}, "a") as file:
        print(fact.call, fact.function, fact.over, file=file)
    if fact.seconds > 0.4:
        os._exit(3)

start(0.04).observe(write)
gevent.joinall([gevent.spawn(job), gevent.spawn(job)])
"""
    )
    assert run.returncode == 3
    assert report.read_text().splitlines() == ["fcntl.flock job False"] * 2
    assert "calling fcntl.flock" in run.stderr


def test_the_task_is_named() -> None:
    """A block inside a Celery task carries its name and id."""
    pytest.importorskip("celery")
    run = run_clean(
        HEAD
        + """
from celery import Celery
app = Celery("shop")
app.conf.task_always_eager = True

@app.task(name="shop.ask")
def ask():
    native_sleep(0.4)  # long enough for two looks of a starved thread

ask.apply()  # Celery loads much on the way, which is a block of its own
start()
gevent.spawn(lambda: ask.apply(task_id="a-1")).join()
print(json.dumps([[one.task, one.function] for one in told]))
"""
    )
    assert run.json == [["shop.ask[a-1]", "ask"]], run


def test_it_survives_a_fork() -> None:
    """A child that goes on running a hub is watched as its parent is."""
    run = run_clean(
        HEAD
        + """
dog = start()
native_sleep(0.4)
gevent.sleep(0.01)
child = os.fork()
if not child:
    told.clear()
gevent.sleep(0.1)
native_sleep(0.4)
gevent.sleep(0.01)
if not child:
    os._exit(40 + len(told))
_, status = os.waitpid(child, 0)
print(json.dumps([len(told), os.waitstatus_to_exitcode(status)]))
"""
    )
    assert run.json == [2, 41], run


@pytest.mark.parametrize("ending", ["pass", "raise SystemExit(0)", "native_sleep(0.06)", "watchdog.stop()"])
def test_the_interpreter_ends_cleanly(ending: str) -> None:
    """With a watchdog that nobody stopped, in the middle of a block or not."""
    run = run_clean(HEAD + f"start(0.05)\ngevent.sleep(0.02)\n{ending}\n")
    # A block that lasted until the end may have been logged.
    complaints = [line for line in run.stderr.splitlines() if not line.startswith("the hub stood still")]
    assert (run.returncode, complaints) == (0, []), run


def test_the_end_of_the_hubs_thread_ends_it() -> None:
    """A native thread with a hub of its own ends without stopping its watchdog; nothing is left behind."""
    run = run_clean(
        HEAD
        + """
start_thread = get_original("_thread", "start_new_thread")
dogs = []

def work():
    dog = watchdog.Watchdog(0.02)
    dog.start()
    gevent.sleep(0.03)
    dogs.append((dog, dog._sentry))

gevent.sleep(0)  # the first hub loads gevent's loop, which two threads must not do at once
start_thread(work, ())
while not dogs:
    gevent.sleep(0.01)
dog, sentry = dogs.pop()
gone = sentry._ended.acquire(timeout=20)
dog.stop()
print(json.dumps([gone, repr(dog)]))
"""
    )
    gone, text = run.json
    assert gone
    assert "stopped" in text


def test_a_process_that_was_stopped_blames_nobody() -> None:
    """SIGSTOP for two seconds in a busy, fair program is no block: it is the longest lag, and nothing else.

    Whether the hub or the native thread runs first afterwards is for the system to say.
    """
    program = (
        HEAD
        + """
dog = start()
print("ready", flush=True)
import time
end = time.monotonic() + 30
while time.monotonic() < end and dog.statistics().worst_lag < 1.0:
    sum(range(5000))
    gevent.sleep(0)
looks = dog._pulse.look_count
while time.monotonic() < end and dog._pulse.look_count < looks + 2:
    gevent.sleep(0.01)
lag = dog.statistics().worst_lag
watchdog.stop()
gevent.sleep(0)
print(json.dumps([lag > 1.0, [one.where for one in ended if one.seconds > 1.0], len(told)]), flush=True)
"""
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        os.kill(child.pid, signal.SIGSTOP)
        time.sleep(2.0)  # much more than a busy machine takes from it
        os.kill(child.pid, signal.SIGCONT)
        assert json.loads(child.stdout.readline()) == [True, [], 0]


def test_the_hub_that_is_first_to_run_after_a_stop_waits_for_the_threads_word() -> None:
    """A lag the native thread has not looked at is judged when it has: it alone knows that nobody ran."""
    run = run_clean(
        HEAD
        + """
from greenkit.watchdog._usage import Usage
dog = watchdog.Watchdog(0.05, report=ended.append)
dog._sentry = type("Silent", (), {"stop": lambda self: None})()
seen = []
for absent in 0.49, 0.0:
    dog._pulse.woke = 99.0
    dog._ended(0.5, 100.0, Usage(), dog._pulse.lost, worst=True, begun=True)
    dog._judge()
    seen.append(len(dog._doubts))
    dog._pulse.absent += absent
    dog._pulse.look_count += 1
    dog._judge()
    gevent.sleep(0)
    seen.append(len(ended))
print(json.dumps(seen))
"""
    )
    assert run.json == [1, 0, 1, 1], run


def test_a_call_that_keeps_the_interpreter_and_sleeps_is_a_block() -> None:
    """No thread can look meanwhile, and still it is not taken for a process that was stopped."""
    run = run_clean(
        HEAD
        + """
import ctypes
interpreter = ctypes.PyDLL(None)
start()
gevent.sleep(0.03)
gevent.spawn(interpreter.usleep, 400_000).join()
gevent.sleep(0.1)
print(json.dumps([one.seconds > 0.3 for one in ended]))
"""
    )
    assert run.json == [True], run


def test_forbid_leaves_a_patched_process_alone() -> None:
    """Threads, children, sockets, names: what gevent made cooperative is not refused."""
    run = run_clean(
        HEAD
        + """
import concurrent.futures, logging, queue, socket, subprocess, threading, time

with watchdog.forbid() as watched:
    thread = threading.Thread(target=time.sleep, args=(0.01,))
    thread.start()
    thread.join()
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        assert list(pool.map(abs, [-1, -2])) == [1, 2]
    subprocess.run(["true"], check=True)
    ours, theirs = socket.socketpair()
    gevent.spawn_later(0.01, theirs.sendall, b"x")
    assert ours.recv(1) == b"x"
    socket.getaddrinfo("localhost", 80)
    box = queue.Queue()
    gevent.spawn_later(0.01, box.put, 1)
    assert box.get() == 1
    logging.warning("fine")
print(json.dumps([one.call for one in watched.caught]))
"""
    )
    assert run.json == [], run


@pytest.mark.parametrize(("pending", "told"), [("", []), ("gevent.spawn(print)", ["_thread.lock.acquire"])])
def test_before_the_hubs_first_turn_somebody_must_wait_for_it(pending: str, told: list[str]) -> None:
    """A hub that was made keeps nobody waiting; a greenlet that was spawned does wait for its turn."""
    run = run_clean(
        HEAD
        + f"""
watchdog.start(30.0)
gevent.get_hub()
dog = watchdog.start(0.05)
{pending}
lock = get_original("_thread", "allocate_lock")()
lock.acquire()
dog.observe(lambda fact: (told.append(fact), lock.release()))
lock.acquire(timeout={20 if pending else 0.5})
print(json.dumps([one.call for one in told]))
"""
    )
    assert run.json == told, run


def test_what_stands_before_the_hubs_first_turn_is_said() -> None:
    """A script whose first wait is a pipe nobody writes to hears of it while it hangs."""
    run = run_clean(
        """
import greenkit.auto
import os, signal, gevent
from greenkit import watchdog
watchdog.start(0.02)
gevent.spawn(print, "never")
ours, theirs = os.pipe()
watchdog.running().observe(lambda fact: fact.seconds > 0.2 and os.write(theirs, b"x"))
os.read(ours, 1)
os._exit(0)
"""
    )
    assert "calling os.read" in run.stderr, run


def test_the_start_of_a_program_is_information(tmp_path: Path) -> None:
    """What an import computes while a greenlet waits is one line at INFO, and no warning."""
    (tmp_path / "shop.py").write_text(
        "import time\nused = time.process_time()\n"
        "while time.process_time() - used < 0.5:\n    sum(range(1000))\n"
    )
    run = run_clean(
        f"""
import sys; sys.path.insert(0, {str(tmp_path)!r})
import logging; logging.basicConfig(level="INFO", format="%(levelname)s %(message)s")
import greenkit.auto
import gevent
from greenkit import watchdog
watchdog.start(0.05)
gevent.sleep(0.01)
gevent.spawn(__import__, "shop").join()
gevent.sleep(0.1)
watchdog.stop()
"""
    )
    lines = [line for line in run.stderr.splitlines() if "the hub stood still" in line]
    assert lines, run
    assert all(line.startswith("INFO") and "an import" in line for line in lines[:1]), run
    assert "WARNING" not in run.stderr, run


def test_a_block_with_an_excused_part_is_one_block() -> None:
    """The doctor looks at a process that stands still, and excuses its look: told twice, and ended once."""
    run = run_clean(
        HEAD
        + """
lock = get_original("_thread", "allocate_lock")()
lock.acquire()
dog = start(0.05)
gevent.sleep(0.03)

def looks():
    while not told:
        native_sleep(0.01)
    for _ in range(5):
        with dog.expected():
            native_sleep(0.2)
        native_sleep(0.1)
    while told[-1].seconds < 10 * dog.threshold:
        native_sleep(0.01)
    lock.release()

get_original("_thread", "start_new_thread")(looks, ())
lock.acquire(timeout=20)
gevent.sleep(0.2)
print(json.dumps([len(told), len(ended), ended[0].seconds >= told[1].seconds]))
"""
    )
    assert run.json == [2, 1, True], run


def test_a_neighbour_that_takes_the_processor_is_no_block() -> None:
    """The system's count of the seconds in which a thread waited for a processor excuses it."""
    run = run_clean(
        HEAD
        + """
from greenkit.watchdog import _watchdog
from greenkit.watchdog._usage import Usage
dog = watchdog.Watchdog(0.05, report=ended.append)
dog._ended(0.5, 100.0, Usage(), (0.0, 0.0), worst=True, begun=True)  # a thread that slept, for half a second
dog._pulse.used = Usage(computed=0.03, waited=0.47)
dog._ended(0.5, 100.0, Usage(), (0.0, 0.0), worst=True, begun=True)  # and one that others kept from running
gevent.sleep(0.01)
print(json.dumps([len(ended), dog.statistics().blocks]))
"""
    )
    assert run.json == [1, 1], run
