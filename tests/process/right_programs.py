"""Programs that are right, of which the doctor must say nothing; the wrong ones are beside it."""

from __future__ import annotations

from tests.process.wrong_programs import LOOK, PATCH, Case, late

RIGHT = [
    Case("nothing but the patch", {"app": PATCH + LOOK}),
    Case(
        "everything after the patch",
        {
            "app": PATCH
            + "import asyncio, concurrent.futures, http.client, logging.handlers, queue, socket\n"
            "import ssl, subprocess, threading\nfrom time import sleep\n"
            "LOCK, LOCAL = threading.Lock(), threading.local()\n"
            "WORKERS = concurrent.futures.ThreadPoolExecutor(1)\nWORKERS.submit(sleep, 0).result()\n" + LOOK
        },
    ),
    late(
        "what keeps working",
        """
        import logging
        import queue
        import threading
        from socket import create_connection, timeout
        from subprocess import PIPE, run
        from threading import Condition, Event, get_ident

        EVENT, CONDITION, SLOTS = Event(), Condition(), threading.Semaphore()
        JOBS, STACK = queue.Queue(), queue.LifoQueue()
        HANDLER = logging.StreamHandler()
        KINDS = (threading.Thread, queue.Empty)


        def typed(one: threading.Thread) -> None: ...
        """,
    ),
    Case(
        "gevent's own calls, and nothing patched",
        {
            "app": LOOK
            + "import gevent\ngevent.joinall([gevent.spawn(gevent.sleep, 0.2) for _ in range(3)])\n"
        },
    ),
    Case(
        "native on purpose",
        {
            "app": PATCH + "import native\nnative.start()\n" + LOOK,
            "native": "from gevent.monkey import get_original\n"
            "sleep = get_original('time', 'sleep')\nlock = get_original('_thread', 'allocate_lock')()\n"
            "start_thread = get_original('_thread', 'start_new_thread')\n\n\n"
            "def start():\n    start_thread(sleep, (0.01,))\n",
        },
    ),
    Case(
        "a pool of connections made before",
        {
            "app": "import model\n"
            + PATCH
            + LOOK
            + "assert model.engine.connect().execute(model.one).scalar() == 1\n",
            "model": "from sqlalchemy import create_engine, text\nfrom sqlalchemy.pool import QueuePool\n"
            "engine = create_engine('sqlite://', poolclass=QueuePool)\none = text('select 1')\n",
        },
        requires="sqlalchemy",
    ),
    Case(
        "the whole stack",
        {
            "app": PATCH + "import celery, django, kombu, openai, redis, requests, rest_framework\n"
            "import celery.apps.worker, celery.bin.celery, django.db\n"
            "from greenkit import postgres\npostgres.install()\nimport psycopg2\n" + LOOK
        },
        requires="openai",
    ),
    Case(
        "a lazy object that must not be touched",
        {
            "app": "import lazy\n" + PATCH + LOOK,
            "lazy": """
class Lazy:
    def __getattribute__(self, name): raise SystemExit("evaluated " + name)
    @property
    def __class__(self): raise SystemExit("evaluated __class__")
    def __eq__(self, other): raise SystemExit("compared")
    def __hash__(self): raise SystemExit("hashed")
    def __repr__(self): raise SystemExit("shown")
    def __bool__(self): raise SystemExit("asked")
    def __iter__(self): raise SystemExit("walked")
    def __len__(self): raise SystemExit("counted")

class Table(dict):
    def items(self): raise SystemExit("items")
    def __iter__(self): raise SystemExit("walked a table")
    def __getitem__(self, key): raise SystemExit("got")

class Meta(type):
    def __getattribute__(cls, name): raise SystemExit("a class's " + name)
    def __instancecheck__(cls, one): raise SystemExit("isinstance")
    def __subclasscheck__(cls, one): raise SystemExit("issubclass")

class Strange(metaclass=Meta): pass
lazy, many, table = Lazy(), [Lazy(), (Lazy(),)], Table(a=Lazy())
""",
        },
    ),
]
