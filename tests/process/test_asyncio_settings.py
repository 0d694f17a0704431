"""How asyncio is given to greenlets, and what happens when it cannot be."""

from __future__ import annotations

import pytest

from greenkit.testing import run_clean

TWO = """
import greenkit.auto
import asyncio, gevent, logging
from greenkit import boot

async def nap():
    await asyncio.sleep(0.02)
    return 1

jobs = [gevent.spawn(asyncio.run, nap()) for _ in range(3)]
gevent.joinall(jobs)
print(sum(job.value or 0 for job in jobs), type(asyncio.new_event_loop()).__name__, boot.loop_isolation())
"""


def test_off_leaves_asyncio_alone():
    """GREENKIT_ASYNCIO=off: asyncio's own loop, and its own refusals."""
    done = run_clean(TWO, env={"GREENKIT_ASYNCIO": "off"})
    assert done.stdout.startswith("1 _UnixSelectorEventLoop LoopIsolation(mode='off', installed=False"), str(
        done
    )


def test_warn_names_the_line_that_waits():
    """GREENKIT_ASYNCIO=warn: nothing is changed, and the first waiting loop is named once."""
    done = run_clean(TWO, env={"GREENKIT_ASYNCIO": "warn"})
    assert done.stdout.startswith("1 _UnixSelectorEventLoop LoopIsolation(mode='warn', installed=False")
    assert done.stderr.count("waits in an asyncio loop in a greenlet") == 1, done.stderr
    assert "GREENKIT_ASYNCIO=on" in done.stderr


def test_a_wrong_value_is_an_error_at_the_start():
    """The error comes before the patch and lists what may be said."""
    done = run_clean("import greenkit.auto", env={"GREENKIT_ASYNCIO": "yes"})
    assert done.returncode == 1
    assert "GREENKIT_ASYNCIO='yes' is none of on, warn, off" in done.stderr


def test_a_process_without_asyncio_has_gevents_own_switch():
    """Nothing is installed, and asyncio is not imported, where nobody asks for it."""
    done = run_clean(
        "import greenkit.auto, sys\nfrom gevent.hub import Hub\n"
        "print('switch' in vars(Hub), 'asyncio' in sys.modules)"
    )
    assert done.stdout == "False False\n", str(done)


def test_a_process_that_runs_no_loop_has_gevents_own_switch():
    """Django imports asyncio everywhere; the step is installed with the first loop, and stays."""
    done = run_clean(
        "import greenkit.auto, asyncio\nfrom gevent.hub import Hub\n"
        "from greenkit.boot import loop_isolation\n"
        "import gevent\n"
        "gevent.sleep(0)\n"
        "print(loop_isolation().installed, 'switch' in vars(Hub))\n"
        "async def ask(): return asyncio.get_running_loop() is not None\n"
        "print(asyncio.run(ask()), 'switch' in vars(Hub))"
    )
    assert done.stdout == "True False\nTrue True\n", str(done)


def test_a_hub_that_does_not_switch_through_us_is_put_back_and_said():
    """A hub class whose switch() goes past ours fails the self-test: asyncio stays shared, with a reason."""
    done = run_clean(
        "import gevent.hub, gevent._hub_local\n"
        "from gevent._greenlet_primitives import SwitchOutGreenletWithLoop as Base\n"
        "class Mine(gevent.hub.Hub):\n"
        "    def __setattr__(self, name, value): super().__setattr__(name, value)\n"
        "    def __getattribute__(self, name):\n"
        "        if name == 'switch': return Base.switch.__get__(self)\n"
        "        return super().__getattribute__(name)\n"
        "gevent._hub_local.set_default_hub_class(Mine)\n" + TWO,
    )
    assert "installed=False, failed='sleep(0): another greenlet sees the loop" in done.stdout, str(done)
    assert "could not be given to each greenlet" in done.stderr


def test_a_hub_class_of_the_users_is_served():
    """A subclass with a switch() of its own that calls gevent's is wrapped like gevent's own."""
    done = run_clean(
        "import gevent.hub, gevent._hub_local\n"
        "class Mine(gevent.hub.Hub):\n"
        "    def switch(self): return super().switch()\n"
        "gevent._hub_local.set_default_hub_class(Mine)\n" + TWO,
    )
    assert done.stdout.startswith("3 GreenLoop LoopIsolation(mode='on', installed=True"), str(done)


