"""The remedy a finding names is the one that works: tried for each agent, in an environment of their own.

Agents load ssl or threading into every process of their environment, so none of them may enter the one the
tests run in. They share one: each comes in by its command or by the program's import, and not otherwise.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.architecture.floors import ROOT

pytestmark = pytest.mark.skipif(
    subprocess.run([sys.executable, "-m", "uv", "--version"], check=False, capture_output=True).returncode
    != 0,
    reason="uv is not in this environment",
)
PROGRAM = """import greenkit.auto
import time
import requests
from urllib3.util import ssl_
try:
    ssl_.create_urllib3_context()
    print("TLS works", time.sleep.__module__, flush=True)
except RecursionError:
    print("RecursionError", flush=True)
"""
WORKER = """import greenkit.auto
import time
from celery import Celery, signals
app = Celery("proj", broker="memory://")
@signals.worker_ready.connect
def ready(**_):
    import os, signal, gevent
    from urllib3.util import ssl_
    ssl_.create_urllib3_context()
    open("told", "w").write(f"TLS works {time.sleep.__module__}")
    gevent.spawn_later(0.2, os.kill, os.getpid(), signal.SIGTERM)
"""
SENTRY = PROGRAM.replace(
    "import requests", "import sentry_sdk; sentry_sdk.init(dsn='http://k@127.0.0.1:9/1')\nimport requests"
)
OTEL = "opentelemetry-instrument --traces_exporter none --metrics_exporter none --logs_exporter none "

# Name: packages, program, command, whether line 1 is too late under it.
AGENTS = {
    "opentelemetry": (
        ["opentelemetry-distro", "opentelemetry-instrumentation-requests"], PROGRAM,
        OTEL + "python app.py", True,
    ),
    "ddtrace": (["ddtrace"], PROGRAM, "ddtrace-run python app.py", False),
    "newrelic": (["newrelic"], PROGRAM, "newrelic-admin run-program python app.py", False),
    "sentry": (["sentry-sdk"], SENTRY, "python app.py", False),
    "debugpy": (["debugpy"], PROGRAM, "python -m debugpy --listen 127.0.0.1:0 app.py", True),
    "coverage": (["coverage"], PROGRAM, "coverage run app.py", False),
    "flower": (
        ["flower"], WORKER,
        "celery -A app worker -P gevent --without-mingle --without-gossip --concurrency 2", False,
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """Make one environment with the packages of every agent and this greenkit; return its interpreter."""
    place = tmp_path_factory.mktemp("agents")
    python = str(place / "bin" / "python")
    uv = [sys.executable, "-m", "uv", "--quiet"]
    subprocess.run([*uv, "venv", "--python", sys.executable, str(place)], check=True)
    packages = sorted({name for names, *_ in AGENTS.values() for name in names})
    known = ["requests", "celery", "-e", str(ROOT), "-c", str(ROOT / "constraints.txt")]
    made = subprocess.run(
        [*uv, "pip", "install", "--python", python, *packages, *known],
        check=False, capture_output=True, text=True,
    )  # fmt: skip
    if made.returncode and "resolve" not in made.stderr:
        pytest.skip(f"the agents cannot be installed here: {made.stderr[-300:]}")
    assert made.returncode == 0, made.stderr
    return python


def run(python, words, place):
    env = {**os.environ, "PATH": f"{Path(python).parent}:{os.environ['PATH']}", "DD_TRACE_ENABLED": "0"}
    env = {name: value for name, value in env.items() if not name.startswith(("GREENKIT", "PYTHON", "COV"))}
    return subprocess.run(words, cwd=place, env=env, capture_output=True, text=True, timeout=240, check=False)


@pytest.mark.timeout(500)  # a debugger looks at every line the doctor runs, for a minute on a busy machine
@pytest.mark.parametrize("agent", AGENTS)
def test_what_the_finding_says_to_type_works(tmp_path, python, agent):
    """Line 1 is enough, or the finding names the command with which the patch comes first."""
    _, program, command, late = AGENTS[agent]
    (tmp_path / "app.py").write_text(program)
    seen = run(python, ["greenkit", "doctor", "--json", "--", *shlex.split(command)], tmp_path)
    told = json.loads(seen.stdout)
    early = [one for one in told["findings"] if one["severity"] == "error" and one["id"] != "GK401"]
    assert bool(early) == late, (early, seen.stderr[-2000:])
    typed = f"greenkit run --children -- {command}" if late else command
    for one in early:
        said = one["hint"].partition("Start it with: ")[2]
        assert said.removeprefix("GEVENT_SUPPORT=True ").startswith("greenkit run --children -- ")
        assert agent != "opentelemetry" or said == typed, "an option that was typed is missing"
        typed = said
    (tmp_path / "told").unlink(missing_ok=True)
    cured = run(python, ["env", *shlex.split(typed)], tmp_path)
    printed = (tmp_path / "told").read_text() if "worker" in command else cured.stdout
    assert "TLS works gevent.hub" in printed, (typed, cured)
