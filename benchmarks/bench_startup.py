"""What does `import greenkit.auto` cost over a bare `gevent.monkey.patch_all()`?

Each start is a process of its own; the ways take turns, so that a busy neighbour slows all of
them. Four questions, in ratios of one run:

1. The import over the bare patch, in an environment with few distributions and one with 120: gevent
   scans all of them for plug-ins, once per event; greenkit lets it scan once.
2. The same where greenkit is installed and nobody asks for it: anybody's `patch_all()` is faster.
3. What the start-up hook costs a process that did not ask for it.
4. What `import greenkit` costs.

Run: python benchmarks/bench_startup.py [ROUNDS]
"""

from __future__ import annotations

import platform
import site
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import timeit
from pathlib import Path

import greenkit

ROUNDS = 15
MANY = 120
HOOK = "_greenkit_children.pth"

TIMED = """
import sys
sys.path.insert(0, {place!r})
import time
__begin__ = time.perf_counter(), time.process_time()
{program}
print(time.perf_counter() - __begin__[0], time.process_time() - __begin__[1])
"""
# (A name of its own in the program would be something to search; no program has one before its line 1.)
BARE = "from gevent import monkey; monkey.patch_all()"
AUTO = "import greenkit.auto"


def environment(folder, *, fillers, with_greenkit):
    """Make a directory with gevent, `fillers` distributions that mean nothing, and greenkit or not."""
    folder.mkdir()
    installed = Path(sysconfig.get_path("purelib"))
    wanted = ["gevent", "greenlet", "zope", *(["greenkit"] if with_greenkit else [])]
    for info in installed.glob("*.dist-info"):
        if info.name.split("-")[0].replace("_", ".").split(".")[0].lower() in wanted:
            (folder / info.name).symlink_to(info)
    for name in wanted:
        source = Path(greenkit.__file__).parent if name == "greenkit" else installed / name
        (folder / name).symlink_to(source)
    for number in range(fillers):
        info = folder / f"filler_{number}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: filler_{number}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[console_scripts]\nfill{number} = filler_{number}:main\n")
    return str(folder)


def start(program, place):
    """Return the milliseconds, of the clock and of CPU, of `program` where only `place` can be imported."""
    command = [sys.executable, "-S", "-E", "-c", TIMED.format(place=place, program=program)]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return tuple(float(one) * 1000 for one in said.split())


def rounds(ways, count):
    """Return {way: milliseconds}, the ways taking turns; the first round warms the caches."""
    taken = {way: [] for way in ways}
    for at in range(count + 1):
        for way, (program, place) in ways.items():
            spent = start(program, place)
            if at:
                taken[way].append(spent)
    return taken


def report(title, taken):
    print(title)
    first = next(iter(taken))
    for way, spent in taken.items():
        clock, cpu = ([one[at] for one in spent] for at in (0, 1))
        base_cpu = [one[1] for one in taken[first]]
        more = statistics.median(mine - base for mine, base in zip(cpu, base_cpu, strict=True))
        print(
            f"  {way:37} clock: min {min(clock):5.1f}, median {statistics.median(clock):5.1f} ms"
            f"   CPU: median {statistics.median(cpu):5.1f} ms, {more:+6.1f} ms,"
            f" {statistics.median(cpu) / statistics.median(base_cpu):.2f} x"
        )


def hook():
    """Return the microseconds `site` takes for the hook's file, unarmed, and for an empty file."""
    folder = next((one for one in sys.path if (Path(one) / HOOK).is_file()), None)
    if folder is None:
        return None
    with tempfile.TemporaryDirectory() as empty:
        (Path(empty) / HOOK).write_text("")
        places = {"hook": folder, "empty": empty}
        least = {
            name: min(timeit.repeat(lambda at=at: site.addpackage(at, HOOK, set()), number=500, repeat=9))
            / 500
            for name, at in places.items()
        }
    return least["hook"] * 1e6, least["empty"] * 1e6


def main():
    count = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    print(f"Python {platform.python_version()}, {platform.machine()}, {count} starts each, in turns")
    with tempfile.TemporaryDirectory(prefix="bench-startup-") as folder:
        for fillers, words in ((0, "few distributions"), (MANY, f"{MANY} more distributions")):
            without = environment(Path(folder, f"without-{fillers}"), fillers=fillers, with_greenkit=False)
            within = environment(Path(folder, f"with-{fillers}"), fillers=fillers, with_greenkit=True)
            ways = {
                "patch_all(), greenkit not installed": (BARE, without),
                "patch_all(), greenkit installed": (BARE, within),
                "import greenkit.auto": (AUTO, within),
            }
            report(words, rounds(ways, count))
        few = environment(Path(folder, "few"), fillers=0, with_greenkit=True)
        report("the package's door", rounds({"import greenkit": ("import greenkit", few)}, count))
    unarmed = hook()
    if unarmed is None:
        print("the start-up hook is not installed here")
    else:
        print(f"the start-up hook, unarmed: {unarmed[0]:.0f} us; an empty .pth file: {unarmed[1]:.0f} us")


if __name__ == "__main__":
    main()
