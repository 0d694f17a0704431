"""What `celery greenkit top` prints."""

from __future__ import annotations

from greenkit.celery._top import render


def test_each_worker_has_its_pool_limits_hub_and_tasks() -> None:
    """Numbers come out with their words, longest tasks with the line they wait in."""
    task = {"id": "4f", "name": "shop.ask", "seconds": 12.34, "at": "shop.py:7 ask", "on": "gevent.hub.sleep"}
    text = render({
        "celery@b": {"tasks": []},
        "celery@a": {
            "pool": {"celery": {"in_use": 3, "size": 8, "waiting": 2, "limited": 1, "ended": 40}},
            "limiter": {"llm": {"waiting": 5, "granted": 90, "wait_p95": 0.5, "paused_for": 2.0}},
            "watchdog": {"hub": {"blocks": 1, "threshold": 0.1, "worst_lag": 0.25}},
            "offload": {"offload": {"running": 2, "size": 6, "waiting": 1, "finished": 7, "abandoned": 1}},
            "aio": {"loop": {"running": 3, "tasks": 4, "abandoned": 0}},
            "tasks": [task],
        },
    })  # fmt: skip
    assert text.splitlines()[0] == "celery@a"
    assert "3/8 running, 2 waiting, 1 limited, 40 ended" in text
    assert "5 waiting, 90 granted, wait p95 0.50 s, paused for 2.0 s" in text
    assert "1 times still for 0.1 s or more, worst 0.25 s" in text
    assert "2/6 native threads, 1 waiting, 7 ended, 1 abandoned" in text
    assert "3 coroutines waited for, 4 asyncio tasks" in text
    assert "12.3 s  shop.ask  4f  shop.py:7 ask  gevent.hub.sleep" in text
    assert text.splitlines()[-1] == "celery@b"


def test_nobody_is_an_empty_text() -> None:
    """The command then says that nobody answered."""
    assert render({}) == ""
