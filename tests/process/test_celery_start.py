"""Every way to start a green worker either patches first or refuses within seconds, in a sentence."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from greenkit.testing import run_clean

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from greenkit.testing import CleanRun

APP = """
{first}
from celery import Celery
import greenkit.celery
app = Celery("app", broker="{broker}")
app.conf.worker_pool = "{pool}"
greenkit.celery.install(app{options})
{last}
"""
PATCH = "from gevent import monkey; monkey.patch_all()"
RECEIVER = """
from celery.signals import worker_init
@worker_init.connect
def late(**_):
    from gevent import monkey; monkey.patch_all()
"""
OWN_POOL = {"CELERY_CUSTOM_WORKER_POOL": "own_pool:TaskPool"}
CELERY = ("-m", "celery", "-A", "late", "worker")


@pytest.fixture
def calls() -> Iterator[socket.socket]:
    """Give a broker's socket that answers nobody; `accept()` says whether somebody called."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        yield listening


@pytest.fixture
def start(tmp_path: Path, calls: socket.socket) -> Callable[..., CleanRun]:
    """Start a worker that must end by itself, before it has called its broker."""

    def run(
        *argv: str, first: str = "", last: str = "", pool: str = "prefork", options: str = "", **env: str
    ):
        broker = f"redis://127.0.0.1:{calls.getsockname()[1]}/0"
        app = APP.format(first=first, last=last, broker=broker, pool=pool, options=options)
        Path(tmp_path, "late.py").write_text(app)
        Path(tmp_path, "own_pool.py").write_text(f"{PATCH}\nfrom celery.concurrency.gevent import TaskPool\n")
        Path(tmp_path, "start.py").write_text("import sys, late; late.app.worker_main(sys.argv[1:])")
        done = run_clean(list(argv), cwd=str(tmp_path), env={"PYTHONPATH": str(tmp_path), **env})
        with pytest.raises(BlockingIOError):
            calls.accept()
        return done

    return run


def test_a_worker_that_runs_calls_its_broker(tmp_path: Path, calls: socket.socket) -> None:
    """What the refusals below are measured by: nobody calls the broker before it is ready to work."""
    app = APP.format(
        first="", last="", pool="prefork", options="",
        broker=f"redis://127.0.0.1:{calls.getsockname()[1]}/0",
    )  # fmt: skip
    Path(tmp_path, "late.py").write_text(app)
    calls.settimeout(60)
    worker = subprocess.Popen([sys.executable, *CELERY, "-P", "gevent"], cwd=tmp_path)
    try:
        calls.accept()[0].close()
    finally:
        worker.kill()
        worker.wait()


SEEN = "Celery patches for `-P gevent`, `--pool gevent` and `--pool=gevent` only"


@pytest.mark.parametrize(
    ("argv", "env", "pool", "why"),
    [
        (("-P", "gevent", "-n", "multi"), {}, "prefork", "a word of the command line is `multi`"),
        (("-Pgevent", "--detach"), {}, "prefork", f"{SEEN}, two words or `=`"),
        ((), {"CELERY_WORKER_POOL": "gevent"}, "prefork", f"{SEEN}, not for the environment variable"),
        ((), {}, "greenkit.celery:TaskPool", "Celery reads `worker_pool` too late"),
    ],
)
def test_an_unpatched_green_worker_refuses(
    start: Callable[..., CleanRun], argv: tuple[str, ...], env: dict[str, str], pool: str, why: str
) -> None:
    """Stock Celery says "ready" here and never runs a task; greenkit exits with what to do.

    Other spellings and pools are asked of the command line alone, in `tests/unit/celery/test_start.py`.
    """
    run = start(*CELERY, *argv, pool=pool, **env)
    assert run.returncode == 1, run
    assert "the process is not patched" in run.stderr
    assert why in run.stderr
    assert " ".join(["greenkit celery -A late worker", *argv]) in run.stderr
    assert "Traceback" not in run.stderr


def test_a_refused_node_of_multi_is_told_of(start: Callable[..., CleanRun]) -> None:
    """`celery multi` ends with 0 whatever its nodes do, but passes the sentence on."""
    files = "--pidfile=%n.pid", "--logfile=%n.log"
    run = start("-m", "celery", "multi", "start", "w", "-A", "late", "-Pgevent", *files)
    assert "the process is not patched" in run.stdout + run.stderr
    assert "FAILED" in run.stdout, run


def test_a_pool_that_celery_does_not_know_is_its_own_to_refuse(start: Callable[..., CleanRun]) -> None:
    """`-P Gevent` is a mistake of the command line; Celery lists the right names."""
    run = start(*CELERY, "-P", "Gevent")
    assert run.returncode == 2, run
    assert "'Gevent' is not one of" in run.stderr
    assert "'gevent'" in run.stderr


def test_a_pool_behind_the_dashes_is_refused(start: Callable[..., CleanRun]) -> None:
    """Celery reads settings there, this one after it has chosen: the worker would be prefork."""
    run = start(*CELERY, "-c", "4", "--", "worker.pool=gevent")
    assert run.returncode == 1, run
    assert (
        "the worker would be a prefork one. Start it as: greenkit celery -A late worker -c 4\n" in run.stderr
    )


@pytest.mark.parametrize("pool", ["-Pgevent", "-Pprefork", ""])
def test_a_patch_in_the_app_module_is_refused(start: Callable[..., CleanRun], pool: str) -> None:
    """It comes after kombu bound its waits: whatever the pool, no task would ever run."""
    run = start(*CELERY, *([pool] if pool else []), first=PATCH)
    assert run.returncode == 1, run
    assert "patched this process after Celery was imported (kombu.utils.eventio._selectf" in run.stderr
    right = "Start it as: greenkit celery -A late" if pool == "-Pgevent" else "Put `import greenkit.auto`"
    assert right in run.stderr


