"""What `import greenkit`, `greenkit.auto` and `boot.patch()` load, patch and report."""

from __future__ import annotations

import pytest

from greenkit.testing import run_clean

LOADED = """
import sys, json
before = set(sys.modules)
import {module}
print(json.dumps(sorted(set(sys.modules) - before)))
"""

PATCHABLE = {"logging", "queue", "select", "selectors", "signal", "socket", "ssl", "subprocess", "threading"}


@pytest.mark.parametrize(("module", "most"), [("greenkit", 2), ("greenkit.boot", 60), ("greenkit.cli", 4)])
def test_what_stands_before_the_patch_loads_little(module, most):
    """Importing a door loads nothing gevent patches, and few modules at all."""
    loaded = set(run_clean(LOADED.format(module=module)).json)
    assert loaded & (PATCHABLE | {"importlib.metadata", "gevent"}) == set()
    assert len(loaded) <= most


AUTO = """
import greenkit.auto
import json, sys, time, threading, logging
report = greenkit.auto.report
print(json.dumps({
    "patched": report.patched, "by": report.by, "early": [m.name for m in report.early],
    "findings": [f.id for f in report.findings], "sleep": time.sleep.__module__,
    "seconds": report.seconds, "file": __file__,
}))
"""


def test_auto_on_line_one_patches_and_finds_nothing():
    """As line 1 it patches everything, names the line that asked, and has nothing to complain of."""
    run = run_clean(AUTO)
    told = run.json
    assert told["patched"]
    assert told["sleep"] == "gevent.hub"
    assert told["by"] == f"{told['file']}:2"
    assert told["early"] == told["findings"] == []
    assert run.stderr == ""


def test_off_leaves_the_process_alone():
    """`GREENKIT=off` patches nothing."""
    program = (
        "import greenkit.auto, sys, json; print(json.dumps([greenkit.auto.report, 'gevent' in sys.modules]))"
    )
    assert run_clean(program, env={"GREENKIT": "off"}).json == [None, False]


def test_an_unknown_mode_is_refused():
    """A typing mistake in GREENKIT is an error that lists what it may be."""
    run = run_clean("import greenkit.auto", env={"GREENKIT": "on"})
    assert run.returncode == 1
    assert "GREENKIT='on' is none of off, report, strict, repair" in run.stderr


TOO_LATE = """
from time import sleep
import ssl
import greenkit.auto
import json
report = greenkit.auto.report
stale = [f for f in report.findings if f.id == "GK101"]
print(json.dumps({
    "early": {m.name: m.importer for m in report.early},
    "stale": [[f.severity.value, f.message, f.where] for f in stale],
    "repaired": report.repaired, "sleep": sleep.__module__, "file": __file__,
}))
"""


def test_a_name_captured_before_is_found_with_its_line():
    """The holder, what it does and the file and line that took it are named; nothing is changed."""
    run = run_clean(TOO_LATE)
    told = run.json
    file = told["file"]
    assert [one[0] for one in told["stale"]] == ["error"]
    assert (
        "program.sleep (module global) holds the original time.sleep: it stops every greenlet"
        in told["stale"][0][1]
    )
    assert told["stale"][0][2] == f"{file}:2"
    assert told["early"]["ssl"] == "program.py:3 (import ssl)"
    assert told["sleep"] == "time"
    assert run.stderr.count("GK101") == 1


def test_strict_refuses_what_report_only_says():
    """`GREENKIT=strict` ends the program with the findings in the error."""
    run = run_clean(TOO_LATE, env={"GREENKIT": "strict"})
    assert run.returncode == 1
    assert "PatchError: 1 errors after the patch" in run.stderr
    assert run.stdout == ""


def test_repair_binds_the_users_names_again():
    """`GREENKIT=repair` makes the captured name the cooperative one, and says so."""
    told = run_clean(TOO_LATE, env={"GREENKIT": "repair"}).json
    assert told["repaired"] == ["__main__.sleep -> time.sleep"]
    assert told["sleep"] == "gevent.hub"
    assert told["stale"] == []


FORMS = """
import time, threading, sys, types
user = types.ModuleType("user_code")
user.__file__ = "/srv/user_code.py"
sys.modules["user_code"] = user
exec('''
import dataclasses, functools, select, socket, threading, time
from time import sleep as pause
def nap(seconds, sleep=time.sleep): sleep(seconds)
class Retry:
    pause = staticmethod(time.sleep)
    def wait(self, *, sleep=time.sleep): sleep(0)
class State(threading.local): pass
class Socket(socket.socket): pass
HANDLERS = {"wait": time.sleep, "deep": [1, (time.sleep, 2)]}
NAP, EACH = functools.partial(time.sleep, 1), functools.partial(map, time.sleep)
def slowly(function):
    wait = time.sleep
    @functools.wraps(function)
    def wrapper(): wait(1)
    return wrapper
@slowly
def send(): pass
@dataclasses.dataclass
class Wire:
    end: socket.socket = dataclasses.field(default_factory=socket.socket)
class Slot: __slots__ = ("poll",)
slot = Slot(); slot.poll = select.select
class Client: pass
client = Client(); client.sleep = time.sleep; client.inner = Client(); client.inner.waits = [time.sleep]
EVERY = {time.sleep}
LOCK, SHARED, STATE = threading.Lock(), threading.RLock(), threading.local()
fine = socket.create_connection, threading.Event, threading.Condition()
KINDS = (socket.socket, int)
BY_KIND = {socket.socket: 1}
def typed(end: socket.socket) -> socket.socket: return end
class Lazy:
    def __getattribute__(self, name): raise RuntimeError("a proxy was evaluated: " + name)
    @property
    def __class__(self): raise RuntimeError("a proxy was evaluated")
    def __eq__(self, other): raise RuntimeError("compared")
    def __hash__(self): raise RuntimeError("hashed")
lazy = Lazy()
lazies = {"one": lazy, "more": [lazy]}
''', user.__dict__)
from greenkit import boot
boot.patch(strict="off")
import json
found = [f for f in boot.evidence() if f.holder == "user_code"]
print(json.dumps(sorted([f.attribute, f.form, f.rule] for f in found)))
"""


