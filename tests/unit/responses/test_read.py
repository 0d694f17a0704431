"""What errors and answers of client libraries say, whatever library made them."""

from __future__ import annotations

import json
import socket
from datetime import datetime, timedelta, timezone
from http import HTTPStatus

import anthropic
import httpx
import httpx2
import openai
import pytest
import requests
from botocore.exceptions import ClientError, ConnectionClosedError

from greenkit import responses
from greenkit.errors import LimitTimeout, RateLimited
from greenkit.responses import Answer, is_disconnect, read, read_answer

DATE = "Wed, 21 Oct 2015 07:28:00 GMT"
AFTER = {"Retry-After": "7"}


class Plain:
    def __init__(self, **attributes):
        vars(self).update(attributes)


class PlainError(Exception):
    def __init__(self, message="", **attributes):
        super().__init__(message)
        vars(self).update(attributes)


def of_requests(status, headers, body=b""):
    response = requests.Response()
    response.status_code, response._content = status, body
    response.headers.update(headers)
    return requests.HTTPError(response=response)


def of_httpx(module):
    def make(status, headers, body=b""):
        request = module.Request("POST", "http://a")
        response = module.Response(status, headers=headers, content=body, request=request)
        return module.HTTPStatusError("refused", request=request, response=response)

    return make


def of_sdk(sdk):
    def make(status, headers, body=b"{}"):
        request = httpx2.Request("POST", "http://a")
        response = httpx2.Response(status, headers=headers, content=body, request=request)
        return sdk(api_key="x")._make_status_error_from_response(response)

    return make


def of_botocore(status, headers, body=b""):
    said = {"HTTPStatusCode": status, "HTTPHeaders": {name.lower(): value for name, value in headers.items()}}
    return ClientError({"Error": {"Code": "Other", "Message": ""}, "ResponseMetadata": said}, "InvokeModel")


def of_aiohttp(status, headers, body=b""):
    return PlainError(status=status, headers=headers, message="")


def of_google_core(status, headers, body=b""):
    return PlainError(code=HTTPStatus(status), response=Plain(headers=headers), details=[], errors=[])


LIBRARIES = {
    "requests": of_requests,
    "httpx": of_httpx(httpx),
    "httpx2": of_httpx(httpx2),
    "openai": of_sdk(openai.OpenAI),
    "anthropic": of_sdk(anthropic.Anthropic),
    "botocore": of_botocore,
    "aiohttp": of_aiohttp,
    "google.api_core": of_google_core,
}


@pytest.mark.parametrize("make", LIBRARIES.values(), ids=LIBRARIES)
@pytest.mark.parametrize("status", [429, 503])
def test_every_library_says_the_same(make, status):
    """Status and Retry-After come out of each library's own error, in itself and as the cause of another."""
    error = make(status, AFTER)
    assert (read(error).status, read(error).retry_after, read(error).later) == (status, 7.0, True)
    wrapped = RuntimeError("ours")
    wrapped.__cause__ = error
    assert read(wrapped) == read(error)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"retry-after": "0.5"}, 0.5),
        ({"retry-after-ms": "250", "retry-after": "7"}, 0.25),
        ({"retry-after-ms": "x", "retry-after": "7"}, 7.0),
        ({"x-ms-retry-after-ms": "1500"}, 1.5),
        ({"Retry-After": "278000"}, 278000.0),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:30 GMT", "Date": DATE}, 30.0),
        # Not said: nothing, nonsense, no time at all, the past, and what no calendar holds.
        ({}, None),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "0"}, None),
        ({"Retry-After": "-3"}, None),
        ({"Retry-After": "nan"}, None),
        ({"Retry-After": "inf"}, None),
        ({"Retry-After": "1e300"}, None),
        ({"Retry-After": "9" * 5000}, None),
        ({"Retry-After": DATE}, None),
        ({"Retry-After": "Fri, 31 Dec 9999 23:59:59 -2300"}, None),
        ({"Retry-After": "Mon, 01 Jan 99999999999999999999 00:00:00 GMT"}, None),
        ({"Retry-After": "Mon, 01 Jan 2030 00:00:00 +99999999999999"}, None),
        (
            {
                "Retry-After": "Wed, 21 Oct 2015 07:28:30 GMT",
                "Date": "Mon, 01 Jan 99999999999999 00:00:00 GMT",
            },
            None,
        ),
        # Resets of limits with nothing left; without `remaining`, the soonest.
        ({"x-ratelimit-reset-requests": "6m0s", "x-ratelimit-remaining-requests": "0"}, 360.0),
        ({"x-ratelimit-reset-requests": "6m0s", "x-ratelimit-remaining-requests": "3"}, None),
        ({"x-ratelimit-reset-requests": "6m0s", "x-ratelimit-reset-tokens": "2m59.56s"}, 179.56),
        ({"x-ratelimit-reset-tokens": "1ms"}, 0.001),
        ({"x-ratelimit-reset-tokens": "1h2m3s"}, 3723.0),
        ({"x-rate-limit-reset-tokens": "55"}, 55.0),
        ({"x-ratelimit-reset": "1445412490", "date": DATE}, 10.0),
        ({"x-ratelimit-reset": "1445412490000", "date": DATE}, 10.0),
        ({"x-ratelimit-reset-after": "1.5"}, 1.5),
        ({"anthropic-ratelimit-tokens-reset": "2015-10-21T07:28:20Z", "date": DATE}, 20.0),
        ({"ratelimit": '"default";r=0;t=30'}, 30.0),
        ({"ratelimit": '"default";r=5;t=30'}, None),
        ({"x-ratelimit-reset": "whenever"}, None),
    ],
)
def test_when_to_come_back_is_read_in_every_spelling(headers, seconds):
    """Retry-After in all its forms, and the resets of limits that are used up."""
    asked = read_answer(429, headers).retry_after
    assert asked == (seconds if seconds is None else pytest.approx(seconds))


