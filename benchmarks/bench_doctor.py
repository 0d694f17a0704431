"""What does it cost to ask whether a process is cooperative?

Three questions, each in clean interpreters, in CPU time, which neighbours on the machine disturb least,
and as a ratio to `import celery, django` of the same process:

1. How long does `greenkit.doctor.collect()` take in a patched Django and Celery process? (aim: 150 ms)
2. How long in a process with 3,000 more modules?
3. What does noting who imports what add to the imports? (aim: 5 %)

Run: python benchmarks/bench_doctor.py
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROUNDS, MODULES = 5, 3000

PROGRAM = """
import time
{first}
begin = time.process_time()
import celery, celery.bin.celery, celery.concurrency.gevent, celery.worker.worker, django
from django.conf import settings
settings.configure(INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth", "greenkit.django"])
django.setup()
import django.core.handlers.wsgi, django.db.models, django.forms
imported = time.process_time() - begin
{more}
import json, sys
from greenkit import doctor
begin = time.process_time()
seen = doctor.collect()
took = time.process_time() - begin
print(json.dumps([imported, took, len(sys.modules), [one.id for one in seen.findings]]))
"""

SYNTHETIC = """
import importlib
for number in range({modules}):
    importlib.import_module(f"made.m{{number}}")
"""

MADE = """
import time, threading
from functools import partial

NUMBERS = {{number: str(number) for number in range(20)}}
LOCK = threading.Lock()

class Model:
    kind = "made{number}"
    def save(self, *, retries=3, pause=0.1):
        return self
    @property
    def name(self):
        return self.kind

class Child(Model):
    pass

def work(rows, *, by=NUMBERS):
    return [by.get(row) for row in rows]

def wrap(call):
    def inner(*args):
        return call(*args)
    return inner

call = wrap(partial(work, by=NUMBERS))
"""


def run(folder, *, first="import greenkit.auto", more=""):
    """Return (seconds of imports, seconds of the look, modules, ids) of one clean interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format(first=first, more=more)],
        check=True, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": folder, "GREENKIT": "report"},
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def main():
    print(f"Python {platform.python_version()}, {platform.machine()}, {os.cpu_count()} cores, {processor()}")
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder, "made")
        package.mkdir()
        for number in range(MODULES):
            (package / f"m{number}.py").write_text(MADE.format(number=number))
        (package / "__init__.py").write_text("")
        kinds = {
            "Django and Celery": {},
            f"and {MODULES} modules more": {"more": SYNTHETIC.format(modules=MODULES)},
            "unpatched": {"first": ""},
            "unpatched, imports noted": {"first": "from greenkit import boot; boot.watch_imports()"},
        }
        runs = {name: [] for name in kinds}
        for _ in range(ROUNDS):
            # Interleaved, so that a busy neighbour slows all of them.
            for name, options in kinds.items():
                runs[name].append(run(folder, **options))
    base = statistics.median(one[0] for one in runs["Django and Celery"])
    print(f"  {'import celery, django, in a patched process':52} {base * 1000:5.0f} ms")
    for name in list(kinds)[:2]:
        took = statistics.median(one[1] for one in runs[name])
        _, _, modules, ids = runs[name][0]
        what = f"collect(), {name}: {modules} modules"
        print(f"  {what:52} {took * 1000:5.0f} ms  {took / base:5.1%} of it  {ids or 'no findings'}")
    plain, noted = (statistics.median(one[0] for one in runs[name]) for name in list(kinds)[2:])
    print(
        f"  {'noting who imports what':52} {(noted - plain) * 1000:+5.0f} ms  {noted / plain - 1:+5.1%} of it"
    )


def processor():
    """Return the name of the processor, as the kernel says it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return "processor unknown"


if __name__ == "__main__":
    main()
