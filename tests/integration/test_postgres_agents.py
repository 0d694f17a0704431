"""Tracing agents hand out proxies of connections: everything works with them as without."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).parent / "programs" / "pg_agent.py"
DRIVERS = ("psycopg2", "psycopg")
AGENTS = {
    "ddtrace": ["ddtrace"],
    "newrelic": ["newrelic"],
    "elasticapm": ["elastic-apm"],
    # X-Ray's hook for psycopg 3 resolves psycopg_pool's names.
    "xray": ["aws-xray-sdk", "psycopg_pool"],
}


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """Return what installs an agent into a directory of its own: its plugins must not reach other tests."""

    def install(agent: str) -> Path:
        target = tmp_path_factory.getbasetemp() / f"agent-{agent}"
        if not target.exists():
            # Under its name once it is whole: what a failed installation leaves is not taken for one.
            partial = target.with_name(f"{target.name}-partial")
            command = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--target", str(partial)]
            command += AGENTS[agent]
            done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
            if done.returncode:
                why = f"{agent} cannot be installed: {done.stderr[-300:]}"
                if os.environ.get("CI", "").lower() in {"1", "true", "yes"}:
                    pytest.fail(why)
                pytest.skip(why)
            partial.rename(target)
        return target

    return install


def run(dsn: str, driver: str, agent: str, more: Path | None = None) -> dict[str, object]:
    # Behind the environment's own packages: an agent may bring others of gevent's or the drivers' versions.
    path = [str(Path.cwd()), *([str(more)] if more else [])]
    before = "import sys; sys.path.extend(sys.argv.pop(1).split(':')); import runpy; sys.argv.pop(0); "
    start = before + "sys.path.insert(0, sys.argv[0].rpartition('/')[0]); runpy.run_path(sys.argv[0])"
    command = [sys.executable, "-c", start, ":".join(path), str(PROGRAM), dsn, driver, agent]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stdout + done.stderr
    said: dict[str, object] = json.loads(done.stdout.strip().splitlines()[-1])
    return said


EXPECTED = {
    "wrapped": True,
    "served": 12,
    "copied in": 2,
    "copied out": 2,
    "deadline": True,
    "cancelled": True,
    "orphans": 0,
    "heard": "hello",
    "pool": [0, True],
    "given back": 0,
}


@pytest.mark.parametrize("driver", DRIVERS)
def test_a_bare_proxy_is_lent_copied_cancelled_and_heard(greenkit_database: str, driver: str) -> None:
    """Pool, COPY, deadline, cancel, kill and `listen()` work through `wrapt.ObjectProxy`."""
    assert run(greenkit_database, driver, "wrapt") == EXPECTED


@pytest.mark.parametrize("driver", DRIVERS)
@pytest.mark.parametrize("agent", AGENTS)
def test_an_agents_connections_work_as_bare_ones(library, greenkit_database: str, agent, driver) -> None:
    """The same under each agent, in an environment of its own."""
    assert run(greenkit_database, driver, agent, library(agent)) == EXPECTED
