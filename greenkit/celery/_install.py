"""`install(app)`: hang greenkit into a Celery app by signals and bootsteps.

Nothing happens at install but connecting. The pool, the event loop and the checks come when a
worker of this app starts (`worker_init`, after its app and tasks are imported, before it builds
its pool), the shared result backend when the first one is made.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from celery import signals
from celery.utils.log import get_logger

from greenkit.celery._apps import INSTALLED, LATE, PREPARED, TOO_LATE, WORKING, real_app
from greenkit.celery._options import UNSET, Options, Unset
from greenkit.celery._results import keep_apart, share
from greenkit.celery._start import look_at_the_command, refuse

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from celery import Celery

__all__ = ["install", "uninstall"]

_logger = get_logger(__name__)


def install(
    app: Celery,
    *,
    watchdog: float | Unset | None = UNSET,
    drain_timeout: float | Unset | None = UNSET,
    retry_limited: bool | Unset = UNSET,
    unpatched: str | Unset = UNSET,
    kill_grace: float | Unset = UNSET,
    share_results: bool | Unset = UNSET,
    children: str | Unset = UNSET,
    recycle: str | Unset = UNSET,
    warm_up: Sequence[str] | Unset = UNSET,
    hold_limited: int | Unset = UNSET,
) -> None:
    """Make workers of `app` keep their word; one line in the app module.

    A gevent worker gets greenkit's pool and event loop; prefork, threads and solo get the hooks
    that make sense there and log what is not active. Options are those of `Options`; each may also
    be a `greenkit_<option>` key of the app's configuration. Calling it again replaces the options.

    Raises:
        TypeError: `app` is no Celery app.
        ConfigError: An option is out of range.
        SystemExit: This process is a worker whose command line would keep it from running tasks.

    Switches: never.
    """
    real = real_app(app)
    given = {
        "watchdog": watchdog,
        "drain_timeout": drain_timeout,
        "retry_limited": retry_limited,
        "unpatched": unpatched,
        "kill_grace": kill_grace,
        "share_results": share_results,
        "children": children,
        "recycle": recycle,
        "warm_up": warm_up,
        "hold_limited": hold_limited,
    }
    if Options.read({}, given).unpatched == "refuse":
        look_at_the_command()
    undo = INSTALLED.setdefault(real, ExitStack())

    def on_worker_init(sender: Any = None, **_: Any) -> None:
        app = getattr(sender, "app", None)
        if app is not None and real_app(app) is real:
            try:
                from greenkit.celery._worker import prepare  # late: see the module's docstring
            except ImportError as exc:
                # Celery would swallow it, and run the worker on its own pool.
                refuse(f"a part this worker needs cannot be imported: {exc}")
            prepare(sender, given, undo)
            PREPARED.add(real)

    signals.worker_init.disconnect(dispatch_uid=_uid(real))
    signals.worker_init.connect(on_worker_init, weak=False, dispatch_uid=_uid(real))
    share(real, wanted=lambda: _shares_results(real, given))
    _tell_the_command_line()
    if real in WORKING and real not in PREPARED:
        LATE.add(real)
        _logger.warning("greenkit: %s", TOO_LATE)


def _note_worker(sender: Any = None, **_: Any) -> None:
    app = getattr(sender, "app", None)
    if app is not None:
        WORKING.add(real_app(app))


# At import, which the `celery` command does before it makes a worker.
signals.worker_init.connect(_note_worker, weak=False)


def _tell_the_command_line() -> None:
    """Have `celery inspect greenkit` pass, which checks words on the asking side, and `celery events` end."""
    if "celery.bin.celery" in sys.modules:
        from greenkit.celery import _control
        from greenkit.celery._events import end_on_term

        _control.register()
        end_on_term()


def uninstall(app: Celery) -> None:
    """Take `install(app)` back, and all that its workers changed in this process; for tests.

    Call it when they have ended. Calling it without `install()` is fine.

    Switches: may, as a log handler does.
    """
    real = real_app(app)
    signals.worker_init.disconnect(dispatch_uid=_uid(real))
    for apps in WORKING, PREPARED, LATE:
        apps.discard(real)
    INSTALLED.pop(real, ExitStack()).close()
    keep_apart(real)
    remote = sys.modules.get("greenkit.celery._control")
    if remote is not None and not INSTALLED:
        remote.withdraw()


def _shares_results(app: Celery, given: Mapping[str, Any]) -> bool:
    # This key alone: a worker's other options are no business of who sends or waits.
    value = given["share_results"]
    return bool(app.conf.get("greenkit_share_results", True) if value is UNSET else value)


def _uid(app: Any) -> str:
    return f"greenkit.celery.install:{id(app)}"
