"""What install() accepts, and which source wins."""

from __future__ import annotations

import pytest

from greenkit.celery import Options
from greenkit.celery._options import UNSET
from greenkit.errors import ConfigError


def test_an_argument_wins_over_the_configuration_over_the_default() -> None:
    """Given, then greenkit_*, then the default."""
    options = Options.read({"greenkit_watchdog": 0.5, "greenkit_drain_timeout": 9}, {"watchdog": None})
    assert (options.watchdog, options.drain_timeout, options.kill_grace) == (None, 9, 1.0)


def test_unset_is_not_none() -> None:
    """An argument that was not given leaves the configuration's word."""
    assert Options.read({"greenkit_watchdog": 0.5}, {"watchdog": UNSET}).watchdog == 0.5


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("watchdog", 0), ("watchdog", True), ("watchdog", "0.1"), ("drain_timeout", -1),
        ("kill_grace", None), ("kill_grace", 0), ("retry_limited", 1), ("share_results", None),
        ("unpatched", "ignore"), ("watchdog", float("nan")), ("children", "adopt"), ("recycle", True),
        ("warm_up", "json"), ("warm_up", [1]), ("hold_limited", -1), ("hold_limited", "many"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named(name: str, value: object) -> None:
    """The message carries the option and its value."""
    with pytest.raises(ConfigError, match=name):
        Options.read({}, {name: value})
