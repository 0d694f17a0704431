"""Ways to block a hub for a while, for bench_watchdog.py; imported before anybody patches."""

import ctypes
import fcntl
import hashlib
import sqlite3
import tempfile
import time
from _thread import allocate_lock, start_new_thread
from pathlib import Path
from time import sleep

SECONDS = 0.4
_libc = ctypes.CDLL(None)
_folder = tempfile.mkdtemp()


def _held():
    """Return a native lock that another thread gives back after SECONDS."""
    lock = allocate_lock()
    lock.acquire()
    start_new_thread(lambda: (sleep(SECONDS), lock.release()), ())
    return lock


def lock_acquire():
    _held().acquire()


def lock_with():
    with _held():
        pass


def flock():
    path = Path(_folder, "lock")
    with path.open("w") as first, path.open("w") as second:
        fcntl.flock(first, fcntl.LOCK_EX)
        start_new_thread(lambda: (sleep(SECONDS), fcntl.flock(first, fcntl.LOCK_UN)), ())
        fcntl.flock(second, fcntl.LOCK_EX)


def sqlite_busy():
    first, second = (
        sqlite3.connect(f"{_folder}/db", timeout=SECONDS, isolation_level=None, check_same_thread=False)
        for _ in range(2)
    )
    first.execute("BEGIN IMMEDIATE")
    try:
        second.execute("BEGIN IMMEDIATE")
    except sqlite3.OperationalError:
        pass
    finally:
        first.close()
        second.close()


def busy_loop():
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        sum(range(1000))


CASES = {
    "a stale time.sleep": lambda: sleep(SECONDS),
    "lock.acquire()": lock_acquire,
    "with lock:": lock_with,
    "fcntl.flock": flock,
    "a busy sqlite": sqlite_busy,
    "usleep by ctypes": lambda: _libc.usleep(int(SECONDS * 1e6)),
    "a hash of half a second": lambda: hashlib.pbkdf2_hmac("sha256", b"x", b"y", 1_500_000),
    "a busy loop": busy_loop,
}
