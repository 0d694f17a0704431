"""Observing changes nothing: small programs print the same with the watchdog, under the doctor, and alone.

The programs measure with the clock of a fake or by order, so that a busy machine changes nothing either.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from greenkit.testing import CleanRun, run_clean

AUTO = "import greenkit.auto\nimport gevent, time\n"
PLAIN = "from gevent import monkey; monkey.patch_all()\nimport gevent, time\n"
WORK = """
began = time.monotonic()
while time.monotonic() - began < 1.0:  # stands for the imports of a real program
    pass
"""
PROGRAMS = {
    # The order tells: a timer that counts from before the start-up fires before the shorter sleep ends.
    "timers after a long start": WORK
    + """
gevent.spawn_later(0.6, print, "timer")
gevent.sleep(0.1)
print("slept")
gevent.sleep(0.8)
""",
    "a timeout after a long start": WORK
    + """
try:
    with gevent.Timeout(0.8):
        gevent.sleep(0.1)
    print("ok")
except gevent.Timeout:
    print("timeout")
""",
    "a timer of a thread": WORK
    + """
import threading
timer = threading.Timer(0.6, print, ("timer",))
timer.start()
gevent.sleep(0.1)
print("slept")
timer.join()
""",
    "a signal before the hub": """
import os, signal
signal.signal(signal.SIGUSR1, lambda *_: print("handled"))
os.kill(os.getpid(), signal.SIGUSR1)
print("after")
""",
    "a signal to a hub": """
import os, signal
gevent.signal_handler(signal.SIGUSR1, print, "handled")
os.kill(os.getpid(), signal.SIGUSR1)
gevent.sleep(0.05)
""",
    "what waits for the hub": """
loop = gevent.get_hub().loop
print(loop.activecnt, len(loop._callbacks))
gevent.sleep(0)
print(loop.activecnt, len(loop._callbacks))
gevent.sleep(0.3)
print(loop.activecnt, len(loop._callbacks))
""",
    "no wait at all": 'print("hello")',
    "an exit status": "import sys; gevent.sleep(0); sys.exit(3)",
    "an exit out of a greenlet": "import os; gevent.spawn(os._exit, 4); gevent.sleep(1)",
    "an exception": 'gevent.sleep(0)\nraise SystemExit("sorry")',
    "atexit": """
import atexit
atexit.register(print, "goodbye")
atexit.register(lambda: gevent.spawn(print, "from a greenlet").join())
print("hello")
""",
    "threads": """
import threading
def work(): print(len(threading.enumerate()), threading.active_count())
thread = threading.Thread(target=work); thread.start(); thread.join()
threading.Thread(target=lambda: gevent.sleep(9), daemon=True).start()
print(sorted(one.name for one in threading.enumerate()))
""",
    "a thread that ends after the main one": """
import threading
threading.Thread(target=lambda: (gevent.sleep(0.1), print("late"))).start()
print("main ends")
""",
    "native threads only": """
from gevent.monkey import get_original
lock = get_original("_thread", "allocate_lock")(); lock.acquire()
get_original("_thread", "start_new_thread")(lambda: (print("native"), lock.release()), ())
lock.acquire()
""",
    "a fork": """
import os, sys
sys.stdout.flush()
pid = os.fork()
if not pid:
    gevent.spawn_later(0.05, print, "child", flush=True)
    gevent.sleep(0.1)
    os._exit(5)
print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
""",
    "the end of all that could wake it": """
try:
    gevent.event.Event().wait()
except gevent.exceptions.LoopExit:
    print("LoopExit")
""",
    "a hub of its own kind": """
from gevent.hub import Hub, get_hub, set_hub
print(Hub.__init__.__name__, Hub.__init__.__module__)
class Own(Hub): pass
set_hub(Own())
gevent.sleep(0)
print(type(get_hub()).__name__)
""",
    "a greenlet that is spawned and never runs": 'gevent.spawn(print, "never")\nprint("end")',
}


def seen(run: CleanRun) -> tuple[int, str, str]:
    """Return what must not change."""
    return run.returncode, run.stdout, run.stderr


def alone(tmp_path: Path, source: str, *arguments: str, **env: str) -> CleanRun:
    """Run the program in a folder of its own, under `arguments`."""
    path = tmp_path / "program.py"
    path.write_text(source, encoding="utf-8")
    return run_clean([*arguments, str(path)], env={"PYTHONWARNINGS": "default", **env}, cwd=str(tmp_path))


@pytest.mark.parametrize("name", PROGRAMS)
def test_observing_changes_nothing(tmp_path: Path, name: str) -> None:
    """Output, standard error and status are the same patched by gevent alone, watched, and examined."""
    plain = alone(tmp_path, PLAIN + PROGRAMS[name])
    assert plain.stdout or plain.returncode, plain
    observed = alone(tmp_path, PLAIN + PROGRAMS[name], "-m", "greenkit", "doctor", "--", sys.executable)
    assert observed.stdout.startswith(plain.stdout), observed
    assert f"status {plain.returncode}" in " ".join(observed.stdout[len(plain.stdout) :].split())
    assert observed.stderr == plain.stderr
    watched = AUTO + PROGRAMS[name]
    # A threshold no start-up of a test reaches: what it would say goes to standard error by logging.
    assert seen(alone(tmp_path, watched, GREENKIT_WATCHDOG="30s")) == seen(plain)
    assert seen(alone(tmp_path, watched, GREENKIT_WATCHDOG="100ms"))[:2] == seen(plain)[:2]
