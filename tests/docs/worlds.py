"""What the blocks of a page find around them, page by page, and what must have come of them."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import textwrap
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from tests.docs import stand_ins

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.docs.stage import Stage

WORLDS: dict[str, Callable[[Stage], None]] = {}


def world(page: str) -> Callable[[Callable[[Stage], None]], Callable[[Stage], None]]:
    """Register the function as the world of `page`."""

    def register(fn: Callable[[Stage], None]) -> Callable[[Stage], None]:
        WORLDS[f"docs/{page}.md"] = fn
        return fn

    return register


@world("howto/add-to-a-project")
def _add_to_a_project(stage: Stage) -> None:
    stage.take().write(Path.cwd())
    stage.take().write(Path.cwd())
    Path("shop/settings.py").write_text("CELERY_TIMEZONE = 'UTC'\nINSTALLED_APPS = []\n", encoding="utf-8")
    sys.path.insert(0, str(Path.cwd()))
    import shop

    assert shop.celery_app.conf.timezone == "UTC"
    names = stage.run(DATABASES=stand_ins.databases())
    stand_ins.check_engine(names["DATABASES"])
    stage.run()


@world("howto/call-an-async-library")
def _async_library(stage: Stage) -> None:
    stand_ins.openai()
    published: list[str] = []
    stage.run()
    names = stage.run(publish=published.append)
    assert names["answer"]("hello") == "hello"
    assert [reply.output_text for reply in names["compare"]("x", ["small", "large"])] == ["x", "x"]
    names["stream_answer"]("two words")
    assert published == ["two", "words"]


@world("howto/call-an-http-api")
def _http_api(stage: Stage) -> None:
    names = stage.run()
    names["http"].mount("https://api.example.org", stand_ins.Canned({"stock": 7}))
    assert names["stock"]("a-1") == 7


@world("howto/fan-out-in-a-command")
def _fan_out(stage: Stage) -> None:
    models = stand_ins.django()
    models.Ticket.objects.bulk_create(models.Ticket(text=str(n)) for n in range(250))
    stage.run()
    names = stage.run(Ticket=models.Ticket, ask=lambda ticket: ticket.text)
    names["handle"](SimpleNamespace(stderr=sys.stderr))
    assert models.Ticket.objects.exclude(label="").count() == 250


@world("howto/find-what-blocks")
def _find_what_blocks(stage: Stage) -> None:
    names = stage.run()
    stage.run()
    names["note"](SimpleNamespace(where="shop/tasks.py:11", call="time.sleep", task=""))
    names["greenkit"].watchdog.stop()


@world("howto/hold-no-connection")
def _hold_no_connection(stage: Stage) -> None:
    from django.db import connection, transaction

    models = stand_ins.django()
    question = models.Question.objects.create(text="why?")
    common = {"client": stand_ins.Client(), "transaction": transaction, "connection": connection}
    stage.run(**common, Answer=models.Answer, text="hello")
    stage.run(Question=models.Question, pk=question.pk)
    assert models.Answer.objects.get(text="hello").pk
    assert models.Question.objects.get().answer == "why?"
    stage.run(DATABASES=stand_ins.databases())
    stand_ins.check_engine(stage.names["DATABASES"])


@world("howto/keep-tests-from-blocking")
def _keep_tests_from_blocking(stage: Stage) -> None:
    first, second = stage.take(), stage.take()
    slow = "import hashlib\nslow_hash = lambda: hashlib.pbkdf2_hmac('sha256', b'', b'', 10**6)\n"
    Path("test_page.py").write_text(first.text + slow + second.text, encoding="utf-8")
    from tests.docs.pages import blocks

    ini = next(block for block in blocks(stage.page) if block.language == "ini")
    Path("pytest.ini").write_text(ini.text + "    test_page.py\n", encoding="utf-8")
    _run("-m", "pytest", "-q", "-p", "no:randomly")


@world("howto/layer-engines")
def _layer_engines(stage: Stage) -> None:
    from django.conf import settings as django_settings

    from greenkit.django.postgresql import base

    django_settings.configure()
    names = stage.run(base=base, fresh_token=lambda: "token")
    settings = {"NAME": "shop", "USER": "ann", "PASSWORD": "old", "HOST": "", "PORT": "", "OPTIONS": {}}
    wrapper = names["DatabaseWrapper"]({**stand_ins.DEFAULTS, **settings})
    assert wrapper.get_connection_params()["password"] == "token"


@world("howto/postgres-errors")
def _postgres_errors(stage: Stage) -> None:
    names = stage.run(DATABASES={"default": stand_ins.databases()["default"] | {"ENGINE": "", "OPTIONS": {}}})
    stand_ins.check_engine(names["DATABASES"])


@world("howto/session-state")
def _session_state(stage: Stage) -> None:
    import psycopg2

    names = stage.run(DATABASES=stand_ins.databases())
    connection = psycopg2.connect(os.environ["GREENKIT_POSTGRES"])
    connection.autocommit = True
    cursor = connection.cursor()
    cursor.execute("SET statement_timeout = '5s'")
    names["DATABASES"]["default"]["OPTIONS"]["pool"]["reset"](connection)
    cursor.execute("SHOW statement_timeout")
    assert cursor.fetchone() == ("0",)


@world("howto/stop-a-celery-worker")
def _stop_a_worker(stage: Stage) -> None:
    import celery

    import greenkit.celery

    app = celery.Celery("shop")
    stage.run(app=app, greenkit=greenkit)
    assert app.conf.task_acks_late


@world("howto/test-your-project")
def _test_your_project(stage: Stage) -> None:
    Path("shop").mkdir()
    Path("shop/__init__.py").write_text("import greenkit.auto\n", encoding="utf-8")
    Path("shop/celery.py").write_text("from celery import Celery\napp = Celery('shop')\n", encoding="utf-8")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path.cwd()), os.environ.get("PYTHONPATH", "")])
    stage.run()["test_the_worker_module_patches_first"]()


@world("howto/use-the-openai-sdk")
def _openai_sdk(stage: Stage) -> None:
    from greenkit.testing import MockLLM

    with MockLLM() as mock:
        os.environ["OPENAI_BASE_URL"] = mock.url + "/v1"
        from django.conf import settings

        settings.configure(OPENAI_API_KEY="any")
        while stage.left:
            stage.take().write(Path.cwd())
        sys.path.insert(0, str(Path.cwd()))
        from shop.tasks import answer

        assert answer("hello")


@world("reference/aio")
def _aio(stage: Stage) -> None:
    from greenkit import Limiter

    stand_ins.openai()
    assert stage.run()["ask"]("hello") == "hello"
    llm = Limiter("llm", requests="100/s", tokens="90_000/min")
    stage.run(llm=llm, prompt="hello")
    assert llm.statistics().granted == 2


@world("reference/celery")
def _celery(stage: Stage) -> None:
    from greenkit import Limiter

    client = stand_ins.Client()
    stage.run()
    search = SimpleNamespace(close=lambda: None)
    stage.run(SearchClient=lambda url: search)
    stage.names["connect"]()
    stage.names["disconnect"]()
    stage.run(Limiter=Limiter, client=client)
    assert stage.names["ask"].limits is stage.names["llm"]
    stage.run(client=SimpleNamespace(ask=str.upper))
    assert stage.names["answer"]("why?") == "WHY?"
    sent: list[list[tuple[int]]] = []
    import greenkit.celery

    greenkit.celery.publish_many = lambda task, items: sent.append(items)  # type: ignore[assignment]
    models = stand_ins.django()
    stage.run(Question=models.Question, texts=["a", "b"])
    assert len(sent[0]) == 2


@world("reference/django")
def _django(stage: Stage) -> None:
    names = stage.run()
    stand_ins.check_engine(names["DATABASES"])
    assert stage.run(INSTALLED_APPS=[])["INSTALLED_APPS"] == ["greenkit.django"]


@world("reference/http")
def _http(stage: Stage) -> None:
    os.environ["OPENAI_API_KEY"] = "any"
    stage.run()


@world("reference/limits")
def _limits(stage: Stage) -> None:
    from greenkit import Limiter

    stage.run(client=stand_ins.Client())
    assert stage.names["llm"].statistics().granted == 1
    stage.run()
    llm = Limiter("priced", requests="100/s burst 10", tokens="90_000/min burst 9_000", cost="$2/h")
    stage.run(llm=llm, prompt="why?")
    assert llm.statistics().granted == 1
    reply = SimpleNamespace(usage=SimpleNamespace(total_tokens=700))
    stage.run(ask=lambda: reply, prompt_tokens=100)
    assert llm.statistics().granted == 2


@world("reference/offload")
def _offload(stage: Stage) -> None:
    page = SimpleNamespace(write_pdf=lambda: b"%PDF")
    sys.modules["weasyprint"] = SimpleNamespace(HTML=lambda string: page)  # type: ignore[assignment]
    names = stage.run(password=b"secret", salt=b"salt")
    assert names["digest"] == hashlib.pbkdf2_hmac("sha256", b"secret", b"salt", 600_000)
    assert names["render"]("<p>") == b"%PDF"


@world("reference/pool")
def _pool(stage: Stage) -> None:
    from greenkit import Limiter

    saved: dict[str, object] = {}
    llm = Limiter("llm", requests="100/s burst 10", tokens="90_000/min")
    stage.run(
        llm=llm,
        estimate=lambda row: {"tokens": 100},
        usage_of=lambda answer: {"tokens": len(answer)},
        ask=str.upper,
        rows=["a", "b"],
        save=saved.__setitem__,
    )
    assert saved == {"a": "A", "b": "B"}
    fetched: list[str] = []
    stage.run(fetch=fetched.append, urls=["https://a.example/1", "https://b.example/1"])
    assert len(fetched) == 2


@world("reference/postgres")
def _postgres(stage: Stage) -> None:
    import sqlalchemy

    names = stage.run(DSN=os.environ["GREENKIT_POSTGRES"])
    stage.run(create_engine=sqlalchemy.create_engine)
    with names["engine"].connect() as connection:
        assert connection.execute(sqlalchemy.text("select 2")).scalar() == 2


@world("reference/responses")
def _responses(stage: Stage) -> None:
    class VendorError(Exception):
        busy, wait_ms = True, 1500

    names = stage.run(error=VendorError(), status=429, headers={}, body=None)
    stage.run(VendorError=VendorError)
    assert names["read"](VendorError()).retry_after == 1.5


@world("howto/share-one-quota")
def _share_one_quota(stage: Stage) -> None:
    import math

    import celery
    import gevent

    from greenkit import WouldWait

    _configure(REDIS_URL=os.environ["GREENKIT_REDIS"])
    names = stage.run()
    app = celery.Celery("shop")
    stage.run(app=app, WouldWait=WouldWait, client_ask=str.upper, estimate=10)
    assert names["ask"]("why?") == "WHY?"
    block = stage.take().text
    view = "def view(llm, Response, math):\n" + textwrap.indent(block, "    ")
    exec(compile(view, "view", "exec"), names)
    # A shared budget begins empty and fills at its rate.
    while (refusal := names["view"](names["llm"], dict, math)) is not None:
        assert refusal["status"] == 429
        gevent.sleep(0.1)
    assert names["llm"].statistics().backend == "shared"


@world("howto/keep-to-a-budget")
def _keep_to_a_budget(stage: Stage) -> None:
    import logging

    from greenkit import Limiter, LimitTimeout

    _configure(REDIS_URL=os.environ["GREENKIT_REDIS"])
    stage.run()
    # The shared budget begins empty; one of this process has its burst.
    llm = Limiter("llm", requests="500/min", tokens="90_000/min burst 9_000", cost=["$2/h", "$20/day"])
    stage.run(llm=llm, client=stand_ins.Client(), prompt="why?", prompt_tokens=10, max_tokens=50)

    def ask(prompt: str) -> None:
        raise LimitTimeout("used up", retry_after=60.0, window="cost $2/h")

    stage.run(ask=ask, log=logging.getLogger("page"), LimitTimeout=LimitTimeout)


@world("howto/send-to-channels-groups")
def _send_to_groups(stage: Stage) -> None:
    _configure(CHANNEL_LAYERS={"default": {"BACKEND": "channels.layers.InMemoryChannelLayer"}})
    names = stage.run()
    names["answer"](7)
    stage.run(
        pk=7, message={"type": "a"}, layer=names["get_channel_layer"](), groups=["one", "two"], group="one"
    )


@world("howto/time-limits-on-gevent")
def _time_limits(stage: Stage) -> None:
    names = stage.run(ask=str.upper)
    assert names["answer"]("why?") == "WHY?"
    assert (names["answer"].soft_time_limit, names["answer"].time_limit) == (30, 40)


@world("howto/answer-429")
def _answer_429(stage: Stage) -> None:
    import celery

    names = stage.run()
    stage.run(client=stand_ins.Client())
    assert names["answer"]("why?") == "why?"
    stage.run(app=celery.Celery("shop"), answer_once=names["answer"])
    assert names["answer_later"]("why?") == "why?"


@world("howto/acks-late-twice")
def _acks_late(stage: Stage) -> None:
    paid: list[str] = []
    order = SimpleNamespace(charged=False, pk=7)
    rows = SimpleNamespace(update=lambda **values: vars(order).update(values))
    table = SimpleNamespace(get=lambda pk: order, filter=lambda pk: rows)
    names = stage.run(
        Order=SimpleNamespace(objects=table), pay=lambda order, idempotency_key: paid.append(idempotency_key)
    )
    names["charge"](7)
    names["charge"](7)
    assert paid == ["order-7"]


@world("howto/redis-visibility-timeout")
def _visibility_timeout(stage: Stage) -> None:
    import celery

    app = celery.Celery("shop")
    stage.run(app=app)
    assert app.conf.broker_transport_options["visibility_timeout"] == 1800


@world("migrate/from-plain-gevent")
def _from_plain_gevent(stage: Stage) -> None:
    stage.take().write(Path.cwd())
    stage.take().write(Path.cwd())
    sys.path.insert(0, str(Path.cwd()))
    import shop

    assert shop.celery_app.main == "shop"


@world("migrate/from-psycogreen")
def _from_psycogreen(stage: Stage) -> None:
    import psycopg2.extensions

    stage.run()
    assert psycopg2.extensions.get_wait_callback() is not None


@world("migrate/from-django-db-geventpool")
def _from_geventpool(stage: Stage) -> None:
    stand_ins.check_engine(stage.run(DATABASES=stand_ins.databases())["DATABASES"])


@world("migrate/from-rate-limit")
def _from_rate_limit(stage: Stage) -> None:
    import celery

    names = stage.run(app=celery.Celery("shop"), answer=str.upper)
    assert names["ask"].limits is names["llm"]


@world("migrate/from-tenacity-and-limiters")
def _from_tenacity(stage: Stage) -> None:
    assert stage.run(call=str.upper)["ask"]("why?") == "WHY?"


@world("migrate/from-threads")
def _from_threads(stage: Stage) -> None:
    assert stage.run(ask=str.upper, prompts=["a", "b"])["answers"] == ["A", "B"]


@world("reference/events")
def _events(stage: Stage) -> None:
    from greenkit import facts

    stage.run()
    stage.names["listen"](facts.ServerSaidSlowDown(limiter="llm", pause=1.0))
    assert not facts.listening()


def _configure(**values: Any) -> None:
    from django.conf import settings

    settings.configure(**values)


class _Things:
    """A pool as the page's own test wants it."""

    def __init__(self, size: int) -> None:
        self.size = self.free = size

    @contextmanager
    def take(self) -> Any:
        import gevent

        self.free -= 1
        try:
            # Each a point where a kill may strike.
            yield SimpleNamespace(ask=lambda: [gevent.sleep(0) for _ in range(25)])
        finally:
            self.free += 1


@world("reference/testing")
def _testing(stage: Stage) -> None:
    stage.run()  # PostgresServer
    stage.run()  # FaultProxy
    broker = "memory://"
    Path("shop").mkdir()
    app = f"import greenkit.auto\nfrom celery import Celery\napp = Celery('shop', broker={broker!r})\n"
    Path("shop/__init__.py").write_text(app, encoding="utf-8")
    stage.run()  # Program
    stage.run()  # MockLLM
    stage.run()  # FakeClock
    stage.run(Pool=_Things)["test_nothing_is_lost_wherever_it_is_killed"]()


@world("reference/wait")
def _wait(stage: Stage) -> None:
    exported: list[bool] = []
    stage.run(export=lambda: exported.append(True))
    assert exported == [True]


@world("reference/watchdog")
def _watchdog(stage: Stage) -> None:
    stage.run()
    stage.run(code_under_test=lambda: None)["test_export"]()


def _run(*arguments: str) -> None:
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