@pytest.mark.parametrize(
    ("body", "seconds"),
    [
        (
            {
                "error": {
                    "code": 429,
                    "status": "RESOURCE_EXHAUSTED",
                    "message": "x",
                    "details": [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "34.5s"}],
                }
            },
            34.5,
        ),
        (
            [
                {
                    "error": {
                        "status": "RESOURCE_EXHAUSTED",
                        "details": [{"retryDelay": {"seconds": 3, "nanos": 500000000}}],
                    }
                }
            ],
            3.5,
        ),
        (
            {
                "error": {
                    "message": "You exceeded your current quota, please check your plan and billing details. "
                    "Please retry in 10h17m5.72s."
                }
            },
            37025.72,
        ),
        ({"error": {"message": "Rate limit reached. Please try again in 20ms. Visit"}}, 0.02),
        ({"error": {"message": "Rate limit exceeded. Please retry after 8 seconds."}}, 8.0),
        ({"message": "You are being rate limited.", "retry_after": 1.25}, 1.25),
        ({"error": {"metadata": {"retry_after_seconds": 4}}}, 4.0),
        ({"error": {"message": "try again later"}}, None),
    ],
)
def test_a_body_says_when(body, seconds):
    """Google's RetryInfo, fields of other servers, and the sentence for people."""
    answer = read_answer(429, {}, body=json.dumps(body).encode())
    assert answer.retry_after == (seconds if seconds is None else pytest.approx(seconds))
    assert answer.limited


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (
            429,
            {
                "error": {
                    "message": "You exceeded your current quota, please check your plan",
                    "code": "insufficient_quota",
                }
            },
        ),
        (429, {"error": {"type": "insufficient_quota", "code": "credit_balance_exhausted"}}),
        (429, {"error": {"code": "project_spend_limit_exceeded"}}),
        (429, {"error": {"code": "InsufficientQuota", "message": "x"}}),
        (
            429,
            {
                "type": "error",
                "error": {
                    "type": "rate_limit_error",
                    "details": {"error_code": "enforced_spend_limit_reached"},
                },
            },
        ),
        (402, {"error": {"code": 402, "message": "Insufficient credits"}}),
        (402, {}),
        (429, {"error": {"metadata": {"limit_source": "openrouter_credits"}}}),
        (
            429,
            {
                "error": {
                    "message": "Budget has been exceeded! Current cost: 1, Max budget: 1",
                    "type": "budget_exceeded",
                }
            },
        ),
        (
            429,
            {
                "error": {
                    "status": "RESOURCE_EXHAUSTED",
                    "details": [
                        {"violations": [{"quotaId": "FreeTier", "quotaValue": "0"}]},
                        {"retryDelay": "37000s"},
                    ],
                }
            },
        ),
    ],
)
def test_an_exhausted_quota_is_known_by_its_body(status, body):
    """Each provider's spelling; none is a rate, whatever Retry-After says."""
    for given in (body, json.dumps(body).encode(), json.dumps(body)):
        answer = read_answer(status, {"retry-after": "60"} if status == 429 else {}, body=given)
        assert answer.exhausted
        assert not any((answer.limited, answer.later, answer.transient, answer.overloaded))