UVLOOP = """
import sys, types
uvloop = types.ModuleType("uvloop")
exec('''
import asyncio
class Loop(asyncio.SelectorEventLoop): pass
def new_event_loop(): return Loop()
class EventLoopPolicy(asyncio.DefaultEventLoopPolicy):
    def _loop_factory(self): return new_event_loop()
''', uvloop.__dict__)
sys.modules["uvloop"] = uvloop
import greenkit.auto
import asyncio, warnings, gevent
warnings.simplefilter("ignore")
from greenkit.aio import replace_uvloop
replace_uvloop()
asyncio.set_event_loop_policy(uvloop.EventLoopPolicy())
print(type(asyncio.new_event_loop()).__name__, type(asyncio.new_event_loop()).__name__)
def native():
    loop = uvloop.new_event_loop()
    loop.close()
    return type(loop).__name__
done = []
from gevent.monkey import get_original
lock = get_original("_thread", "allocate_lock")()
lock.acquire()
get_original("_thread", "start_new_thread")(lambda: (done.append(native()), lock.release()), ())
lock.acquire()
print(done[0])
"""


def test_uvloop_is_replaced_where_greenlets_live_and_said_once():
    """Its policy gives out loops that wait in the hub; a native thread without a hub keeps uvloop's."""
    done = run_clean(UVLOOP)
    assert done.stdout == "GreenLoop GreenLoop\nLoop\n", str(done)
    assert done.stderr.count("would stop every greenlet") == 1, done.stderr


def test_an_unknown_asgiref_is_left_alone_and_said():
    """When asgiref's private names have changed, its code runs as it is."""
    done = run_clean(
        "import greenkit.auto, asgiref.sync\n"
        "from greenkit.aio import install_asgiref, uninstall_asgiref\n"
        "uninstall_asgiref()\n"
        "del asgiref.sync.AsyncToSync.main_wrap\n"
        "install_asgiref()\n"
        "print(type(asgiref.sync.SyncToAsync.single_thread_executor).__name__)"
    )
    assert done.stdout == "ThreadPoolExecutor\n", str(done)
    assert "is not known to greenkit" in done.stderr


@pytest.mark.parametrize("patch", ["", "import gevent.monkey; gevent.monkey.patch_all()\n"])
def test_the_long_lived_loop_works_in_every_process(patch):
    """aio.run() answers in patched and unpatched processes, from native threads and greenlets alike."""
    done = run_clean(
        patch + "import asyncio, gevent, threading\n"
        "from greenkit import aio\n"
        "async def nap(n):\n"
        "    await asyncio.sleep(0.01)\n"
        "    return n\n"
        "print(aio.run(nap(1)))\n"
        "got = []\n"
        "threads = [threading.Thread(target=lambda n=n: got.append(aio.run(nap(n)))) for n in range(20)]\n"
        "[t.start() for t in threads]; [t.join() for t in threads]\n"
        "jobs = [gevent.spawn(aio.run, nap(n)) for n in range(20, 40)]\n"
        "gevent.joinall(jobs)\n"
        "print(sorted(got) == list(range(20)), [j.value for j in jobs] == list(range(20, 40)))\n"
        "aio.close()\n"
        "print(aio.run(nap(3)), aio.statistics().tasks)\n"
    )
    assert done.stdout == "1\nTrue True\n3 0\n", str(done)
    assert done.stderr == "", done.stderr


@pytest.mark.parametrize("patch", ["", "import greenkit.auto\n"])
def test_a_process_that_ends_cancels_what_runs_on_the_loop(patch):
    """At exit the coroutines on the loop run their `finally`, and nothing is complained about."""
    done = run_clean(
        patch + "import asyncio\n"
        "from greenkit import aio\n"
        "kept = []\n"
        "async def listen():\n"
        "    try: await asyncio.sleep(30)\n"
        "    finally:\n"
        "        await asyncio.sleep(0.001)\n"
        "        print('closed')\n"
        "async def start(): kept.append(asyncio.create_task(listen())); await asyncio.sleep(0)\n"
        "aio.run(start())\n"
    )
    assert (done.stdout, done.stderr) == ("closed\n", ""), str(done)
