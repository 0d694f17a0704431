"""Every way to start a green worker either patches first or refuses within seconds, in a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from greenkit.testing import run_clean

APP = """
from celery import Celery
import greenkit.celery
app = Celery("app", broker="memory://")
app.conf.worker_pool = "{pool}"
greenkit.celery.install(app{options})
"""


def start(directory: Path, *arguments: str, options: str = "", pool: str = "prefork", **env: str):
    Path(directory, "late.py").write_text(APP.format(options=options, pool=pool))
    argv = ["-m", "celery", "-A", "late", "worker", *arguments]
    return run_clean(argv, cwd=str(directory), env=env, timeout=30)


@pytest.mark.parametrize(
    ("arguments", "env", "pool"),
    [
        (("-Pgevent",), {}, "prefork"),
        (("-EP", "gevent"), {}, "prefork"),
        (("-P", "gevent", "-n", "multi"), {}, "prefork"),
        ((), {"CELERY_WORKER_POOL": "gevent"}, "prefork"),
        ((), {}, "gevent"),
    ],
)
def test_an_unpatched_green_worker_refuses(
    tmp_path: Path, arguments: tuple[str, ...], env: dict[str, str], pool: str
) -> None:
    """Stock Celery says "ready" here and never runs a task; greenkit exits with what to do."""
    run = start(tmp_path, *arguments, pool=pool, **env)
    assert run.returncode == 1, run
    assert "the process is not patched" in run.stderr
    assert "greenkit celery -A" in run.stderr
    assert "Traceback" not in run.stderr


@pytest.mark.parametrize("pool", ["gevent", "greenkit.celery:TaskPool", "celery.concurrency.gevent:TaskPool"])
def test_a_worker_started_by_a_program_refuses(tmp_path: Path, pool: str) -> None:
    """`worker_main()` never patches, nor does a class path in the configuration."""
    Path(tmp_path, "late.py").write_text(APP.format(options="", pool=pool))
    Path(tmp_path, "start.py").write_text("import late; late.app.worker_main(['worker'])")
    run = run_clean(["start.py"], cwd=str(tmp_path), timeout=30)
    assert run.returncode == 1, run
    assert "the process is not patched" in run.stderr


def test_a_program_that_patches_first_runs_a_worker(tmp_path: Path) -> None:
    """`worker_main()` in a program whose line 1 is `import greenkit.auto` runs tasks."""
    Path(tmp_path, "late.py").write_text(
        "import greenkit.auto\n" + APP.format(options="", pool="gevent")
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


def test_a_patch_after_celery_is_refused(tmp_path: Path) -> None:
    """Patching in the app module comes after kombu bound its waits; that is said by name."""
    Path(tmp_path, "late.py").write_text(
        "from gevent import monkey; monkey.patch_all()\n" + APP.format(options="", pool="gevent")
    )
    run = run_clean(["-m", "celery", "-A", "late", "worker"], cwd=str(tmp_path), timeout=30)
    assert run.returncode == 1, run
    assert "patched this process after Celery was imported (kombu." in run.stderr


def test_beat_inside_a_green_worker_is_refused(tmp_path: Path) -> None:
    """-B needs a process of its own."""
    run = start(tmp_path, "-P", "gevent", "-B")
    assert run.returncode == 1, run
    assert "run `celery beat` as its own process" in run.stderr


def test_a_wrong_option_in_the_configuration_is_refused(tmp_path: Path) -> None:
    """A greenkit_ key is validated when the worker starts, with its value."""
    app = APP.format(options="", pool="prefork") + "app.conf.greenkit_watchdog = 'fast'\n"
    Path(tmp_path, "late.py").write_text(app)
    run = run_clean(["-m", "celery", "-A", "late", "worker", "-P", "gevent"], cwd=str(tmp_path), timeout=30)
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
