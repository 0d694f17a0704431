"""`greenkit doctor --probe` in processes that are green, half green and not."""

from __future__ import annotations

import json

from greenkit.testing import run_clean

PROBE = """
{first}
import json
from greenkit.doctor import probe
print(json.dumps({{one.api: one.verdict for one in probe()}}))
"""


def test_a_green_process_cooperates():
    """Every call gives way, in the order they are made, with what was measured."""
    run = run_clean(["-m", "greenkit", "doctor", "--probe", "--json"])
    told = json.loads(run.stdout)
    seen = {one["api"]: one["verdict"] for one in told["probes"]}
    # A busy machine may starve a ticker three times in a row; it cannot do so everywhere.
    assert list(seen.values()).count("cooperates") >= len(seen) - 2, run
    assert {"time.sleep", "socket.getaddrinfo", "os.waitpid", "subprocess.run"} <= seen.keys()
    assert all(one["waited_ms"] > 0 for one in told["probes"])


def test_what_was_put_back_is_measured():
    """A native sleep and a native lock are named; one blocks, the other never comes back."""
    run = run_clean(
        PROBE.format(
            first="import greenkit.auto, time, threading\nfrom gevent.monkey import get_original as real\n"
            "time.sleep = real('time', 'sleep')\nthreading.Lock = real('_thread', 'allocate_lock')\n"
        )
    )
    assert run.json["time.sleep"] == "blocks"
    assert run.json["threading.Lock.acquire"] == "hangs"
    assert run.json["select.select"] == "cooperates"
    assert len(run.json) > 15, "a call that hangs is not the end"


def test_an_unpatched_process_blocks():
    """Each wait is measured as one."""
    run = run_clean(PROBE.format(first=""))
    assert {run.json[api] for api in ("time.sleep", "select.poll", "queue.Queue.get", "os.waitpid")} == {
        "blocks"
    }


def test_it_is_the_main_threads_hub_that_is_measured():
    """In another thread it refuses, with a word."""
    run = run_clean(
        "import threading\nfrom greenkit.doctor import probe\nfrom greenkit import GreenkitError\n"
        "def f():\n    try:\n        probe()\n    except GreenkitError as error:\n        print(error)\n"
        "t = threading.Thread(target=f)\nt.start()\nt.join()\n"
    )
    assert "call it there" in run.stdout


def test_a_finding_says_what_was_measured(tmp_path):
    """The doctor's findings carry the id, the call and the milliseconds."""
    (tmp_path / "undo.py").write_text(
        "import time\nfrom gevent.monkey import get_original\ntime.sleep = get_original('time', 'sleep')\n"
    )
    run = run_clean(["-m", "greenkit", "doctor", "--probe", "--json", "undo"], cwd=str(tmp_path))
    assert run.returncode == 1, run
    (found,) = [
        one
        for one in json.loads(run.stdout)["findings"]
        if one["id"] == "GK110" and one["original"] == "time.sleep"
    ]
    assert (found["holder"], found["attribute"], found["effect"]) == ("time", "sleep", "blocks-hub")
    assert "stopped every greenlet for 6" in found["message"]
