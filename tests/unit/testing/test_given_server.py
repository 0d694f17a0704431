"""A server that an environment variable names is used, and left alone."""

from __future__ import annotations

import pytest

from greenkit.errors import GreenkitError, ServerNotFoundError
from greenkit.testing import PostgresServer, RabbitServer, ValkeyServer, fixtures
from greenkit.testing._valkey import broker_url, client_url

ADDRESSES = {
    PostgresServer: "postgresql://ann@db:6432/shop",
    ValkeyServer: "redis://cache:6379/3",
    RabbitServer: "amqp://ann:secret@mq:5672/vhost",
}


@pytest.fixture(params=ADDRESSES, ids=lambda cls: cls.__name__)
def given(request, monkeypatch):
    monkeypatch.setenv(request.param.variable, ADDRESSES[request.param])
    return request.param


def test_the_environments_server_comes_first(given):
    """Its address is handed out; no process is started, none is stopped."""
    with given() as server:
        assert server.given
        assert (server.dsn if given is PostgresServer else server.url) == ADDRESSES[given]
        assert "given" in repr(server)
    server.start().stop()


@pytest.mark.parametrize("verb", ["kill", "freeze", "thaw", "restart", "log_tail"])
def test_the_environments_server_is_never_hurt(given, verb):
    """The error says whose it is and how to get one that may be hurt."""
    server = given().start()
    with pytest.raises(GreenkitError, match=rf"{given.variable} names.*own=True"):
        getattr(server, verb)()


def test_own_ignores_the_environment(given):
    """Who asks for a server of their own gets none of somebody else's."""
    server = given(own=True)
    assert not server.given
    with pytest.raises(GreenkitError, match="not running"):
        server.kill()


def test_another_database_of_a_given_server(monkeypatch):
    """The rest of the address stays."""
    monkeypatch.setenv("GREENKIT_POSTGRES", "host=/run/pg user=ann dbname=shop")
    assert PostgresServer().dsn_for("other") == "postgresql://ann@/other?host=%2Frun%2Fpg"


@pytest.mark.parametrize(
    ("client", "broker"),
    [
        ("unix:///run/v.sock?db=2", "redis+socket:///run/v.sock?virtual_host=2"),
        ("redis://h:1/0", "redis://h:1/0"),
        ("rediss://:pw@h/4", "rediss://:pw@h/4"),
    ],
)
def test_each_spelling_of_an_address_has_the_other(client, broker):
    """redis-py's and Celery's spellings are each other's."""
    assert broker_url(client) == broker
    assert client_url(broker) == client


class Absent:
    def start(self):
        raise ServerNotFoundError("no server; install it")


@pytest.mark.parametrize(("ci", "outcome"), [("", "Skipped"), ("false", "Skipped"), ("true", "Failed")])
def test_an_absent_server_skips_on_a_laptop_and_fails_in_ci(monkeypatch, ci, outcome):
    """The reason is the error's own words either way."""
    monkeypatch.setenv("CI", ci)
    with pytest.raises(BaseException, match="no server; install it") as caught:
        fixtures.start_or_skip(Absent())
    assert caught.typename == outcome
