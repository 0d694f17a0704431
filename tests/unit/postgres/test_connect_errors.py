"""Which refusals waiting can heal."""

from __future__ import annotations

import pytest

from greenkit.postgres._connect_errors import is_full, is_hopeless, without_location

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
        AT + "FATAL:  28P01: Passwort-Authentifizierung für Benutzer »iam« fehlgeschlagen",
        "致命错误:  3D000: 数据库 shop 不存在\n详情:  …",
        AT + "FATAL:  42501: droit refusé pour la base de données « shop »",
        AT + "FATAL:  08P01: no such database: shop",  # PgBouncer's code says less than its words
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
        AT + "FATAL:  57P03: das Datenbanksystem startet",
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
        AT + "FATAL:  53300: zu viele Verbindungen von Rolle »shop«",
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


def test_the_place_in_the_servers_source_is_left_out() -> None:
    """The last line of a verbose message is cut in any language, and nothing else is."""
    said = AT + "FATAL:  28000: nein\nDETAIL:  Sieh in pg_hba.conf:12 nach.\nTIPP:  db.example.org:5432"
    for place in ("LOCATION:  auth_failed, auth.c:338", "ORT:  auth.c:338"):
        assert without_location(f"{said}\n{place}\n") == said + "\n"
    assert without_location(said) == said