@pytest.mark.parametrize(
    ("message", "hopeless"),
    [
        ("Request too large for gpt-4o on tokens per min (TPM): Limit 30000, Requested 43010.", True),
        ("The input or output tokens must be reduced in order to run successfully.", True),
        ("on tokens per min (TPM): Limit: 6,000, Requested: 7,200. Please try again", True),
        (
            "Rate limit reached on TPM: Limit 30000, Used 29000, Requested 2000. Please try again in 2s.",
            False,
        ),
        ("Rate limit reached for requests", False),
    ],
)
def test_a_call_larger_than_the_limit_is_hopeless(message, hopeless):
    """A 429 that no waiting heals is told from a rate by what it says of the limit and the request."""
    assert read_answer(429, {}, body={"error": {"message": message}}).hopeless is hopeless
    assert (
        read(PlainError(status_code=429, code="rate_limit_exceeded", message=message)).limited is not hopeless
    )


class ApiError(PlainError):
    pass


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"type": "error", "error": {"type": "overloaded_error", "message": "x"}}, 529),
        ({"type": "error", "error": {"type": "rate_limit_error", "message": "x"}}, 429),
        ({"message": "x", "type": "requests", "code": "rate_limit_exceeded"}, 429),
        ({"message": "x", "type": "server_error", "code": None}, 500),
        ({"message": "x", "code": 502}, 502),
        ({"message": "x", "code": "429"}, 429),
        ({"message": "x", "type": "something_new"}, 200),
    ],
)
def test_an_error_inside_a_stream_is_read_by_its_words(body, status):
    """Its HTTP status is 200; openai's has none at all."""
    assert read(ApiError(status_code=200, body=body)).status == status
    assert read(ApiError(body=body)).status == (status if status != 200 else None)


@pytest.mark.parametrize(
    "code", ["ThrottlingException", "ProvisionedThroughputExceededException", "Throttling"]
)
def test_aws_throttles_under_other_statuses(code):
    """DynamoDB and others answer 400; the word counts."""
    error = ClientError({"Error": {"Code": code}, "ResponseMetadata": {"HTTPStatusCode": 400}}, "PutItem")
    assert read(error).limited


@pytest.mark.parametrize(
    "error",
    [
        PlainError(code=11000),
        PlainError(code=429),
        PlainError(code=503, details={"code": 503}),
        PlainError(status_code="429"),
        PlainError(status_code=True),
        PlainError(status_code=4290),
        PlainError(status="429"),
        ValueError(429),
        LimitTimeout("no", retry_after=1.0),
    ],
)
def test_what_is_no_http_status_is_none(error):
    """An integer `code` belongs to a database as well, and our own refusals are no server's."""
    assert read(error).status is None


