"""Real Celery workers, started every way there is: who is patched, who is clean, who is refused."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest

from greenkit.testing import run_clean

pytest.importorskip("celery")

PROJECT = """
{first}
import json, os, sys, threading, time
from celery import Celery, signals
app = Celery("proj", broker="memory://", backend="cache+memory://")
app.conf.update(worker_pool={pool!r}, task_ignore_result=True, worker_enable_remote_control=False)
running, most = 0, 0

@app.task
def nap():
    global running, most
    running += 1
    most = max(most, running)
    time.sleep(0.2)
    running -= 1
    with open("ran.txt", "a") as file:
        print(most, file=file)

def leave():
    import billiard, kombu.utils.functional, celery.utils.timer2
    stale = []
    if "gevent" in sys.modules:
        from greenkit import boot
        stale = [f.message for f in boot.evidence() if f.severity.value != "info"]
    told = dict(most=most, stale=stale, sleep=time.sleep.__module__,
                kombu=kombu.utils.functional.sleep is time.sleep,
                timer=celery.utils.timer2.sleep is time.sleep)
    with open("told.json", "w") as file:
        json.dump(told, file)
    for child in billiard.active_children():
        child.terminate()
    os._exit(0)

def watch():
    while not os.path.exists("ran.txt") or len(open("ran.txt").readlines()) < 4:
        time.sleep(0.02)
    leave()

@signals.worker_ready.connect
def ready(**kwargs):
    for _ in range(4):
        nap.delay()
    threading.Thread(target=watch, daemon=True).start()

@signals.before_task_publish.connect
def publish(**kwargs):
    if "beat" in sys.argv:
        leave()

app.conf.beat_schedule = dict(nap=dict(task="proj.nap", schedule=0.1))
if __name__ == "__main__":
    sys.modules["proj"] = sys.modules["__main__"]
    app.worker_main(sys.argv[1:])
"""

AUTO = "import greenkit.auto"


@pytest.fixture
def worker(tmp_path):
    """Start a worker; return what it told, with what it said, or the run when it told nothing."""

    def start(*command, first=AUTO, pool=None, **env):
        (tmp_path / "proj.py").write_text(PROJECT.format(first=first, pool=pool or "prefork"))
        options = ["--without-gossip", "--without-mingle", "-c", "4"]
        at = command.index("worker") + 1
        words = [*command[:at], *options, *command[at:]]
        run = start.last = run_clean(words, env=env, cwd=str(tmp_path), timeout=100.0)
        told = Path(tmp_path, "told.json")
        if not told.exists():
            return run
        assert run.returncode == 0, run
        said = [line for line in run.stderr.splitlines() if line.startswith("greenkit: ")]
        return {**json.loads(told.read_text()), "said": said}

    return start


CELERY = ("-m", "celery", "-A", "proj", "worker")
CLEAN = {"most": 4, "stale": [], "sleep": "gevent.hub", "kombu": True, "timer": True, "said": []}


@pytest.mark.parametrize("first", ["", AUTO], ids=["installed", "auto"])
def test_celerys_own_patch_is_clean_when_greenkit_is_installed(worker, first):
    """`celery -P gevent` leaves no stale name: kombu's retry sleep is the cooperative one."""
    assert worker(*CELERY, "-P", "gevent", first=first) == CLEAN


def test_spellings_celery_does_not_see_are_patched_by_auto(worker):
    """What Celery's parser takes as gevent but its patch overlooks is patched, and repaired, by auto.

    Which spellings those are is asked of the command line alone, in `tests/unit/boot/test_launch.py`.
    """
    assert worker(*CELERY, "-EP", "gevent") == CLEAN


def test_a_green_pool_of_automatic_size_is_no_prefork_pool(worker):
    """`-c auto` makes Celery load prefork's pool, only to compare; the last -c counts."""
    assert worker(*CELERY, "-P", "gevent", "-c", "auto")["sleep"] == "gevent.hub"


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


@pytest.mark.parametrize(
    ("way", "pool"),
    [
        (("-m", "celery"), "prefork"),
        (("-m", "celery"), "threads"),
        (("-m", "celery"), "solo"),
        (("-m", "greenkit", "celery"), "prefork"),
    ],
    ids=["auto-prefork", "auto-threads", "auto-solo", "greenkit celery-prefork"],
)
def test_other_pools_run_their_tasks_unpatched_and_say_so(worker, pool, way):
    """A worker whose pool is not gevent's does its work as it always did; one line says that it may."""
    told = worker(*way, "-A", "proj", "worker", "--pool", pool)
    assert told["sleep"] == "time"
    assert told["said"] == [f"greenkit: not patched: the worker's pool is {pool}"]
    assert told["most"] == {"prefork": 0, "threads": 4, "solo": 1}[pool]  # prefork's run elsewhere


