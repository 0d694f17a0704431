"""What session() takes, and what tune_httpx() does with packages that look different."""

from __future__ import annotations

import pickle
import sys
from types import ModuleType

import pytest

from greenkit.http import session, tune_httpx

requests = pytest.importorskip("requests")


@pytest.mark.parametrize("concurrency", [0, -3])
def test_a_session_for_nobody_is_refused(concurrency):
    """A concurrency below 1 is the caller's mistake."""
    with pytest.raises(ValueError, match="at least 1"):
        session(concurrency)


@pytest.mark.parametrize("timeout", [0, -1.0, float("inf"), (5.0, 0.0), (float("nan"), 5.0)])
def test_a_timeout_that_never_ends_is_refused(timeout):
    """A session waits for ever neither to connect nor to read."""
    with pytest.raises(ValueError, match="time-out"):
        session(5, timeout=timeout)


def test_what_cannot_be_told_of_answers_is_refused():
    """A limiter that neither observes nor can be called is the caller's mistake, found at once."""
    with pytest.raises(TypeError, match="not '50/s'"):
        session(5, limiter="50/s")


def test_a_session_without_requests_names_the_extra(monkeypatch):
    """Where requests is not installed the error says what to install."""
    monkeypatch.delitem(sys.modules, "greenkit.http._requests", raising=False)
    monkeypatch.delitem(sys.modules, "greenkit.http._tls", raising=False)
    for name in [name for name in sys.modules if name.partition(".")[0] == "requests"]:
        monkeypatch.delitem(sys.modules, name)

    class Absent:
        def find_spec(self, name, path=None, target=None):
            if name == "requests":
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)

    monkeypatch.setattr(sys, "meta_path", [Absent(), *sys.meta_path])
    with pytest.raises(ImportError, match=r"greenkit\[http\]"):
        session(5)


@pytest.mark.parametrize(
    ("given", "environment", "used"),
    [
        (True, "", True),
        (True, "/corporate.pem", "/corporate.pem"),
        ("/mine.pem", "/corporate.pem", "/mine.pem"),
        (False, "/corporate.pem", False),
    ],
)
@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_the_bundle_is_the_sessions_then_the_environments(monkeypatch, variable, given, environment, used):
    """What the caller gave wins over the environment, which wins over the default."""
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    monkeypatch.delenv("CURL_CA_BUNDLE", raising=False)
    monkeypatch.setenv(variable, environment)
    with session(5, verify=given) as client:
        settings = client.merge_environment_settings("https://example.org", {}, None, None, None)
    assert settings["verify"] == used


def test_a_call_may_still_say_how_it_verifies(monkeypatch):
    """`verify` of a call wins over the session's."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/corporate.pem")
    with session(5, verify="/mine.pem") as client:
        settings = client.merge_environment_settings("https://example.org", {}, None, False, None)
    assert settings["verify"] is False


def test_a_bundle_that_is_not_there_is_an_error_that_says_so():
    """A wrong path fails at the first call, naming the path."""
    with session(5, verify="/nowhere/ca.pem") as client, pytest.raises(OSError, match=r"/nowhere/ca\.pem"):
        client.get("https://127.0.0.1:1/")


def test_a_session_survives_pickling():
    """As requests promises; the copy has the same size and time-outs."""
    with session(7, timeout=(1.0, 2.0)) as client, pickle.loads(pickle.dumps(client)) as copy:
        assert repr(copy.get_adapter("https://a")) == repr(client.get_adapter("https://a"))


@pytest.mark.parametrize("looks_like", ["no function", "another signature"])
def test_unknown_internals_of_httpcore_are_left_alone(monkeypatch, caplog, looks_like):
    """Where upstream changed, nothing is replaced and a line is logged."""
    backend = ModuleType("httpcore._backends.sync")
    if looks_like == "another signature":
        backend.is_socket_readable = lambda sock, timeout: True
    before = dict(vars(backend))
    monkeypatch.setitem(sys.modules, "httpcore", ModuleType("httpcore"))
    monkeypatch.setitem(sys.modules, "httpcore._backends", ModuleType("httpcore._backends"))
    monkeypatch.setitem(sys.modules, "httpcore._backends.sync", backend)
    assert "httpcore" not in tune_httpx()
    assert vars(backend) == before
    assert "left as it is" in caplog.text
