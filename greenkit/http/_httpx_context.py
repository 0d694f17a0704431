"""Make the SSLContext of a client of httpx or httpx2, one for all of the same trust."""

from __future__ import annotations

import os
import ssl
from functools import partial
from pathlib import Path
from typing import Any

from greenkit.http._contexts import Trust, bundle_of_environment, shared_context

__all__ = ["context_for_httpx"]


def context_for_httpx(httpx: Any, trust: Trust) -> ssl.SSLContext:
    """Return the shared context for `trust`, made as httpx makes one.

    Raises:
        OSError: There is no bundle or certificate at a path.

    Switches: never.
    """
    if trust.ca is None and not (os.environ.get("SSL_CERT_FILE") or os.environ.get("SSL_CERT_DIR")):
        trust = trust._replace(ca=bundle_of_environment())
    # The class is part of the key: a context made before gevent patched ssl would block the hub.
    return shared_context(trust, partial(_make, httpx), kind=(httpx.__name__, ssl.SSLContext))


def _make(httpx: Any, trust: Trust) -> ssl.SSLContext:
    if not isinstance(trust.ca, str):
        context: ssl.SSLContext = httpx.create_ssl_context(verify=trust.ca is None)
        return context
    if Path(trust.ca).is_dir():
        return ssl.create_default_context(capath=trust.ca)
    return ssl.create_default_context(cafile=trust.ca)
