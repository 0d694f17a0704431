"""`greenkit doctor -- COMMAND`: a program runs as it is, and is told about."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from greenkit.testing import run_clean

JOBS = "from time import sleep\n\n\ndef work():\n    sleep(0.01)\n"
LATE = """import jobs
from gevent import monkey
monkey.patch_all()
import gevent
import os, sys
gevent.spawn(jobs.work).join()
print("ran", flush=True)
"""


@pytest.fixture
def place(tmp_path):
    (tmp_path / "jobs.py").write_text(JOBS)
    (tmp_path / "app.py").write_text(LATE)
    return tmp_path


def observe(place, *words, **options):
    run = run_clean(["-m", "greenkit", "doctor", "--json", *words], cwd=str(place), **options)
    return run, json.loads(run.stdout)


def stale(told):
    return [
        found for found in told["findings"] if found["holder"] == "jobs" or "jobs.sleep" in found["message"]
    ]


@pytest.mark.parametrize(
    "command", [["python", "app.py"], ["python", "-m", "app"], [sys.executable, "app.py"]]
)
def test_a_program_that_patches_too_late_is_told(place, command):
    """The stale name and its line, though the program knows nothing of greenkit; the code is 1."""
    run, told = observe(place, "--", *command)
    assert run.returncode == 1, run
    assert len(stale(told)) == 1
    assert stale(told)[0]["captured_at" if stale(told)[0]["captured_at"] else "where"].endswith("jobs.py:1")
    assert told["by"].endswith("app.py:3")
    assert told["ended"] == {"command": command, "how": "exit", "code": 0}
    assert "ran\n" in run.stderr, "with --json the program's output goes to standard error"


def test_an_import_inside_a_call_is_seen(place):
    """No import statement names the holder; who watched the imports knows the line all the same."""
    (place / "setup_.py").write_text("def go(names):\n    for name in names:\n        __import__(name)\n")
    late = LATE.replace("import jobs\n", "").replace("jobs.work", "print")
    (place / "app.py").write_text("import setup_\nsetup_.go(['jobs'])\n" + late)
    _, told = observe(place, "--", "python", "app.py")
    (found,) = stale(told)
    assert found["imported_at"] == "setup_.py:3"


def test_without_json_the_output_is_the_programs_and_then_ours(place):
    """Its standard output is untouched, the report comes after it."""
    run = run_clean(["-m", "greenkit", "doctor", "--", "python", "app.py"], cwd=str(place))
    assert run.stdout.startswith("ran\n")
    assert "python app.py: patched by app.py:3; the program ended with status 0." in run.stdout


ENDS = {
    "exit": "sys.exit(3)",
    "os_exit": "os._exit(3)",
    "error": "1 / 0",
    "killed": "gevent.sleep(1.0); os.kill(os.getpid(), 9)",
}


@pytest.mark.parametrize(("end", "code"), [("exit", 3), ("os_exit", 3), ("error", 1), ("killed", -9)])
def test_however_it_ends_its_findings_are_there(place, end, code):
    """sys.exit, os._exit, an exception, SIGKILL: the status is told and the finding, too."""
    (place / "app.py").write_text(LATE + ENDS[end])
    run, told = observe(place, "--", "python", "app.py")
    assert run.returncode == 1, run
    assert told["ended"]["code"] == code
    assert len(stale(told)) == 1


def test_a_deadlock_ends_the_program_and_is_told(place):
    """A hub that stands still is named with the line it stands at."""
    (place / "jobs.py").write_text("import threading\nlock = threading.Lock()\n")
    (place / "app.py").write_text(
        LATE.replace("gevent.spawn(jobs.work).join()", "jobs.lock.acquire()\njobs.lock.acquire()")
    )
    run, told = observe(place, "--stall", "0.5", "--", "python", "app.py")
    assert run.returncode == 1, run
    assert told["ended"]["how"] == "stalled"
    (found,) = [one for one in told["findings"] if one["id"] == "GK401"]
    assert found["captured_at"].endswith("app.py:7")
    assert (found["effect"], found["holder"]) == ("hangs", "app")


def test_a_program_that_waits_is_not_standing_still(place):
    """An idle hub, and a process without gevent, may wait as long as they like."""
    for wait in ("gevent.sleep(2.0)", "pass"):
        (place / "app.py").write_text(LATE + wait)
        _, told = observe(place, "--stall", "1", "--", "python", "app.py")
        assert told["ended"]["how"] == "exit"
    (place / "app.py").write_text("import time\ntime.sleep(2.0)\n")
    run, told = observe(place, "--stall", "1", "--", "python", "app.py")
    assert (told["ended"]["how"], run.returncode) == ("exit", 0), run


def test_its_time_is_up(place):
    """--timeout ends it, what it does with SIGTERM or not."""
    (place / "app.py").write_text(
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + LATE + "gevent.sleep(900)"
    )
    run, told = observe(place, "--timeout", "3", "--", "python", "app.py")
    assert run.returncode == 1, run
    assert told["ended"]["how"] == "timeout"
    assert told["ended"]["code"] == -signal.SIGKILL
    assert len(stale(told)) == 1


def test_where_each_process_waits_when_its_time_is_up_is_a_note(place):
    """A hook of a fork waits in the child, and the parent for the child: each is named with its oldest."""
    (place / "app.py").write_text(
        "from gevent import monkey\nmonkey.patch_all()\n"
        "import gevent.event, os\n"
        "def other(): gevent.event.Event().wait()\n"
        "def timer(): gevent.sleep(3600)\n"
        "def hook(): gevent.event.Event().wait()\n"
        "gevent.spawn(other); gevent.spawn(timer); gevent.sleep(0)\n"
        "os.register_at_fork(after_in_child=hook)\n"
        "child = os.fork()\n"
        "os.waitpid(child, 0)\n"
    )
    _, told = observe(place, "--timeout", "8", "--", "python", "app.py")
    notes = [found for found in told["findings"] if found["id"] == "GK130"]
    lines = sorted(found["where"].rpartition(":")[2] for found in notes)
    assert lines == ["10", "6"], told
    assert all(
        {line.rpartition(" waits in ")[2] for line in found["evidence"]}
        == {"app.py:4 other", "app.py:5 timer"}
        for found in notes
    ), notes


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_passed_on_and_reported(place, sent):
    """The program gets it and ends its own way; the report comes all the same."""
    (place / "app.py").write_text(
        LATE + "import signal\ndef bye(*_):\n    print('bye', flush=True)\n    sys.exit(7)\n"
        f"signal.signal({int(sent)}, bye)\nprint('ready', flush=True)\nwhile True: gevent.sleep(0.1)\n"
    )
    doctor = subprocess.Popen(
        [sys.executable, "-m", "greenkit", "doctor", "--json", "--", "python", "app.py"],
        cwd=place, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        while doctor.stderr.readline() != "ready\n":
            pass
        doctor.send_signal(sent)
        out, err = doctor.communicate(timeout=30)
    finally:
        doctor.kill()
    assert doctor.returncode == 1, err
    told = json.loads(out)
    assert told["ended"]["how"] == "interrupted"
    assert told["ended"]["code"] == 7
    assert "bye" in err
    assert len(stale(told)) == 1


def test_a_program_killed_by_the_signal_has_spoken_before(place):
    """SIGTERM with nobody to handle it ends the program at once: it is asked first."""
    (place / "app.py").write_text(LATE + "import late_module\nprint('ready', flush=True)\ngevent.sleep(60)\n")
    (place / "late_module.py").write_text("")
    doctor = subprocess.Popen(
        [sys.executable, "-m", "greenkit", "doctor", "--json", "--", "python", "app.py"],
        cwd=place, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        while doctor.stderr.readline() != "ready\n":
            pass
        doctor.send_signal(signal.SIGTERM)
        out, err = doctor.communicate(timeout=30)
    finally:
        doctor.kill()
    told = json.loads(out)
    assert told["ended"]["code"] == -signal.SIGTERM, err
    assert len(stale(told)) == 1


def test_the_projects_own_sitecustomize_still_runs(place):
    """Ours calls the next one, and is nowhere to be seen afterwards."""
    (place / "site").mkdir()
    (place / "site" / "sitecustomize.py").write_text(
        "import jobs\nimport os\nos.environ['MARK'] = __file__\n"
    )
    (place / "app.py").write_text(
        "from gevent import monkey\nmonkey.patch_all()\nimport os, sys, sitecustomize\n"
        "print(os.environ['MARK'] == sitecustomize.__file__, [p for p in sys.path if 'doctor/_site' in p])\n"
    )
    run, told = observe(place, "--", "python", "app.py", env={"PYTHONPATH": f"{place}/site:{place}"})
    assert run.stderr == "True []\n"
    assert run.returncode == 1, run
    assert len(stale(told)) == 1


def test_without_a_sitecustomize_there_is_no_noise(place):
    """Nothing on standard error but the program's own."""
    (place / "app.py").write_text("print('hello')")
    run, _ = observe(place, "--", "python", "app.py")
    assert run.stderr == "hello\n"


