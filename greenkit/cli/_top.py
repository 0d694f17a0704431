"""`greenkit top`: what the patched processes of this host do, live, web servers as well as workers.

Asks the sockets that processes with `GREENKIT_METRICS` keep in their directory; loads nothing of the project.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import select
import socket
import sys
import termios
import tty
from pathlib import Path
from typing import TYPE_CHECKING, Any

from greenkit.cli._ready import complain

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Mapping

    from rich.console import RenderableType

__all__ = ["ask", "render", "top"]

_BARS = "▁▂▃▄▅▆▇█"
_WORST_SHOWN = 0.5  # seconds: a full bar
_LAG_NOTICED = 0.1  # seconds: the watchdog's threshold
_LINES = 8


def top(options: argparse.Namespace) -> int:
    """Run the command; return 0, or 2 when no process answers."""
    directory = Path(
        options.directory or os.environ.get("GREENKIT_METRICS_DIR") or _meeting_place(options.port)
    )
    if options.once or options.json or not sys.stdout.isatty():
        seen = ask(directory)
        if options.json:
            print(json.dumps(seen))
        elif seen:
            _console().print(render(seen))
        return 0 if seen else complain(_nobody(directory))
    try:
        _live(directory, options.every)
    except KeyboardInterrupt:
        pass
    return 0


def _meeting_place(port: int) -> Path:
    # Late: it loads gevent, which a directory that is named does not need.
    from greenkit.metrics import directory_of

    return directory_of(port)


def _nobody(directory: Path) -> str:
    return (
        f"no process answers in {directory}; start them with GREENKIT_METRICS=127.0.0.1:9808, or name their"
        " directory"
    )


def ask(directory: Path, timeout: float = 1.0) -> dict[str, Any]:
    """Return {number: what the process shows}; None of one whose hub does not answer in time."""
    found: dict[str, Any] = {}
    for path in sorted(directory.glob("*.sock"), key=lambda path: int(path.stem)):
        with contextlib.suppress(OSError, ValueError):  # it has ended
            found[path.stem] = _picture(str(path), timeout)
    return found


def _picture(where: str, timeout: float) -> Any:
    try:
        return _get(where, timeout)
    except TimeoutError:
        return None


def _get(where: str, timeout: float) -> Any:
    with socket.socket(socket.AF_UNIX) as plug:
        plug.settimeout(timeout)
        plug.connect(where)
        plug.sendall(b"GET /top HTTP/1.0\r\n\r\n")
        answer = b"".join(iter(lambda: plug.recv(65536), b""))
    return json.loads(answer.partition(b"\r\n\r\n")[2])


def render(seen: Mapping[str, Any]) -> RenderableType:
    """Return a table for each process."""
    # Late: an optional package, and only a look needs it.
    from rich.console import Group
    from rich.panel import Panel

    panels = []
    for number, shown in seen.items():
        if shown is None:
            panels.append(
                Panel("[red]no answer within a second: its hub stands still[/]", title=f"process {number}")
            )
            continue
        title = f"process {number}, pid {shown['pid']}: {_escaped(shown['command'])}"
        panels.append(Panel(_table(shown), title=title, title_align="left"))
    return Group(*panels)


def _table(shown: Mapping[str, Any]) -> RenderableType:
    from rich.table import Table  # late: see render()

    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    worst = max(shown["lag"], default=0.0)
    bars = "".join(f"[{_colour(lag)}]{sparkline([lag])}[/]" for lag in shown["lag"])
    table.add_row("hub lag", f"{bars}  worst {worst * 1e3:.0f} ms")
    for what, line in _rows(shown["facts"]):
        table.add_row(what, _escaped(line))
    for count, line in shown["waits"][:_LINES]:
        table.add_row(f"{count} greenlet{'s' * (count != 1)}", f"at {_escaped(_short(line))}")
    return table


def _colour(lag: float) -> str:
    return "green" if lag < _LAG_NOTICED else "yellow" if lag < _WORST_SHOWN else "red"


def _short(line: str) -> str:
    """Return `file:line function`, the file named from its package or the working directory on."""
    return line.rpartition("/site-packages/")[2].removeprefix(f"{Path.cwd()}/")


def sparkline(values: list[float]) -> str:
    """Return a bar for each value; a full one is half a second or more."""
    steps = len(_BARS) - 1
    return "".join(_BARS[min(steps, round(value / _WORST_SHOWN * steps + 0.49))] for value in values)


def _rows(facts: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Iterator[tuple[str, str]]:
    for name, pool in facts.get("pool", {}).items():
        limited = f", {pool['limited']} limited" if pool.get("limited") else ""
        yield f"pool {name}", f"{pool['in_use']}/{pool['size']} running, {pool['waiting']} waiting{limited}"
    for name, limit in facts.get("limiter", {}).items():
        left = ", ".join(_left(window, units) for window, units in limit["windows"].items())
        pause = f", paused for {limit['paused_for']:.1f} s" if limit["paused_for"] else ""
        told = (
            f"{limit['waiting']} waiting, {limit['in_use']} held, {limit['granted']} granted,"
            f" {limit['rejected']} refused with 429, wait p95 {limit['wait_p95']:.2f} s"
        )
        yield f"limit {name}", told
        yield "", f"left: {left}{pause}"
    for name, pool in facts.get("connections", {}).items():
        yield (
            f"connections {name}",
            f"{pool['in_use']}/{pool['max_size']} lent, {pool['idle']} idle, {pool['waiting']} waiting",
        )
        for holder in pool.get("borrowers", ())[:3]:
            doing = "querying" if holder["querying"] else "idle"
            yield "", f"{holder['seconds']:.1f} s {doing} {_short(holder['where'])}"
    for name, pool in facts.get("offload", {}).items():
        yield f"offload {name}", f"{pool['running']}/{pool['size']} threads, {pool['waiting']} waiting"
    for loop in facts.get("aio", {}).values():
        yield "asyncio", f"{loop['running']} coroutines waited for, {loop['tasks']} tasks"
    for dog in facts.get("watchdog", {}).values():
        yield "watchdog", f"{dog['blocks']} blocks, worst {dog['worst_lag']:.2f} s {dog['worst_where']}"


def _left(window: str, units: float) -> str:
    """Return what is left of `window`, "requests 500/min", and when the next unit comes if none is."""
    from greenkit.limits import parse_rate  # late: it loads gevent

    dimension, _, text = window.partition(" ")
    told = f"{math.floor(units)} {dimension} of {text}"
    rate = parse_rate(text)
    # A window by the calendar names the time it begins again itself: "1000/day from 00:00 UTC".
    if units >= 1 or rate.calendar is not None:
        return told
    wait = (1 - units) * rate.period / rate.amount
    return f"{told} (next in {f'{wait:.1f} s' if wait >= 1 else f'{wait * 1e3:.0f} ms'})"


def _escaped(text: str) -> str:
    from rich.markup import escape  # late: see render()

    return escape(text)


def _console() -> Any:
    from rich.console import Console  # late: see render()

    return Console()


def _live(directory: Path, every: float) -> None:
    from rich.live import Live  # late: see render()

    with _keys() as key, Live(screen=True, auto_refresh=False, console=_console()) as screen:
        while True:
            seen = ask(directory)
            screen.update(render(seen) if seen else _nobody(directory), refresh=True)
            if key(every) in {"q", "Q"}:
                return


@contextlib.contextmanager
def _keys() -> Iterator[Any]:
    """Give a function that waits so many seconds for a key; the terminal is as before afterwards."""
    if not sys.stdin.isatty():
        yield lambda seconds: select.select([], [], [], seconds) and ""
        return
    file = sys.stdin.fileno()
    before = termios.tcgetattr(file)
    tty.setcbreak(file)
    try:
        yield lambda seconds: os.read(file, 1).decode() if select.select([file], [], [], seconds)[0] else ""
    finally:
        termios.tcsetattr(file, termios.TCSADRAIN, before)
