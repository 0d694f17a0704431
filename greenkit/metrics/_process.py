"""What a process serves: asked for by hand, or by `GREENKIT_METRICS`."""

from __future__ import annotations

import atexit
import os
from typing import TYPE_CHECKING, Any

import gevent
from gevent._hub_local import get_hub_if_exists  # the public one would make a hub where none is

from greenkit import boot
from greenkit.errors import ConfigError
from greenkit.metrics._health import is_gunicorns_master
from greenkit.metrics._observed import Observed
from greenkit.metrics._slots import directory_for

if TYPE_CHECKING:
    from opentelemetry.metrics import Meter

    from greenkit.metrics._server import Endpoint

__all__ = ["collector", "from_environ", "instrument", "serve", "stop"]

_PORT = 9808
_OFF = frozenset({"", "0", "off", "no", "false"})
_wanted: list[tuple[str, int, Any]] = []  # (host, port, directory)
_served: list[Endpoint] = []
_observed: list[Observed] = []
_collectors: list[Any] = []
_forget: list[Any] = []


def serve(address: str = f"127.0.0.1:{_PORT}", *, directory: str | None = None) -> None:
    """Answer `/metrics`, `/healthz` and `/readyz` on a port; a second call changes nothing.

    Several processes of a host may give the same port: one of them holds it and answers for all, with the
    label `process`. Needs the extra `prometheus`. `/metrics` shows prometheus_client's default registry, with
    the program's own metrics.

    Args:
        address: `host:port`, `:port` for all interfaces, or a port on loopback.
        directory: Where processes that share the port meet; None takes one for the port in the temporary
            directory. Only processes of the same user may enter it.

    Raises:
        ConfigError: The address is none, or the process is not patched: only a hub can answer.

    Switches: never.
    """
    if _wanted:
        return
    host, port = _parse(address)
    if not boot.patched():
        raise ConfigError(
            "greenkit.metrics.serve() needs a patched process: the hub answers, and a blocked one does not."
            ' Make "import greenkit.auto" line 1, or use greenkit.metrics.collector() with your own exporter'
        )
    place = directory_for(port, directory or os.environ.get("GREENKIT_METRICS_DIR"))
    collector()
    _wanted.append((host, port, place))
    _forget.append(boot.on_hub(lambda hub: hub.loop.run_callback(gevent.spawn, _open)))


def _open() -> None:
    """Answer, in this process: also in a forked child, whose parent answers already."""
    for endpoint in _served:
        if endpoint.is_of_this_process:
            return
        endpoint.close()
    _served.clear()
    if not _wanted or is_gunicorns_master():
        return
    # Late: it needs prometheus_client, and a web server.
    from prometheus_client import REGISTRY

    from greenkit.metrics._server import Endpoint

    _served.append(Endpoint(*_wanted[0], REGISTRY, _observed[0] if _observed else None))


def stop() -> None:
    """End what `serve()`, `collector()` and `instrument()` began.

    Switches: may.
    """
    _wanted.clear()
    while _forget:
        _forget.pop()()
    while _served:
        _served.pop().close()
    if _collectors:
        from prometheus_client import REGISTRY  # late: it is there when there is a collector

        while _collectors:
            REGISTRY.unregister(_collectors.pop())
    while _observed:
        _observed.pop().stop()


def collector() -> Any:
    """Register greenkit's numbers with prometheus_client's default registry; return the collector.

    For programs with an exporter of their own. A second call returns the first collector.

    Raises:
        ConfigError: prometheus_client is not installed.

    Switches: never.
    """
    if not _collectors:
        try:
            # Late: an optional package.
            from prometheus_client import REGISTRY
        except ImportError as error:
            raise ConfigError(
                f"metrics need prometheus_client, and it cannot be imported ({error}); pip install"
                " 'greenkit[prometheus]', or unset GREENKIT_METRICS"
            ) from error

        from greenkit.metrics._prometheus import Collector

        observed = Observed()
        made = Collector(observed)
        REGISTRY.register(made)
        _observed.append(observed)
        _collectors.append(made)
    return _collectors[0]


def instrument(meter: Meter | None = None) -> None:
    """Give OpenTelemetry's metrics API instruments for greenkit's numbers; needs the extra `otel`.

    The SDK and its exporter are the program's own.

    Args:
        meter: Which meter; None takes `get_meter("greenkit")` of the global provider.

    Switches: never.
    """
    from greenkit.metrics import _otel  # late: an optional package

    _observed.append(_otel.instrument(meter))


def from_environ() -> None:
    """Serve as `GREENKIT_METRICS` says: an address as for `serve()`; nothing when it is unset or off.

    Raises:
        ConfigError: It is no address.

    Switches: never.
    """
    text = os.environ.get("GREENKIT_METRICS", "").strip()
    if text.lower() not in _OFF:
        serve(text)


def _parse(address: str) -> tuple[str, int]:
    host, colon, port = str(address).rpartition(":")
    if not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise ConfigError(
            f"{address!r} is no address to serve metrics at; write 9808, 127.0.0.1:9808, or :9808 for all"
            " interfaces"
        )
    return (host or ("0.0.0.0" if colon else "127.0.0.1")), int(port)  # noqa: S104 - asked for by the colon


def _after_fork() -> None:
    if _wanted and get_hub_if_exists() is not None:
        gevent.spawn(_open)  # a greenlet: the hub is made fit for the child only after this hook


def _at_exit() -> None:
    for endpoint in _served:
        endpoint.withdraw()


os.register_at_fork(after_in_child=_after_fork)
atexit.register(_at_exit)
