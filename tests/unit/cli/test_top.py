"""What `greenkit top` draws of a process."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console

from greenkit.cli._top import render

LIMIT = {
    "waiting": 7, "in_use": 2, "granted": 90, "rejected": 1, "wait_p95": 0.25, "paused_for": 0.0,
    "windows": {"requests 50/s": 0.5, "tokens 6000/min": -90.0, "requests 1000/day from 00:00 UTC": 0.0},
}  # fmt: skip


def drawn(**facts: Any) -> str:
    """Return the text of one process on a wide terminal."""
    shown = {
        "pid": 4, "command": "celery worker", "facts": facts, "lag": [0.0, 0.2, 0.7],
        "waits": [[2, "/venv/lib/python3.11/site-packages/gevent/hub.py:166 sleep"], [1, "/srv/a.py:3 go"]],
    }  # fmt: skip
    console = Console(file=io.StringIO(), width=160)
    console.print(render({"0": shown}))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_an_empty_budget_tells_when_its_next_unit_comes() -> None:
    """By the rate of each window; one by the calendar names its hour itself."""
    text = drawn(limiter={"llm": LIMIT})
    assert "7 waiting, 2 held, 90 granted, 1 refused with 429, wait p95 0.25 s" in text
    assert "left: 0 requests of 50/s (next in 10 ms), -90 tokens of 6000/min (next in 910 ms)," in text
    assert "0 requests of 1000/day from 00:00 UTC" in text


def test_lag_and_greenlets_are_shown_short() -> None:
    """A bar for each second, a package's file from the package on, another one whole."""
    text = drawn()
    assert "▁▄█  worst 700 ms" in text
    assert "2 greenlets  at gevent/hub.py:166 sleep" in text
    assert "1 greenlet   at /srv/a.py:3 go" in text
