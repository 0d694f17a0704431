"""Numbers for Prometheus and OpenTelemetry, and probes: whether this process lives, and is ready.

`serve()` answers `/metrics`, `/healthz` and `/readyz`; `heartbeat()` touches a file for `greenkit alive` and
tells systemd. All of it is read from `greenkit.facts`; nothing here is started unless asked for.
"""

from __future__ import annotations

from greenkit.metrics._heartbeat import Heartbeat, heartbeat
from greenkit.metrics._process import collector, from_environ, instrument, serve, stop
from greenkit.metrics._slots import directory_of

__all__ = [
    "Heartbeat",
    "collector",
    "directory_of",
    "from_environ",
    "heartbeat",
    "instrument",
    "serve",
    "stop",
]