def test_every_form_of_holding_is_found_and_no_proxy_woken():
    """Whatever form a name or a native object is held in it is found; a lazy proxy is never asked anything.

    What only looks at a class (annotations, what isinstance() is given, keys) is left alone.
    """
    assert run_clean(FORMS).json == [
        ["EACH", "partial", "stale-reference"],
        ["EVERY[…]", "set item", "stale-reference"],
        ["HANDLERS[deep][1][0]", "tuple item", "stale-reference"],
        ["HANDLERS[wait]", "dict value", "stale-reference"],
        ["LOCK", "module global", "native-lock"],
        ["NAP", "partial", "stale-reference"],
        ["Retry.pause", "class attribute (staticmethod)", "stale-reference"],
        ["Retry.wait <default sleep>", "keyword default", "stale-reference"],
        ["SHARED", "module global", "native-rlock"],
        ["STATE", "module global", "native-local"],
        ["Socket", "base class", "stale-subclass"],
        ["State", "base class", "stale-subclass"],
        ["Wire.__dataclass_fields__[end].default_factory", "dataclass default_factory", "stale-reference"],
        ["client.inner.waits[0]", "list item", "stale-reference"],
        ["client.sleep", "instance attribute", "stale-reference"],
        ["nap <default sleep>", "function default", "stale-reference"],
        ["pause", "module global", "stale-reference"],
        ["send <closure wait>", "closure cell", "stale-reference"],
        ["slot.poll", "instance attribute", "stale-reference"],
    ]


REPAIRED = FORMS.replace('boot.patch(strict="off")', 'done = boot.patch(strict="off", repair=True).repaired')


def test_repair_binds_every_form_that_can_be_bound_again():
    """After a repair only the layouts that cannot follow and what is in a tuple or set are left."""
    run = run_clean(REPAIRED)
    assert [attribute for attribute, _, _ in run.json] == [
        "EVERY[…]",
        "HANDLERS[deep][1][0]",
        "Socket",
        "State",
    ]


def test_an_original_asked_for_after_the_patch_is_taken_as_meant():
    """What a module fetched with get_original() is information, not an error."""
    program = """
from greenkit import boot
boot.patch()
import sys, types, json
from gevent.monkey import get_original
module = types.ModuleType("native_on_purpose")
module.sleep = get_original("time", "sleep")
sys.modules["native_on_purpose"] = module
print(json.dumps([f.severity.value for f in boot.evidence() if "native_on_purpose" in f.message]))
"""
    assert run_clean(program).json == ["info"]


@pytest.mark.parametrize(
    ("before", "undo"),
    [
        ("", "from gevent.monkey import get_original; time.sleep = get_original('time', 'sleep')"),
        ("from unittest import mock; m = mock.patch('time.sleep', lambda s: None); m.start()", "m.stop()"),
    ],
    ids=["original", "mock"],
)
def test_a_patch_undone_later_is_noticed(before, undo):
    """Putting native code back behind gevent's records is an error, also when gevent saved a mock."""
    program = f"""
{before}
from greenkit import boot
boot.patch(strict="off")
import time, json
{undo}
print(json.dumps([f.message for f in boot.evidence() if f.id == "GK106"]))
"""
    assert run_clean(program).json[0].startswith("time.sleep was put back after the patch")


def test_the_second_call_returns_the_first_report():
    """A process is patched once: later callers get what the first was told, whatever they ask."""
    program = """
from greenkit import boot
import json
first = boot.patch()
print(json.dumps([boot.patch(strict="off", repair=True) is first, boot.report() is first, boot.patched()]))
"""
    assert run_clean(program).json == [True, True, True]


def test_somebody_elses_patch_is_verified_not_repeated():
    """After a foreign patch_all the report names its line, and nothing is patched again."""
    program = """
from gevent import monkey
monkey.patch_all()
calls = []
monkey.patch_all = lambda **kw: calls.append(kw)
from greenkit import boot
import json
report = boot.patch()
print(json.dumps([report.patched, report.by == __file__ + ":3", calls, [f.id for f in report.findings]]))
"""
    assert run_clean(program).json == [True, True, [], []]


def test_a_half_patched_process_is_an_error():
    """Options switched off are named by module and reason."""
    program = """
from gevent import monkey
monkey.patch_all(time=False, dns=False)
from greenkit import boot
import json
print(json.dumps([f.message for f in boot.patch(strict="off").findings if f.id == "GK105"]))
"""
    messages = run_clean(program).json
    assert [message.split()[0] for message in messages] == ["time.sleep", "socket.getaddrinfo"]
