"""A Django project with async views, ADRF's and sync ones, for gunicorn's gevent worker."""

import greenkit.auto

import asyncio
import json
import os

import django
import gevent
from asgiref.sync import async_to_sync, sync_to_async
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.db import connection, models, transaction
from django.http import JsonResponse, StreamingHttpResponse
from django.test import AsyncClient
from django.urls import path

from greenkit import aio

given = json.loads(os.environ["DATABASE"])
settings.configure(
    SECRET_KEY="test",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    USE_TZ=True,
    REST_FRAMEWORK={"UNAUTHENTICATED_USER": None, "DEFAULT_AUTHENTICATION_CLASSES": []},
    INSTALLED_APPS=["greenkit.django", "rest_framework"],
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    DATABASES={
        "default": {
            "ENGINE": "greenkit.django.postgresql",
            "HOST": given["host"], "PORT": given["port"], "USER": given["user"], "NAME": given["dbname"],
            "OPTIONS": {"pool": {"max_size": 10, "timeout": 20}},
        }
    },
)  # fmt: skip
django.setup()

from adrf.decorators import api_view
from adrf.views import APIView
from rest_framework.response import Response


class Note(models.Model):
    text = models.TextField()

    class Meta:  # noqa: D106 - Django's
        app_label = "notes"


if os.environ.get("MIGRATE"):
    with connection.schema_editor() as editor:
        editor.create_model(Note)
    raise SystemExit


class Counted:
    """How many requests are between two awaits at once."""

    running = most = 0

    async def __aenter__(self):
        Counted.running += 1
        Counted.most = max(Counted.most, Counted.running)

    async def __aexit__(self, *_):
        Counted.running -= 1


async def work(text):
    async with Counted():
        note = await Note.objects.acreate(text=text)
        await asyncio.sleep(0.05)
        found = await Note.objects.filter(pk=note.pk).acount()
        return {"found": found, "most": Counted.most}


async def async_view(request):
    return JsonResponse(await work("async view"))


def sync_view(request):
    with transaction.atomic():
        return JsonResponse(async_to_sync(work)("bridged"))


def sync_view_over_aio(request):
    with transaction.atomic():
        return JsonResponse(aio.run(work("aio")))


class Rest(APIView):
    async def get(self, request):
        return Response(await work("adrf class"))


@api_view(["GET"])
async def rest(request):
    return Response(await work("adrf function"))


def one_note(text):
    with transaction.atomic():
        return Note.objects.create(text=text).pk


async def mixed(request):
    pk = await sync_to_async(one_note)("mixed")
    assert await Note.objects.filter(pk=pk).aexists()
    return JsonResponse(await work("mixed"))


async def numbers():
    for number in range(5):
        await asyncio.sleep(0.01)
        yield f"{number}\n"


def streamed(request):
    return StreamingHttpResponse(aio.iterate(numbers()))


def through_the_client(request):
    async def get():
        answer = await AsyncClient().get("/async")
        return answer.json()

    return JsonResponse(asyncio.run(get()))


def rolled_back(request):
    try:
        with transaction.atomic():
            async_to_sync(work)("rolled back")
            raise KeyError
    except KeyError:
        return JsonResponse({"left": Note.objects.filter(text="rolled back").count()})


def abandoned(request):
    """Time runs out in the middle of a coroutine; the next request of the worker finds nothing of it."""
    try:
        with gevent.Timeout(0.02):
            async_to_sync(work)("abandoned")
    except gevent.Timeout:
        return JsonResponse({"running": Counted.running})
    return JsonResponse({})


def count(request):
    with connection.cursor() as cursor:
        cursor.execute("select count(*) from pg_stat_activity where application_name like '%%'"
                       " and backend_type = 'client backend'")  # fmt: skip
        return JsonResponse(
            {"rows": Note.objects.count(), "connections": cursor.fetchone()[0], "most": Counted.most}
        )


urlpatterns = [
    path("async", async_view),
    path("sync", sync_view),
    path("aio", sync_view_over_aio),
    path("class", Rest.as_view()),
    path("function", rest),
    path("mixed", mixed),
    path("streamed", streamed),
    path("client", through_the_client),
    path("rolled-back", rolled_back),
    path("abandoned", abandoned),
    path("count", count),
]
application = get_wsgi_application()
