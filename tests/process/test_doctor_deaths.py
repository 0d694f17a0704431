"""How an observed program died is evidence: the exception, its place and the remedy."""

from __future__ import annotations

import json

import pytest

from greenkit.testing import run_clean

PATCHED = "from gevent import monkey\nmonkey.patch_all()\n"
LOOP = (
    "import asyncio, threading\nloop = asyncio.new_event_loop()\n"
    "threading.Thread(target=loop.run_forever, daemon=True).start()\n"
    "async def work():\n    await asyncio.sleep(0.1)\n"
    "asyncio.run_coroutine_threadsafe(work(), loop).result(3)\n"
)
PIPE = "import multiprocessing\nhere, there = multiprocessing.Pipe()\nhere.recv()\n"

# Name: program, id, rule, line of the place (from 1), part of the hint.
DEATHS = {
    "pipe": (PATCHED + PIPE, "GK124", "multiprocessing", 5, "subprocess"),
    "manager": (
        PATCHED
        + "import multiprocessing\nif __name__ == '__main__':\n    multiprocessing.Manager().dict(a=1)\n",
        "GK124", "multiprocessing", 5, "subprocess",
    ),
    "pipe in a thread": (
        PATCHED + "import multiprocessing, threading\ndef work():\n    multiprocessing.Pipe()[0].recv()\n"
        "threading.Thread(target=work).start()\n",
        "GK124", "multiprocessing", 5, "subprocess",
    ),
    "pipe in a greenlet": (
        PATCHED + "import multiprocessing, gevent\ndef work():\n    multiprocessing.Pipe()[0].recv()\n"
        "gevent.spawn(work).join()\n",
        "GK124", "multiprocessing", 5, "subprocess",
    ),
    "second loop": (PATCHED + LOOP + "asyncio.run(work())\n", "GK123", "foreign-loop", 9, "native thread"),
    "no epoll": (PATCHED + "import select\nselect.epoll()\n", "GK123", "foreign-loop", 4, "another process"),
    "loop exit": (
        PATCHED + "import gevent.event\ngevent.event.Event().wait()\n", "GK129", "loop-exit", 4,
        "native thread",
    ),
    "another thread": (
        PATCHED + "import gevent\nit = gevent.spawn(gevent.sleep, 9)\ngevent.sleep(0)\n"
        "gevent.get_hub().threadpool.apply(it.switch)\n",
        "GK129", "other-thread", 6, "threadpool",
    ),
    "a raise from another": (
        PATCHED + "import multiprocessing\ntry:\n    multiprocessing.Pipe()[0].recv()\n"
        "except OSError as error:\n    raise ValueError('no answer') from error\n",
        "GK124", "multiprocessing", 5, "subprocess",
    ),
    "a connection of another greenlet": (
        PATCHED + "class DatabaseError(Exception): pass\n"
        "raise DatabaseError('objects made in a thread can only be used in that same thread')\n",
        "GK112", "native-local", 4, "line 1 of app.py,",
    ),
    "its own fault": (PATCHED + "1 / 0\n", "GK129", "died", 3, "unpatched"),
}  # fmt: skip


def observe(place, program, *words):
    (place / "app.py").write_text(program)
    run = run_clean(["-m", "greenkit", "doctor", "--json", *words, "--", "python", "app.py"], cwd=str(place))
    return run, json.loads(run.stdout)


@pytest.mark.parametrize("death", DEATHS)
def test_the_exception_is_a_finding_with_its_place(tmp_path, death):
    """Whatever it dies of in a patched process: one finding, the user's line, what to do."""
    program, wanted, rule, line, hint = DEATHS[death]
    run, told = observe(tmp_path, program)
    found = [one for one in told["findings"] if one["id"] == wanted and one["rule"] == rule]
    assert len(found) == 1, (told, run.stderr)
    assert found[0]["captured_at"] == f"app.py:{line}"
    assert hint in found[0]["hint"]
    assert found[0]["severity"] == ("warning" if rule == "died" else "error")
    assert run.returncode == 1


def test_the_other_loop_is_named(tmp_path):
    """It runs in a thread of the standard library: whoever started that thread is named."""
    _, told = observe(tmp_path, PATCHED + LOOP + "asyncio.run(work())\n")
    (found,) = [one for one in told["findings"] if one["id"] == "GK123"]
    assert "the other loop runs since app.py:5" in found["evidence"]


def test_a_recursion_in_ssl_is_joined_with_the_class_that_was_kept(tmp_path):
    """The stale class is the cause; that the program died of it is its evidence."""
    program = "from urllib3.util import ssl_\n" + PATCHED + "ssl_.create_urllib3_context()\n"
    run, told = observe(tmp_path, program)
    assert "RecursionError" in run.stderr
    (found,) = [one for one in told["findings"] if any(line.startswith("seen: ") for line in one["evidence"])]
    assert (found["id"], found["holder"], found["original"]) == (
        "GK101",
        "urllib3.util.ssl_",
        "ssl.SSLContext",
    )
    assert "seen: the program died of RecursionError at app.py:4" in found["evidence"][0]


@pytest.mark.parametrize(
    "end", ["import sys; sys.exit(3)", "import os; os._exit(3)", "import os; os.kill(os.getpid(), 9)"]
)
def test_a_patched_program_that_did_not_end_well_is_never_clean(tmp_path, end):
    """No exception, and nothing else found: its status is told, and the doctor's own is 1."""
    run, told = observe(tmp_path, PATCHED + "import gevent; gevent.sleep(0.5)\n" + end + "\n")
    assert [(one["id"], one["rule"]) for one in told["findings"]] == [("GK129", "died")]
    assert run.returncode == 1


def test_a_connection_of_another_greenlet_is_joined_with_the_early_django(tmp_path):
    """Django's own refusal, and why: its connections were made before the patch."""
    program = (
        "from django.conf import settings\n"
        "engine = {'ENGINE': 'django.db.backends.sqlite3', 'NAME': ':memory:'}\n"
        "settings.configure(DATABASES={'default': engine})\n"
        "from django.db import connection\nconnection.ensure_connection()\n"
        + PATCHED
        + "import gevent\nconnection.ensure_connection()\nconnection.cursor()\n"
    )
    _, told = observe(tmp_path, program)
    (found,) = [one for one in told["findings"] if one["id"] == "GK112" and one["holder"] == "django.db"]
    assert found["evidence"][0].startswith("seen: the program died of DatabaseError at app.py:")


@pytest.mark.parametrize("end", ["import sys; sys.exit(3)", "1 / 0", ""])
def test_a_program_without_gevent_is_not_told_about_its_end(tmp_path, end):
    """It is not patched: how it ends is its own business. Nor is one that ends well."""
    _, told = observe(tmp_path, (PATCHED if not end else "") + end + "\n")
    assert [one["id"] for one in told["findings"] if one["id"] == "GK129"] == []


def test_the_programs_own_hook_is_its_own(tmp_path):
    """sys.excepthook is untouched, and a hook the program sets hides nothing from the doctor."""
    program = (
        PATCHED + "import sys\nassert sys.excepthook is sys.__excepthook__\nsys.excepthook = print\n1 / 0\n"
    )
    _, told = observe(tmp_path, program)
    (found,) = told["findings"]
    assert (found["id"], found["captured_at"]) == ("GK129", "app.py:6")
