"""Serve HTTPS, behave badly when asked to, and be a proxy: a program of its own, in native threads.

Prints its addresses as JSON, and serves until its standard input ends. The path says how to behave.
"""

from __future__ import annotations

import json
import select
import socket
import ssl
import struct
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

counts: Counter[str] = Counter()
crowd = threading.Barrier(6)


class Answer(BaseHTTPRequestHandler):
    """Answer as the path says."""

    protocol_version = "HTTP/1.1"
    timeout = 20
    disable_nagle_algorithm = True

    def setup(self):
        super().setup()
        counts["connections"] += 1

    def do_GET(self):
        counts["requests"] += 1
        name, _, rest = self.path.lstrip("/").partition("/")
        getattr(self, name.replace("-", "_") or "ok")(rest)

    do_POST = do_GET  # noqa: N815 - http.server looks for it

    def ok(self, rest, status=200, body=b"ok", **headers):
        if "content-length" in self.headers:
            self.rfile.read(int(self.headers["content-length"]))
        if "transfer-encoding" in self.headers:
            while size := int(self.rfile.readline(), 16):
                self.rfile.read(size + 2)
            self.rfile.readline()
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key.replace("_", "-"), value)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def stats(self, rest):
        self.ok("", body=json.dumps(counts).encode())

    def together(self, rest):
        crowd.wait(10)
        self.ok(rest)

    def cut(self, rest):
        """Answer as if the connection stayed, then close it."""
        self.ok(rest)
        self.close_connection = True

    def reset(self, rest):
        """Answer as if the connection stayed, then reset it."""
        self.ok(rest)
        time.sleep(0.03)  # a reset overtakes what was not read yet
        raw = socket.socket(fileno=self.connection.detach())
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raw.close()
        self.rfile = self.wfile = open("/dev/null", "rb")  # noqa: SIM115, PTH123 - nothing left to talk to
        self.close_connection = True

    def half(self, rest):
        """Answer as if the connection stayed, close our side only, and go on listening."""
        self.ok(rest)
        self.connection.shutdown(socket.SHUT_WR)
        counts["heard"] += len(self.connection.recv(1000))
        self.close_connection = True

    def dribble(self, rest):
        """Send headers a byte at a time, for as long as anybody listens."""
        self.wfile.write(b"HTTP/1.1 200 OK\r\nx-slow: ")
        for _ in range(400):
            self.wfile.write(b"x")
            time.sleep(0.05)

    def silent(self, rest):
        time.sleep(float(rest))
        self.ok("")

    def endless(self, rest):
        self.send_response(200)
        self.send_header("content-length", str(10**10))
        self.end_headers()
        counts["streams"] += 1
        try:
            while True:
                self.wfile.write(b"data " * 2000)
        finally:
            counts["streams"] -= 1

    def to(self, rest):
        self.ok("", 302, b"over there", Location=rest if "://" in rest else f"/{rest}")

    def who(self, rest):
        """Say whose certificate and which credentials came."""
        cert = self.connection.getpeercert() or {}
        names = [value for group in cert.get("subject", ()) for _, value in group]
        self.ok("", body=json.dumps([names, self.headers.get("authorization")]).encode())

    def later(self, rest):
        """Refuse the first so many calls: /later/COUNT/STATUS/SECONDS/KEY."""
        count, status, seconds, key = rest.split("/")
        counts[key] += 1
        if counts[key] <= int(count):
            return self.ok("", int(status), b"later", **{"Retry_After": seconds} if seconds != "-" else {})
        return self.ok("")

    def exhausted(self, rest):
        counts["exhausted"] += 1
        self.ok("", 429, b'{"error": {"code": "insufficient_quota"}}', Retry_After="1")

    def log_message(self, *args):
        pass


class Proxy(BaseHTTPRequestHandler):
    """Forward what CONNECT asks for."""

    def do_CONNECT(self):
        counts["tunnels"] += 1
        host, _, port = self.path.rpartition(":")
        with socket.create_connection((host, int(port))) as there:
            self.send_response(200)
            self.end_headers()
            ends = [self.connection, there]
            while True:
                for here in select.select(ends, [], [])[0]:
                    data = here.recv(65536)
                    if not data:
                        self.close_connection = True
                        return
                    ends[here is self.connection].sendall(data)

    def log_message(self, *args):
        pass


class Server(ThreadingHTTPServer):
    """Shake hands in the connection's own thread; a client that goes away is no news."""

    daemon_threads = True
    request_queue_size = 100

    def finish_request(self, request, client_address):
        if isinstance(request, ssl.SSLSocket):
            request.do_handshake()
        super().finish_request(request, client_address)

    def handle_error(self, request, client_address):
        pass


def serve(handler, context=None):
    server = Server(("", 0), handler)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"{'https' if context else 'http'}://127.0.0.1:{server.server_port}"


def main(cert, ca):
    tls, strict = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    for context in (tls, strict):
        context.load_cert_chain(cert)
    strict.load_verify_locations(ca)
    strict.verify_mode = ssl.CERT_REQUIRED
    places = {"url": serve(Answer, tls), "strict": serve(Answer, strict), "proxy": serve(Proxy)}
    print(json.dumps(places), flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main(*sys.argv[1:])
