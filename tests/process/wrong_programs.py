"""Programs that are wrong, each in one way, with what the doctor must say of them.

A case is its files and the findings it must get: (rule, holder, attribute, captured_at, imported_at).
`app.py` is what runs; `LOOK` is where the doctor looks.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from textwrap import dedent

PATCH = "from gevent import monkey\nmonkey.patch_all()\n"
LOOK = "from greenkit.doctor import report\nreport()\n"
RUN = "import gevent\ngevent.sleep(0)\n"  # a hub that has never run has nobody to keep waiting

Expected = tuple[str, str, str, str, str]


@dataclass(frozen=True)
class Case:
    """One program: its modules by name, and the findings it must get, none for a right one."""

    name: str
    files: dict[str, str]
    expected: list[Expected] = field(default_factory=list)
    requires: str = ""


def late(name: str, module: str, *expected: Expected, requires: str = "") -> Case:
    """Return a program that imports `helper` on line 1 and patches on line 3."""
    app = "import helper\nfrom gevent import monkey\nmonkey.patch_all()\n" + LOOK
    return Case(name, {"app": app, "helper": dedent(module)}, list(expected), requires)


def held(rule: str, attribute: str, line: int, holder: str = "helper") -> Expected:
    """Return a finding captured in line `line` of helper.py and imported in line 1 of app.py."""
    return rule, holder, attribute, f"helper.py:{line}", "app.py:1"


WRONG = [
    late("sleep by name", "from time import sleep\n", held("stale-reference", "sleep", 1)),
    late("sleep by another name", "import time\nnap = time.sleep\n", held("stale-reference", "nap", 2)),
    late(
        "a lock behind a logger's handler",
        """
        import logging, threading

        class Client:
            def __init__(self):
                self.lock = threading.Lock()

        class Ship(logging.Handler):
            def __init__(self):
                super().__init__()
                self.client = Client()

        class Stream:
            def __init__(self):
                self.lock = threading.Lock()
            write = flush = print

        logging.getLogger("shop").addHandler(Ship())
        logging.getLogger().addHandler(logging.StreamHandler(Stream()))
        """,
        held("native-lock", "Ship.client.lock", 6),
        held("native-lock", "Stream.lock", 15),
    ),
    late(
        "sleep in a table",
        """
        import time
        HANDLERS = {
            "wait": time.sleep,
            "print": print,
        }
        """,
        held("stale-reference", "HANDLERS[wait]", 4),
    ),
    late(
        "a partial",
        "import functools\nimport time\nnap = functools.partial(time.sleep, 0.2)\n",
        held("stale-reference", "nap", 3),
    ),
    late(
        "a default",
        """
        import time


        def retry(
            function,
            *,
            sleep=time.sleep,
        ):
            sleep(1)
        """,
        held("stale-reference", "retry <default sleep>", 8),
    ),
    late(
        "a method's default",
        "import time\nclass Retry:\n    def wait(self, sleep=time.sleep):\n        sleep(1)\n",
        held("stale-reference", "Retry.wait <default sleep>", 3),
    ),
    late(
        "an attribute set in __init__",
        """
        import time


        class Client:
            def __init__(self):
                self._sleep = time.sleep


        client = Client()
        """,
        held("stale-reference", "client._sleep", 7),
    ),
    late(
        "the scheduler's delay function",
        "import sched\nimport time\nJOBS = sched.scheduler(time.monotonic, time.sleep)\n",
        held("stale-reference", "JOBS.delayfunc", 3),
    ),
    late("getaddrinfo", "from socket import getaddrinfo\n", held("stale-reference", "getaddrinfo", 1)),
    late("epoll", "from select import epoll\n", held("stale-reference", "epoll", 1)),
    late("waitpid", "from os import waitpid\n", held("stale-reference", "waitpid", 1)),
    late("a lock's class", "from threading import Lock\n", held("stale-reference", "Lock", 1)),
    late(
        "a socket subclass",
        "import socket\n\n\nclass Quick(socket.socket):\n    pass\n",
        held("stale-subclass", "Quick", 4),
    ),
    late(
        "an SSLContext subclass",
        "import ssl\n\n\nclass Pinned(ssl.SSLContext):\n    pass\n",
        held("stale-subclass", "Pinned", 4),
    ),
    late(
        "a local subclass",
        "import threading\nclass State(threading.local):\n    user = None\nSTATE = State()\n",
        held("stale-subclass", "State", 2),
        held("native-local", "STATE", 4),
    ),
    late(
        "a lock in an instance",
        """
        import threading


        class Cache:
            def __init__(self):
                self._lock = threading.Lock()


        CACHE = Cache()
        """,
        held("native-lock", "CACHE._lock", 7),
    ),
    late(
        "a re-entrant lock", "import threading\nLOCK = threading.RLock()\n", held("native-rlock", "LOCK", 2)
    ),
    late("a queue", "import queue\nBOX = queue.SimpleQueue()\n", held("native-instance", "BOX", 2)),
    late(
        "a TLS context",
        "import ssl\nCONTEXT = ssl.create_default_context()\n",
        held("native-instance", "CONTEXT", 2),
    ),
    late("a socket", "import socket\nEND, _ = socket.socketpair()\n", held("native-instance", "END", 2)),
    late(
        "an executor",
        "from concurrent.futures import ThreadPoolExecutor\nWORKERS = ThreadPoolExecutor(2)\n",
        held("native-executor", "WORKERS", 2),
    ),
    late(
        "an executor that runs",
        "from concurrent.futures import ThreadPoolExecutor\nWORKERS = ThreadPoolExecutor(2)\n"
        "WORKERS.submit(int)\n",
        held("native-executor", "WORKERS", 2),
    ),
    late(
        "an event loop",
        "import asyncio\nLOOP = asyncio.new_event_loop()\n",
        held("native-instance", "LOOP", 2),
    ),
    late(
        "a thread",
        """
        import threading
        import time


        def beat():
            while True:
                time.sleep(0.05)


        threading.Thread(target=beat, daemon=True).start()
        """,
        held("native-thread", "beat", 11),
    ),
    Case(
        "a chain of importers",
        {
            "app": "import os\nimport one\n" + PATCH + LOOK,
            "one": "import json\nfrom two import thing\n",
            "two": "import three\nthing = 1\n",
            "three": "from time import sleep\n",
        },
        [("stale-reference", "three", "sleep", "three.py:1", "app.py:2")],
    ),
    Case(
        "imported by a call",
        {
            "app": "import one\none.setup()\nimport two\n" + PATCH + LOOK,
            "one": "def setup():\n    import two\n    return two\n",
            "two": "from time import sleep\n",
        },
        [("stale-reference", "two", "sleep", "two.py:1", "app.py:2")],
    ),
    Case(
        "taken from an early holder later",
        {
            "app": "import compat\n" + PATCH + "import user\n" + LOOK,
            "compat": "from time import sleep\n",
            "user": "from compat import sleep\n",
        },
        [
            ("stale-reference", "compat", "sleep", "compat.py:1", "app.py:1"),
            ("stale-reference", "user", "sleep", "user.py:1", "app.py:4"),
        ],
    ),
    Case(
        "an option off",
        {"app": "from gevent import monkey\n\nmonkey.patch_all(subprocess=False)\n" + LOOK},
        [("option-off", "app", "patch_all(subprocess=False)", "app.py:3", "")],
    ),
    Case(
        "one function only",
        {"app": "from gevent import monkey\nmonkey.patch_socket()\nmonkey.patch_time()\n" + LOOK},
        [("half-patched", "", "_thread.start_new_thread", "", "")],
    ),
    Case(
        "undone by an assignment",
        {
            "app": "import time\nreal = time.sleep\n" + PATCH + "import undo\nundo.now(real)\n" + LOOK,
            "undo": "import time\n\n\ndef now(real):\n    time.sleep = real\n",
        },
        [("patch-undone", "time", "sleep", "undo.py:5", "app.py:6")],
    ),
    Case(
        "undone by a reload",
        {"app": PATCH + "import importlib\nimport socket\nimportlib.reload(socket)\n" + LOOK},
        [("patch-undone", "socket", "socket", "app.py:5", "app.py:5")],
    ),
    Case(
        "a private copy",
        {
            "app": PATCH + "import agent\n" + LOOK,
            "agent": """
