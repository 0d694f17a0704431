from __future__ import annotations

import re
from pathlib import Path

import pytest

from greenkit.boot import read_settings, unknown_variables
from greenkit.boot._settings import VARIABLES
from greenkit.errors import ConfigError


@pytest.mark.parametrize(
    ("environ", "mode", "repair"),
    [
        ({}, "report", False),
        ({"GREENKIT": ""}, "report", False),
        ({"GREENKIT": "off"}, "off", False),
        ({"GREENKIT": "strict"}, "strict", False),
        ({"GREENKIT": "repair"}, "repair", True),
        ({"GREENKIT_REPAIR": "1"}, "report", True),
        ({"GREENKIT_REPAIR": "0"}, "report", False),
        ({"GREENKIT": "strict", "GREENKIT_REPAIR": "1"}, "strict", True),
        ({"GREENKIT": "off", "GREENKIT_REPAIR": "1"}, "off", False),
    ],
)
def test_the_variables_add_up(environ, mode, repair):
    """Mode and repair are two things; off overrules both."""
    settings = read_settings(environ)
    assert (settings.mode, settings.repair) == (mode, repair)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("GREENKIT", "on", "GREENKIT='on' is none of off, report, strict, repair"),
        ("GREENKIT", "Strict", "GREENKIT='Strict' is none of"),
        ("GREENKIT_REPAIR", "yes", "GREENKIT_REPAIR='yes' is neither 1 nor 0"),
        ("GREENKIT_CHILDREN", "true", "GREENKIT_CHILDREN='true' is neither 1 nor 0"),
    ],
)
def test_a_value_that_means_nothing_is_refused(name, value, says):
    """The message holds the value and lists those that mean something."""
    with pytest.raises(ConfigError, match=says):
        read_settings({name: value})


def test_a_misspelt_variable_is_named_with_the_nearest():
    """One sentence for each; what belongs to others, or to us, is not mentioned."""
    names = ["GREENKIT_REPIAR", "GREENKIT_ZZZZZZ", "GREENKIT_REPORT", "GREENKIT", "GREENKITTEN", "PATH"]
    near, far = unknown_variables(names)
    assert near == "GREENKIT_REPIAR is not a setting of greenkit; did you mean GREENKIT_REPAIR?"
    assert far.startswith(
        "GREENKIT_ZZZZZZ is not a setting of greenkit; there are GREENKIT, GREENKIT_REPAIR,"
    )


def test_what_the_rooms_read_is_known():
    """A variable that some file of greenkit reads is in the table, or setting it would warn."""
    import re
    from pathlib import Path

    import greenkit
    from greenkit.boot._settings import VARIABLES

    text = "".join(path.read_text() for path in Path(greenkit.__file__).parent.rglob("*.py"))
    assert set(re.findall(r'"(GREENKIT_[A-Z_]+)"', text)) <= VARIABLES.keys()


def test_every_variable_that_is_read_is_known():
    """A variable some file of greenkit names is not called a typing mistake."""
    source = "".join(path.read_text() for path in Path("greenkit").rglob("*.py"))
    named = set(re.findall(r'"(GREENKIT_[A-Z_]+)"', source))
    assert len(named) > 5
    assert named - set(VARIABLES) == set()
