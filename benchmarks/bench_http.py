"""What do 400 HTTPS calls cost, 200 at once, with each client as it comes and as greenkit opens it?

Every client runs in a process of its own, patched by gevent (but the one on threads), against a
server in another that takes 0.3 s to answer, over real TLS with a CA bundle of the usual size (certifi's).
Two waves of 200 calls: the first has to connect, the second can use what the first left open.
Rounds are interleaved, so that a busy neighbour slows everybody; the medians are shown. "x ours" compares the
CPU of a call in the second wave, when no client has anything to load or to connect.

Run: python benchmarks/bench_http.py [--rounds=3]
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

AT_ONCE, WAVES, LATENCY = 200, 2, 0.3
ASK = {"model": "m", "messages": [{"role": "user", "content": "x"}]}


def requests_plain(url, ca):
    import requests

    client = requests.Session()
    client.verify = ca
    return lambda: client.post(f"{url}/v1/chat/completions", json=ASK, timeout=60).raise_for_status()


def requests_sized(url, ca):
    import requests

    client = requests.Session()
    client.verify = ca
    client.mount("https://", requests.adapters.HTTPAdapter(pool_maxsize=AT_ONCE, pool_block=True))
    return lambda: client.post(f"{url}/v1/chat/completions", json=ASK, timeout=60).raise_for_status()


def requests_greenkit(url, ca):
    from greenkit.http import session

    client = session(AT_ONCE, verify=ca)
    return lambda: client.post(f"{url}/v1/chat/completions", json=ASK).raise_for_status()


def httpx2_plain(url, ca, **options):
    import ssl

    import httpx2

    client = httpx2.Client(verify=ssl.create_default_context(cafile=ca), timeout=60, **options)
    return lambda: client.post(f"{url}/v1/chat/completions", json=ASK).raise_for_status()


def httpx2_sized(url, ca):
    import httpx2

    sized = httpx2.Limits(max_connections=AT_ONCE, max_keepalive_connections=AT_ONCE)
    return httpx2_plain(url, ca, limits=sized)


def httpx2_greenkit(url, ca):
    from greenkit.http import tune_httpx

    tune_httpx()
    return httpx2_sized(url, ca)


def httpx2_transport(url, ca):
    import httpx2

    from greenkit.http import HTTPTransport

    client = httpx2.Client(transport=HTTPTransport(AT_ONCE, verify=ca), timeout=60)
    return lambda: client.post(f"{url}/v1/chat/completions", json=ASK).raise_for_status()


def openai_plain(url, ca):
    import ssl

    import openai

    http = openai.DefaultHttpxClient(verify=ssl.create_default_context(cafile=ca))
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="x", http_client=http)
    return lambda: client.chat.completions.create(**ASK)


def openai_greenkit(url, ca):
    from greenkit.http import openai_client

    client = openai_client(AT_ONCE, verify=ca, base_url=f"{url}/v1", api_key="x")
    return lambda: client.chat.completions.create(**ASK)


def anthropic_plain(url, ca):
    import ssl

    import anthropic

    http = anthropic.DefaultHttpxClient(verify=ssl.create_default_context(cafile=ca))
    client = anthropic.Anthropic(base_url=url, api_key="x", http_client=http)
    return lambda: client.messages.create(max_tokens=10, **ASK)


def anthropic_greenkit(url, ca):
    from greenkit.http import anthropic_client

    client = anthropic_client(AT_ONCE, verify=ca, base_url=url, api_key="x")
    return lambda: client.messages.create(max_tokens=10, **ASK)


def geventhttpclient_sized(url, ca):
    from gevent.ssl import create_default_context
    from geventhttpclient import HTTPClient
    from geventhttpclient.url import URL

    context = create_default_context(cafile=ca)
    client = HTTPClient.from_url(
        URL(url),
        concurrency=AT_ONCE,
        connection_timeout=60,
        network_timeout=60,
        ssl_context_factory=lambda *args, **kwargs: context,
    )
    body, headers = json.dumps(ASK), {"content-type": "application/json"}

    def call():
        response = client.post("/v1/chat/completions", body=body, headers=headers)
        json.loads(response.read())

    return call


CLIENTS = {
    "requests, as it comes": requests_plain,
    "requests, pool of 200 by hand": requests_sized,
    "requests, greenkit.http.session(200)": requests_greenkit,
    "httpx2, as it comes": httpx2_plain,
    "httpx2, limits of 200 by hand": httpx2_sized,
    "httpx2, limits of 200, tune_httpx()": httpx2_greenkit,
    "httpx2, greenkit.http.HTTPTransport(200)": httpx2_transport,
    "openai, as it comes": openai_plain,
    "openai, greenkit.http.openai_client(200)": openai_greenkit,
    "anthropic, as it comes": anthropic_plain,
    "anthropic, greenkit.http.anthropic_client(200)": anthropic_greenkit,
    "geventhttpclient, concurrency 200": geventhttpclient_sized,
    "threads: requests, pool of 200 by hand": requests_sized,
}
NEEDS = {
    "anthropic": "anthropic",
    "httpx2": "httpx2",
    "openai": "openai",
    "geventhttpclient": "geventhttpclient",
}


def waves_of_greenlets(call):
    """Return (seconds, CPU seconds, worst hub gap) of every wave."""
    import time

    import gevent

    worst = 0.0

    def watch():
        nonlocal worst
        while True:
            start = time.monotonic()
            gevent.sleep(0.005)
            worst = max(worst, time.monotonic() - start - 0.005)

    watcher = gevent.spawn(watch)
    found = []
    for _ in range(WAVES):
        gevent.sleep(0.05)
        worst, wall, cpu = 0.0, time.monotonic(), time.process_time()
        gevent.joinall([gevent.spawn(call) for _ in range(AT_ONCE)], raise_error=True)
        found.append((time.monotonic() - wall, time.process_time() - cpu, worst))
    watcher.kill()
    return found


def waves_of_threads(call):
    import time
    from concurrent.futures import ThreadPoolExecutor

    found = []
    for _ in range(WAVES):
        wall, cpu = time.monotonic(), time.process_time()
        with ThreadPoolExecutor(AT_ONCE) as threads:
            list(threads.map(lambda _: call(), range(AT_ONCE)))
        found.append((time.monotonic() - wall, time.process_time() - cpu, None))
    return found


def one(name, url, ca):
    """Be the process of one client."""
    import logging

    logging.getLogger("urllib3").setLevel(logging.ERROR)  # "pool is full", once per call
    threads = name.startswith("threads")
    if not threads:
        import gevent.monkey

        gevent.monkey.patch_all()
    call = CLIENTS[name](url, ca)
    print(json.dumps((waves_of_threads if threads else waves_of_greenlets)(call)))


def certificates(directory):
    """Return (server's certificate, CA bundle); the bundle has the usual hundred others in it."""
    import certifi
    import trustme

    authority = trustme.CA()
    server, ca = directory / "server.pem", directory / "ca.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(server)
    authority.cert_pem.write_to_path(ca)
    with ca.open("ab") as bundle:
        bundle.write(Path(certifi.where()).read_bytes())
    return str(server), str(ca)


def measure(name, server, ca):
    server.reset()
    command = [sys.executable, __file__, "--one", name, server.url, ca]
    # The machine's own bundle would win over a client's, in plain requests.
    env = {key: value for key, value in os.environ.items() if not key.endswith(("CA_BUNDLE", "_PROXY"))}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{name}:\n{done.stderr[-2000:]}")
    waves = json.loads(done.stdout.splitlines()[-1])
    page = server.reset()
    calls = AT_ONCE * WAVES
    assert page["ok"] == calls, page
    return {
        "walls": [wave[0] for wave in waves],
        "wall": sum(wave[0] for wave in waves),
        "cpu": sum(wave[1] for wave in waves) / calls * 1000,
        "warm": waves[-1][1] / AT_ONCE * 1000,
        "gap": max((wave[2] for wave in waves), default=0) if waves[0][2] is not None else None,
        "connections": page["connections"] - 1,  # one asked for the counters
        "reached": page["peak_in_flight"],
    }


def main(rounds):
    from greenkit.testing import MockLLM

    names = [name for name in CLIENTS if _installed(name)]
    found = {name: [] for name in names}
    with tempfile.TemporaryDirectory() as directory:
        cert, ca = certificates(Path(directory))
        as_usual = {"latency": LATENCY, "tls": (cert, cert)}
        with MockLLM(**as_usual) as openai, MockLLM(style="anthropic", **as_usual) as anthropic:
            for _ in range(rounds):
                for name in names:
                    server = anthropic if name.startswith("anthropic") else openai
                    found[name].append(measure(name, server, ca))
    show({name: {key: _median(runs, key) for key in runs[0]} for name, runs in found.items()})


def show(table):
    base = table["requests, greenkit.http.session(200)"]["warm"]
    print(f"Python {platform.python_version()}, {platform.machine()}; ideal: {LATENCY:g} s per wave")
    print(f"  {'':46} wave 1  wave 2  x ideal  CPU/call  in wave 2  x ours  connections  at once  hub gap")
    for name, row in table.items():
        gap = "      -" if row["gap"] is None else f"{row['gap'] * 1000:4.0f} ms"
        first, second = row["walls"]
        cpu = f"{row['cpu']:5.2f} ms  {row['warm']:6.2f} ms  {row['warm'] / base:6.1f}"
        print(
            f"  {name:46} {first:4.2f} s  {second:4.2f} s  {row['wall'] / WAVES / LATENCY:7.1f}"
            f"  {cpu}  {row['connections']:11.0f}"
            f"  {row['reached']:7.0f}  {gap}"
        )


def _installed(name):
    package = next((word for word in NEEDS if name.startswith(word)), "requests")
    return importlib.util.find_spec(package) is not None


def _median(runs, key):
    values = [run[key] for run in runs]
    if values[0] is None:
        return None
    if isinstance(values[0], list):
        return [statistics.median(column) for column in zip(*values, strict=True)]
    return statistics.median(values)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        one(*sys.argv[2:])
    else:
        main(next((int(word[9:]) for word in sys.argv if word.startswith("--rounds=")), 3))
