"""Where names of other projects are documented: the few that our pages and signatures use.

Inventories in the format of intersphinx, made from this table, so that a build needs no network.
"""

from __future__ import annotations

import tempfile
import zlib
from pathlib import Path

__all__ = ["written"]

# project: (address, role: page: names)
_NAMES: dict[str, tuple[str, dict[str, dict[str, str]]]] = {
    "python": (
        "https://docs.python.org/3",
        {
            "py:exception": {"library/exceptions.html#$": "BaseException Exception TimeoutError ValueError"},
            "py:class": {
                "library/stdtypes.html#$": "bool bytes dict float int list object str tuple type",
                "library/collections.abc.html#$": (
                    "collections.abc.Callable collections.abc.Iterable collections.abc.Iterator"
                    " collections.abc.Mapping collections.abc.Sequence"
                ),
                "library/pathlib.html#$": "pathlib.Path",
                "library/ssl.html#$": "ssl.SSLContext",
            },
        },
    ),
    "gevent": (
        "https://www.gevent.org",
        {
            "py:class": {
                "api/gevent.greenlet.html#$": "gevent.Greenlet",
                "api/gevent.timeout.html#$": "gevent.Timeout",
            }
        },
    ),
    "celery": (
        "https://docs.celeryq.dev/en/stable",
        {"py:class": {"reference/celery.html#$": "celery.Celery"}},
    ),
    "requests": ("https://requests.readthedocs.io/en/latest", {"py:class": {"api/#$": "requests.Session"}}),
}


def written() -> dict[str, tuple[str, str]]:
    """Write the inventories into a directory of their own; return the mapping for `intersphinx_mapping`."""
    folder = Path(tempfile.mkdtemp(prefix="greenkit-inventories-"))
    return {project: (url, str(_write(folder, project, names))) for project, (url, names) in _NAMES.items()}


def _write(folder: Path, project: str, roles: dict[str, dict[str, str]]) -> Path:
    head = f"# Sphinx inventory version 2\n# Project: {project}\n# Version: \n"
    lines = [
        f"{name} {role} 1 {page} -\n"
        for role, pages in roles.items()
        for page, names in pages.items()
        for name in names.split()
    ]
    file = folder / f"{project}.inv"
    head += "# The rest of this file is compressed using zlib.\n"
    file.write_bytes(head.encode() + zlib.compress("".join(lines).encode()))
    return file
