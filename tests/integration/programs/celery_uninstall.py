"""Run a worker of an installed app in this process, uninstall, and print what is not as it was.

Argument: a pool. Looked at: every global and class attribute of Celery's and kombu's modules, signals,
bootsteps, remote control, spawn callbacks, the app's configuration and its tasks.
"""

from __future__ import annotations

import json
import os
import sys
import time
from types import ModuleType

POOL = sys.argv[1]
if POOL == "gevent":
    import greenkit.auto

    assert greenkit.auto.report is not None

from celery import Celery, signals
from celery.contrib.testing.worker import start_worker
from celery.worker.control import Panel

import greenkit.celery

FAMILIES = {"billiard", "celery", "kombu", "vine"}
app = Celery("uninstall", broker=os.environ["TEST_BROKER"])
app.conf.update(worker_pool=POOL, broker_connection_retry_on_startup=True, worker_hijack_root_logger=False)
ran: list[str] = []


@app.task
def note(word: str) -> None:
    ran.append(word)


def run_a_worker(word: str) -> None:
    with start_worker(app, pool=POOL, concurrency=2, perform_ping_check=False):
        note.delay(word)
        end = time.monotonic() + 30
        while not ran and time.monotonic() < end:
            time.sleep(0.01)
    assert ran.pop() == word


def is_told_of_greenlets() -> bool:
    """Tell whether greenkit hears of a greenlet that is started; gevent shows its callbacks to nobody."""
    children = sys.modules.get("greenkit.celery._child_greenlets")
    if POOL != "gevent" or children is None:
        return False
    heard: list[object] = []
    kept, children.job_of = children.job_of, heard.append  # its first step
    sys.modules["gevent"].spawn(int).join()
    children.job_of = kept
    return bool(heard)


def look() -> dict[str, int | str]:
    """Return {what: which object it is}."""
    found: dict[str, object] = {
        f"conf.{key}": id(value) if callable(value) else repr(value)
        for key, value in app.conf.items()
        if key != "include"  # a set's order, Celery's own
    }
    for name, module in list(sys.modules.items()):
        if isinstance(module, ModuleType) and name.partition(".")[0] in FAMILIES:
            for key, value in list(vars(module).items()):
                found[f"{name}.{key}"] = id(value)
                if isinstance(value, type) and value.__module__ == name:
                    found |= {f"{name}.{key}.{one}": id(kept) for one, kept in list(vars(value).items())}
    for name in signals.__all__:
        receivers = getattr(signals, name).receivers
        found[f"signal {name}"] = repr([(key, id(receiver)) for key, receiver in receivers])
    for kind in ("worker", "consumer"):
        found[f"steps {kind}"] = repr(sorted(map(str, app.steps[kind])))
    for name, task in app.tasks.items():
        kept = {key: id(value) for key, value in vars(task).items() if not key.startswith("__")}
        found[f"task {name}"] = repr(sorted(kept.items()))
    found["panel"] = repr(sorted((name, id(function)) for name, function in Panel.data.items()))
    found["panel meta"] = repr(sorted(Panel.meta.items()))
    found["spawn callback"] = is_told_of_greenlets()
    return found  # type: ignore[return-value]


def changed(before: dict[str, int | str], after: dict[str, int | str]) -> list[str]:
    # A module that was imported meanwhile is no change; a setting is.
    names = before.keys() | {name for name in after if name.partition(".")[0] not in FAMILIES}
    # Bootsteps keep what they require in another form after each worker, whoever's it is.
    return sorted(
        name for name in names if after.get(name) != before.get(name) and not name.endswith(".requires")
    )


run_a_worker("plain")
before = look()
greenkit.celery.install(app)
run_a_worker("installed")
during = changed(before, look())
greenkit.celery.uninstall(app)
left = changed(before, look())
run_a_worker("after")
print(json.dumps({"during": during, "left": left}))
