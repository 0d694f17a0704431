"""Make the TLS contexts requests and urllib3 connect with: one for all connections that are alike.

requests hands urllib3 a bundle's path, and urllib3 loads that file for every connection; with
`verify=False` it loads the machine's own trust store, only not to look at it.
"""

from __future__ import annotations

import ssl
from pathlib import Path

from requests.utils import DEFAULT_CA_BUNDLE_PATH
from urllib3.util import ssl_

from greenkit.http._contexts import Trust, shared_context

__all__ = ["context_for"]


def context_for(trust: Trust) -> ssl.SSLContext:
    """Return the process's context for `trust`; no bundle is the one of requests (certifi's).

    Raises:
        OSError: There is nothing at a path, or no certificates.

    Switches: never.
    """
    if trust.ca is None:
        trust = trust._replace(ca=DEFAULT_CA_BUNDLE_PATH)
    # A context made before gevent patched ssl would block the hub: the class is part of the key.
    return shared_context(trust, _make, kind=ssl_.SSLContext)


def _make(trust: Trust) -> ssl.SSLContext:
    if trust.ca is False:
        return ssl_.create_urllib3_context(cert_reqs=ssl.CERT_NONE)
    context = ssl_.create_urllib3_context()
    path = str(trust.ca)
    if Path(path).is_dir():
        context.load_verify_locations(capath=path)
    else:
        context.load_verify_locations(cafile=path)
    return context