@pytest.mark.parametrize("argv", [(*CELERY, "-P", "threads"), ("start.py", "worker", "-P", "gevent")])
@pytest.mark.parametrize("where", ["first", "last"])
def test_a_patch_at_worker_init_is_refused(
    start: Callable[..., CleanRun], where: str, argv: tuple[str, ...]
) -> None:
    """Before greenkit's receiver or behind it, it is too late, and seen before a message is taken."""
    run = start(*argv, **{where: RECEIVER})
    assert run.returncode == 1, run
    last = run.stderr.strip().splitlines()[-1]
    assert last.startswith("greenkit: ")
    assert "patched" in last


@pytest.mark.parametrize(
    ("argv", "env", "pool"),
    [
        (("-Pcustom",), OWN_POOL, "prefork"),
        ((), {"CELERY_WORKER_POOL": "custom", **OWN_POOL}, "prefork"),
        ((), {}, "own_pool:TaskPool"),
    ],
)
def test_a_pool_of_ones_own_that_patches_too_late_is_refused(
    start: Callable[..., CleanRun], argv: tuple[str, ...], env: dict[str, str], pool: str
) -> None:
    """Its module is imported after the app; only `-P custom`, as two words, comes before."""
    run = start(*CELERY, *argv, pool=pool, **env)
    assert run.returncode == 1, run
    assert "patched this process after Celery was imported" in run.stderr
    right = (
        "CELERY_CUSTOM_WORKER_POOL=greenkit.celery:TaskPool"
        if env
        else "Start it as: greenkit celery -A late"
    )
    assert right in run.stderr


def test_a_patched_prefork_worker_is_refused(start: Callable[..., CleanRun]) -> None:
    """Its children could not be stopped, even though the patch was early enough."""
    run = start("-m", "gevent.monkey", "--module", *CELERY[1:])
    assert run.returncode == 1, run
    assert "its pool is prefork" in run.stderr


@pytest.mark.parametrize("pool", ["gevent", "celery.concurrency.gevent:TaskPool"])
def test_a_worker_started_by_a_program_refuses(start: Callable[..., CleanRun], pool: str) -> None:
    """`worker_main()` never patches, nor does a class path in the configuration."""
    run = start("start.py", "worker", pool=pool)
    assert run.returncode == 1, run
    assert "the process is not patched" in run.stderr
    assert "Make `import greenkit.auto` line 1 of start.py" in run.stderr
    assert "greenkit run -- start.py worker\n" in run.stderr


def test_a_program_that_patches_first_runs_a_worker(tmp_path: Path) -> None:
    """`worker_main()` in a program whose line 1 is `import greenkit.auto` runs tasks."""
    Path(tmp_path, "late.py").write_text(
        APP.format(first="import greenkit.auto", last="", options="", pool="gevent", broker="memory://")
        + "import os, time\nfrom celery.signals import worker_ready\n"
        "app.conf.update(worker_enable_remote_control=False)\n"
        "@app.task(ignore_result=True)\ndef nap():\n"
        "    time.sleep(0.1); os.write(1, b'slept'); os._exit(0)\n"
        "@worker_ready.connect\ndef go(**_): nap.delay()\n"
    )  # fmt: skip
    program = "import greenkit.auto, late; late.app.worker_main(['worker', '-c', '2'])"
    Path(tmp_path, "start.py").write_text(program)
    run = run_clean(["start.py"], cwd=str(tmp_path), timeout=30)
    assert run.returncode == 0, run
    assert "slept" in run.stdout


def test_beat_inside_a_green_worker_is_refused(start: Callable[..., CleanRun]) -> None:
    """-B needs a process of its own."""
    run = start(*CELERY, "-P", "gevent", "-B")
    assert run.returncode == 1, run
    assert "run `celery beat` as its own process" in run.stderr


def test_a_wrong_option_in_the_configuration_is_refused(start: Callable[..., CleanRun]) -> None:
    """A greenkit_ key is validated when the worker starts, with its value."""
    run = start(*CELERY, "-P", "gevent", last="app.conf.greenkit_watchdog = 'fast'")
    assert run.returncode == 1, run
    assert "watchdog is 'fast'" in run.stderr


def test_install_patches_nothing_and_reads_no_settings(tmp_path: Path) -> None:
    """In a process that only sends tasks, install() leaves the world and the app alone."""
    run = run_clean(
        "import sys\n"
        "from celery import Celery\n"
        "import greenkit.celery\n"
        "app = Celery('app')\n"
        "greenkit.celery.install(app)\n"
        "from gevent import monkey\n"
        "assert not monkey.saved, list(monkey.saved)\n"
        "assert not app.configured\n"
        "assert 'celery.concurrency.gevent' not in sys.modules\n"
    )
    assert run.returncode == 0, run


def test_a_process_that_only_sends_loads_no_gevent():
    """Neither the room's door nor its words among Celery's own bring gevent into a web process or a shell."""
    program = (
        "import greenkit.celery, greenkit.celery.commands, sys\n"
        "from celery import Celery\n"
        "app = Celery(broker='memory://')\n"
        "greenkit.celery.install(app)\n"
        "app.send_task('any')\n"
        "assert 'gevent' not in sys.modules\n"
        "assert greenkit.celery.TaskPool.__name__ == 'TaskPool'\n"
    )
    run = run_clean(program)
    assert run.returncode == 0, run
