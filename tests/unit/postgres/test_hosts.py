"""Which hosts psycopg2 is sent to, in which order, and what is said when none answers."""

from __future__ import annotations

from pathlib import Path

import psycopg2
import pytest
from psycopg2 import extensions

from greenkit.postgres._connect import _all_of, attempts

HOSTS = "127.0.0.1,127.0.0.2,127.0.0.3"


def tried(dsn: str) -> list[dict[str, str]]:
    return [extensions.parse_dsn(attempt) for attempt in attempts(dsn, [])]


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the machine's libpq variables out."""
    for name in ("PGHOST", "PGHOSTADDR", "PGPORT", "PGSERVICE", "PGSERVICEFILE", "PGTARGETSESSIONATTRS"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    "dsn",
    [f"host={HOSTS} port=1,2", "host=a port=1,2", f"host={HOSTS} hostaddr=127.0.0.1"],
)
def test_lists_that_do_not_fit_are_refused_in_words(dsn: str) -> None:
    """Too few ports, too many, too few addresses: libpq's error, with the numbers."""
    with pytest.raises(psycopg2.OperationalError, match="could not match"):
        tried(dsn)


def test_the_environment_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hosts, ports and what kind of server is wanted may come from libpq's environment."""
    monkeypatch.setenv("PGHOST", "127.0.0.1,127.0.0.2")
    monkeypatch.setenv("PGPORT", "1,2")
    monkeypatch.setenv("PGTARGETSESSIONATTRS", "prefer-standby")
    seen = [(one["host"], one["port"], one["target_session_attrs"]) for one in tried("dbname=x")]
    assert seen == [
        ("127.0.0.1", "1", "standby"), ("127.0.0.2", "2", "standby"),
        ("127.0.0.1", "1", "any"), ("127.0.0.2", "2", "any"),
    ]  # fmt: skip


@pytest.mark.parametrize("how", ["service=shop", ""])
def test_a_service_file_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, how: str) -> None:
    """A service's hosts are tried one by one; what the DSN says itself wins over the service."""
    file = tmp_path / "services"
    file.write_text(
        "# ours\n[shop]\nhost=127.0.0.1,127.0.0.2\nport=7\ndbname=shop\ntarget_session_attrs=prefer-standby\n"
    )
    monkeypatch.setenv("PGSERVICEFILE", str(file))
    monkeypatch.setenv("PGPORT", "9")  # a service wins over the environment
    if not how:
        monkeypatch.setenv("PGSERVICE", "shop")
    seen = tried(f"{how} dbname=other")
    assert [(one["host"], one["target_session_attrs"]) for one in seen] == [
        ("127.0.0.1", "standby"), ("127.0.0.2", "standby"), ("127.0.0.1", "any"), ("127.0.0.2", "any"),
    ]  # fmt: skip
    assert {(one["port"], one["dbname"]) for one in seen} == {("7", "other")}


def test_a_service_that_is_not_found_is_libpqs_to_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its DSN is passed on as it is."""
    monkeypatch.setenv("PGSERVICEFILE", "/nonexistent")
    assert list(attempts("service=nobody", [])) == ["service=nobody"]


def test_every_host_and_its_reason_are_named() -> None:
    """The error has a line for each attempt, the same line once."""
    failures = [psycopg2.OperationalError(text) for text in ("a refused\n", "b timed out", "a refused")]
    assert str(_all_of(failures)) == "a refused\nb timed out"
