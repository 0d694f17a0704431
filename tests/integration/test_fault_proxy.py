"""A fault proxy carries what passes through it, and does each thing it is told, to real sockets."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from greenkit.errors import ConfigError, GreenkitError, ServerStartError
from greenkit.testing import FaultProxy, run_clean


class Echo:
    """A server that sends back what it gets, until the end of file; then it says "bye"."""

    def __init__(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.place = self.listener.getsockname()
        self.heard = []
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection):
        with connection:
            try:
                while data := connection.recv(65536):
                    self.heard.append(data)
                    connection.sendall(data)
                self.heard.append(b"")
                connection.sendall(b"bye")
            except OSError as error:
                self.heard.append(type(error))


def none_open(proxy):
    """Tell whether the proxy forgets all its connections soon."""
    deadline = time.monotonic() + 10
    while proxy.statistics().open and time.monotonic() < deadline:
        time.sleep(0.01)
    return proxy.statistics().open == 0


@pytest.fixture
def echo():
    server = Echo()
    yield server
    server.listener.close()


@pytest.fixture
def proxy(echo):
    with FaultProxy(echo.place) as proxy:
        yield proxy


@pytest.fixture
def client(proxy):
    with socket.create_connection((proxy.host, proxy.port), timeout=10) as client:
        yield client


def say(client, data=b"hello"):
    """Send and return what comes back, whole."""
    client.sendall(data)
    back = b""
    while len(back) < len(data):
        piece = client.recv(65536)
        assert piece, back
        back += piece
    return back


def silent(client, seconds=0.3):
    """Tell whether nothing comes for a while: that nothing happens cannot be waited for otherwise."""
    return not select.select([client], [], [], seconds)[0]


def test_it_carries_both_ways_and_counts(proxy, client):
    """Every byte arrives, in order; statistics say how many, on how many connections."""
    data = os.urandom(3_000_000)
    sender = threading.Thread(target=client.sendall, args=(data,))
    sender.start()
    back = b""
    while len(back) < len(data):
        back += client.recv(65536)
    sender.join()
    assert back == data
    seen = proxy.statistics()
    assert (seen.open, seen.opened, seen.bytes_up, seen.bytes_down) == (1, 1, len(data), len(data))


def test_ends_of_file_pass(client, echo):
    """A half-closed client still gets the rest of its answer, and then the end."""
    assert say(client) == b"hello"
    client.shutdown(socket.SHUT_WR)
    assert client.recv(10) == b"bye"
    assert client.recv(10) == b""
    assert echo.heard[-1] == b""


def test_cut_resets(proxy, client):
    """Both ends of every connection see a reset, and a new connection works."""
    say(client)
    assert proxy.cut() == 1
    with pytest.raises(ConnectionResetError):
        client.recv(1)
    with socket.create_connection((proxy.host, proxy.port), timeout=10) as again:
        assert say(again) == b"hello"


def test_a_connection_that_is_held_can_be_cut(proxy, client):
    """It is gone at once, and not when its bytes may go on."""
    say(client)
    proxy.pause()
    client.sendall(b"held")
    assert proxy.cut() == 1
    assert none_open(proxy)


def test_cut_may_spare_some(proxy):
    """Of five connections two are reset."""
    with contextlib.ExitStack() as stack:
        clients = [
            stack.enter_context(socket.create_connection((proxy.host, proxy.port), timeout=10))
            for _ in range(5)
        ]
        for client in clients:
            say(client)
        assert proxy.cut(2) == 2
        reset = 0
        for client in clients:
            try:
                say(client)
            except OSError:
                reset += 1
        assert reset == 2


@pytest.mark.parametrize("direction", ["up", "down", "both"])
def test_pause_holds_and_resume_lets_go(proxy, client, echo, direction):
    """Nothing passes in the direction named until it is resumed; then nothing is missing."""
    say(client)
    proxy.pause(direction=direction)
    client.sendall(b"held")
    assert silent(client)
    assert (b"held" in echo.heard) == (direction == "down")
    proxy.resume()
    assert client.recv(10) == b"held"


@pytest.mark.parametrize("direction", ["up", "both"])
def test_a_new_connection_to_a_paused_server_waits(proxy, echo, direction):
    """The connection is made, its bytes wait."""
    proxy.pause(direction=direction)
    with socket.create_connection((proxy.host, proxy.port), timeout=10) as client:
        client.sendall(b"first")
        assert silent(client)
        assert echo.heard == []
        proxy.heal()
        assert client.recv(10) == b"first"


def test_a_black_hole_loses_and_says_nothing(proxy, client, echo):
    """Bytes and ends are gone; healed, a connection that lost something is reset, any other lives."""
    with socket.create_connection((proxy.host, proxy.port), timeout=10) as quiet:
        say(quiet)
        say(client)
        proxy.black_hole()
        client.sendall(b"lost")
        assert silent(client)
        assert b"lost" not in echo.heard
        proxy.heal()
        with pytest.raises(ConnectionResetError):
            client.recv(1)
        assert say(quiet) == b"hello"


def test_an_end_in_a_black_hole_is_lost_too(proxy, client, echo):
    """The server does not learn that the client is gone until the network is back."""
    say(client)
    proxy.black_hole()
    client.close()
    assert silent(echo.listener)  # time to notice, if it were told
    assert echo.heard == [b"hello"]
    proxy.heal()
    deadline = time.monotonic() + 10
    while len(echo.heard) == 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert echo.heard[1:] == [ConnectionResetError]
    assert none_open(proxy)


def test_cut_after_some_bytes(proxy, client):
    """Exactly so many bytes of the answer arrive, then the reset; connections that come later too."""
    proxy.cut_after(3)
    for one in (client, socket.create_connection((proxy.host, proxy.port), timeout=10)):
        with one:
            one.sendall(b"abcdef")
            got = b""
            with pytest.raises(ConnectionResetError):  # noqa: PT012
                while True:
                    piece = one.recv(1)
                    assert piece, "an end of file is no reset"
                    got += piece
            assert got == b"abc"
    proxy.cut_after(None)
    with socket.create_connection((proxy.host, proxy.port), timeout=10) as again:
        assert say(again) == b"hello"


@pytest.mark.parametrize("side", ["client", "server"])
def test_half_close(proxy, client, echo, side):
    """One side reads an end of file; what it sends after that still arrives."""
    say(client)
    assert proxy.half_close(side) == 1
    if side == "client":
        assert client.recv(10) == b""
        client.sendall(b"more")
        deadline = time.monotonic() + 10
        while b"more" not in echo.heard and time.monotonic() < deadline:
            time.sleep(0.01)
        assert echo.heard == [b"hello", b"more"]
    else:
        assert client.recv(10) == b"bye"
    client.close()
    assert none_open(proxy)


def test_refuse_and_accept(proxy, client):
    """New connections are refused on the same port, open ones live on; accept ends that."""
    say(client)
    proxy.refuse()
    proxy.refuse()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((proxy.host, proxy.port), timeout=10)
    assert say(client) == b"hello"
    proxy.accept()
    with socket.create_connection((proxy.host, proxy.port), timeout=10) as again:
        assert say(again) == b"hello"


def test_latency_delays_each_piece_and_keeps_the_order(proxy, client):
    """An answer takes at least the latency of both ways; pieces do not overtake each other."""
    proxy.slow(latency=0.1, jitter=0.05)
    begin = time.monotonic()
    assert say(client, b"0") == b"0"
    assert time.monotonic() - begin >= 0.2
    numbers = b"".join(bytes([n]) for n in range(100))
    assert say(client, numbers) == numbers
    proxy.heal()


def test_slow_bytes(proxy, client):
    """A rate is not exceeded: 2000 bytes at 5000 a second take 0.4 s or more."""
    proxy.slow(bytes_per_second=5000, direction="down")
    begin = time.monotonic()
    say(client, b"x" * 2000)
    assert time.monotonic() - begin >= 0.35


def test_a_server_that_is_not_there_resets_the_client(echo):
    """The proxy accepts, finds nobody behind it, and resets."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        with (
            FaultProxy(nobody.getsockname()) as proxy,
            pytest.raises(ConnectionResetError),  # the reset may arrive while it connects
            socket.create_connection((proxy.host, proxy.port), timeout=10) as client,
        ):
            client.recv(1)