def test_forked_workers_are_seen(place):
    """A server that patches in its children, as gunicorn's gevent worker does."""
    (place / "app.py").write_text(
        "import jobs, os\npid = os.fork()\nif not pid:\n    from gevent import monkey\n"
        "    monkey.patch_all()\n    import gevent\n    gevent.sleep(0.01)\n    os._exit(0)\n"
        "os.waitpid(pid, 0)\n"
    )
    run, told = observe(place, "--", "python", "app.py")
    assert run.returncode == 1, run
    assert len(stale(told)) == 1
    assert [one["patched"] for one in told["processes"]] == [False, True]
    assert "GK103" not in [found["id"] for found in told["findings"]]


def test_an_unpatched_program_is_told_as_such(place):
    """Information, and the code 0: nobody said that it should be patched."""
    (place / "app.py").write_text("print('hello')")
    run, told = observe(place, "--", "python", "app.py")
    assert run.returncode == 0, run
    assert told["patched"] is False
    assert [found["id"] for found in told["findings"]] == ["GK103"]


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["pyton", "app.py"], "'pyton' is no file and no command on the PATH; did you mean 'python'?"),
        (["true"], "no process of the program could be observed"),
        (["python", "-I", "app.py"], "no process of the program could be observed"),
        (["python", "nowhere.py"], "the program ended with status 2 before anything was patched"),
        (["python", "-m", "pkg"], "the program ended with status 1 before anything was patched"),
    ],
)
def test_what_cannot_be_observed_is_2(place, command, says):
    """The sentence says why, and no finding is made up."""
    (place / "pkg").mkdir()
    (place / "pkg" / "__init__.py").write_text("")
    run, told = observe(place, "--", *command)
    assert run.returncode == 2, run
    assert says in told["problem"]


