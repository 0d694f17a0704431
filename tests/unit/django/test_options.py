"""What a project may write in its settings, and what it is told when it writes something else."""

from __future__ import annotations

import pytest
from django.core.exceptions import ImproperlyConfigured

from greenkit.django._settings import GreenkitSettings, read
from greenkit.django.postgresql._options import pool_options
from greenkit.errors import ConfigError


@pytest.mark.parametrize("value", [None, False, {}])
def test_no_pool_is_no_pool(value) -> None:
    """Absent, False and an empty dict all mean: no pool, as in Django."""
    assert pool_options(value) is None


def test_true_takes_the_defaults_and_min_size_lifts_max_size() -> None:
    """A `min_size` above the default of ten is not a contradiction."""
    assert pool_options(True) == {"max_size": 10}
    assert pool_options({"min_size": 20}) == {"min_size": 20, "max_size": 20}
    assert pool_options({"max_size": 3, "timeout": 5.0}) == {"max_size": 3, "timeout": 5.0}


@pytest.mark.parametrize("value", [{"maxsize": 4}, 10, "yes"])
def test_an_unknown_pool_option_names_the_known_ones(value) -> None:
    """The message can be mended from: it lists what there is."""
    with pytest.raises(ImproperlyConfigured, match="max_size"):
        pool_options(value)


def test_settings_are_read_with_their_defaults() -> None:
    """An absent dict and an empty one are the defaults."""
    assert read(None) == read({}) == GreenkitSettings(processes=1, strict=True)
    assert read({"processes": 4}).processes == 4


@pytest.mark.parametrize("value", ["4", {"process": 4}, {"processes": 0}, {"processes": True}, {"strict": 1}])
def test_a_wrong_setting_is_refused_by_name(value) -> None:
    """The message names the setting and what it may be."""
    with pytest.raises(ConfigError, match="GREENKIT"):
        read(value)
