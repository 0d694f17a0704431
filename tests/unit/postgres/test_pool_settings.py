"""What a pool says of arguments of the wrong kind."""

from __future__ import annotations

from typing import Any

import pytest

from greenkit.postgres import ConnectionPool


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"min_size": "4"}, "min_size is '4', a str; it must be a whole number"),
        ({"max_size": 2.5}, "max_size is 2.5, a float; it must be a whole number"),
        ({"max_waiting": True}, "max_waiting is True, a bool; it must be a whole number"),
        ({"timeout": "5"}, "timeout is '5', a str; it must be seconds as a number"),
        ({"query_timeout": "5"}, "query_timeout is '5', a str; it must be seconds as a number"),
        ({"query_timeout": 0}, "query_timeout is 0; it must be positive"),
        ({"check": "ping"}, "check is 'ping'; it must be a function that takes a connection"),
    ],
)
def test_a_value_of_the_wrong_kind_is_named(options: dict[str, Any], words: str) -> None:
    """The sentence names the argument, its value and what it must be."""
    with pytest.raises((TypeError, ValueError)) as refused:
        ConnectionPool(lambda: None, **{"max_size": 4, **options})
    assert words in str(refused.value)
