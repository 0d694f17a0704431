"""`install(app)`: hang greenkit into a Celery app by signals and bootsteps.

Nothing happens at install but connecting. The pool, the event loop and the checks come when a
worker of this app starts (`worker_init`, after its app and tasks are imported, before it builds
its pool), so that a web process that only sends tasks pays nothing.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from celery import signals

from greenkit.celery._options import UNSET, Options, Unset
from greenkit.celery._start import look_at_the_command

if TYPE_CHECKING:
    from collections.abc import Sequence

    from celery import Celery

__all__ = ["install", "uninstall"]


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
        ConfigError: An option is out of range.
        SystemExit: This process is a worker whose command line would keep it from running tasks.

    Switches: never.
    """
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
    uid = _uid(app)
    signals.worker_init.disconnect(dispatch_uid=uid)

    def on_worker_init(sender: Any = None, **_: Any) -> None:
        if _is_app(getattr(sender, "app", None), app):
            from greenkit.celery._worker import prepare

            prepare(sender, given)

    signals.worker_init.connect(on_worker_init, weak=False, dispatch_uid=uid)
    if "celery.bin.celery" in sys.modules:
        # `celery inspect greenkit` is checked against the commands known on the asking side.
        import greenkit.celery._doctor
        import greenkit.celery._remote  # noqa: F401


def uninstall(app: Celery) -> None:
    """Take `install(app)` back; a worker that already runs keeps what it has."""
    signals.worker_init.disconnect(dispatch_uid=_uid(app))


def installed(app: Celery) -> bool:
    """Tell whether `install(app)` was called and not taken back."""
    return any(uid == _uid(app) for (uid, _), _ in signals.worker_init.receivers)


def _uid(app: Celery) -> str:
    return f"greenkit.celery.install:{id(app)}"


def _is_app(one: Any, app: Any) -> bool:
    # Either may be a proxy of the other (`celery.current_app`).
    def real(thing: Any) -> Any:
        get = getattr(thing, "_get_current_object", None)
        return get() if get is not None else thing

    return real(one) is real(app)
