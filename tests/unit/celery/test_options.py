"""What install() accepts, and which source wins."""

from __future__ import annotations

import pytest
from celery import Celery, signals

from greenkit.celery import Options, install, uninstall
from greenkit.celery._options import UNSET, unknown_keys
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


class Settings:
    """A module of settings, as Django's are."""

    CELERY_GREENKIT_DRAIN_TIMEOUT = 2.0
    CELERY_GREENKIT_DRAIN_TIMOUT = 2.0
    CELERY_GREENKIT_CHILDRN = "kill"
    GREENKIT_WATCHDOG = 0.5
    GREENKIT = ("a dictionary",)  # Django's own, read by greenkit.django
    CELERY_GREENHOUSE = 1


def test_keys_that_nothing_reads_are_named_in_their_namespace() -> None:
    """A misspelt key and one without the prefix, each with the spelling that is read; no other."""
    app = Celery("shop", set_as_current=False)
    app.config_from_object(Settings, namespace="CELERY")
    assert unknown_keys(app) == [
        "CELERY_GREENKIT_CHILDRN is not read; did you mean CELERY_GREENKIT_CHILDREN?",
        "CELERY_GREENKIT_DRAIN_TIMOUT is not read; did you mean CELERY_GREENKIT_DRAIN_TIMEOUT?",
        "GREENKIT_WATCHDOG is not read; did you mean CELERY_GREENKIT_WATCHDOG?",
    ]
    assert Options.read(app.conf, {}).drain_timeout == 2.0


def test_keys_that_nothing_reads_are_named_without_a_namespace() -> None:
    """Also with a misspelt prefix; far from every option, all are listed."""
    app = Celery("shop", set_as_current=False)
    app.conf.update(
        greenkit_drain_timout=3, greenkt_children="kill", greenkit_xyzzy=1, greenkit_watchdog=0.5, green=1
    )
    near, far, prefix = unknown_keys(app)
    assert near == "greenkit_drain_timout is not read; did you mean greenkit_drain_timeout?"
    assert far.startswith("greenkit_xyzzy is not read; there are greenkit_watchdog, ")
    assert prefix == "greenkt_children is not read; did you mean greenkit_children?"


@pytest.mark.parametrize("wrong", ["app", None, Celery])
def test_what_is_no_app_is_refused_before_anything_changes(wrong: object) -> None:
    """A name, None, the class: TypeError with what was given."""
    before = list(signals.worker_init.receivers)
    for function in install, uninstall:
        with pytest.raises(TypeError, match="the Celery app itself, not "):
            function(wrong)  # type: ignore[arg-type]
    assert list(signals.worker_init.receivers) == before
