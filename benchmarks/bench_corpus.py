"""Does the doctor name what is wrong with a program that is, and nothing in one that is right?

    ./dev bench corpus --corpus=PATH [--python=EXE] [--only=NAME] [--repair] [--json]

PATH is a folder of cases as its own `run.py` describes them: each a program with a `case.toml` that
says its symptom and the diagnosis it must get. The programs run with EXE (default: the interpreter
this script runs with), which must have greenkit and what they need. With `--repair` the process is
repaired instead of diagnosed, and a case is cured when its symptom is gone.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import tomllib


def main() -> int:
    """Run the cases, print a line for each and the sums; 1 when a case is missed or a right one accused."""
    options = _options()
    if options.corpus is None:
        print("bench corpus: no --corpus=PATH given; there is nothing to diagnose")
        return 0
    runner = _load_runner(options.corpus)
    servers = runner.Servers(options.python)
    rows = []
    try:
        for case in sorted(options.corpus.glob("*/case.toml")):
            if options.only in case.parent.name:
                row = _run(runner, servers, case.parent, options)
                if row is not None:
                    rows.append(row)
                    print(f"{row['verdict']:9} {row['case']:34} {row['why']}", flush=True)
    finally:
        servers.close()
    counts = Counter(row["verdict"] for row in rows)
    print(", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items())))
    if options.json:
        print(json.dumps(rows))
    return int(any(row["verdict"] in {"missed", "wrong", "accused", "damaged"} for row in rows))


def _options() -> argparse.Namespace:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--corpus", type=Path)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--only", default="")
    parser.add_argument("--repair", action="store_true")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


def _load_runner(corpus: Path) -> Any:
    spec = importlib.util.spec_from_file_location("corpus_runner", corpus / "run.py")
    assert spec is not None
    assert spec.loader is not None
    runner = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(runner)
    return runner


def _run(runner: Any, servers: Any, case: Path, options: argparse.Namespace) -> dict[str, Any] | None:
    config = tomllib.loads((case / "case.toml").read_text())
    limit = config.get("python_max")
    if limit and _version(options.python) > tuple(map(int, limit.split("."))):
        return None
    if not runner.have(options.python, config.get("requires", [])):
        return {"case": case.name, "verdict": "skipped", "why": f"needs {config['requires']}"}
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.json")
        env = {"GREENKIT_REPORT": str(report), "GREENKIT_CORPUS_HOOK": "greenkit.doctor:report"}
        if options.repair:
            # Right after the patch, and once more when everything is imported.
            env = {"GREENKIT_REPAIR": "1", "GREENKIT_CORPUS_HOOK": "greenkit.boot:repair"}
        if "PYTHONPATH" in os.environ:
            env["PYTHONPATH"] = os.environ["PYTHONPATH"]
        run = runner.run_case(case.name, config, options.python, servers, env)
        told = json.loads(report.read_text())["findings"] if report.exists() else []
    as_described = runner.judge(config, run)
    if options.repair:
        return _cured(case.name, config, as_described=as_described)
    return _judged(case.name, config, told, as_described=as_described)


def _version(python: str) -> tuple[int, ...]:
    code = "import sys; print(*sys.version_info[:2])"
    told = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout
    return tuple(map(int, told.split()))


def _cured(name: str, config: dict[str, Any], *, as_described: bool) -> dict[str, Any]:
    if config["broken"]:
        return {"case": name, "verdict": "still ill" if as_described else "cured", "why": config["title"]}
    return {"case": name, "verdict": "unharmed" if as_described else "damaged", "why": config["title"]}


def _judged(
    name: str, config: dict[str, Any], told: list[dict[str, Any]], *, as_described: bool
) -> dict[str, Any]:
    if not config["broken"]:
        loud = [one for one in told if one["severity"] != "info"]
        why = "; ".join(f"{one['id']} {one['message']}" for one in loud)
        return {"case": name, "verdict": "accused" if loud else "acquitted", "why": why}
    misses = [one for one in config["finding"] if not any(_matches(one, other) for other in told)]
    if not misses:
        return {"case": name, "verdict": "caught", "why": ""}
    if not as_described:
        why = "the symptom does not show with greenkit installed"
        return {"case": name, "verdict": "prevented", "why": why}
    near = [
        {key: other[key] for key in ("rule", "holder", "attribute", "captured_at", "imported_at")}
        for other in told
        if other["severity"] != "info"
    ]
    return {"case": name, "verdict": "wrong" if near else "missed", "why": f"wanted {misses}, got {near}"}


def _matches(wanted: dict[str, str], told: dict[str, str]) -> bool:
    if (wanted["rule"], wanted["holder"]) != (told["rule"], told["holder"]):
        return False
    for key in ("captured_at", "imported_at", "patched_at"):
        place = wanted.get(key, "").split(" ")[0]
        if ".py" in place and not told[key].startswith(place):
            return False
    return True


if __name__ == "__main__":
    sys.exit(main())
