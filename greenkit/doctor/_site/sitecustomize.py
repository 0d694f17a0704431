"""Observe this process, then let the environment's own `sitecustomize` run.

`greenkit doctor -- COMMAND` puts this directory first on PYTHONPATH, so the interpreter imports
this file before the program's first line, in every Python process of the program.
"""

from __future__ import annotations

import importlib
import os
import sys

_here = os.path.dirname(os.path.abspath(__file__))  # noqa: PTH100, PTH120 - pathlib loads half a library
_directory = os.environ.get("GREENKIT_OBSERVE", "")
if _directory:
    try:
        from greenkit.doctor._observed import begin

        begin(_directory)
    except Exception as error:
        # Another interpreter, without greenkit, or an older one: the program runs on, unobserved.
        with open(os.path.join(_directory, f"{os.getpid()}.error"), "w", encoding="utf-8") as _note:  # noqa: PTH118, PTH123
            _note.write(f"{sys.executable}: {error}")
sys.path[:] = [entry for entry in sys.path if os.path.abspath(entry or ".") != _here]  # noqa: PTH100
sys.modules.pop("sitecustomize")
try:
    importlib.import_module("sitecustomize")
except ModuleNotFoundError as error:
    if error.name != "sitecustomize":
        raise
finally:
    # The import system wants something there when we are done. Without a next one it is nobody's
    # file: what was loaded before us is no fault of an import of ours.
    sys.modules.setdefault("sitecustomize", type(sys)("sitecustomize"))
