"""What active probes measured, as a table."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from greenkit.doctor._diagnosis import Measured

__all__ = ["table"]


def table(probes: Iterable[Measured]) -> Iterator[str]:
    """Yield one line per API: how long it took, and how long everybody else stood still for it.

    Switches: never.
    """
    yield f"    {'probed':<36}{'took':>9}{'others stood still':>21}"
    for one in probes:
        took, still = f"{one.waited_ms:.0f} ms", f"{one.blocked_ms:.0f} ms"
        if one.verdict == "skipped":
            took = still = "-"
        said = "" if one.verdict == "cooperates" else f"  {one.verdict}"
        note = f" ({one.note})" if one.note else ""
        yield f"    {one.api:<36}{took:>9}{still:>21}{said}{note}"
