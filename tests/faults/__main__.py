"""Run seeds at length: `./dev chaos --seeds 20 --broker redis`."""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from tests.faults import report
from tests.faults.driver import carry_out
from tests.faults.plan import KINDS, MODES, make_plan


def main() -> int:
    """Run what the command line says; 1 when a seed failed."""
    options = parser().parse_args()
    folder = options.out or Path(tempfile.mkdtemp(prefix="greenkit-chaos-"))
    results = []
    for seed in range(options.first_seed, options.first_seed + options.seeds):
        plan = make_plan(
            seed, broker=options.broker, tasks=options.tasks, seconds=options.seconds, mode=options.mode,
            only=tuple(options.only), plain=options.plain, visibility=options.visibility,
            concurrency=options.concurrency,
        )  # fmt: skip
        name = f"{plan.broker}-{'plain' if plan.plain else plan.mode}-{seed}"
        result = carry_out(plan, folder / name, loud=options.verbose)
        report.save(result)
        print(report.line(result) if result.verdict.passed else report.failure(result), flush=True)
        results.append(result)
    print(report.summary(results), f"logs: {folder}", sep="\n")
    return int(any(not result.verdict.passed for result in results))


def parser() -> argparse.ArgumentParser:
    """Return the options."""
    made = argparse.ArgumentParser(prog="./dev chaos", description=__doc__)
    add = made.add_argument
    add("--seeds", type=int, default=1, help="how many (1)")
    add("--first-seed", type=int, default=1, help="the first of them (1)")
    add("--broker", choices=("redis", "amqp"), default="redis")
    add("--tasks", type=int, default=3000, help="tasks per seed (3000)")
    add("--seconds", type=float, default=75.0, help="how long faults go on (75)")
    add("--visibility", type=float, default=30.0, help="Redis' visibility timeout (30)")
    add("--concurrency", type=int, default=60, help="tasks at once in each worker (60)")
    add("--mode", choices=("", *MODES), default="", help="how tasks meet their quota; drawn from the seed")
    add("--only", nargs="*", choices=sorted(KINDS), default=[], help="only these kinds of fault")
    add("--plain", action="store_true", help="plain celery -P gevent with psycogreen, without greenkit")
    add("--out", type=Path, help="folder for logs and results")
    add("-v", "--verbose", action="store_true", help="print the timeline as it happens")
    return made


if __name__ == "__main__":
    sys.exit(main())
