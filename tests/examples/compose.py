"""Have Docker check a compose file, on a machine that has it."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path


def check(file: Path, **environment: str) -> None:
    """Run `docker compose config` on `file`, or do nothing where there is no such command."""
    command = [shutil.which("docker") or "", "compose"]
    if not command[0]:
        return
    if subprocess.run([*command, "version"], check=False, capture_output=True).returncode:
        return  # Docker without the plugin
    subprocess.run([*command, "-f", file, "config", "-q"], check=True, env={**os.environ, **environment})
