"""Look at a batch while it runs: calls in flight, answers a second, CPU and memory of the worker."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from greenkit.errors import GreenkitError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

LOOK_EVERY = 0.25  # seconds between two looks


class Sample(NamedTuple):
    """What the mock server had counted at one moment.

    Attributes:
        at: Seconds, monotonic.
        admitted: Calls that passed its quota.
        ok: Calls answered.
        in_flight: Calls it works on.
    """

    at: float
    admitted: int
    ok: int
    in_flight: int


class Flight:
    """Sample the mock server's counters until `stop()`.

    Args:
        stats: Returns the counters.
    """

    def __init__(self, stats: Callable[[], dict]) -> None:
        self.samples: list[Sample] = []
        self._stats = stats
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def _look(self) -> None:
        while not self._over.wait(LOOK_EVERY):
            with contextlib.suppress(GreenkitError, OSError):  # a busy server misses a sample
                page = self._stats()
                self.samples.append(Sample(time.monotonic(), page["admitted"], page["ok"], page["in_flight"]))

    def stop(self) -> None:
        self._over.set()
        self._thread.join(2.0)


def middle(samples: Sequence[Sample], calls: int) -> tuple[float, float] | None:
    """Return (calls in flight on average, answers a second) of a batch's middle; None when it is too short.

    The middle begins with a quarter of the answers, when calls have filled up, and ends with the last call.
    """
    kept = [sample for sample in samples if sample.ok >= calls / 4 and sample.admitted < calls]
    if len(kept) < 5:
        return None
    span = kept[-1].at - kept[0].at
    area = sum(
        (here.in_flight + there.in_flight) / 2 * (there.at - here.at) for here, there in pairwise(kept)
    )
    return area / span, (kept[-1].ok - kept[0].ok) / span


def cpu_of(pid: int) -> float | None:
    """Return the CPU seconds of a process; None where /proc does not tell."""
    with contextlib.suppress(OSError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return None


def memory_of(pid: int) -> float | None:
    """Return the resident MiB of a process; None where /proc does not tell."""
    with contextlib.suppress(OSError):
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
    return None
