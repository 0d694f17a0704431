"""What the programs of the tests of the ways in have in common."""

from __future__ import annotations

# What each program ends with: four naps at once, counted, and what the evidence says.
PROBE = """
import json, sys, threading, time

running = most = 0

def nap():
    global running, most
    running += 1
    most = max(most, running)
    time.sleep(0.05)
    running -= 1

def together():
    if "gevent" not in sys.modules:
        return 0
    import gevent
    gevent.joinall([gevent.spawn(nap) for _ in range(4)])
    return most

def stale():
    if "gevent" not in sys.modules:
        return []
    from greenkit import boot
    return [f.message for f in boot.evidence() if f.severity.value != "info"]

def tell():
    print(json.dumps([time.sleep.__module__, together(), stale()]))
"""
GREEN, NATIVE = ["gevent.hub", 4, []], ["time", 0, []]
AUTO = "import greenkit.auto\n"
RUN = ("-m", "greenkit", "run", "--")


def furnish(place):
    """Fill a directory with programs that all can `import probe`; return it."""
    (place / "probe.py").write_text(PROBE)
    (place / "plain.py").write_text("import probe\nprobe.tell()\n")
    (place / "auto.py").write_text(AUTO + "import probe\nprobe.tell()\n")
    return place