def test_google_says_429_by_its_word():
    """google-genai has an int `code` beside the word, and the JSON in `details`."""
    body = {"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "details": [{"retryDelay": "34s"}]}}
    error = PlainError(code=429, status="RESOURCE_EXHAUSTED", details=body, response=Plain())
    assert (read(error).status, read(error).retry_after) == (429, 34.0)


@pytest.mark.parametrize("delay", [timedelta(seconds=3.5), Plain(seconds=3, nanos=500_000_000)])
def test_google_core_keeps_messages(delay):
    """google-api-core parses RetryInfo into messages."""
    assert (
        read(PlainError(code=HTTPStatus(429), details=[Plain(), Plain(retry_delay=delay)])).retry_after == 3.5
    )


class RpcError(Exception):
    """Stand for grpc.RpcError: code() and trailing_metadata() are methods."""

    def code(self):
        return Plain(name="RESOURCE_EXHAUSTED", value=(8, "resource exhausted"))

    def details(self):
        return "Quota exceeded"

    def trailing_metadata(self):
        delay = b"\x08\x22\x10\x80\xca\xb5\xee\x01"  # 34 s, 500,000,000 ns
        info = b"\x0a" + bytes([len(delay)]) + delay
        url = b"type.googleapis.com/google.rpc.RetryInfo"
        anything = b"\x0a" + bytes([len(url)]) + url + b"\x12" + bytes([len(info)]) + info
        return (("grpc-status-details-bin", b"\x08\x08\x1a" + bytes([len(anything)]) + anything),)


def test_grpc_carries_it_in_the_trailer():
    """The status is a method's name, the delay a serialised google.rpc.RetryInfo."""
    assert (read(RpcError()).status, read(RpcError()).retry_after) == (429, 34.5)


def test_our_own_error_goes_before_its_response():
    """What `limited()` made carries the library's response too."""
    error = RateLimited("no", retry_after=3.0)
    assert (read(error).status, read(error).retry_after) == (429, 3.0)
    error.response = Plain(status_code=503, headers={"x-a": "b"})
    assert (read(error).status, dict(read(error).headers)) == (429, {"x-a": "b"})


@pytest.mark.parametrize(
    ("error", "broken"),
    [
        (httpx.RemoteProtocolError("Server disconnected"), True),
        (httpx2.RemoteProtocolError("peer closed connection"), True),
        (httpx.ReadTimeout("slow"), True),
        (httpx.LocalProtocolError("bad header"), False),
        (requests.exceptions.ChunkedEncodingError("IncompleteRead"), True),
        (requests.exceptions.ConnectionError("reset"), True),
        (requests.exceptions.InvalidURL("x"), False),
        (openai.APIConnectionError(request=httpx2.Request("GET", "http://a")), True),
        (ConnectionClosedError(endpoint_url="http://a"), True),
        (ConnectionResetError(), True),
        (socket.gaierror(), True),
        (PermissionError(), False),
        (ValueError(), False),
    ],
)
def test_a_disconnect_is_known_whatever_its_class(error, broken):
    """Clients' own network errors descend from no ConnectionError; a request that is wrong stays wrong."""
    assert is_disconnect(error) is broken


def test_a_context_counts_only_from_the_call_on():
    """What was handled before, and what a bug merely followed, says nothing of the call."""
    refused, failed, bug = ConnectionRefusedError(), PlainError(), ValueError()
    failed.__context__ = bug.__context__ = refused
    assert is_disconnect(failed)
    assert not is_disconnect(failed, since=refused)
    assert not is_disconnect(bug)
    refused.__context__ = failed  # a circle
    assert is_disconnect(failed)


def test_a_reader_of_ones_own_goes_first(monkeypatch):
    """It is asked for its type and subclasses; None and a failure leave it to the built-in reading."""
    monkeypatch.setattr("greenkit.responses._read._readers", {})

    class VendorError(PlainError): ...

    class SpecialError(VendorError): ...

    responses.register(VendorError, lambda error: Answer(error.kind, retry_after=2.0) if error.kind else None)
    assert read(SpecialError(kind=429)) == Answer(429, retry_after=2.0)
    assert read(SpecialError(kind=0, status_code=503)).status == 503
    responses.register(SpecialError, lambda error: 1 / 0)
    assert read(SpecialError(kind=429, status_code=503)).status == 503
    assert read(VendorError(kind=429)).status == 429
    for wrong in ((int, read), ("VendorError", read), (VendorError, "x")):
        with pytest.raises(TypeError, match="register"):
            responses.register(*wrong)


def test_nothing_is_read_from_a_connection():
    """The body of a streamed answer is still on the wire: looking at an error must not wait for it."""

    class Streamed:
        status_code, headers, _content = 429, {}, False

        @property
        def content(self):
            raise AssertionError("read from the connection")

        text = json = content

    assert read(PlainError(response=Streamed())).limited


def test_reset_by_the_clock_of_this_machine():
    """Without a Date of the server ours is taken."""
    then = (datetime.now(timezone.utc) + timedelta(seconds=60)).isoformat()
    assert read_answer(429, {"anthropic-ratelimit-requests-reset": then}).retry_after == pytest.approx(
        60, abs=20
    )
