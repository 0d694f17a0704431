"""Start a database and a mock model, make tickets, run the command; after Ctrl-C once more."""

import argparse
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from greenkit.testing import MockLLM, PostgresServer

HERE = Path(__file__).resolve().parent


def manage(*words, env):
    """Run a management command to its end; Ctrl-C in a terminal reaches it too, so let it end by itself."""
    command = subprocess.Popen([sys.executable, "manage.py", *words], cwd=HERE, env={**os.environ, **env})
    while command.poll() is None:
        with suppress(KeyboardInterrupt):
            command.wait()
    return command.returncode


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--latency", type=float, default=0.3, help="seconds one answer takes")
    options, more = parser.parse_known_args()  # the rest is for `manage.py label`
    with PostgresServer() as postgres, MockLLM(latency=options.latency) as llm:
        names = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "password": "PGPASSWORD"}
        names |= {"dbname": "PGDATABASE"}
        env = {names[key]: value for key, value in postgres.parameters.items()} | {"LLM_URL": llm.url}
        code = manage("migrate", "-v0", env=env) or manage("fill", str(options.rows), env=env)
        if not code:
            code = manage("label", *more, env=env)
        if code == 130:
            print(
                "-- Ctrl-C: the command saved what it had. Once more, from there; Ctrl-C again leaves --",
                flush=True,
            )
            code = manage("label", *more, env=env)
        seen = llm.stats()
        print(f"{seen['calls']} calls for {options.rows} tickets, {seen['peak_in_flight']} at once")
    return code


if __name__ == "__main__":
    sys.exit(main())
