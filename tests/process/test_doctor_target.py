"""`greenkit doctor TARGET`, with targets that are fine and targets that are not."""

from __future__ import annotations

import json

import pytest

from greenkit.testing import run_clean


@pytest.fixture
def doctor(tmp_path):
    """Run the doctor in a directory that holds the files given."""

    def run(*words, **files):
        for name, text in files.items():
            path = tmp_path / f"{name}.py"
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        return run_clean(["-m", "greenkit", "doctor", *words], cwd=str(tmp_path))

    return run


def test_a_clean_target_is_healthy(doctor):
    """A module imported after the patch holds nothing stale; the code is 0."""
    run = doctor("shop:app", shop="from time import sleep\nimport ssl, queue\napp = 1\n")
    assert run.returncode == 0, run
    lines = run.stdout.splitlines()
    assert lines[0].startswith("shop:app: patched by greenkit doctor before the import in ")
    assert lines[-1].startswith("Nothing found.")


def test_a_target_that_undoes_the_patch_is_named(doctor):
    """A module that puts an original back makes the code 1, in text and in JSON."""
    undo = "import time\nfrom gevent.monkey import get_original\ntime.sleep = get_original('time', 'sleep')\n"
    run = doctor("--json", "shop", shop=undo)
    assert run.returncode == 1, run
    told = json.loads(run.stdout)
    assert "GK106" in [found["id"] for found in told["findings"] if found["severity"] == "error"]
    assert (told["version"], told["verdict"], told["patched"]) == (1, "error", True)


