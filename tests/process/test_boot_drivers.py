"""Drivers get their hook when they are imported, whoever else meddles with imports."""

from __future__ import annotations

import pytest

from greenkit.testing import run_clean


def test_psycopg2_is_hooked_when_it_is_imported_and_not_before():
    """The driver's wait callback is set by its import; a process without it never loads it."""
    pytest.importorskip("psycopg2")
    program = """
import greenkit.auto
import sys, json
before = "psycopg2" in sys.modules
import psycopg2.extensions
print(json.dumps([before, psycopg2.extensions.get_wait_callback() is not None]))
"""
    assert run_clean(program).json == [False, True]


def test_httpx2_is_tuned_when_it_is_imported_and_not_before():
    """An SDK that brings httpx2 late gets the cheap look at idle connections; nobody loads it for that."""
    pytest.importorskip("httpcore2")
    program = """
import greenkit.auto
import sys, json
before = "httpcore2" in sys.modules
import httpcore2._backends.sync as backend
print(json.dumps([before, getattr(backend.is_socket_readable, "greenkit_tuned", False)]))
"""
    assert run_clean(program).json == [False, True]


def test_psycopg_is_hooked_when_it_is_imported_and_not_before():
    """Psycopg 3 gets the room's waiting by its import alone."""
    pytest.importorskip("psycopg")
    program = """
import greenkit.auto
import sys, json
before = "psycopg" in sys.modules
import psycopg
from greenkit import postgres
print(json.dumps([before, [one.message for one in postgres.check()]]))
"""
    assert run_clean(program).json == [False, []]


def test_a_driver_imported_before_is_hooked_at_once():
    """Late is not never: the line after `import psycopg2` still sets the callback."""
    pytest.importorskip("psycopg2")
    program = """
import psycopg2.extensions
import greenkit.auto, json
print(json.dumps(psycopg2.extensions.get_wait_callback() is not None))
"""
    assert run_clean(program).json is True


GRPC = {
    "grpc/__init__.py": "channels = 0\n",
    "grpc/experimental/__init__.py": "",
    "grpc/experimental/gevent.py": (
        "import grpc\ncalls = []\ndef init_gevent(): calls.append(grpc.channels)\n"
    ),
    "grpc/_channel.py": "import grpc\ngrpc.channels += 1\n",
}


@pytest.fixture
def fake_grpc(tmp_path):
    """What greenkit touches of grpcio, which is not among the tests' packages."""
    for name, text in GRPC.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    return {"PYTHONPATH": str(tmp_path)}


@pytest.mark.parametrize(
    "way", ["import grpc", "import grpc._channel", "from grpc.experimental import gevent"]
)
def test_grpc_is_initialised_before_its_first_channel(fake_grpc, way):
    """`init_gevent()` is called once, by the import of the package, however that comes about."""
    program = f"""
import greenkit.auto, json, sys
before = "grpc" in sys.modules
{way}
import grpc._channel
import grpc.experimental.gevent as hook
print(json.dumps([before, hook.calls]))
"""
    assert run_clean(program, env=fake_grpc).json == [False, [0]]


def test_nothing_is_initialised_in_a_process_left_alone(fake_grpc):
    """Without a patch a driver must keep its own waiting."""
    program = "import greenkit.auto, grpc.experimental.gevent as hook, json; print(json.dumps(hook.calls))"
    assert run_clean(program, env={**fake_grpc, "GREENKIT": "off"}).json == []


# Finders of other people, as they are; the first finds psycopg2 without asking anybody.
TYPEGUARD = """
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder, SourceFileLoader
class Loader(SourceFileLoader):
    def source_to_code(self, data, path, *, _optimize=-1):
        return compile(data, path, "exec", dont_inherit=True)
class Finder(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] != "psycopg2":
            return None
        spec = PathFinder.find_spec(name, path, target)
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = Loader(spec.loader.name, spec.loader.path)
            return spec
        return None
sys.meta_path.insert(0, Finder())
"""
SIX = """
class Importer:
    def find_module(self, fullname, path=None):
        return None
    def find_spec(self, fullname, path, target=None):
        return None
sys.meta_path.append(Importer())
"""
LAZY = """
import importlib.util
spec = importlib.util.find_spec("psycopg2")
spec.loader = importlib.util.LazyLoader(spec.loader)
module = importlib.util.module_from_spec(spec)
sys.modules["psycopg2"] = module
spec.loader.exec_module(module)
module.connect
"""


@pytest.mark.parametrize(
    ("other", "first"),
    [(TYPEGUARD, True), (TYPEGUARD, False), (SIX, True), (SIX, False), (LAZY, False)],
    ids=[
        "typeguard, then greenkit",
        "greenkit, then typeguard",
        "six, then greenkit",
        "greenkit, then six",
        "lazy",
    ],
)
def test_other_peoples_import_hooks(other, first):
    """Installed before greenkit or after it, they keep working, and so does the driver's hook."""
    pytest.importorskip("psycopg2")
    auto = "import greenkit.auto"
    program = "\n".join(["import sys", *([other, auto] if first else [auto, other])])
    program += """
import psycopg2.extensions, json
print(json.dumps(psycopg2.extensions.get_wait_callback() is not None))
"""
    run = run_clean(program)
    assert run.json is True
    assert run.stderr == ""


def test_greenkit_auto_imports_no_driver():
    """A process that never uses a driver never loads it."""
    program = """
import greenkit.auto, sys, json
roots = {name.partition(".")[0] for name in sys.modules}
print(json.dumps(sorted(roots & {"psycopg2", "psycopg", "grpc", "httpx", "httpx2", "httpcore", "httpcore2",
    "requests", "urllib3", "django", "celery", "redis"})))
"""
    assert run_clean(program).json == []
