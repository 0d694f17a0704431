"""Stand-ins for what the pages take for granted: a model's API, an HTTP API, a Django project."""

from __future__ import annotations

import json
import os
import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import requests

DEFAULTS = {
    "AUTOCOMMIT": True,
    "ATOMIC_REQUESTS": False,
    "CONN_MAX_AGE": 0,
    "CONN_HEALTH_CHECKS": False,
    "TIME_ZONE": None,
    "TEST": {},
}


class _Responses:
    def create(self, *args: Any, input: str = "", **options: Any) -> Any:
        """Answer with the question."""
        used = SimpleNamespace(total_tokens=len(input), input_tokens=len(input), output_tokens=1)
        return SimpleNamespace(output_text=input, usage=used, model=options.get("model"))


class Client:
    """An OpenAI client that answers with the question."""

    def __init__(self, **options: Any) -> None:
        self.responses = _Responses()


class _AsyncResponses(_Responses):
    async def create(self, *args: Any, stream: bool = False, **options: Any) -> Any:
        """Answer with the question, or word by word."""
        reply = super().create(*args, **options)
        return _words(reply.output_text) if stream else reply


async def _words(text: str) -> Any:
    for word in text.split():
        yield SimpleNamespace(type="response.output_text.delta", delta=word)


def openai() -> None:
    """Put a client that needs no network in the place of `AsyncOpenAI`."""
    import openai as library

    library.AsyncOpenAI = lambda: SimpleNamespace(responses=_AsyncResponses())  # type: ignore[assignment,misc]


class Canned(requests.adapters.BaseAdapter):
    """A server that says the same to everybody."""

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self._body = json.dumps(answer).encode()

    def send(self, request: Any, **options: Any) -> requests.Response:
        """Answer at once."""
        response = requests.Response()
        response.status_code, response._content = 200, self._body
        response.request, response.url = request, request.url
        return response

    def close(self) -> None:
        """Have nothing to close."""


def databases() -> dict[str, Any]:
    """Return Django's DATABASES for the test's server."""
    from urllib.parse import parse_qsl, urlsplit

    parts = urlsplit(os.environ["GREENKIT_POSTGRES"])
    host = dict(parse_qsl(parts.query)).get("host", parts.hostname)
    return {
        "default": {
            "ENGINE": "greenkit.django.postgresql",
            "NAME": parts.path.lstrip("/"),
            "USER": parts.username,
            "HOST": host,
            "OPTIONS": {"pool": {"max_size": 4}},
        }
    }


def django() -> Any:
    """Set up a project `shop` with tables; return its models."""
    import django as library
    from django.conf import settings

    shop = ModuleType("shop")
    shop.__path__, shop.__file__ = [], "shop/__init__.py"  # type: ignore[attr-defined]
    sys.modules["shop"] = shop
    settings.configure(DATABASES=databases(), INSTALLED_APPS=["greenkit.django"], USE_TZ=True)
    library.setup()
    from django.db import connection, models

    class Row(models.Model):
        text = models.TextField()

        class Meta:
            abstract = True

        def __str__(self) -> str:
            return self.text

    class Ticket(Row):
        label = models.TextField(default="")

        class Meta:
            app_label = "shop"

    class Answer(Row):
        class Meta:
            app_label = "shop"

    class Question(Row):
        answer = models.TextField(default="")

        class Meta:
            app_label = "shop"

        def save_answer(self, answer: Any) -> None:
            """Write the answer."""
            self.answer = answer.output_text
            self.save()

    with connection.schema_editor() as editor:
        for model in (Ticket, Answer, Question):
            editor.execute(f'DROP TABLE IF EXISTS "{model._meta.db_table}"')
            editor.create_model(model)
    return SimpleNamespace(Ticket=Ticket, Answer=Answer, Question=Question)


def check_engine(settings: dict[str, Any]) -> None:
    """Fail unless the engine takes the settings: its pool is made of them."""
    from greenkit.django.postgresql import base

    wrapper = base.DatabaseWrapper(
        {**DEFAULTS, "USER": "", "PASSWORD": "", "HOST": "", "PORT": "", **settings["default"]}
    )
    assert wrapper.pool is not None
