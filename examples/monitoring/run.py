"""Start a broker, an LLM and a worker, send it tasks; show what metrics, probes and spans say of them."""

import argparse
import collections
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from celery import Celery
from prometheus_client.parser import text_string_to_metric_families

from greenkit.testing import MockLLM, ValkeyServer

HERE = Path(__file__).resolve().parent
TASKS = 60


def ask(port, path):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, ""
    except OSError:
        return 0, ""


def scrape(port):
    """Return {name: the sum of its samples}, as a dashboard sums over processes and limiters."""
    found = collections.Counter()
    for family in text_string_to_metric_families(ask(port, "/metrics")[1]):
        for sample in family.samples:
            found[sample.name] += sample.value
    return found


def until(condition, process):
    end = time.monotonic() + 60
    while not condition():
        if time.monotonic() > end or process.poll() is not None:
            raise SystemExit("the worker did not get there; see its log above")
        time.sleep(0.1)


def show(port, place, llm, process):
    until(lambda: ask(port, "/readyz")[0] == 200, process)
    with Celery("client", broker=os.environ["BROKER_URL"]) as client:
        for number in range(TASKS):
            client.send_task("shop.ask", (f"question {number}",))
    until(lambda: scrape(port)["greenkit_pool_tasks_ended_total"] >= TASKS, process)
    seen, truth = scrape(port), llm.stats()
    alive = [sys.executable, "-m", "greenkit", "alive", str(place / "alive")]
    beats = subprocess.run(alive, stdout=subprocess.DEVNULL, check=False).returncode
    ended = int(seen["greenkit_pool_tasks_ended_total"])
    granted = int(seen["greenkit_limiter_granted_total"])
    rejected = int(seen["greenkit_limiter_rejected_total"])
    print(
        f"probes         healthz {ask(port, '/healthz')[0]}, readyz {ask(port, '/readyz')[0]}, alive {beats}"
    )
    print(f"tasks          {ended} ended, {TASKS} were sent")
    print(f"permits        {granted} given, the LLM counted {truth['ok']} calls")
    print(f"429s           {rejected} told to the limiter, the LLM sent {truth['rejected']}")
    process.terminate()
    print(f"stop           status {process.wait(30)}")
    show_telemetry([json.loads(line) for line in (place / "telemetry").read_text().splitlines()])


def show_telemetry(lines):
    spans = {line["context"]["span_id"]: line for line in lines if "context" in line}
    calls = [span for span in spans.values() if span["name"] == "call"]
    inside = sum(spans[span["parent_id"]]["name"] == "ask" for span in calls)
    print(f"OpenTelemetry  {inside} of {len(calls)} calls stand inside their task's span")
    found = [told for line in lines for told in line.get("resource_metrics", ())]
    metrics = {metric["name"]: metric for metric in found[-1]["scope_metrics"][0]["metrics"]}
    granted = sum(point["value"] for point in metrics["greenkit.limiter.granted"]["data"]["data_points"])
    print(f"               {granted:.0f} permits given")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=9808, help="of the worker's metrics and probes")
    port = parser.parse_args().port
    with (
        tempfile.TemporaryDirectory() as folder,
        ValkeyServer(own=True) as valkey,
        MockLLM(latency=0.2) as llm,
    ):
        place = Path(folder)
        os.environ.update({
            "BROKER_URL": valkey.broker_url, "LLM_URL": llm.url, "GREENKIT_METRICS": f"127.0.0.1:{port}",
            "GREENKIT_METRICS_DIR": str(place / "metrics"), "GREENKIT_ALIVE": str(place / "alive"),
            "TELEMETRY_FILE": str(place / "telemetry"),
        })  # fmt: skip
        command = [sys.executable, "-m", "celery", "-A", "shop", "worker", "-P", "gevent", "-c", "20"]
        worker = subprocess.Popen([*command, "-l", "WARNING"], cwd=HERE, stdout=sys.stderr)
        try:
            show(port, place, llm, worker)
        finally:
            worker.kill()
            worker.wait()


if __name__ == "__main__":
    main()