def test_urls_and_sockets(tmp_path):
    """A URL keeps everything but its host and port; a unix socket is reached too."""
    with FaultProxy("redis://:pass%40word@127.0.0.1/3?x=1") as proxy:
        assert proxy.url == f"redis://:pass%40word@127.0.0.1:{proxy.port}/3?x=1"
        assert proxy.url_for("amqp://a:b@h:1//") == f"amqp://a:b@127.0.0.1:{proxy.port}//"
    with pytest.raises(GreenkitError, match="is not running"):
        _ = proxy.url
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        with FaultProxy(path) as proxy, socket.create_connection((proxy.host, proxy.port)) as client:
            server, _ = listener.accept()
            with server:
                client.sendall(b"x")
                assert server.recv(1) == b"x"
            with pytest.raises(GreenkitError, match="given no URL"):
                _ = proxy.url


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda proxy: proxy.slow(latency=-1), "latency must be 0 or more, is -1"),
        (lambda proxy: proxy.slow(jitter=float("nan")), "jitter must be 0 or more, is nan"),
        (lambda proxy: proxy.pause(direction="sideways"), "is 'sideways'"),
        (lambda proxy: proxy.cut_after(0), "is 0"),
        (lambda proxy: proxy.half_close("middle"), "is 'middle'"),
        (lambda proxy: FaultProxy("redis:///x"), "is 'redis:///x'"),
    ],
)
def test_wrong_arguments_are_named(proxy, wrong, words):
    """The error says what is wrong, with the value."""
    with pytest.raises(ConfigError, match=words):
        wrong(proxy)


