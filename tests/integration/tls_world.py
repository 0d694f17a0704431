"""An HTTPS server that misbehaves on request, certificates for it, and patched programs that call it."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from greenkit.testing import run_clean

PROGRAMS = Path(__file__).parent / "programs"

# What a machine says about trust and ways out.
NOT_INHERITED = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE", "SSL_CERT_DIR")
NOT_INHERITED += ("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "ALL_PROXY")
NOT_INHERITED += tuple(name.lower() for name in NOT_INHERITED[4:])

PRELUDE = """
import gevent.monkey; gevent.monkey.patch_all()
import gc, json, os, time, gevent, requests
from greenkit.errors import RateLimited
from greenkit.http import openai_client, session
URL, STRICT, PROXY = (os.environ["WORLD_" + name] for name in ("URL", "STRICT", "PROXY"))
CA, CERT = os.environ["WORLD_CA"], os.environ["WORLD_CERT"]

def stats(before={}):
    with session(1, verify=CA) as asking:
        now = asking.get(URL + "/stats").json()
    return {name: now[name] - before.get(name, 0) for name in now}

def raises(kind, do, *args, **options):
    try:
        found = do(*args, **options)
    except kind as error:
        return error
    raise AssertionError(f"{found} instead of {kind}")
"""


class World:
    """A running server and what a program needs to know of it."""

    def __init__(self, places, ca, cert):
        self.env = {f"WORLD_{name.upper()}": value for name, value in places.items()}
        self.env |= dict.fromkeys(NOT_INHERITED, "")
        self.env |= {"WORLD_CA": str(ca), "WORLD_CERT": str(cert)}

    def run(self, program, **env):
        """Run a program in a patched interpreter of its own; it must end well and say nothing."""
        done = run_clean(PRELUDE + program, env={**self.env, **env})
        assert (done.returncode, done.stderr) == (0, ""), str(done)
        return done.stdout


@contextlib.contextmanager
def tls_world(directory):
    """Make a CA in a bundle of the usual size, certificates, and the server."""
    trustme = pytest.importorskip("trustme")
    certifi = pytest.importorskip("certifi")
    authority = trustme.CA()
    ca, cert, server_cert = (directory / name for name in ("ca.pem", "client.pem", "server.pem"))
    authority.cert_pem.write_to_path(ca)
    with ca.open("ab") as bundle:
        bundle.write(Path(certifi.where()).read_bytes())
    authority.issue_cert("localhost", "127.0.0.1").private_key_and_cert_chain_pem.write_to_path(server_cert)
    client = authority.issue_cert("client@example.org", common_name="client")
    client.private_key_and_cert_chain_pem.write_to_path(cert)
    server = subprocess.Popen(
        [sys.executable, str(PROGRAMS / "tls_server.py"), str(server_cert), str(ca)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield World(json.loads(server.stdout.readline()), ca, cert)
    finally:
        server.communicate(timeout=10)
