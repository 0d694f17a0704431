"""Lazy proxies alive during somebody else's `patch_all()`: nobody wakes them, everything comes back."""

from __future__ import annotations

import pytest

from greenkit.testing import run_clean

# What happens where greenkit is not installed.
UNGUARDED = """
from greenkit.boot._events import Guard
Guard.arm = lambda self: False
"""

CELERY_PROXIES = """
import sys, json
{twin}
import celery.__main__, gevent.monkey, gevent.signal
before = set(sys.modules)
gevent.monkey.patch_all()
family = ("celery", "kombu", "amqp", "billiard", "vine")
print(json.dumps(len([m for m in set(sys.modules) - before if m.partition(".")[0] in family])))
"""


def test_celerys_proxies_sleep_through_the_patch():
    """With greenkit installed patch_all imports nothing of Celery; without the guard, a hundred modules."""
    pytest.importorskip("celery")
    assert run_clean(CELERY_PROXIES.format(twin="")).json == 0
    assert run_clean(CELERY_PROXIES.format(twin=UNGUARDED)).json > 50


DJANGO_UNCONFIGURED = """
{twin}
from django.conf import settings
import json
from gevent.monkey import patch_all
try:
    patch_all()
except Exception as error:
    print(json.dumps(type(error).__name__))
else:
    import queue, time
    print(json.dumps([time.sleep.__module__, queue.SimpleQueue.__module__]))
"""


def test_unconfigured_django_settings_do_not_stop_the_patch():
    """patch_all finishes beside Django's lazy settings; without the guard it raises half-way."""
    pytest.importorskip("django")
    assert run_clean(DJANGO_UNCONFIGURED.format(twin="")).json == ["gevent.hub", "gevent._gevent_cqueue"]
    assert run_clean(DJANGO_UNCONFIGURED.format(twin=UNGUARDED)).json == "ImproperlyConfigured"


@pytest.mark.parametrize("line", ["from gevent.monkey import patch_all; patch_all()", "import greenkit.auto"])
def test_patching_in_django_settings_does_not_hang(tmp_path, line):
    """A settings module that patches is imported to its end."""
    pytest.importorskip("django")
    (tmp_path / "shop_settings.py").write_text(f"{line}\nSECRET_KEY = 'x'\nSHOP = 7\n")
    program = """
from django.conf import settings
import json
print(json.dumps(settings.SHOP))
"""
    env = {"DJANGO_SETTINGS_MODULE": "shop_settings", "PYTHONPATH": str(tmp_path)}
    assert run_clean(program, env=env, timeout=20.0).json == 7


RAISES = """
import gc, json
from importlib import metadata
before = [gc.get_objects, metadata.entry_points]
import gevent.monkey
real = gevent.monkey.patch_time
def broken(): raise KeyError("half-way")
gevent.monkey.patch_time = broken
{call}
print(json.dumps([outcome, [gc.get_objects, metadata.entry_points] == before]))
"""


def test_our_guard_is_gone_when_the_patch_fails():
    """patch() turns a failure into PatchError, and both functions are the real ones again."""
    call = """
from greenkit import boot
try:
    boot.patch()
except boot._patch.PatchError as error:
    outcome = str(error)
"""
    outcome, restored = run_clean(RAISES.format(call=call)).json
    assert outcome.startswith("gevent's patch_all() raised KeyError: 'half-way'; the process is half patched")
    assert restored


def test_a_foreign_failure_leaves_no_guard_in_use():
    """After somebody else's patch_all raised, the first call gets the real answer and removes it."""
    call = """
try:
    gevent.monkey.patch_all()
except KeyError:
    outcome = type(gc.get_objects()).__name__, sum(1 for o in gc.get_objects() if type(o) is dict) > 100
"""
    assert run_clean(RAISES.format(call=call)).json == [["list", True], True]


def test_an_event_that_fails_does_not_stop_the_patch():
    """An exception of a subscriber would end the patch; ours never raises."""
    program = """
from greenkit.boot import _events
def broken(*args): raise RuntimeError("ours")
_events.GUARD.__class__.arm = _events._installed = broken
import json, time
from gevent.monkey import patch_all
print(json.dumps([patch_all(), time.sleep.__module__]))
"""
    assert run_clean(program).json == [True, "gevent.hub"]