PACKAGE = {"shop/__init__": "", "shop/jobs": "app = 1"}
UNFIT = [
    ("exits", "import sys\nsys.exit(3)", "exits called sys.exit(3) while it was imported", "exits.py:2 in"),
    ("leaves", "import os\nos._exit(4)", "leaves called os._exit(4) while it was imported", "leaves.py:2"),
    ("asks", "input('name? ')", "asks reads standard input while it is imported", "asks.py:1 in <module>"),
    ("raises", "def f():\n    1 / 0\nf()", "does not import: ZeroDivisionError", "raises.py:2 in f"),
    ("broken", "x = (", "broken does not import: SyntaxError", "broken.py:1: x = ("),
    ("needs", "import no_such_thing", "No module named 'no_such_thing'", "needs.py:1 in <module>"),
    ("dies", "import os\nos.kill(os.getpid(), 9)", "killed by signal 9", ""),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text", "says", "place"), UNFIT, ids=[one[0] for one in UNFIT])
def test_a_target_that_does_not_import_is_explained(doctor, name, text, says, place):
    """One sentence, the user's own frames and no others, and the code 2."""
    run = doctor("--json", name, **{name: text})
    assert run.returncode == 2, run
    told = json.loads(run.stdout)
    assert says in told["problem"]
    assert told["verdict"] == "unknown"
    assert any(place in line for line in told["trace"]) or not place
    assert not any("importlib" in line or "greenkit/doctor" in line for line in told["trace"])
    assert told["patched"] is True, "what was seen until then is told"


@pytest.mark.parametrize(
    ("target", "says"),
    [
        ("shpo", "there is no module 'shpo' in {here}; did you mean 'shop'?"),
        ("shop.jobz", "there is no module 'shop.jobz' in shop; did you mean 'shop.jobs'?"),
        ("shop.jobs.x", "shop.jobs is a module, not a package"),
        ("shop.jobs:ap", "shop.jobs has no attribute 'ap'; did you mean 'app'?"),
        ("shop/job.py", "there is no file shop/job.py; did you mean 'jobs.py'?"),
        ("shop/", "shop/ is a directory"),
        ("no-name", "is no name of a module"),
    ],
)
def test_a_target_that_is_not_there_is_explained(doctor, tmp_path, target, says):
    """The nearest name is suggested; the code is 2."""
    run = doctor("--json", target, **PACKAGE)
    assert run.returncode == 2, run
    assert says.format(here=tmp_path) in json.loads(run.stdout)["problem"]


def test_what_a_target_prints_is_not_in_the_report(doctor):
    """Its standard output goes to standard error, however much it is."""
    run = doctor("--json", "loud", loud="print('x' * 1_000_000)\nimport os\nos.write(1, b'raw')\n")
    assert json.loads(run.stdout)["verdict"] == "clean"
    assert len(run.stderr) >= 1_000_003


def test_a_target_with_a_thread_does_not_keep_the_doctor(doctor):
    """Nobody waits for what the target left running."""
    run = doctor(
        "busy", busy="import threading, time\nthreading.Thread(target=time.sleep, args=(900,)).start()"
    )
    assert run.returncode == 0, run


def test_a_target_that_hangs_is_ended(doctor):
    """After the time given; the code is 2."""
    run = doctor("--json", "--timeout", "1", "slow", slow="import time\ntime.sleep(900)")
    assert run.returncode == 2
    assert json.loads(run.stdout)["problem"] == "importing slow took longer than 1 s and was ended"


def test_a_package_is_a_target(doctor):
    """It need not be one that can be run."""
    assert doctor("shop", **PACKAGE).returncode == 0


def test_a_script_is_imported_and_not_run(doctor):
    """Its `if __name__ == "__main__"` is not taken."""
    run = doctor("app.py", app="import helper\nif __name__ == '__main__':\n    1 / 0\n", helper="")
    assert run.returncode == 0, run


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--"], "there is no command after --"),
        (["shop", "--", "true"], "either the target shop or a command"),
        (["--probe", "--", "true"], "--probe measures in a process of its own"),
        (["--fix"], "--fix needs a file"),
        (["--write", "shop.py"], "--write belongs to --fix"),
        (["--dsn", "x", "shop"], "--dsn belongs to --probe"),
        (["--stall", "1", "shop"], "--stall is for a command"),
        (["--timeout", "-1", "shop"], "is no number of seconds"),
        (["--write-baseline", "shop"], "--write-baseline needs --baseline FILE"),
        (["--baseline", "nowhere.json"], "there is no baseline nowhere.json"),
        (["--fix", "nowhere.py"], "cannot read nowhere.py"),
    ],
)
def test_a_wrong_command_line_is_one_line_and_2(doctor, words, says):
    """It says what is wrong, and what to type."""
    run = doctor(*words)
    assert run.returncode == 2, run
    assert run.stdout == ""
    assert says in run.stderr
    assert run.stderr.count("\n") == 1


def test_a_baseline_takes_away_what_was_accepted(doctor, tmp_path):
    """Written once, committed, and only what is new is told from then on."""
    undo = "import time\nfrom gevent.monkey import get_original\ntime.sleep = get_original('time', 'sleep')\n"
    first = doctor("--baseline", "accepted.json", "--write-baseline", "shop", shop=undo)
    assert first.returncode == 0, first
    again = doctor("--baseline", "accepted.json", "shop")
    assert again.returncode == 0, again
    assert "accepted by the baseline" in again.stdout


def test_the_fix_is_a_patch_that_can_be_applied(doctor, tmp_path):
    """The diff is printed and nothing written; with `--write` the file is what the diff says."""
    text = '"""Docs."""\nimport jobs\nfrom gevent import monkey\nmonkey.patch_all()\nmonkey.patch_dns()\n'
    run = doctor("--fix", "app.py", app=text)
    assert run.returncode == 0, run
    assert run.stdout.startswith("--- a/app.py\n+++ b/app.py\n@@")
    assert "\n+import greenkit.auto" in run.stdout
    assert "\n-monkey.patch_all()" in run.stdout
    assert "line 5: monkey.patch_dns() patches other than greenkit.auto does" in run.stderr
    assert (tmp_path / "app.py").read_text() == text
    doctor("--fix", "--write", "app.py")
    assert (tmp_path / "app.py").read_text().startswith('"""Docs."""\nimport greenkit.auto')
    assert "already" in doctor("--fix", "app.py").stderr
