"""Flower beside the demo, where it is installed: tasks and workers in a browser."""

from __future__ import annotations

import os
import socket
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

WATCHED = ("redis", "amqp")  # brokers that Flower reads


def wanted(options: argparse.Namespace) -> bool:
    """Tell whether to start Flower: for a live page, which then links to it, and unless one is given."""
    if not options.keep or os.environ.get("LIVE_FLOWER") or not options.broker.startswith(WATCHED):
        return False
    return any(command.name == "flower" for command in entry_points(group="celery.commands"))


def address() -> str:
    """Return host:port of a free port; Flower inherits no socket, so somebody may take it meanwhile."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return f"127.0.0.1:{free.getsockname()[1]}"


def flower(place: str) -> list[str]:
    """Return the command of Flower at the address `place`, as one would type it after `python`."""
    host, _, port = place.partition(":")
    return ["-m", "celery", "-A", "project", "flower", f"--address={host}", f"--port={port}"]