def test_a_worker_without_a_pool_says_that_it_is_not_patched(worker):
    """Celery's default is prefork; the line names what was looked for."""
    told = worker(*CELERY)
    assert told["sleep"] == "time"
    assert told["said"] == [
        "greenkit: not patched: the worker's pool is not named, so prefork or the configuration's"
    ]


@pytest.mark.parametrize("pool", ["greenkit.celery:TaskPool", "celery.concurrency.gevent:TaskPool"])
def test_a_custom_pool_that_is_green_is_clean(worker, pool):
    """`-P custom` patches nothing by itself, whichever gevent pool it names."""
    assert worker(*CELERY, "-P", "custom", CELERY_CUSTOM_WORKER_POOL=pool) == CLEAN


@pytest.mark.parametrize("way", [(), ("-m", "greenkit", "run", "--")], ids=["auto", "greenkit run"])
def test_worker_main_is_clean(worker, way):
    """A script that calls `app.worker_main()` is patched at its line 1, where Celery would not.

    Whatever its words: a script is no Celery command (`tests/unit/boot/test_launch.py`).
    """
    assert worker(*way, "proj.py", "worker", "-Pgevent") == CLEAN


@pytest.mark.parametrize("pool", ["threads", "solo"])
def test_worker_main_with_a_pool_of_threads_runs_its_tasks(worker, pool):
    """The process is patched before the pool is known; its tasks run all the same."""
    told = worker("proj.py", "worker", "--pool", pool)
    assert (told["sleep"], told["stale"]) == ("gevent.hub", [])
    assert told["most"] == {"threads": 4, "solo": 1}[pool]


def test_worker_main_with_prefork_is_refused(worker):
    """Patched children never end: it stops before it takes a task, and says both remedies."""
    run = worker("proj.py", "worker", "--pool=prefork")
    assert run.returncode == 1
    last = run.stderr.strip().splitlines()[-1]
    assert last.startswith("greenkit: this process is patched by gevent and its pool is prefork")
    assert "-P gevent" in last
    assert "GREENKIT=off" in last
    told = worker("proj.py", "worker", "--pool=prefork", GREENKIT="off")
    assert (told["sleep"], told["said"]) == ("time", [])


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


def test_beat_sends_unpatched_and_says_so(tmp_path):
    """Beat runs no tasks; it sends its schedule as it always did."""
    (tmp_path / "proj.py").write_text(PROJECT.format(first=AUTO, pool="gevent"))
    run = run_clean(["-m", "celery", "-A", "proj", "beat"], cwd=str(tmp_path), timeout=100.0)
    assert json.loads((tmp_path / "told.json").read_text())["sleep"] == "time", run
    assert run.stderr.count("greenkit: not patched: celery beat runs no tasks\n") == 1


FLOWER = """
import click
import asyncio, logging, ssl
@click.command(name="flower")
@click.pass_context
def flower(context):
    import time
    print("FLOWER", time.sleep.__module__)
"""


def stand_in(tmp_path: Path) -> str:
    """Install what Flower is to a worker: a plugin of the celery command that imports ssl."""
    site = tmp_path / "site-packages"
    info = site / "Flower-2.dist-info"
    info.mkdir(parents=True)
    (site / "fake_flower.py").write_text(FLOWER)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: Flower\nVersion: 2\n")
    (info / "entry_points.txt").write_text("[celery.commands]\nflower = fake_flower:flower\n")
    return str(site)


@pytest.mark.parametrize("command", ["shell", "report", "flower"])
def test_a_command_that_runs_no_tasks_is_not_patched(tmp_path, command):
    """It works, unpatched; only what stays (flower) has a line to say."""
    (tmp_path / "proj.py").write_text(
        "import greenkit.auto, time\n"
        "from celery import Celery\n"
        "app = Celery('proj', broker='memory://')\n"
        "print('PROJ', time.sleep.__module__, greenkit.auto.decision.patch)\n"
    )
    run = run_clean(
        ["-m", "celery", "-A", "proj", command], cwd=str(tmp_path), env={"PYTHONPATH": stand_in(tmp_path)}
    )
    assert run.returncode == 0, run
    assert "PROJ time False" in run.stdout
    assert ("FLOWER time" in run.stdout) is (command == "flower")
    assert ("not patched: celery flower" in run.stderr) is (command == "flower")


