"""Which refusals waiting can heal."""

from __future__ import annotations

import pytest

from greenkit.postgres._refusals import is_full, is_hopeless

AT = 'connection to server at "db" (10.0.0.1), port 5432 failed: '


@pytest.mark.parametrize(
    "words",
    [
        'FATAL:  password authentication failed for user "iam"',
        AT + 'FATAL:  no pg_hba.conf entry for host "10.0.0.2", user "a", database "b", SSL off',
        AT + 'FATAL:  database "shop" does not exist',
        AT + 'FATAL:  role "shop" does not exist',
        AT + "server does not support SSL, but SSL was required",
        AT + "SSL error: certificate verify failed",
        AT + "fe_sendauth: no password supplied",
        "\n".join([AT + 'FATAL:  Peer authentication failed for user "a"'] * 2),
    ],
)
def test_a_refusal_for_good_is_known(words: str) -> None:
    """Who one is, what one wants and TLS do not change by waiting."""
    assert is_hopeless(Exception(words + "\n"))


@pytest.mark.parametrize(
    "words",
    [
        "",
        AT + "Connection refused\n\tIs the server running on that host and accepting TCP/IP connections?",
        AT + "FATAL:  the database system is starting up",
        AT + "SSL error: unexpected eof while reading",
        AT + 'FATAL:  too many connections for role "lim"',
        AT + "server closed the connection unexpectedly",
        # One host of two may come back.
        AT + 'FATAL:  password authentication failed for user "a"\n' + AT + "Connection refused",
    ],
)
def test_what_may_heal_is_waited_out(words: str) -> None:
    """An outage, a restart and a full server are waited out, as is what nobody knows."""
    assert not is_hopeless(Exception(words))


@pytest.mark.parametrize(
    "words",
    [
        AT + 'FATAL:  too many connections for role "shop"',
        AT + "FATAL:  sorry, too many clients already",
        AT + "FATAL:  remaining connection slots are reserved for roles with the SUPERUSER attribute",
        'FATAL:  too many connections for database "shop"',
        "FATAL:  no more connections allowed (max_client_conn)",
    ],
)
def test_a_full_server_is_neither_away_nor_hopeless(words: str) -> None:
    """Connections that are open go on being lent, and room may come."""
    assert is_full(Exception(words))
    assert not is_hopeless(Exception(words))
