"""`greenkit doctor`: patch, import the target, and print what every room found."""

from __future__ import annotations

import os
import sys

from greenkit.cli._ready import patch_for

__all__ = ["diagnose"]


def diagnose(target: str, *, as_json: bool = False) -> int:
    """Print the findings about a process that imports `target`; 1 when one is an error.

    Args:
        target: Module to import after the patch, or "" for the bare process; "module:name" is
            understood as Celery and gunicorn write it.
        as_json: Print one JSON object instead of lines.
    """
    patch_for(["greenkit", "doctor", target])
    # Late: after the patch.
    from importlib import import_module

    from greenkit import doctor

    if target:
        sys.path.insert(0, os.getcwd())  # noqa: PTH109 - where Celery and gunicorn look, too
        import_module(target.partition(":")[0])
    diagnosis = doctor.collect()
    print(doctor.to_json(diagnosis) if as_json else doctor.to_text(diagnosis))
    return 1 if diagnosis.errors else 0
