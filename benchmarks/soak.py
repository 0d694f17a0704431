"""Does a worker grow in twenty minutes of work with every small failure there is?

Workers in several variants run side by side, each with a queue of its own, the same servers and the same
tasks: as it comes, with one arena of glibc's allocator, with `malloc_trim()` or a collection at each look.
Options: `--minutes 20 --rate 15 --variants default,arenas,trim`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import sys
import tempfile
import time
from pathlib import Path

import psycopg2
from celery import Celery

from greenkit.testing import MockLLM, PostgresServer, Program, ValkeyServer

HERE = Path(__file__).parent
VARIANTS = {
    "default": {},
    "collect": {"SOAK_COLLECT": "1"},
    "arenas": {"MALLOC_ARENA_MAX": "1"},
    "trim": {"SOAK_TRIM": "1"},
    "mmap": {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"},
    "malloc": {"PYTHONMALLOC": "malloc"},
    "pymalloc-off-trim": {"PYTHONMALLOC": "malloc", "SOAK_TRIM": "1"},
}
# Of a hundred tasks; the others are plain.
REVOKED = 0.003
HOW = ["raise"] * 3 + ["timeout"] * 2 + ["soft", "cancel", "child", "key", "key", "exit", "retry"]
SHOWN = ("rss", "rss after malloc_trim", "malloc", "malloc used", "malloc free")
COUNTED = ("objects", "blocks", "greenlets", "descriptors", "threads")


def main() -> None:
    options = parser().parse_args()
    folder = options.out or Path(tempfile.mkdtemp(prefix="greenkit-soak-"))
    folder.mkdir(parents=True, exist_ok=True)
    with (
        PostgresServer(own=True) as postgres, ValkeyServer(own=True, tcp=True) as valkey,
        ValkeyServer(own=True, tcp=True) as limits, contextlib.ExitStack() as stack,
        MockLLM(latency="lognormal:0.25:0.4", error_rate=0.01, reset_rate=0.005, seed=3) as llm,
    ):  # fmt: skip
        with contextlib.closing(psycopg2.connect(postgres.dsn)) as link:
            link.autocommit = True
            link.cursor().execute("CREATE TABLE soak (id bigserial, number int)")
        address = " ".join(f"{name}={value}" for name, value in postgres.parameters.items())
        common = {
            "SOAK_POSTGRES": address, "SOAK_BROKER": valkey.broker_url, "SOAK_LIMITS": limits.url,
            "SOAK_LLM": llm.url, "SOAK_EVERY": str(options.every),
        }  # fmt: skip
        workers = {}
        for name in options.variants:
            argv = [
                "celery",
                "-A",
                "soak_app",
                "worker",
                "-P",
                "gevent",
                "-c",
                "100",
                "-n",
                f"{name}@localhost",
            ]
            env = {
                **common,
                **VARIANTS[name],
                "SOAK_NAME": name,
                "SOAK_SAMPLES": str(folder / f"{name}.jsonl"),
            }
            program = Program(
                [sys.executable, "-m", *argv, "-l", "WARNING"], env=env, cwd=HERE / "rivals",
                log=folder / f"{name}.log",
            )  # fmt: skip
            workers[name] = stack.enter_context(program)
        feed(valkey.broker_url, workers, options)
        ends = {name: worker.stop(timeout=60.0) for name, worker in workers.items()}
    for name, end in ends.items():
        show(name, folder / f"{name}.jsonl", options.after, end.status)
    print(f"samples: {folder}")


def feed(broker: str, workers: dict[str, Program], options: argparse.Namespace) -> None:
    """Send tasks at the rate, to every variant alike."""
    dice = random.Random(7)
    app = Celery("soak", broker=broker, set_as_current=False)
    begin, sent = time.monotonic(), 0
    with app.producer_or_acquire() as producer:
        while (spent := time.monotonic() - begin) < options.minutes * 60:
            while sent < spent * options.rate:
                how = dice.choice(HOW) if dice.random() < len(HOW) / 100 else "plain"
                ids = [
                    app.send_task("soak.work", (sent, how), queue=name, producer=producer).id
                    for name in workers
                ]
                if dice.random() < REVOKED:
                    app.control.revoke(ids, terminate=dice.random() < 0.7)
                sent += 1
            time.sleep(0.1)
    app.close()


def show(name: str, path: Path, after: float, status: int) -> None:
    """Print how each figure grew after the first minutes, by the line that fits the samples best."""
    samples = [json.loads(line) for line in path.read_text().splitlines()]
    begin = samples[0]["at"]
    late = [one for one in samples if one["at"] - begin >= after * 60]
    print(f"{name}: {samples[-1]['done']} tasks, {len(late)} samples after minute {after:g}, status {status}")
    for figure in SHOWN + COUNTED:
        if figure not in samples[0]:
            continue
        unit = 2**20 if figure in SHOWN else 1
        values = [one[figure] / unit for one in late]
        rate = slope([one["at"] / 60 for one in late], values)
        print(f"  {figure:24} {values[0]:10.1f} to {values[-1]:10.1f}, {rate:+8.2f} a minute"
              + (" MiB" if figure in SHOWN else ""))  # fmt: skip


def slope(xs: list[float], ys: list[float]) -> float:
    """Return the slope of the least-squares line."""
    if len(xs) < 2:
        return 0.0
    x, y = sum(xs) / len(xs), sum(ys) / len(ys)
    return sum((a - x) * (b - y) for a, b in zip(xs, ys, strict=True)) / sum((a - x) ** 2 for a in xs)


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__)
    made.add_argument("--minutes", type=float, default=20.0)
    made.add_argument("--after", type=float, default=5.0, help="minutes not counted")
    made.add_argument("--rate", type=float, default=15.0, help="tasks a second, of each variant")
    made.add_argument("--every", type=float, default=15.0, help="seconds between two samples")
    made.add_argument("--variants", type=lambda text: text.split(","), default=["default", "arenas", "trim"])
    made.add_argument("--out", type=Path)
    return made


if __name__ == "__main__":
    main()