GREEN = {"CELERY_CUSTOM_WORKER_POOL": "greenkit.celery:TaskPool"}
CELERYS = {"CELERY_CUSTOM_WORKER_POOL": "celery.concurrency.gevent:TaskPool"}
BESIDE_FLOWER = {
    "-P gevent": (("-P", "gevent"), {}),
    "--pool=gevent": (("--pool=gevent",), {}),
    "-Pgevent": (("-Pgevent",), {}),
    "-EP gevent": (("-EP", "gevent"), {}),
    "CELERY_WORKER_POOL": ((), {"CELERY_WORKER_POOL": "gevent"}),
    "-P custom": (("-P", "custom"), GREEN),
    "-Pcustom": (("-Pcustom",), GREEN),
    "-Pcustom, Celery's": (("-Pcustom",), CELERYS),
}


def told_of_flower(said: str) -> bool:
    """Tell whether the report names the plugin, its line and what to type, and no line of the project."""
    place, _, hint = said.partition("GK108")[2].partition("\n    -> ")
    return (
        place.endswith("(fake_flower.py:3)")
        and hint.startswith(
            "Line 1 of the project is too late: the celery command imports its plugin Flower before it. "
            "Start it with: greenkit celery -A proj worker "
        )
        and "line 1 of proj.py" not in said
    )


@pytest.mark.parametrize("start", BESIDE_FLOWER)
def test_beside_flower_a_worker_is_clean_or_says_who_came_first(worker, tmp_path, start):
    """Flower imports ssl before the project's line 1: it runs its tasks, and the report names Flower."""
    words, env = BESIDE_FLOWER[start]
    told = worker(*CELERY, *words, **env, PYTHONPATH=stand_in(tmp_path))
    assert (told["most"], told["sleep"]) == (4, "gevent.hub"), worker.last
    assert all("ssl has already been imported" in one for one in told["stale"])
    assert bool(told["stale"]) == ("GK108" in worker.last.stderr)
    if told["stale"]:
        assert told_of_flower(worker.last.stderr), worker.last


@pytest.mark.parametrize("words", [(), ("-Pgevent",), ("-P", "custom")])
def test_what_the_report_says_to_type_beside_flower_is_clean(worker, tmp_path, words):
    """`greenkit celery` patches before Celery imports its plugins."""
    env = {**GREEN, "PYTHONPATH": stand_in(tmp_path)}
    assert worker("-m", "greenkit", "celery", "-A", "proj", "worker", *words, first="", **env) == CLEAN


def test_beside_flower_a_pool_of_the_configuration_is_refused_as_ever(worker, tmp_path):
    """Nothing patched, so Flower changes nothing: the one line that helps."""
    run = worker(*CELERY, pool="gevent", PYTHONPATH=stand_in(tmp_path))
    assert run.returncode == 1
    assert "Start it with: greenkit celery -A proj worker" in run.stderr.strip().splitlines()[-1]


@pytest.mark.parametrize("pool", ["-Pgevent", "--pool=gevent"])
def test_beside_flower_celery_multi_starts_a_worker_that_says_so(tmp_path, pool):
    """Its nodes run in the background: what they say is in their log."""
    (tmp_path / "proj.py").write_text(PROJECT.format(first=AUTO, pool="prefork"))
    words = ["-m", "celery", "multi", "start", "one", "-A", "proj", pool, "-c", "4"]
    files = [f"--pidfile={tmp_path}/%n.pid", f"--logfile={tmp_path}/%n.log"]
    run = run_clean([*words, *files], cwd=str(tmp_path), env={"PYTHONPATH": stand_in(tmp_path)})
    assert run.returncode == 0, run
    until = time.monotonic() + 60
    while not Path(tmp_path, "told.json").exists() or not Path(tmp_path, "told.json").read_text():
        assert time.monotonic() < until, [path.read_text() for path in tmp_path.glob("*.log")]
        time.sleep(0.05)
    told = json.loads(Path(tmp_path, "told.json").read_text())
    assert (told["most"], told["sleep"]) == (4, "gevent.hub")
    if told["stale"]:
        assert told_of_flower(Path(tmp_path, "one.log").read_text())
