"""Hooks of drivers that no other room adapts, called when their package is imported.

Imports nothing at load: `greenkit.auto` names these functions and must not load what they need.
"""

from __future__ import annotations

__all__ = ["init_grpc"]


def init_grpc() -> None:
    """Have grpc's C core wait on gevent's loop; it must happen before the first channel.

    Switches: may, inside gevent's set-up of the loop.
    """
    # Late: only a process that uses grpc has it.
    from grpc.experimental import gevent

    gevent.init_gevent()