def test_the_report_also_goes_where_it_was_asked_for(place):
    """GREENKIT_REPORT in the environment of the doctor names a file for the whole diagnosis."""
    _, told = observe(place, "--", "python", "app.py", env={"GREENKIT_REPORT": str(place / "report.json")})
    assert json.loads((place / "report.json").read_text()) == told


def test_nothing_is_left_behind(place):
    """The directory of the notes is gone, also when the program was killed."""
    (place / "tmp").mkdir()
    (place / "app.py").write_text(LATE + ENDS["killed"])
    observe(place, "--", "python", "app.py", env={"TMPDIR": str(place / "tmp")})
    assert list((place / "tmp").iterdir()) == []


def test_no_worker_outlives_its_program(place):
    """Who was forked and forgotten is ended with the program the doctor ends."""
    (place / "app.py").write_text(
        "import os, time\nif not os.fork():\n    print(os.getpid(), flush=True)\n    time.sleep(900)\n"
        "time.sleep(900)\n"
    )
    run, told = observe(place, "--timeout", "1", "--", "python", "app.py", timeout=30)
    assert told["ended"]["how"] == "timeout"
    worker = int(run.stderr.splitlines()[0])
    state = Path(f"/proc/{worker}/stat")  # an orphan nobody reaps stays as a zombie: ended all the same
    assert not state.exists() or state.read_text().rpartition(")")[2].split()[0] == "Z"


