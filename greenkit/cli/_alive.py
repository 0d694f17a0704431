"""`greenkit alive`: tell whether every process's hub runs. Imports neither the project nor gevent."""

from __future__ import annotations

import os
import sys
import time

__all__ = ["alive"]

_USAGE = """usage: greenkit alive [--max-age SECONDS] [DIRECTORY]

Say whether the hub of each process that beats in DIRECTORY (GREENKIT_ALIVE) came by within SECONDS (10).
Status 0: yes, of every one; 1: no; 2: a wrong command line.
"""


def alive(words: list[str]) -> int:
    """Run the command; return its exit code."""
    if words and words[0] in {"-h", "--help"}:
        print(_USAGE, end="")
        return 0
    directory, most = os.environ.get("GREENKIT_ALIVE", ""), 10.0
    rest = list(words)
    try:
        if "--max-age" in rest:
            place = rest.index("--max-age")
            most = float(rest[place + 1])
            del rest[place : place + 2]
    except (IndexError, ValueError):
        return _wrong("--max-age takes seconds")
    if len(rest) > 1 or any(word.startswith("-") for word in rest):
        return _wrong(f"what is {rest[-1]!r}?")
    directory = rest[0] if rest else directory
    if not directory:
        return _wrong("give the DIRECTORY that GREENKIT_ALIVE names for the processes")
    return _look(directory, most)


def _wrong(sentence: str) -> int:
    print(f"greenkit alive: {sentence}\n\n{_USAGE}", file=sys.stderr, end="")
    return 2


def _look(directory: str, most: float) -> int:
    ages = {}
    try:
        names = [name for name in os.listdir(directory) if name.isdigit()]  # noqa: PTH208 - pathlib costs 5 ms
    except OSError as error:
        print(f"greenkit alive: {error}", file=sys.stderr)
        return 1
    for name in names:
        path = os.path.join(directory, name)  # noqa: PTH118 - see above
        started, beat = _read(path)
        if started and started == _started(name):
            ages[name] = time.monotonic() - beat
    late = {name: age for name, age in ages.items() if age > most}
    for name, age in late.items():
        print(f"greenkit alive: the hub of process {name} has stood still for {age:.1f} s", file=sys.stderr)
    if not ages:
        print(f"greenkit alive: no process beats in {directory}", file=sys.stderr)
    elif not late:
        print(f"{len(ages)} alive, the last beat {max(ages.values()):.1f} s ago")
    return 0 if ages and not late else 1


def _read(path: str) -> tuple[str, float]:
    """Return (start of the process, last beat); ("", 0.0) for a file without them."""
    try:
        with open(path, encoding="ascii") as file:  # noqa: PTH123 - see above
            started, beat = file.read().split()
        return started, float(beat)
    except (OSError, ValueError):
        return "", 0.0


def _started(pid: str) -> str:
    """Return when the process started, in ticks since boot; "" if there is none. Pids are reused."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:  # noqa: PTH123 - see above
            return file.read().rpartition(")")[2].split()[19]
    except OSError:
        return ""