def test_a_taken_port_is_named(echo):
    """The proxy says where it could not listen, and why."""
    with pytest.raises(ServerStartError, match=rf"cannot listen on 127.0.0.1:{echo.place[1]}: OSError"):
        FaultProxy(echo.place, port=echo.place[1]).start()


def test_it_ends_with_the_process_that_started_it(echo):
    """A SIGKILL of its owner ends it: its port is free again."""
    program = f"""
import time
from greenkit.testing import FaultProxy
proxy = FaultProxy({echo.place!r}).start()
print(proxy.port, flush=True)
time.sleep(60)
"""
    owner = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    with owner:
        port = int(owner.stdout.readline())
        owner.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=10).close()
        except ConnectionRefusedError:
            return
        time.sleep(0.02)
    pytest.fail("it outlived its owner")


def test_in_a_patched_process_it_lets_others_run(echo):
    """Under gevent, waiting for the proxy's answer switches, and the proxy works while the hub is blocked."""
    done = run_clean(f"""
from gevent import monkey; monkey.patch_all()
import gevent, socket, time
from greenkit.testing import FaultProxy
ticks = []
gevent.spawn(lambda: [ticks.append(1) or gevent.sleep(0) for _ in range(10)])
with FaultProxy({echo.place!r}) as proxy:
    proxy.slow(latency=0.05)
    client = socket.create_connection((proxy.host, proxy.port))
    client.sendall(b"x")
    end = time.perf_counter() + 0.5
    while time.perf_counter() < end: pass
    with gevent.Timeout(5):
        assert client.recv(1) == b"x"
    client.close()
assert len(ticks) == 10
""")
    assert done.returncode == 0, str(done)
