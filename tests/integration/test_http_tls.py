"""Sessions against a real TLS server: one loading of the bundle for all connections, and who is trusted."""

from __future__ import annotations

import shutil
import ssl
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from greenkit.http import session

requests = pytest.importorskip("requests")

AT_ONCE = 6


@pytest.fixture(autouse=True)
def no_bundle_from_outside(monkeypatch):
    """Keep the machine's own bundles out."""
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    monkeypatch.delenv("CURL_CA_BUNDLE", raising=False)


class Answer(BaseHTTPRequestHandler):
    """Keep the connection until all calls at once have arrived, so that each needs its own."""

    protocol_version = "HTTP/1.1"
    together: threading.Barrier

    def do_GET(self):
        if self.path == "/together":
            self.together.wait(10)
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *args):
        pass


class Server(ThreadingHTTPServer):
    """Shake hands in the connection's own thread; a client that goes away is no news."""

    def finish_request(self, request, client_address):
        try:
            request.do_handshake()
        except OSError:
            return
        super().finish_request(request, client_address)

    def handle_error(self, request, client_address):
        pass


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    """Make a certificate that signs itself; the file is its own CA bundle."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl program to make a certificate with")
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    key = path.with_name("key.pem")
    names = "subjectAltName=DNS:localhost,IP:127.0.0.1"
    usage = "keyUsage=critical,digitalSignature,keyCertSign"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-subj", "/CN=localhost", "-addext", names, "-addext", usage]
    command += ["-keyout", str(key), "-out", str(path)]
    subprocess.run(command, check=True, capture_output=True)
    return path


@pytest.fixture
def url(bundle):
    """Serve HTTPS in threads of this process."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(bundle, bundle.with_name("key.pem"))
    Answer.together = threading.Barrier(AT_ONCE)
    with Server(("", 0), Answer) as server:
        server.daemon_threads = True
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"https://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture
def loaded(monkeypatch):
    """Count how often a bundle is loaded into a context, by us or by urllib3."""
    from urllib3.util import ssl_

    times = []

    class Counting(ssl.SSLContext):
        def load_verify_locations(self, *args, **kwargs):
            times.append(args or kwargs)
            super().load_verify_locations(*args, **kwargs)

    monkeypatch.setattr(ssl_, "SSLContext", Counting)
    return times


def crowd(client, url):
    """Make calls that need a connection each, two rounds."""
    with ThreadPoolExecutor(AT_ONCE) as threads:
        for _ in range(2):
            assert all(threads.map(lambda _: client.get(f"{url}/together", timeout=20).ok, range(AT_ONCE)))


def test_a_bundle_is_loaded_once_for_all_connections(url, bundle, loaded):
    """However many connections and sessions, one load; plain requests loads for every connection."""
    for _ in range(2):
        with session(AT_ONCE, verify=str(bundle)) as client:
            crowd(client, url)
    assert len(loaded) == 1
    loaded.clear()
    with requests.Session() as plain:
        plain.verify = str(bundle)
        crowd(plain, url)
    assert len(loaded) >= AT_ONCE, "the reason for sharing is gone: requests shares now"


def test_a_stranger_is_not_trusted(url):
    """With the default bundle our own certificate is refused, by name in the error."""
    with session(2) as client, pytest.raises(requests.exceptions.SSLError, match="CERTIFICATE_VERIFY_FAILED"):
        client.get(url)


def test_a_wrong_name_is_not_trusted(url, bundle):
    """The shared context checks host names: the certificate is for 127.0.0.1, not for 127.0.0.2."""
    elsewhere = url.replace("127.0.0.1", "127.0.0.2")
    with (
        session(2, verify=str(bundle)) as client,
        pytest.raises(requests.exceptions.SSLError, match="mismatch"),
    ):
        client.get(elsewhere)


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_a_corporate_bundle_keeps_working(url, bundle, monkeypatch, variable, loaded):
    """A bundle named by the environment is trusted, and shared too."""
    monkeypatch.setenv(variable, str(bundle))
    with session(AT_ONCE) as client:
        crowd(client, url)
    assert len(loaded) == 1


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
def test_not_verifying_does_not_loosen_the_shared_context(url, bundle):
    """verify=False trusts anybody, in its calls only."""
    with session(2, verify=False) as client:
        assert client.get(url).ok
    with session(2, verify=str(bundle)) as client:
        assert client.get(url, verify=False).ok
        assert client.get(url).ok
        with pytest.raises(requests.exceptions.SSLError):
            client.get(url, verify=True)


def test_a_client_certificate_has_a_context_of_its_own(url, bundle, loaded):
    """A client certificate is never loaded into a context others share."""
    with session(2, verify=str(bundle)) as client:
        assert client.get(url, cert=(str(bundle), str(bundle.with_name("key.pem")))).ok
        assert client.get(url).ok
    assert len(loaded) == 2


def test_a_directory_of_certificates_is_a_bundle_too(url, bundle, tmp_path):
    """A path given as verify may name a hashed directory."""
    command = ["openssl", "x509", "-hash", "-noout", "-in", str(bundle)]
    name = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    Path(tmp_path, f"{name}.0").write_bytes(bundle.read_bytes())
    with session(2, verify=str(tmp_path)) as client:
        assert client.get(url).ok


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
def test_not_verifying_loads_nothing(url, monkeypatch):
    """verify=False needs no trust store; plain requests loads the machine's for every connection."""
    loads = []
    monkeypatch.setattr(ssl.SSLContext, "load_default_certs", lambda *args: loads.append(1))
    with session(AT_ONCE, verify=False) as client:
        crowd(client, url)
    assert not loads
    with requests.Session() as plain:
        plain.verify = False
        crowd(plain, url)
    assert loads, "requests loads nothing either by now"
