"""Cancel over a network that carries the request when its query is over; the next query must not be hit."""

import socket
import struct
from urllib.parse import parse_qs, urlsplit

from gevent.event import Event
from gevent.server import StreamServer
from pg_world import DRIVER, DSN, answer, driver, gevent, postgres

CANCEL_REQUEST = struct.pack("!ii", 16, 80877102)
LATE = 0.2  # seconds in which the next query would be sent


class Network:
    """Carry connections to the server; a cancel waits until its query, which it lets end, is answered."""

    def __init__(self):
        url = urlsplit(DSN)
        asked = {name: values[0] for name, values in parse_qs(url.query).items()}
        self.path = f"{asked['host']}/.s.PGSQL.{asked['port']}"
        self.server = StreamServer(("127.0.0.1", 0), self.carry)
        self.server.start()
        self.dsn = f"host=127.0.0.1 port={self.server.server_port} dbname={url.path[1:]} user={url.username}"
        self.arrived, self.answered = Event(), Event()
        self.carried = 0
        self.lock = driver.connect(DSN)
        self.lock.autocommit = True

    def carry(self, client, _address):
        server = socket.socket(socket.AF_UNIX)
        server.connect(self.path)
        first = client.recv(65536)
        if first.startswith(CANCEL_REQUEST):
            self.answered.clear()
            self.arrived.set()
            self.lock.cursor().execute("select pg_advisory_unlock_all()")
            self.answered.wait(10)
            gevent.sleep(LATE)
            self.carried += 1
        server.sendall(first)
        back = gevent.spawn(self.copy, server, client, self.answered)
        self.copy(client, server)
        back.join()

    def copy(self, source, target, seen=None):
        while data := source.recv(65536):
            target.sendall(data)
            if seen is not None:
                seen.set()
        target.shutdown(socket.SHUT_WR)


network = Network()


def connect(**options):
    conn = driver.connect(f"{network.dsn} sslmode=disable gssencmode=disable", **options)
    conn.autocommit = True
    return conn


def ask_and_cancel(conn, spawn=gevent.spawn):
    """Run a query that ends by itself when its cancel is on the way."""
    network.arrived.clear()
    network.lock.cursor().execute("select pg_advisory_lock(1)")
    canceller = spawn(conn.cancel)
    conn.cursor().execute("select pg_advisory_lock(1)")
    conn.cursor().execute("select pg_advisory_unlock_all()")
    return canceller


def is_hit(conn):
    try:
        conn.cursor().execute("select pg_sleep(0.6)")
    except driver.errors.QueryCanceled:
        return True
    return False


def the_next_query():
    conn = connect()
    canceller = ask_and_cancel(conn)
    found = is_hit(conn)
    canceller.get()
    return found


def the_next_borrowers():
    """The connection is given back, without another query, while a cancel is under way."""
    pool = postgres.ConnectionPool(connect, max_size=1)
    network.arrived.clear()
    with pool.connection() as conn:
        canceller = gevent.spawn(conn.cancel)
        network.arrived.wait(10)
        network.answered.set()  # there is no query to wait for
    with pool.connection() as conn:
        found = is_hit(conn)
    canceller.get()
    return found


def that_of_a_killed_canceller():
    def killed(cancel):
        canceller = gevent.spawn(cancel)
        gevent.spawn(lambda: network.arrived.wait(10) and canceller.kill())

    conn = connect()
    ask_and_cancel(conn, killed)
    return is_hit(conn)


def that_of_another_thread():
    conn = connect()
    canceller = ask_and_cancel(conn, gevent.get_hub().threadpool.spawn)
    found = is_hit(conn)
    canceller.get()
    return found


SCENES = (the_next_query, the_next_borrowers, that_of_a_killed_canceller, that_of_another_thread)
answer(driver=DRIVER, hit=[scene.__name__ for scene in SCENES if scene()], carried=network.carried)
