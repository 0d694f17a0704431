"""Does a load that `greenkit plan` was asked about look as it said, when the demo runs it?

Plans three loads for one worker, runs the demo with the planned slots, connections and quota, and sets what
it measured in the middle of the batch beside the plan: calls in flight and answers a second counted by the
LLM's server, connections by Postgres, CPU and memory of the worker by the kernel. Prints the table of
docs/reference/cli.md.
Run: python benchmarks/bench_plan.py [--seconds 30]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

DEMO = Path(__file__).resolve().parents[1] / "examples" / "llm_batch" / "demo.py"
TOKENS = 22  # what a question and its answer cost at the mock server, as its own count says
LOADS = {  # (tasks a second, seconds a call takes, tokens a task costs)
    "requests, short calls": (40, 1, 0),
    "requests, long calls": (15, 4, 0),
    "tokens": (25, 2, TOKENS),
}


def last_line(*command):
    """Run a Python program that prints an object on its last line; return the object."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GREENKIT")}
    words = [sys.executable, *map(str, command)]
    done = subprocess.run(words, env=kept, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def run(rps, latency, tokens, seconds):
    """Plan a load and run the demo as planned; return (plan, what it measured)."""
    asked = ["--rps", rps, "--latency", latency, "--tokens", tokens, "--workers", 1, "--json"]
    plan = last_line("-m", "greenkit", "plan", *asked)
    flags = ["--concurrency", plan["slots"], "--db-pool", plan["connections"]]
    requests = plan["requests_per_minute"]
    if tokens:
        requests *= 4  # the tokens are what limits
        flags += ["--tokens", f"{plan['tokens_per_minute']}/min burst {plan['tokens_burst']}"]
    calls = round(rps * (seconds + 2 * latency))
    flags += ["--rate", f"{requests}/min", "--calls", calls, "--latency", latency]
    return plan, last_line(DEMO, "--json", *flags)


def lines(rps, latency, tokens, plan, found):
    """Return (what, planned, measured) of one load."""
    rate = found["middle_calls_per_s"]
    yield "calls a second", rps, rate
    yield "calls in flight", rps * latency, found["mean_in_flight"]
    if tokens:
        yield "tokens a minute", plan["tokens_per_minute"], 60 * rate * found["tokens"] / found["rows"]
    yield "memory, MiB", plan["memory_mib"], found["worker_memory_mib"]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=30.0, help="how long each batch takes")
    seconds = parser.parse_args().seconds
    print(f"Python {platform.python_version()}, {os.cpu_count()} cores\n")
    print("| load | measured | plan | the demo | ratio |\n|---|---|---:|---:|---:|")
    for name, (rps, latency, tokens) in LOADS.items():
        plan, found = run(rps, latency, tokens, seconds)
        words = f"{name}: {rps}/s x {latency} s"
        for what, planned, measured in lines(rps, latency, tokens, plan, found):
            ratio = measured / planned
            print(f"| {words} | {what} | {planned:.0f} | {measured:.0f} | {ratio:.2f} |", flush=True)
            words = ""
        print(f"| | connections | {plan['connections']} | {found['peak_db_connections']} at most | |")
        print(
            f"| | CPU a task, ms | {1000 * plan['core'] / rps:g} | {found['worker_cpu_ms']:.1f} | |",
            flush=True,
        )
        assert found["rows"] == found["calls"], found


if __name__ == "__main__":
    main()
