from __future__ import annotations

import pytest

from greenkit.boot import decide, what_runs

GREEN = [
    "-P gevent",
    "-Pgevent",
    "--pool gevent",
    "--pool=gevent",
    "-EP gevent",
    "-EPgevent",
    "-l info -c 8 -Pgevent",
    "-lINFO -EPgevent -Q a,b",
    "-n multi -P gevent",
    "-P prefork --pool=gevent",
    "--time-limit 30 -P gevent --without-gossip",
]
NOT_GREEN = [
    "",
    "-P prefork",
    "-Pthreads",
    "--pool=solo",
    "-P gevent --pool=solo",
    "-n gevent",
    "-n -Pgevent",
    "-lPgevent",
    "--hostname -Pgevent",
    "-Q gevent",
    "-- -P gevent",
    "-P Gevent",
    "-P eventlet",
]


@pytest.mark.parametrize("options", GREEN)
def test_a_gevent_pool_is_read_in_any_spelling(options):
    """Whatever click reads as the gevent pool is read as the gevent pool."""
    decision = decide(["/venv/bin/celery", "-A", "proj", "worker", *options.split()], {})
    assert decision.patch
    assert decision.worker
    assert decision.pool == "gevent"


@pytest.mark.parametrize("options", NOT_GREEN)
def test_a_worker_with_another_pool_is_left_alone(options):
    """A pool that is not gevent's, and a word that only looks like one, patches nothing."""
    decision = decide(["celery", "-A", "proj", "worker", *options.split()], {})
    assert decision.worker
    assert not decision.patch


@pytest.mark.parametrize(
    "line",
    [
        "celery -A proj beat",
        "celery -A proj flower",
        "celery --app=proj shell",
        "celery -Aproj inspect active",
        "celery -b redis:// -A proj events",
        "celery -qA proj purge -P gevent",
        "celery -A worker beat",
        "celery --workdir worker beat",
        "celery multi start w1 -P gevent",
        "celery --help",
        "/site-packages/celery/__main__.py -A proj beat",
        "flower --broker=redis://",
        "uvicorn proj.asgi",
        "/venv/bin/daphne proj.asgi:application",
    ],
)
def test_what_runs_no_tasks_is_left_alone(line):
    """Only `celery worker` runs tasks; servers with their own loop or threads are not touched."""
    assert not decide(line.split(), {}).patch


@pytest.mark.parametrize(
    "line",
    [
        "manage.py runserver",
        "gunicorn proj.wsgi",
        "script.py worker -P prefork",
        "script.py worker --pool=gevent",
        "script.py worker -P gevent",
        "",
    ],
)
def test_what_is_not_celery_is_patched(line):
    """A program that asks for the patch gets it."""
    assert decide(line.split(), {}).patch


def test_the_environment_names_the_pool():
    """`CELERY_WORKER_POOL` counts as click counts it: below the command line."""
    environ = {"CELERY_WORKER_POOL": "gevent"}
    assert decide(["celery", "worker"], environ).patch
    assert not decide(["celery", "worker", "-P", "solo"], environ).patch


def test_a_custom_pool_is_green_when_its_class_is():
    """`-P custom` is read through `CELERY_CUSTOM_WORKER_POOL`."""
    line = ["celery", "worker", "-P", "custom"]
    assert decide(line, {"CELERY_CUSTOM_WORKER_POOL": "greenkit.celery:TaskPool"}).patch
    assert decide(line, {"CELERY_CUSTOM_WORKER_POOL": "celery.concurrency.gevent:TaskPool"}).patch
    assert not decide(line, {"CELERY_CUSTOM_WORKER_POOL": "aio_pool:Pool"}).patch


def test_python_dash_m_is_seen_before_argv_is_complete():
    """While `python -m celery` is being located argv[0] is "-m" and only orig_argv knows more."""
    orig = ["/usr/bin/python", "-m", "celery", "-A", "proj", "beat"]
    assert not decide(["-m", *orig[3:]], {}, orig_argv=orig).patch


def test_a_web_process_that_loaded_django_first_is_too_late():
    """Django's connections belong to native threads by then; a gevent worker is patched all the same."""
    decision = decide(["manage.py", "runserver"], {}, loaded={"django.db"})
    assert decision.late
    assert not decision.patch
    assert decide(["celery", "worker", "-Pgevent"], {}, loaded={"django.db"}).patch


@pytest.mark.parametrize(
    ("options", "environ", "patched"),
    [
        ("shop.wsgi", {}, True),
        ("-k gevent shop.wsgi", {}, True),
        ("--worker-class=sync --threads 1 shop.wsgi", {}, True),
        ("-k gevent --threads 8 shop.wsgi", {}, True),
        ("-k gthread shop.wsgi", {}, False),
        ("-kgthread shop.wsgi", {}, False),
        ("--worker-class gthread shop.wsgi", {}, False),
        ("--threads 8 shop.wsgi", {}, False),
        ("--threads=8 -k sync shop.wsgi", {}, False),
        ("-k uvicorn.workers.UvicornWorker shop.asgi", {}, False),
        ("shop.wsgi", {"GUNICORN_CMD_ARGS": "-k gthread --bind :80"}, False),
        ("-k gevent shop.wsgi", {"GUNICORN_CMD_ARGS": "-k gthread"}, True),
    ],
)
def test_gunicorns_worker_decides(options, environ, patched):
    """A gthread worker never answers when it is patched, and asyncio workers have a loop of their own."""
    decision = decide(["/venv/bin/gunicorn", *options.split()], environ)
    assert decision.patch is patched
    assert patched or "gunicorn's" in decision.reason


@pytest.mark.parametrize("server", ["gunicorn.workers.gthread", "gunicorn.workers.gtornado", "uvicorn"])
def test_an_application_is_not_patched_under_a_server_that_cannot_be(server):
    """A wsgi.py is imported by its server, whose module is loaded by then."""
    assert not decide(["serve.py"], {}, loaded={server}).patch


@pytest.mark.parametrize(
    ("argv", "orig", "runs"),
    [
        ("-m a b", "python -m celery a b", "celery"),
        ("-m -m x", "python -W error -m celery -m x", "celery"),
        ("-m a", "python -mcelery a", "celery"),
        ("-m", "python -Imcelery", "celery"),
        ("-c a", "python -B -c code a", "code"),
        ("-c", "python -ccode", "code"),
        ("shop/manage.py -m x", "python shop/manage.py -m x", "shop/manage.py"),
        ("-m", "", ""),
        ("", "", ""),
    ],
)
def test_what_runs_is_known_before_it_is_found(argv, orig, runs):
    """While Python starts up, the word before the arguments names the module or holds the code."""
    assert what_runs(argv.split(), orig.split()) == runs


def test_a_module_being_located_is_judged_by_its_name():
    """`python -m celery` and `python -mcelery` are Celery before their `__main__` is found."""
    for orig in ("python -m celery -A proj worker", "python -mcelery -A proj worker"):
        assert decide(["-m", "-A", "proj", "worker"], {}, orig_argv=orig.split()).worker
