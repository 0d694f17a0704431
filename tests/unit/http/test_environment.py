"""Proxies of the environment: remembered, and the same as requests finds by reading it each time."""

from __future__ import annotations

import os

import pytest

from greenkit.http import session

requests = pytest.importorskip("requests")
environment = pytest.importorskip("greenkit.http._environment")

URLS = [
    "https://api.example.org/v1",
    "http://api.example.org:8080/",
    "http://10.1.2.3/x",
    "https://other.net/",
]
ENVIRONMENTS = [
    {},
    {"https_proxy": "http://a:3128"},
    {"HTTPS_PROXY": "http://a:3128", "HTTP_PROXY": "http://b:3128"},
    {"all_proxy": "socks5://c:1080", "NO_PROXY": "example.org"},
    {"https_proxy": "http://a:3128", "no_proxy": "10.1.0.0/16,other.net"},
    {"http_proxy": "http://b:3128", "no_proxy": "api.example.org:8080"},
    {"https_proxy": "http://a:3128", "no_proxy": "*"},
]


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch):
    """Begin without the machine's own."""
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


def settings(client, url, **proxies):
    return client.merge_environment_settings(url, dict(proxies), None, None, None)


@pytest.mark.parametrize("trust", [True, False])
def test_proxies_follow_the_environment_like_those_of_requests(monkeypatch, trust):
    """One session, asked again after each change, says what a session of requests says."""
    plain, told = requests.Session(), set()
    with session(5) as ours:
        ours.trust_env = plain.trust_env = trust
        for variables in [*ENVIRONMENTS, *reversed(ENVIRONMENTS)]:
            with monkeypatch.context() as patch:
                for name, value in variables.items():
                    patch.setenv(name, value)
                for url in [*URLS, *URLS]:
                    assert settings(ours, url) == settings(plain, url), (variables, url)
                    told.add(str(settings(ours, url)["proxies"]))
    assert len(told) == (6 if trust else 1), told


@pytest.mark.parametrize("given", [{"https": "http://mine:1"}, {"no_proxy": "example.org"}, {"https": None}])
def test_what_a_call_or_a_session_says_of_proxies_goes_before(monkeypatch, given):
    """Proxies of a call win over the environment's, those over the session's; None takes one away."""
    monkeypatch.setenv("https_proxy", "http://a:3128")
    plain = requests.Session()
    with session(5) as ours:
        for proxies in ({}, {"http": "http://session:1", "https": "http://session:2"}):
            ours.proxies = plain.proxies = proxies
            assert settings(ours, URLS[0], **given) == settings(plain, URLS[0], **given)


def test_the_environment_is_read_once(monkeypatch):
    """While no variable changes, a host is looked up once; any change makes it one more."""
    asked = []
    read = environment.get_environ_proxies
    monkeypatch.setattr(environment, "get_environ_proxies", lambda url: asked.append(url) or read(url))
    monkeypatch.setenv("GREENKIT_TEST_BEGINS", "1")
    with session(5) as client:
        for _ in range(10):
            settings(client, URLS[0])
        monkeypatch.setenv("GREENKIT_TEST_BEGINS", "2")
        settings(client, URLS[0])
    assert asked == [URLS[0]] * 2


def test_a_proxy_of_a_call_leaves_no_trace(monkeypatch):
    """What one call adds is not remembered for the next."""
    monkeypatch.setenv("https_proxy", "http://a:3128")
    with session(5) as client:
        settings(client, URLS[0], http="http://once:1")
        assert settings(client, URLS[0])["proxies"] == {"https": "http://a:3128"}


def test_no_more_hosts_than_some_are_remembered(monkeypatch):
    """A crawler's session does not grow with every host it sees."""
    monkeypatch.setattr(environment, "_MOST_HOSTS", 10)
    for number in range(35):
        environment.proxies_for(f"https://{number}.example.org/")
    assert len(environment._memory.known[1]) <= 10