import importlib.util

spec = importlib.util.find_spec("subprocess")
private = importlib.util.module_from_spec(spec)
spec.loader.exec_module(private)
""",
        },
        [("module-clone", "agent", "private", "agent.py:5", "app.py:3")],
    ),
    Case(
        "a pool of processes",
        {"app": PATCH + "from multiprocessing import Pool\n" + LOOK + "def main():\n    Pool(2)\n"},
        [("multiprocessing", "multiprocessing.pool", "Pool", "app.py:7", "app.py:3")],
    ),
    Case(
        "psycopg2 without its callback",
        {"app": PATCH + "import psycopg2\n" + LOOK},
        [("no-wait-callback", "psycopg2.extensions", "set_wait_callback", "app.py:3", "app.py:3")],
        requires="psycopg2",
    ),
    Case(
        "psycopg before the patch",
        {"app": "import psycopg\n" + PATCH + LOOK},
        [("decided-at-import", "psycopg.waiting", "wait", "psycopg/waiting.py", "app.py:1")],
        requires="psycopg_binary",
    ),
    Case(
        "requests before the patch",
        {"app": "import requests\n" + PATCH + LOOK},
        [("stale-reference", "urllib3.util.ssl_", "SSLContext", "urllib3/util/ssl_.py", "app.py:1")],
        requires="requests",
    ),
    Case(
        "a C call",
        {
            "app": PATCH + LOOK + RUN + "import gpu\ngpu.render()\n",
            "gpu": "import ctypes\n\n\ndef render():\n    ctypes.CDLL(None).usleep(1_000_000)\n",
        },
        [("blocking-call", "gpu", "render", "gpu.py:5", "")],
    ),
    Case(
        "gevent, and nothing patched",
        {
            "app": "import time\nimport gevent\n" + LOOK + RUN + "\n\ndef job():\n    time.sleep(0.3)\n\n\n"
            "gevent.joinall([gevent.spawn(job) for _ in range(2)])\n"
        },
        [("never-patched", "app", "job", "app.py:10", "")],
    ),
    Case(
        "a password's hash",
        {
            "app": PATCH + LOOK + RUN + "import hashlib\n\n\ndef check():\n"
            "    return hashlib.pbkdf2_hmac('sha256', b'x', b'y', 3_000_000)\n\n\ncheck()\n"
        },
        [("blocking-call", "app", "check", "app.py:11", "")],
    ),
    Case(
        "two greenlets, two loops",
        {
            "app": PATCH + LOOK + "import asyncio\nimport gevent\n\n\ndef job():\n"
            "    asyncio.run(asyncio.sleep(0.05))\n\n\njobs = [gevent.spawn(job) for _ in range(2)]\n"
            "gevent.joinall(jobs)\nassert isinstance(jobs[1].exception, RuntimeError)\n"
        },
        [("foreign-loop", "asyncio", "run", "app.py:10", "")],
    ),
    late(
        "a client with a TLS context",
        "import httpx\n\nCLIENT = httpx.Client()\n",
        ("native-instance", "helper", "CLIENT._transport._pool._ssl_context", "helper.py:3", "app.py:1"),
        requires="httpx",
    ),
    Case(
        "an end of file that never comes",
        {
            "app": PATCH
            + LOOK
            + RUN
            + "import os\nimport signal\nend, start = os.pipe()\nsignal.alarm(1)\n\n\n"
            "def drain():\n    os.close(start)\n    os.read(end, 1)\n\n\n"
            "signal.signal(signal.SIGALRM, lambda *_: os._exit(0))\ndrain()\n"
        },
        [("blocking-call", "app", "drain", "app.py:15", "")],
    ),
    Case(
        "worker_main() with a green pool",
        {
            "app": "from celery import Celery\nfrom celery.signals import worker_ready\n"
            "app = Celery(broker='memory://')\n\n\n@worker_ready.connect\ndef ready(**_):\n    import os\n"
            "    from greenkit.doctor import report\n    report()\n    os._exit(0)\n\n\n"
            "app.worker_main(['worker', '--pool=gevent', '--without-gossip', '--without-mingle'])\n"
        },
        [("never-patched", "app", "app.worker_main", "app.py:14", "")],
        requires="celery",
    ),
    Case(
        "asyncio in one greenlet, Django in the others",
        {"app": PATCH + "import django.db\n" + LOOK + "import asyncio\nasyncio.run(asyncio.sleep(0))\n"},
        [("foreign-loop", "asyncio", "run", "app.py:7", "")],
        requires="django",
    ),
]
