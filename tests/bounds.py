"""Run the tests that touch other packages with the lowest versions allowed, the latest, or an older Celery.

`./dev bounds [lowest latest celery-5.5 celery-5.6] [-x …]`: each in an environment of its own, below
`.venv-bounds`; what follows the first option goes to pytest.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESOLUTIONS = {
    "lowest": ["--resolution", "lowest-direct"],
    "latest": [],
    "celery-5.5": ["celery==5.5.*"],
    "celery-5.6": ["celery==5.6.*"],
}
# Not the test group: it asks for what the lowest versions do not go with.
TOOLS = [
    *(
        "pytest",
        "pytest-django",
        "pytest-randomly",
        "pytest-timeout",
        "pytest-xdist",
        "hypothesis",
        "blockbuster",
    ),
    *("trustme", "tqdm", "wrapt", "pyyaml", "sqlalchemy", "httpx", "gunicorn", "openai", "anthropic"),
    *("django-celery-results", "coverage", "opentelemetry-sdk", "prometheus-client"),
]
TESTS = ["tests/unit", "tests/integration/test_django_engine.py", "tests/integration/test_postgres_green.py"]
TESTS += [f"tests/integration/test_celery_{name}.py" for name in ("worker", "outcomes", "delivery")]

# The errors it reads are those of botocore and httpx2, whose needs some of these versions do not meet.
NOT_HERE = ["--ignore=tests/unit/responses"]


def main(arguments: list[str]) -> int:
    """Run each resolution; return the worst status."""
    first_option = next((at for at, word in enumerate(arguments) if word.startswith("-")), len(arguments))
    names, options = arguments[:first_option], arguments[first_option:]
    unknown = [name for name in names if name not in RESOLUTIONS]
    if unknown:
        print(f"no resolution is called {unknown[0]}; there are: {' '.join(RESOLUTIONS)}", file=sys.stderr)
        return 2
    return max([run(name, options) for name in names or RESOLUTIONS])


def run(name: str, options: list[str]) -> int:
    """Make the environment and run the tests in it, with `options` for pytest."""
    uv = shutil.which("uv") or str(Path(sys.executable).with_name("uv"))
    place = ROOT / ".venv-bounds" / name
    python = str(place / "bin" / "python")
    install = [uv, "pip", "install", "-q", "--python", python]
    subprocess.run([uv, "venv", "-q", "--clear", "--python", sys.executable, str(place)], check=True)
    subprocess.run([*install, *RESOLUTIONS[name], "-e", ".[demo,psycopg3]"], cwd=ROOT, check=True)
    frozen = subprocess.run(
        [uv, "pip", "freeze", "--python", python], capture_output=True, text=True, check=True
    )
    lines = [line for line in frozen.stdout.splitlines() if not line.startswith("-e")]
    (place / "versions.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    # The tools must not lift what was asked for.
    subprocess.run([*install, "-c", str(place / "versions.txt"), *TOOLS], check=True)
    shown = (
        "celery==",
        "kombu==",
        "django==",
        "gevent==",
        "psycopg2-binary==",
        "psycopg==",
        "redis==",
        "requests==",
    )
    print(f"{name}: {' '.join(line for line in lines if line.startswith(shown))}", flush=True)
    return subprocess.call([python, "-m", "pytest", "-q", "-n", "2", *options, *TESTS, *NOT_HERE], cwd=ROOT)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
