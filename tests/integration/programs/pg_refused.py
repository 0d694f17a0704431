"""A server that refuses in German: what waiting cannot heal is said at once, the rest is waited out."""

from gevent import monkey

monkey.patch_all()

import struct

from gevent.server import StreamServer
from pg_world import DRIVER, answer, connect, driver, postgres

REFUSALS = {
    "28P01": "Passwort-Authentifizierung für Benutzer »iam« fehlgeschlagen",
    "53300": "zu viele Verbindungen von Rolle »iam«",
    "57P03": "das Datenbanksystem startet",
}
asked, states = [], [""]


def refuse(sock, _address):
    (length,) = struct.unpack("!I", sock.recv(4))
    sock.recv(length - 4)
    state = states[-1]
    asked.append(state)
    fields = {
        "S": "FATAL", "V": "FATAL", "C": state, "M": REFUSALS[state],
        "F": "auth.c", "L": "338", "R": "auth_failed",
    }  # fmt: skip
    body = b"".join(name.encode() + text.encode() + b"\0" for name, text in fields.items()) + b"\0"
    sock.sendall(b"E" + struct.pack("!I", len(body) + 4) + body)


def connect_somewhere():
    if not states[-1] or (states[-1] == "57P03" and len(asked) > 1):
        return connect()
    address = f"host=127.0.0.1 port={server.server_port} user=iam dbname=d sslmode=disable gssencmode=disable"
    return driver.connect(address)


def refused(code):
    states.append(code)
    asked.clear()
    pool.drain()
    try:
        pool.putconn(pool.getconn(timeout=0.5 if code == "53300" else 10.0))
    except driver.OperationalError as error:
        return str(error).strip()
    return ""


server = StreamServer(("127.0.0.1", 0), refuse)
server.start()
pool = postgres.ConnectionPool(connect_somewhere, max_size=2, reconnect_timeout=300.0)
with pool.connection() as conn:  # the server was there
    try:
        conn.cursor().execute("select 1/0")
    except driver.Error as error:
        query = str(error)
    conn.rollback()
facts = {}
for code in REFUSALS:
    facts[code] = {"said": refused(code), "asked": len(asked), "full_at": pool.statistics().full_at}
answer(driver=DRIVER, query=query, **facts)