def test_what_a_program_is_ended_for_is_always_named(place):
    """It goes on while it is being ended and leaves by itself: the line is told all the same."""
    (place / "app.py").write_text(
        "from gevent import monkey\nmonkey.patch_all()\nimport ctypes, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: None)\n"
        "until = time.monotonic() + 2.5\n"
        "while time.monotonic() < until:\n    ctypes.CDLL(None).usleep(100_000_000)\n"
        "import gevent; gevent.sleep(1.0)\n"
    )
    run, told = observe(place, "--stall", "1", "--", "python", "app.py")
    assert told["ended"]["how"] == "stalled"
    (found,) = [one for one in told["findings"] if one["id"] == "GK401" and one["severity"] == "error"]
    assert found["captured_at"].endswith("app.py:7")
    assert run.returncode == 1, run


def test_a_program_that_computes_is_let_go_on(place):
    """A call in C that uses the CPU comes to an end, however long it takes."""
    (place / "app.py").write_text(
        "from gevent import monkey\nmonkey.patch_all()\nimport hashlib, time\n"
        "until = time.thread_time() + 1.5\n"
        "while time.thread_time() < until: hashlib.pbkdf2_hmac('sha256', b'', b'', 4_000_000)\n"
        "print('finished', flush=True)\n"
    )
    run, told = observe(place, "--stall", "0.5", "--", "python", "app.py")
    assert told["ended"] == {"command": ["python", "app.py"], "how": "exit", "code": 0}
    assert "finished\n" in run.stderr


FORKS = "import os, time\nif os.fork() == 0:\n    print(os.getpid(), flush=True)\n    time.sleep(100)\n"


@pytest.mark.parametrize("words", [["forks.py"], ["--", "python", "forks.py"]])
def test_the_time_is_that_of_all_its_processes(place, words):
    """A child that outlives its parent is ended when the time is up, and keeps nobody waiting."""
    (place / "forks.py").write_text(FORKS)
    run, told = observe(place, "--timeout", "2", *words)
    assert "Traceback" not in run.stderr
    assert told["ended"] is None or told["ended"]["how"] == "timeout"
    (child,) = [int(line) for line in run.stderr.splitlines() if line.isdigit()]
    assert not Path(f"/proc/{child}").exists() or ") Z " in Path(f"/proc/{child}/stat").read_text()


def test_a_process_that_outlives_the_doctor_says_nothing(place):
    """Without a time limit a daemon is let alone, though the directory of the notes is gone."""
    (place / "forks.py").write_text(FORKS.replace("100", "0.5") + "    open('left', 'w').close()\n")
    run, _ = observe(place, "--", "python", "forks.py")
    assert (place / "left").exists(), "run_clean waits for its standard error, which the child holds"
    assert "Traceback" not in run.stderr
    assert "greenkit" not in run.stderr


def test_a_lazy_attribute_of_a_target_is_there(place):
    """Celery's package is a module of a class of its own, which imports on demand."""
    run, _ = observe(place, "celery:Celery")
    assert "no attribute" not in run.stdout
    assert run.returncode == 0


def test_a_module_of_dash_m_has_its_own_name(place):
    """`python -m package` runs package.__main__; what it holds is told by that name."""
    (place / "shop").mkdir()
    (place / "shop" / "__init__.py").write_text("")
    (place / "shop" / "__main__.py").write_text(
        "from time import sleep\n" + LATE.replace("import jobs\n", "").replace("jobs.work", "sleep, 0")
    )
    _, told = observe(place, "--", "python", "-m", "shop")
    (found,) = [one for one in told["findings"] if one["id"] == "GK101"]
    assert found["holder"] == "shop.__main__"
    assert found["message"].startswith("shop.__main__.sleep (module global)")
    assert found["captured_at"].endswith("shop/__main__.py:1")
