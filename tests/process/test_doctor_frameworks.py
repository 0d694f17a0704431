"""The doctor as Celery's and Django's users call it."""

from __future__ import annotations

import json

import pytest

from greenkit.testing import run_clean

APP = "from celery import Celery\napp = Celery('shop', broker='memory://')\n"
INSTALL = "import greenkit.celery\ngreenkit.celery.install(app)\n"

LATE = """
from celery import signals
@signals.celeryd_after_setup.connect
def late(**_):
    import greenkit.celery
    greenkit.celery.install(app)
"""


@pytest.fixture
def celery(tmp_path):
    """Run `celery -A shop greenkit …` on an app module with the text given."""

    def run(text, *words, **env):
        (tmp_path / "shop.py").write_text(text)
        return run_clean(["-m", "celery", "-A", "shop", "greenkit", *words], cwd=str(tmp_path), env=env)

    return run


def test_a_celery_app_is_told_about(celery):
    """The pool a worker would get and where that is said; an installed app is clean."""
    run = celery(APP + INSTALL, "doctor")
    assert run.returncode == 0, run
    assert run.stdout.startswith("workers of shop (pool prefork, unless -P names another): not patched")
    assert "Nothing found." in run.stdout


@pytest.mark.parametrize(
    ("text", "env", "ids", "code"),
    [
        (APP, {}, ["GK501"], 0),
        (APP + "app.conf.worker_pool = 'gevent'\n" + INSTALL, {}, ["GK119"], 1),
        (APP + INSTALL + "app.conf.greenkit_kill_grace = -1\n", {}, ["GK502"], 1),
        (APP + INSTALL + "app.conf.greenkit_drain_timout = 3\n", {}, ["GK503"], 1),
        (APP + LATE, {}, ["GK501"], 0),
        (APP + INSTALL, {"CELERY_WORKER_POOL": "gevent"}, [], 0),
    ],
)
def test_what_is_wrong_with_an_app_is_found(celery, text, env, ids, code):
    """Not installed, a pool that Celery cannot patch for, an option out of range."""
    run = celery(text, "doctor", "--json", **env)
    assert run.returncode == code, run
    assert [found["id"] for found in json.loads(run.stdout)["findings"]] == ids


def test_a_task_module_that_does_not_import_is_named(celery):
    """A worker would not start, and the doctor says why; the code is 2."""
    run = celery(APP + "app.conf.imports = ['no_such_tasks']\n", "doctor", "--json")
    assert run.returncode == 2, run
    assert "no_such_tasks" in json.loads(run.stdout)["problem"]


def test_no_worker_is_no_answer(celery):
    """--worker without one running ends with 2 and says for how long it waited."""
    run = celery(APP + INSTALL, "doctor", "--worker", "--timeout", "0.1", "--json")
    assert run.returncode == 2, run
    assert "answered within 0.1 s" in json.loads(run.stdout)["problem"]


MANAGE = """
{first}
import sys
import django
from django.conf import settings
settings.configure(INSTALLED_APPS=["greenkit.django"], GREENKIT={options})
from django.core.management import execute_from_command_line
execute_from_command_line(["manage.py", "greenkit_doctor", *{words}])
"""


def test_a_django_project_is_told_about():
    """Patched first: clean, and patched by its own line 1."""
    run = run_clean(MANAGE.format(first="import greenkit.auto", options={}, words=["--json"]))
    assert run.returncode == 0, run
    told = json.loads(run.stdout)
    assert told["patched"] is True
    assert told["by"].endswith("program.py:2")
    assert [found for found in told["findings"] if found["severity"] != "info"] == []


def test_greenkits_system_checks_are_among_the_findings():
    """A wrong setting is told with its id, once, and makes the code 1."""
    run = run_clean(MANAGE.format(first="", options={"no_such": 1}, words=["--json"]))
    assert run.returncode == 1, run
    assert [found["id"] for found in json.loads(run.stdout)["findings"]] == ["GK103", "GK601"]


def test_a_django_process_can_be_probed():
    """The same table as the command line's."""
    run = run_clean(MANAGE.format(first="import greenkit.auto", options={}, words=["--probe"]))
    assert "others stood still" in run.stdout
    assert "selectors.DefaultSelector.select" in run.stdout


CHECK = """
import sys, django
from django.conf import settings
settings.configure(INSTALLED_APPS=["greenkit.django"])
{app}
from django.core.management import execute_from_command_line
execute_from_command_line(["manage.py", "check"])
"""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (APP + INSTALL, []),
        (APP, []),
        (APP + "import greenkit.celery\n" + LATE, ["GK501"]),
        (APP + INSTALL + "app.conf.greenkit_drain_timout = 3\n", ["GK503", "greenkit_drain_timeout?"]),
        (APP + INSTALL + "app.conf.greenkit_kill_grace = -1\n", ["GK502", "kill_grace is -1"]),
    ],
    ids=["right", "not used", "late", "misspelt", "out of range"],
)
def test_manage_check_tells_about_the_celery_app(text, said):
    """What the doctor of the app says, where the project uses greenkit.celery."""
    run = run_clean(CHECK.format(app=text))
    assert run.returncode == ("GK502" in said), run
    told = run.stdout + run.stderr
    assert all(word in told for word in said), told
    assert ("GK50" in told) == bool(said), told
