"""What to type, told with all that was typed."""

from __future__ import annotations

import sys

import pytest

from greenkit.boot import _remedy

SERVER = "gunicorn -k gevent app:app"


@pytest.mark.parametrize(
    ("observed", "told"),
    [
        ("", SERVER),
        (SERVER, SERVER),
        ("newrelic-admin run-program " + SERVER, "newrelic-admin run-program " + SERVER),
        ("env WORKERS=2 " + SERVER, "env WORKERS=2 " + SERVER),
        ("sh start.sh", SERVER),  # nobody knows what the script types
    ],
)
def test_what_stood_before_the_program_is_kept(monkeypatch, observed, told):
    """An agent's command starts the program anew, and the new process knows its own words only."""
    monkeypatch.setattr(sys, "orig_argv", ["python", "/venv/bin/gunicorn", "-k", "gevent", "app:app"])
    monkeypatch.setattr(_remedy, "_is_command", lambda _: True)
    monkeypatch.setenv("GREENKIT_OBSERVE_COMMAND", observed)
    assert _remedy._program() == told


@pytest.mark.parametrize(
    ("observed", "told"),
    [
        ("opentelemetry-instrument --traces_exporter none " + SERVER,) * 2,
        ("", "opentelemetry-instrument " + SERVER),
    ],
)
def test_an_agent_keeps_the_options_that_were_typed(monkeypatch, observed, told):
    """They are in the command the doctor was given; without the doctor the agent's name is all there is."""
    monkeypatch.setattr(sys, "orig_argv", ["python", "/venv/bin/gunicorn", "-k", "gevent", "app:app"])
    monkeypatch.setattr(_remedy, "_is_command", lambda _: True)
    monkeypatch.setattr(_remedy, "_agent", lambda _: "opentelemetry-instrument")
    monkeypatch.setenv("GREENKIT_OBSERVE_COMMAND", observed)
    assert _remedy.remedy("/x/sitecustomize.py:4 (import y)").endswith(f"greenkit run --children -- {told}")


def test_a_word_with_a_blank_is_quoted(monkeypatch):
    """What is told can be copied into a shell."""
    monkeypatch.setattr(sys, "orig_argv", ["python", "app.py", "two words"])
    monkeypatch.delenv("GREENKIT_OBSERVE_COMMAND", raising=False)
    assert _remedy._program() == "python app.py 'two words'"
