"""The files that look at a worker fit together, and what they would read is what happened."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.examples import compose

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "monitoring"


def load(name: str) -> Any:
    return yaml.safe_load((EXAMPLE / name).read_text())


def mounts(service: str) -> dict[str, Path]:
    """Return {path in the container: file of the repository}."""
    found = {}
    for volume in load("compose.yaml")["services"][service]["volumes"]:
        source, target, mode = volume.split(":")
        assert mode == "ro"
        found[target] = (EXAMPLE / source).resolve()
    return found


def test_the_services_and_their_files_fit() -> None:
    """Whoever is waited for, asked or mounted is there, under the name and port it is asked by."""
    services = load("compose.yaml")["services"]
    for name, service in services.items():
        assert set(service.get("depends_on", ())) <= set(services)
        for source in mounts(name).values() if "volumes" in service else ():
            assert source.is_file()
            assert source.is_relative_to(ROOT)
    environment = services["worker"]["environment"]
    for address in ("BROKER_URL", "LLM_URL", "OTEL_EXPORTER_OTLP_ENDPOINT"):
        assert environment[address].split("://")[1].split(":")[0] in services
    compose.check(EXAMPLE / "compose.yaml")


def test_prometheus_asks_the_worker_and_has_the_rules() -> None:
    """Its targets are services on the ports they listen on; its rules are the documentation's."""
    config, services = load("prometheus.yml"), load("compose.yaml")["services"]
    targets = [
        target
        for job in config["scrape_configs"]
        for static in job["static_configs"]
        for target in static["targets"]
    ]
    assert f"worker{services['worker']['environment']['GREENKIT_METRICS']}" in targets
    assert {target.split(":")[0] for target in targets} <= set(services)
    (rules,) = config["rule_files"]
    assert mounts("prometheus")[rules] == ROOT / "docs" / "monitoring" / "alerts.yml"


def test_prometheus_takes_its_file_and_the_rules(tmp_path: Path) -> None:
    """Its own tool reads both, and every expression of a rule."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool; apt-get install prometheus")
    rules = str(ROOT / "docs" / "monitoring" / "alerts.yml")
    config = (EXAMPLE / "prometheus.yml").read_text().replace("/etc/prometheus/alerts.yml", rules)
    (tmp_path / "prometheus.yml").write_text(config)
    command = [promtool, "check", "config", tmp_path / "prometheus.yml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"Checking {rules}" in done.stdout


def test_grafana_has_the_dashboard_and_its_source() -> None:
    """The folder holds the documentation's dashboard; its source is of the kind the dashboard asks for."""
    files = mounts("grafana")
    (provider,) = load("grafana/dashboards.yaml")["providers"]
    (board,) = (file for path, file in files.items() if path.startswith(provider["options"]["path"]))
    assert board == ROOT / "docs" / "monitoring" / "dashboard.json"
    asked = [
        one for one in json.loads(board.read_text())["templating"]["list"] if one["type"] == "datasource"
    ]
    (source,) = load("grafana/datasource.yaml")["datasources"]
    assert [one["query"] for one in asked] == [source["type"]]
    assert source["url"].split("://")[1].split(":")[0] == "prometheus"


def test_the_collector_takes_what_the_worker_sends() -> None:
    """Each pipeline has parts that are configured, on the port the worker sends to."""
    config = load("otel-collector.yaml")
    for pipeline in config["service"]["pipelines"].values():
        assert set(pipeline["receivers"]) <= set(config["receivers"])
        assert set(pipeline["exporters"]) <= set(config["exporters"])
    endpoint = config["receivers"]["otlp"]["protocols"]["http"]["endpoint"]
    worker = load("compose.yaml")["services"]["worker"]["environment"]
    assert worker["OTEL_EXPORTER_OTLP_ENDPOINT"].endswith(endpoint.rpartition(":")[2])


def test_what_the_worker_says_is_what_the_servers_counted() -> None:
    """Tasks, permits and 429s of a scrape, probes, and spans with their parents: as the README shows."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    dropped = ("GREENKIT", "CELERY", "OTEL")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", EXAMPLE / "run.py", "--port", str(port)],
        env=kept, capture_output=True, text=True, timeout=110, check=False,
    )  # fmt: skip
    shown = (EXAMPLE / "README.md").read_text().split("```text\n")[1].split("```")[0]
    assert done.stdout == shown, done.stdout + done.stderr
