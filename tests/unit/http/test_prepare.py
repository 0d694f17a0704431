"""The short way to a prepared request against requests' own."""

from __future__ import annotations

import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st

from greenkit.http import _prepare, session
from greenkit.http._prepare import prepared

URLS = [
    "https://api.example.com/v1/chat?a=b",
    "http://127.0.0.1:8000",
    "HTTPS://Example.COM/%7euser/a b?q=ü#part",
    "https://bücher.example/",
    "https://example.com:443//x",
]
names = st.sampled_from(
    ["Accept", "accept", "X-A", "x-a", "Content-Type", "content-length", "User-Agent", "Cookie"]
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture(autouse=True)
def no_netrc(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("NETRC", raising=False)
    _prepare._not_before.clear()


def fields(call):
    cookies = [(one.name, one.value, one.domain) for one in call._cookies]
    return (
        call.method,
        call.url,
        list(call.headers.items()),
        call.body,
        call.hooks,
        cookies,
        call._body_position,
    )


def outcome(prepare, *args):
    try:
        return fields(prepare(*args))
    except requests.exceptions.RequestException as error:
        return type(error)


@given(
    st.sampled_from(["GET", "post", "Put", "DELETE", "HEAD", "OPTIONS"]),
    st.sampled_from([*URLS, "no scheme", "http://", "https://user:pw@example.com/"]),
    st.dictionaries(names, st.text("abc ;=", max_size=6) | st.none() | st.just("1\r\nx: 2"), max_size=4),
    st.sampled_from([b"", b"bytes", {}, [], {"a": "1"}, "text", [("a", "b")]]),
    st.none() | json_values,
    st.booleans(),
    st.sampled_from([None, None, ("me", "secret"), ("mé", ""), (), requests.auth.HTTPBasicAuth("a", "b")]),
)
@settings(max_examples=400, deadline=None)
def test_a_plain_call_is_prepared_as_requests_does_it(method, url, headers, data, json, cookies, auth):
    """Method, address, headers in their order, body, hooks and cookies; what goes wrong, too."""
    with session(2) as client, requests.Session() as plain:
        if cookies:
            for one in (client, plain):
                one.cookies.set("c", "1", domain="api.example.com")
        request = requests.Request(method, url, headers=headers, data=data, json=json, auth=auth)
        assert outcome(client.prepare_request, request) == outcome(plain.prepare_request, request)


def test_the_short_way_is_taken_by_plain_calls():
    """Or the comparison would compare requests with itself."""
    with session(2) as client:
        for options in (
            {},
            {"json": {"a": 1}},
            {"data": b"x"},
            {"headers": {"x-a": "1"}},
            {"auth": ("a", "b")},
        ):
            assert prepared(client, requests.Request("POST", URLS[0], **options)) is not None
        for options in (
            {"params": {"a": 1}},
            {"auth": requests.auth.HTTPBasicAuth("a", "b")},
            {"auth": (b"a", b"b")},
            {"files": {"f": b"x"}},
            {"cookies": {"a": "b"}},
            {"data": {"a": "b"}},
            {"data": iter([b"x"])},
            {"json": {"a": float("nan")}},
            {"headers": {"x-a": None}},
            {"hooks": {"response": print}},
        ):
            assert prepared(client, requests.Request("POST", URLS[0], **options)) is None, options


def test_a_netrc_file_is_heeded(tmp_path, monkeypatch):
    """Users rely on it; one that is named in the environment, and one that comes to be later."""
    with session(2) as client:
        request = requests.Request("GET", URLS[0])
        assert "Authorization" not in client.prepare_request(request).headers
        file = tmp_path / "mine"
        file.write_text("machine api.example.com login me password secret\n")
        file.chmod(0o600)
        monkeypatch.setenv("NETRC", str(file))
        assert client.prepare_request(request).headers["Authorization"].startswith("Basic ")
        other = client.prepare_request(requests.Request("GET", "https://other.example/"))
        assert "Authorization" not in other.headers
        monkeypatch.delenv("NETRC")
        file.rename(tmp_path / ".netrc")
        _prepare._not_before.clear()  # a second later
        assert "Authorization" in client.prepare_request(request).headers
        client.trust_env = False
        assert "Authorization" not in client.prepare_request(request).headers


def test_who_prepares_requests_differently_is_asked(monkeypatch):
    """A subclass, and a patch of requests' own method, see every request."""

    class Mine(type(session(1))):
        def prepare_request(self, request):
            call = super().prepare_request(request)
            call.headers["x-mine"] = "1"
            return call

    with session(2) as client:
        client.__class__ = Mine
        assert client.prepare_request(requests.Request("GET", URLS[0])).headers["x-mine"] == "1"
    theirs, seen = requests.Session.prepare_request, []

    def patched(self, request):
        seen.append(request.url)
        return theirs(self, request)

    monkeypatch.setattr(requests.Session, "prepare_request", patched)
    with session(2) as client:
        client.prepare_request(requests.Request("GET", URLS[0]))
    assert seen == [URLS[0]]


def test_what_is_changed_in_one_call_is_in_no_other():
    """Headers, hooks and cookies belong to the call."""
    with session(2) as client:
        first = client.prepare_request(requests.Request("GET", URLS[0]))
        first.headers["x-a"] = "1"
        first.hooks["response"].append(print)
        first._cookies.set("a", "b")
        second = client.prepare_request(requests.Request("GET", URLS[0]))
        assert ("x-a" in second.headers, second.hooks, len(second._cookies)) == (False, {"response": []}, 0)
        assert client.hooks == {"response": []}
        assert len(client.cookies) == 0
