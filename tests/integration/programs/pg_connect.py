"""Connect where nobody answers, where the name takes its time, and past dead hosts."""

import contextlib
import socket

from pg_world import DRIVER, DSN, answer, driver, gevent, postgres, time

from greenkit.postgres import _closing

said = {}
silent = socket.socket()
silent.bind(("127.0.0.1", 0))
silent.listen(50)
SILENT = silent.getsockname()[1]
refused = socket.socket()
refused.bind(("127.0.0.1", 0))
REFUSED = refused.getsockname()[1]


def proxy():
    """Bring TCP to a server that listens on a unix socket."""
    path = driver_parts()
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(50)

    def pump(a, b):
        with contextlib.suppress(OSError):
            while data := a.recv(65536):
                b.sendall(data)
        with contextlib.suppress(OSError):
            b.shutdown(socket.SHUT_WR)

    def serve():
        while True:
            ours, _ = listener.accept()
            theirs = socket.socket(socket.AF_UNIX)
            theirs.connect(path)
            gevent.spawn(pump, ours, theirs)
            gevent.spawn(pump, theirs, ours)

    gevent.spawn(serve)
    return listener.getsockname()[1]


def falls_silent(*answers):
    """Listen as a server that gives these answers and then says nothing more."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(50)

    def talk(line):
        for one in answers:
            line.recv(65536)
            line.sendall(one)
        line.recv(1)
        gevent.sleep(60)

    def serve():
        while True:
            gevent.spawn(talk, listener.accept()[0])

    gevent.spawn(serve)
    return listener.getsockname()[1]


def driver_parts():
    if DRIVER == "psycopg2":
        parts = driver.extensions.parse_dsn(DSN)
    else:
        parts = driver.conninfo.conninfo_to_dict(DSN)
    return f"{parts['host']}/.s.PGSQL.{parts['port']}"


def attempt(name, connecting, **options):
    started = time.monotonic()
    turns = 0

    def tick():
        nonlocal turns
        while True:
            gevent.sleep(0.01)
            turns += 1

    bystander = gevent.spawn(tick)
    try:
        with connecting:
            conn = driver.connect(user="postgres", dbname="postgres", **options)
            cursor = conn.cursor()
            cursor.execute("select 1")
            outcome = cursor.fetchone()[0]
            conn.close()
    except driver.OperationalError as error:
        outcome = "deadline" if isinstance(error, postgres.QueryTimeout) else "OperationalError"
    finally:
        bystander.kill()
    said[name] = [outcome, time.monotonic() - started < 10, turns > 5]


PORT = proxy()
nothing = contextlib.nullcontext()
_closing.GRACE = 30.0  # a connect that nobody counts does not wait for the server's end
attempt("silent", nothing, host="127.0.0.1", port=SILENT, connect_timeout=2)
_closing.GRACE = 1.0
attempt("deadline", postgres.deadline(0.5), host="127.0.0.1", port=SILENT)
attempt("second host", nothing, host="127.0.0.1,127.0.0.1", port=f"{SILENT},{PORT}", connect_timeout=2)
# Yes to TLS, and never a certificate; AuthenticationCleartextPassword, and never a verdict.
IN_TLS, IN_LOGIN = falls_silent(b"S"), falls_silent(b"R\0\0\0\x08\0\0\0\x03", b"")
attempt("in TLS", postgres.deadline(0.5), host="127.0.0.1", port=IN_TLS, sslmode="require")
attempt("in login", postgres.deadline(0.5), host="127.0.0.1", port=IN_LOGIN, sslmode="disable", password="x")
attempt(
    "TLS, then another",
    nothing,
    host="127.0.0.1,127.0.0.1",
    port=f"{IN_TLS},{PORT}",
    sslmode="prefer",
    connect_timeout=2,
)
attempt("refused host", nothing, host="127.0.0.1,127.0.0.1", port=f"{REFUSED},{PORT}", connect_timeout=2)
attempt(
    "standby first",
    nothing,
    host="127.0.0.1,127.0.0.1",
    port=f"{PORT},{PORT}",
    target_session_attrs="prefer-standby",
)

names = {"slow.test": 0.5, "never.test": 3600}
resolve = socket.getaddrinfo
asked = []


def getaddrinfo(host, *args, **options):
    asked.append(host)
    if host in names:
        gevent.sleep(names[host])
        host = "127.0.0.1"
    return resolve(host, *args, **options)


# The one door both look names up through; the resolver behind it is the hub's.
socket.getaddrinfo = gevent.socket.getaddrinfo = getaddrinfo
attempt("slow name", nothing, host="slow.test", port=PORT)
attempt("endless name", postgres.deadline(0.5), host="never.test", port=PORT)
attempt("endless name first", nothing, host="never.test,127.0.0.1", port=f"{PORT},{PORT}", connect_timeout=1)
attempt("no such name", nothing, host="nowhere.invalid", port=PORT)


def in_a_pool():
    """Have a pool give a silent server up, which closes late, and ask it again; return what came when."""
    order = []
    told = gevent.event.Event()
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(1)

    def hold():
        line = listener.accept()[0]
        while line.recv(65536):
            pass
        order.append("we hung up")
        told.wait(5)  # not before the one beside had time to come
        order.append("the server hung up")
        line.close()

    def borrow():
        port = listener.getsockname()[1]

        def connect():
            order.append("the pool connects")
            return driver.connect(host="127.0.0.1", port=port, user="postgres")

        pool = postgres.ConnectionPool(connect, max_size=1)
        for timeout in (0.5, 2.0):
            with contextlib.suppress(driver.OperationalError):
                pool.getconn(timeout=timeout)

    _closing.GRACE = 30.0
    server, caller = gevent.spawn(hold), gevent.spawn(borrow)
    caller.join(timeout=1.5)
    told.set()
    gevent.joinall([server, caller], raise_error=True)
    return order


answer(order=in_a_pool(), said=said, asked=sorted(set(asked)))
