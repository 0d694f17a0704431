"""Passwords do not leave the doctor."""

from __future__ import annotations

import pytest

from greenkit.doctor._diagnosis import Diagnosis, Ended, to_json
from greenkit.doctor._render import to_text
from greenkit.doctor._secrets import without_secrets
from greenkit.findings import Finding, Severity

SECRET = "s3cr3tCANARY"
TEXTS = [
    f"redis://:{SECRET}@host:6379/0",
    f"amqp://user:{SECRET}@host//",
    f"amqp://user:p@ss/{SECRET}@host//",
    f"sentinel://:{SECRET}@a;sentinel://:{SECRET}@b",
    f"https://{SECRET}@sentry.example/1",
    f"host=db user=me password={SECRET} dbname=x",
    f"password='{SECRET}'",
    f'{{"api_key": "{SECRET}"}}',
    f"celery worker --broker-password={SECRET}",
    f"run --token {SECRET} now",
    f"DB_PASSWORD={SECRET}",
    f"postgresql://host/db?user=me&password={SECRET}",
    f"AWS_SECRET_ACCESS_KEY={SECRET}",
    f"OPENAI_API_KEY={SECRET}",
    f"sk-proj-{SECRET}{SECRET}",
]
PLAIN = [
    "redis://host:6379/0",
    "http://127.0.0.1:8000/a?b=c@d",
    "amqp://user@host//",
    "app.py:3: jobs.sleep (module global) holds the original time.sleep: it stops every greenlet",
    "_thread.lock: it locks up",
    "tokens: 5 per minute",
    "python app.py --port 80 --author=me",
    "12 tokens=5",
]


@pytest.mark.parametrize("text", TEXTS)
def test_a_password_is_hidden(text):
    """In URLs, options, settings and DSNs; the rest of the text stays."""
    shown = without_secrets(text)
    assert SECRET not in shown
    assert "***" in shown


@pytest.mark.parametrize("text", PLAIN)
def test_what_is_no_secret_stays(text):
    """Nothing is hidden that is not one."""
    assert without_secrets(text) == text


def test_the_word_after_an_option_is_hidden():
    """In the words of a command line, whatever the container."""
    assert without_secrets(("run", "--password", SECRET, "-v")) == ("run", "--password", "***", "-v")
    assert without_secrets({"argv": ["--token", SECRET], "password": SECRET, "n": 1}) == {
        "argv": ["--token", "***"], "password": "***", "n": 1,
    }  # fmt: skip


@pytest.mark.parametrize("render", [to_json, to_text])
def test_no_way_out_shows_one(render):
    """Subject, command, processes, findings, problem, trace: in the document and in the text."""
    url = f"redis://:{SECRET}@host/0"
    diagnosis = Diagnosis(
        findings=(
            Finding("GK401", Severity.ERROR, f"a call to {url}", hint=url, evidence=(url,), holder=url),
        ),
        subject=f"app --broker {url}",
        problem=f"cannot reach {url}",
        trace=(f"app.py:1: connect({url!r})",),
        ended=Ended(("app", "--broker", url, "--password", SECRET), "exit", 1),
        processes=({"pid": 1, "argv": ["app", url, "--token", SECRET], "patched": True},),
        live={"pools": {url: {"dsn": url}}},
    )
    assert SECRET not in render(diagnosis)
