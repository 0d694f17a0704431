"""The demo's arguments, and the quota they amount to."""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass

from greenkit.limits import Rate, parse_rate

POOLS = ("gevent", "threads", "prefork", "solo")
BROKERS = ("redis", "amqp", "filesystem")
CONCURRENCY = {"gevent": 200, "threads": 200, "prefork": 8, "solo": 1}
DB_POOL = 4  # connections of a worker process at most; one is enough where one task runs at a time

# Calls leave the limiter evenly spaced and arrive bunched: the network, a busy hub, two shared cores. A
# server that allowed exactly the limiter's burst would punish that; real ones count seconds or minutes. Ours
# allows the burst and a quarter of a second's worth on top. The rate over time is the same.
BUNCHING = 0.25


@dataclass(frozen=True)
class Quota:
    """The same quota as the limiter, and as the server writes it."""

    rate: Rate

    @property
    def per_second(self) -> float:
        return self.rate.amount / self.rate.period

    def limiter(self, processes: int) -> str:
        """Return one process's share: a limiter without `share=` knows only its own process."""
        burst = max(1.0, self.rate.burst / processes)
        return f"{self.rate.amount / processes:.9g}/{self.rate.period:.0f}s burst {burst:.9g}"

    def tokens(self, processes: int) -> str:
        """Return one process's share of tokens; one call may cost more than a burst that was not given."""
        if self.rate.said:
            return self.limiter(processes)
        return f"{self.rate.amount / processes:.9g}/{self.rate.period:.0f}s"

    def server(self) -> str:
        burst = math.ceil(self.rate.burst + BUNCHING * self.per_second)
        return f"{self.rate.amount:.9f}/{self.rate.period:.0f}s burst {burst}"

    def ideal(self, calls: int, latency: float) -> float:
        """Return the seconds the quota alone asks for: the burst at once, the rest at the rate, an answer."""
        return max(0.0, (calls - self.rate.burst) / self.per_second) + latency


def read(argv: list[str]) -> argparse.Namespace:
    """Return the arguments, defaults filled in; ends the program with code 2 when they are wrong."""
    options = _parser().parse_args(argv)
    options.concurrency = options.concurrency or CONCURRENCY[options.pool]
    if options.pool == "solo":
        options.concurrency = 1
    options.server_rate = options.server_rate or options.rate
    options.processes = options.concurrency if options.pool == "prefork" else 1
    # Tasks of one process that need the database at the same moment.
    wide = options.db_pool or min(DB_POOL, options.concurrency)
    options.db_pool = wide if options.pool in {"gevent", "threads"} else 1
    if options.broker_url:
        options.broker = options.broker_url.partition(":")[0]
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="demo",
        description="Answer a batch of prompts: Django, Celery, Postgres and a mock LLM with a real quota.",
    )
    add = parser.add_argument
    add("--calls", type=_count, default=500, metavar="N", help="prompts in the batch (500)")
    add("--rate", type=_quota, default="200/s", metavar="R", help='the quota: "200/s", "500/min burst 25"')
    add("--server-rate", type=_quota, metavar="R", help="the server's quota when it is not the limiter's")
    add("--tokens", type=_quota, metavar="R", help="a quota of tokens beside it; wide when left out")
    add("--db-pool", type=_count, metavar="N", help=f"connections of a worker process at most ({DB_POOL})")
    add("--concurrency", type=_count, metavar="C", help="tasks at once (200; prefork 8, solo 1)")
    add("--latency", type=_seconds, default=0.5, metavar="S", help="seconds the model takes (0.5)")
    add("--pool", choices=POOLS, default="gevent")
    add("--broker", choices=BROKERS, default="redis")
    add("--broker-url", metavar="URL", help="use a broker that runs already")
    add("--database-url", metavar="URL", help="use a Postgres that runs already; tables are made in it")
    add("--port", type=int, default=0, help="of the API; 0 takes a free one (default)")
    add("--keep", action="store_true", help="go on after the batch, with a live page, until Ctrl-C")
    add("--json", action="store_true", help="print the numbers as one JSON object on the last line")
    add("--logs", action="store_true", help="show what the worker and the web server said")
    return parser


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {text}")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"must be 0 or more seconds, not {text}")
    return value


def _quota(text: str) -> Quota:
    try:
        return Quota(parse_rate(text))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f'{text!r} is no quota; write "200/s" or "500/min burst 25"'
        ) from None
