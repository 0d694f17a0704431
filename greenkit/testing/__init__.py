"""Bring what tests and demos run against: real servers we own, a mock LLM, a fake clock, a clean interpreter.

A lazy door: the pytest plugin in this package is loaded in every pytest run of a machine that has greenkit,
so a name is imported only when it is asked for.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from greenkit.testing._clean import CleanRun, run_clean
    from greenkit.testing._fake_clock import FakeClock
    from greenkit.testing._fault_proxy import FaultProxy, ProxyStatistics
    from greenkit.testing._kill_safety import KillReport, kill_at_every_switch
    from greenkit.testing._mock_process import MockLLM
    from greenkit.testing._postgres import PostgresServer
    from greenkit.testing._program import Program, ProgramEnd
    from greenkit.testing._rabbit import RabbitServer
    from greenkit.testing._switches import assert_no_switch
    from greenkit.testing._valkey import ValkeyServer

__all__ = [
    "CleanRun",
    "FakeClock",
    "FaultProxy",
    "KillReport",
    "MockLLM",
    "PostgresServer",
    "Program",
    "ProgramEnd",
    "ProxyStatistics",
    "RabbitServer",
    "ValkeyServer",
    "assert_no_switch",
    "kill_at_every_switch",
    "run_clean",
]

_FILES = {
    "CleanRun": "_clean",
    "FakeClock": "_fake_clock",
    "FaultProxy": "_fault_proxy",
    "KillReport": "_kill_safety",
    "MockLLM": "_mock_process",
    "PostgresServer": "_postgres",
    "Program": "_program",
    "ProgramEnd": "_program",
    "ProxyStatistics": "_fault_proxy",
    "RabbitServer": "_rabbit",
    "ValkeyServer": "_valkey",
    "assert_no_switch": "_switches",
    "kill_at_every_switch": "_kill_safety",
    "run_clean": "_clean",
}


def __getattr__(name: str) -> object:
    file = _FILES.get(name)
    if file is None:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    # Late: see the module's docstring.
    from importlib import import_module

    value: object = getattr(import_module(f"{__name__}.{file}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_FILES})
