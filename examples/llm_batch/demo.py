"""Run the whole job on this machine and say what happened: python demo.py --help

Starts Postgres, a broker, a mock LLM with a real quota, the web server and a Celery worker, posts a batch
through the API and ends with a table. Exit code 0 when every prompt has its row, 1 when not, 2 when the
arguments cannot work, 128 + n after signal n (Ctrl-C: 130). With --keep it goes on after the batch until
Ctrl-C, which is no interruption then.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time

if __name__ == "__main__":  # until there is something to stop in order, Ctrl-C needs no order
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))

# isort: split
from driver import options as arguments
from driver.bell import Bell, StoppedError, TroubleError
from driver.report import rows
from driver.run import Run
from driver.show import Show


def main(argv: list[str]) -> int:
    began = time.monotonic()
    bell = Bell()
    bell.listen()
    options = arguments.read(argv)
    show = Show()
    run = Run(options, bell, show)
    code = attempt(run, bell)
    if options.logs:
        for name, log in run.logs():
            print(f"\nthe {name} said:", *log, sep="\n  ")
    found = run.result
    if found is None:
        return code
    interrupted = bool(bell.signal) and run.kept is None
    kept = run.kept or 0.0
    found |= {"total_s": round(time.monotonic() - began - kept, 3), "interrupted": interrupted}
    title = "So far" if interrupted else "The whole job"
    title += f" ({options.pool}, {options.broker}), {found['total_s']:.1f} s with starting and stopping it"
    title += f", and kept for {kept:.0f} s" if kept else ""
    show.table(title, rows(found, quota=f"{options.rate.per_second:g}/s"))
    if options.json:
        print(json.dumps(found), flush=True)
    return code or int(found["lost"] != 0)


def attempt(run: Run, bell: Bell) -> int:
    try:
        run.go()
    except TroubleError as error:
        print(f"demo: {error}", file=sys.stderr)
        return error.code
    except StoppedError:
        pass
    return 128 + bell.signal if bell.signal and run.kept is None else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
