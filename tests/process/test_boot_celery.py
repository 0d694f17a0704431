"""Real Celery workers, started every way there is: who is patched, who is clean, who is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from greenkit.testing import run_clean

pytest.importorskip("celery")

PROJECT = """
{first}
import json, os, time
from celery import Celery, signals
app = Celery("proj", broker="memory://", backend="cache+memory://")
app.conf.update(worker_pool={pool!r}, task_ignore_result=True, worker_enable_remote_control=False)
running, most, done = 0, 0, 0

@app.task
def nap():
    global running, most, done
    running += 1
    most = max(most, running)
    time.sleep(0.2)
    running -= 1
    done += 1
    if done == 4:
        leave()

def leave():
    import sys
    import kombu.utils.functional, celery.utils.timer2
    stale = []
    if "gevent" in sys.modules:
        from greenkit import boot
        stale = [r.holder for r in boot.stale_references()]
    told = dict(most=most, done=done, stale=stale, sleep=time.sleep.__module__,
                kombu=kombu.utils.functional.sleep is time.sleep,
                timer=celery.utils.timer2.sleep is time.sleep)
    with open("told.json", "w") as file:
        json.dump(told, file)
    os._exit(0)

@signals.worker_ready.connect
def ready(**kwargs):
    if os.environ.get("ONLY_READY"):
        leave()
    for _ in range(4):
        nap.delay()
"""

AUTO = "import greenkit.auto"


@pytest.fixture
def worker(tmp_path):
    """Start a worker; return what it told, or the run when it told nothing."""

    def start(*command, first=AUTO, pool=None, **env):
        (tmp_path / "proj.py").write_text(PROJECT.format(first=first, pool=pool or "prefork"))
        options = ["--without-gossip", "--without-mingle", "-c", "4"]
        at = command.index("worker") + 1
        words = [*command[:at], *options, *command[at:]]
        run = run_clean(words, env=env, cwd=str(tmp_path), timeout=40.0)
        told = Path(tmp_path, "told.json")
        if not told.exists():
            return run
        assert run.returncode == 0, run
        return json.loads(told.read_text())

    return start


CELERY = ("-m", "celery", "-A", "proj", "worker")
CLEAN = {"most": 4, "done": 4, "stale": [], "sleep": "gevent.hub", "kombu": True, "timer": True}


@pytest.mark.parametrize("first", ["", AUTO], ids=["installed", "auto"])
def test_celerys_own_patch_is_clean_when_greenkit_is_installed(worker, first):
    """`celery -P gevent` leaves no stale name: kombu's retry sleep is the cooperative one."""
    assert worker(*CELERY, "-P", "gevent", first=first) == CLEAN


@pytest.mark.parametrize("spelling", [["-Pgevent"], ["-EP", "gevent"]])
def test_spellings_celery_does_not_see_are_patched_by_auto(worker, spelling):
    """What Celery's parser takes as gevent but its patch overlooks is patched, and repaired, by auto."""
    assert worker(*CELERY, *spelling) == CLEAN


def test_a_pool_from_the_environment_is_patched_by_auto(worker):
    """`CELERY_WORKER_POOL=gevent` runs its tasks at once."""
    assert worker(*CELERY, CELERY_WORKER_POOL="gevent") == CLEAN


def test_greenkit_celery_is_clean_and_green_by_default(worker):
    """`greenkit celery worker` needs no pool and no line in the project."""
    assert worker("-m", "greenkit", "celery", "-A", "proj", "worker", first="") == CLEAN


def test_greenkit_run_celery_is_clean(worker):
    """The console script, found next to the interpreter, runs patched in the same process."""
    if not (Path(sys.executable).parent / "celery").exists():
        pytest.skip("this environment has no celery command")
    line = ("-m", "greenkit", "run", "--strict", "--", "celery", "-A", "proj", "worker", "-Pgevent")
    assert worker(*line, first="") == CLEAN


@pytest.mark.parametrize("pool", ["prefork", "threads", "solo"])
@pytest.mark.parametrize(
    "way", [("-m", "celery"), ("-m", "greenkit", "celery")], ids=["auto", "greenkit celery"]
)
def test_other_pools_are_not_patched(worker, pool, way):
    """A worker whose pool is not gevent's stays as it is, whoever was imported."""
    told = worker(*way, "-A", "proj", "worker", "--pool", pool, ONLY_READY="1")
    assert told["sleep"] == "time"


def test_a_pool_named_in_the_configuration_is_refused(worker):
    """It is known too late to patch; the worker ends with the one line that helps."""
    run = worker(*CELERY, pool="gevent")
    assert run.returncode == 1
    last = run.stderr.strip().splitlines()[-1]
    assert last.startswith("greenkit: this worker's pool is gevent but the process is not patched")
    assert "Start it with: greenkit celery -A proj worker" in last


def test_a_green_pool_is_refused_when_the_patch_is_switched_off(worker):
    """`GREENKIT=off` with a spelling Celery does not patch would never run a task."""
    run = worker(*CELERY, "-Pgevent", GREENKIT="off")
    assert run.returncode == 1
    assert "Start it with: greenkit celery" in run.stderr


def test_beat_and_shell_are_not_patched(tmp_path):
    """A command that runs no tasks loads no gevent."""
    (tmp_path / "proj.py").write_text(
        "import greenkit.auto, sys\n"
        "from celery import Celery\n"
        "app = Celery('proj', broker='memory://')\n"
        "print('GEVENT', 'gevent' in sys.modules, greenkit.auto.decision.patch)\n"
    )
    run = run_clean(["-m", "celery", "-A", "proj", "report"], cwd=str(tmp_path))
    assert "GEVENT False False" in run.stdout
