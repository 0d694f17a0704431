"""Patch when this package is how a worker reaches greenkit: `-P custom`.

With `CELERY_CUSTOM_WORKER_POOL=greenkit.celery:TaskPool` Celery patches nothing itself and imports
the pool's module before its own command line and the app (celery/__init__.py, 5.7,
`maybe_patch_concurrency`). A dozen modules of celery and kombu are there by then, so their stale
names are bound again. In every other process importing this does nothing.
"""

from __future__ import annotations

import os
import sys

from greenkit.boot import decide, patch, patched

__all__: list[str] = []

_decided = decide(sys.argv, os.environ, orig_argv=sys.orig_argv, loaded=sys.modules)
if _decided.worker and _decided.pool == "custom" and _decided.patch and not patched():
    patch(repair=True)
