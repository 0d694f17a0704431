"""The files for production do what their readers want: a real server starts with them, or a schema holds."""

from __future__ import annotations

import configparser
import contextlib
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import kubernetes_validate
import psycopg2
import pytest
import redis
import yaml

from greenkit.celery import Options
from greenkit.testing import PostgresServer
from tests.examples import compose as compose_file

DEPLOY = Path(__file__).resolve().parents[2] / "examples" / "deploy"
# Seconds the README asks for; what has to be waited for is drain_timeout and twice kill_grace.
STOP = 120
DRAIN = float(re.search(r"drain_timeout=([\d.]+)", (DEPLOY / "README.md").read_text())[1])  # type: ignore[index]
COMMAND = ["greenkit", "celery", "-A", "shop", "worker", "--concurrency", "200"]


def load(name: str) -> Any:
    return yaml.safe_load((DEPLOY / name).read_text())


def tool(name: str) -> str:
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if found is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{name} is not installed")
    return found


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def test_kubernetes_takes_the_deployment() -> None:
    """Every key is one of its schema, and the worker is told early enough to be done in time."""
    deployment = load("kubernetes/worker.yaml")
    kubernetes_validate.validate(deployment, "1.33", strict=True)
    pod = deployment["spec"]["template"]["spec"]
    assert pod["terminationGracePeriodSeconds"] == STOP > DRAIN + 2 * Options().kill_grace
    (worker,) = pod["containers"]
    assert worker["command"][: len(COMMAND)] == COMMAND
    assert "broker" not in str(worker["livenessProbe"])


def test_the_scaler_and_the_monitor_name_what_there_is() -> None:
    """The deployment, its port, and a metric of greenkit's."""
    deployment = load("kubernetes/worker.yaml")
    scaler, monitor = load("kubernetes/scaler.yaml"), load("kubernetes/podmonitor.yaml")
    assert scaler["spec"]["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    for trigger in scaler["spec"]["triggers"]:  # KEDA's schema takes text only, also for numbers
        assert all(isinstance(value, str) for value in trigger["metadata"].values())
    names = {trigger["name"] for trigger in scaler["spec"]["triggers"]}
    assert names == set(re.findall(r"[a-z]+", scaler["spec"]["advanced"]["scalingModifiers"]["formula"]))
    assert monitor["spec"]["selector"] == deployment["spec"]["selector"]
    ports = {port["name"] for port in deployment["spec"]["template"]["spec"]["containers"][0]["ports"]}
    assert {one["port"] for one in monitor["spec"]["podMetricsEndpoints"]} <= ports


def test_systemd_takes_the_unit() -> None:
    """`systemd-analyze verify` has nothing to say but that this machine has no shop."""
    unit = DEPLOY / "systemd" / "shop-worker@.service"
    seconds = re.search(r"TimeoutStopSec=(\d+)", unit.read_text())
    assert seconds is not None
    assert int(seconds[1]) == STOP
    if shutil.which("systemd-analyze") is None:
        return  # a container without systemd: what can be read without it was
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    said = [line for line in done.stderr.splitlines() if "shop-worker" in line]
    assert [line for line in said if "is not executable" not in line] == []


def test_the_services_and_their_files_fit() -> None:
    """Whoever a service waits for is there, what it mounts exists, and the worker has its time."""
    compose = load("compose.yaml")
    services = compose["services"]
    for service in services.values():
        assert set(service.get("depends_on", ())) <= set(services)
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert (DEPLOY / source).exists() if source.startswith(".") else source in compose["volumes"]
    assert services["worker"]["stop_grace_period"] == f"{STOP}s"
    compose_file.check(DEPLOY / "compose.yaml", POSTGRES_PASSWORD="secret")


def test_the_image_starts_the_worker_as_its_first_process() -> None:
    """In the exec form, and never as root."""
    lines = (DEPLOY / "Dockerfile").read_text().splitlines()
    (command,) = (line for line in lines if line.startswith("CMD"))
    assert yaml.safe_load(command[3:]) == COMMAND
    assert "USER shop" in lines


def test_redis_keeps_its_tasks(tmp_path: Path) -> None:
    """A real server starts with the file and throws nothing away."""
    port = free_port()
    argv = [tool("redis-server"), str(DEPLOY / "redis.conf"), "--port", str(port), "--dir", str(tmp_path)]
    server = subprocess.Popen(argv, stdout=subprocess.DEVNULL)
    try:
        with redis.Redis(port=port, decode_responses=True) as client:
            wait(client.ping, redis.ConnectionError)
            kept = client.config_get("maxmemory-policy", "appendonly", "timeout")
            assert set(kept.values()) == {"noeviction", "yes", "0"}
    finally:
        server.terminate()
        server.wait(20)


def test_pgbouncer_takes_its_file(greenkit_postgres: PostgresServer) -> None:
    """It starts with every setting of the file, but for addresses, and serves a query."""
    settings = configparser.ConfigParser(comment_prefixes=(";",))
    settings.read(DEPLOY / "pgbouncer.ini")
    parts = psycopg2.extensions.parse_dsn(greenkit_postgres.dsn)
    port = free_port()
    settings["databases"] = {"*": f"host={parts['host']} port={parts['port']} user={parts['user']}"}
    settings["pgbouncer"].update({"listen_port": str(port), "auth_type": "any", "unix_socket_dir": ""})
    settings["pgbouncer"].pop("auth_file")
    # It refuses to run as root, and only the server's own user may enter where its socket is.
    where = Path(parts["host"])
    user = {"user": where.stat().st_uid if where.is_dir() else "nobody"} if os.geteuid() == 0 else {}
    with tempfile.TemporaryDirectory() as folder:  # not pytest's, which is closed to others
        Path(folder).chmod(0o755)
        with Path(folder, "ini").open("w") as stream:
            settings.write(stream)
        argv = [tool("pgbouncer"), f"{folder}/ini"]
        child = subprocess.Popen(argv, stderr=subprocess.PIPE, text=True, **user)  # type: ignore[call-overload]
        try:
            dsn = f"host=127.0.0.1 port={port} dbname={parts['dbname']} user={parts['user']}"
            wait(lambda: query(dsn), psycopg2.OperationalError)
        finally:
            child.terminate()
            said = child.communicate(timeout=20)[1]
    assert not re.search(r"WARNING|ERROR|unrecognized", said), said


def query(dsn: str) -> None:
    with contextlib.closing(psycopg2.connect(dsn)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT 1")


def wait(what: Any, error: type[Exception]) -> None:
    until = time.monotonic() + 30
    while True:
        try:
            what()
        except error:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)
        else:
            return
