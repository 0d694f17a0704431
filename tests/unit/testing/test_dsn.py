from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from greenkit.errors import ConfigError
from greenkit.testing._dsn import parse_dsn, write_dsn

TEXT = st.text(st.characters(min_codepoint=33, max_codepoint=0x2FFF, exclude_categories=["Cs"]), min_size=1)


@pytest.mark.parametrize(
    ("dsn", "parameters"),
    [
        (
            "postgresql://ann:s%40t@db:6432/shop?sslmode=require",
            {
                "host": "db",
                "port": "6432",
                "user": "ann",
                "password": "s@t",
                "dbname": "shop",
                "sslmode": "require",
            },
        ),
        ("postgres:///shop?host=%2Frun%2Fpg", {"dbname": "shop", "host": "/run/pg"}),
        ("host=/run/pg dbname='my shop'", {"host": "/run/pg", "dbname": "my shop"}),
    ],
)
def test_both_spellings_of_libpq_are_read(dsn, parameters):
    """URIs and key=value words give the same names."""
    assert parse_dsn(dsn) == parameters


@pytest.mark.parametrize("dsn", ["shop", "", "mysql://db/shop", "=x"])
def test_what_is_no_address_is_refused(dsn):
    """The message shows the value and how to write one."""
    with pytest.raises(ConfigError, match=r"write postgresql://"):
        parse_dsn(dsn)


@given(user=TEXT, password=TEXT, dbname=TEXT, directory=TEXT, option=TEXT)
def test_what_is_written_reads_the_same(user, password, dbname, directory, option):
    """No character in any part is lost or moves to another part."""
    parameters = {
        "user": user,
        "password": password,
        "dbname": dbname,
        "host": "/" + directory,
        "port": "5432",
        "options": option,
    }
    assert parse_dsn(write_dsn(parameters)) == parameters


def test_psycopg2_reads_what_is_written():
    """The driver agrees with us about an address of a socket and one of a port."""
    from psycopg2.extensions import parse_dsn as libpq

    for host in ("/run/my pg", "127.0.0.1", "::1"):
        parameters = {"host": host, "port": "5433", "user": "a b", "password": "p/w?", "dbname": "d%20"}
        assert libpq(write_dsn(parameters)) == parameters
