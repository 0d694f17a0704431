"""Share one SSLContext per CA bundle between all connections of the process.

requests hands urllib3 a bundle's path, and urllib3 loads that file for every connection: 14 to 24 ms
of CPU in which no greenlet runs, and a trust store in memory each (cpython #95031, requests #6667).
"""

from __future__ import annotations

from _thread import RLock  # native also after patching; nothing under it switches
from pathlib import Path
from typing import TYPE_CHECKING

from requests.utils import DEFAULT_CA_BUNDLE_PATH
from urllib3.util import ssl_

if TYPE_CHECKING:
    import ssl

__all__ = ["shared_context"]

_contexts: dict[tuple[str, object], ssl.SSLContext] = {}
_loading = RLock()


def shared_context(ca: str | None = None) -> ssl.SSLContext:
    """Return the process's context that trusts the bundle (file or directory) at `ca`.

    A bundle is read once; one that changes on disk is seen by the next process. Clients must not
    change the context.

    Args:
        ca: A path; None is the bundle requests trusts by default (certifi's).

    Raises:
        OSError: There is nothing at the path, or no certificates.

    Switches: never.
    """
    path = ca or DEFAULT_CA_BUNDLE_PATH
    # A context made before gevent patched ssl would block the hub: the class is part of the key.
    key = (path, ssl_.SSLContext)
    context = _contexts.get(key)
    if context is not None:
        return context
    with _loading:
        context = _contexts.get(key)
        if context is None:
            context = _contexts[key] = _load(path)
        return context


def _load(path: str) -> ssl.SSLContext:
    if not Path(path).exists():
        raise OSError(
            f"could not find a CA bundle at {path!r}; every HTTPS call would fail. Check `verify`, "
            "REQUESTS_CA_BUNDLE and CURL_CA_BUNDLE"
        )
    context = ssl_.create_urllib3_context()
    if Path(path).is_dir():
        context.load_verify_locations(capath=path)
    else:
        context.load_verify_locations(cafile=path)
    return context
