"""Keep one SSLContext per trust and identity for all connections of the process.

Loading a bundle of CA certificates takes 14 to 24 ms of CPU in which no greenlet runs, and clients
load it per connection or per client (cpython #95031, requests #6667, urllib3 #4983).
"""

from __future__ import annotations

import os
from _thread import RLock  # native also after patching; nothing under it switches
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    Cert = str | tuple[str, str]

__all__ = ["Trust", "bundle_of_environment", "shared_context"]


class Trust(NamedTuple):
    """The authorities a connection trusts, and the certificate it presents.

    Attributes:
        ca: Path of a bundle, a file or a directory; None for the library's own; False to verify nothing.
        cert: The client's certificate: a path, or paths of certificate and key.
    """

    ca: str | bool | None = None
    cert: str | tuple[str, str] | None = None

    @classmethod
    def of(cls, verify: bool | str, cert: str | tuple[str, str] | None) -> Trust:  # noqa: FBT001 - requests' words
        """Return what requests' words `verify` and `cert` mean; an empty string is the default.

        Switches: never.
        """
        ca = None if verify is True or verify == "" else verify
        return cls(
            ca if ca is None or ca is False else str(ca),
            tuple(cert) if isinstance(cert, list) else cert or None,
        )


_contexts: dict[object, tuple[object, ssl.SSLContext]] = {}
_loading = RLock()


def shared_context(trust: Trust, make: Callable[[Trust], ssl.SSLContext], *, kind: Any) -> ssl.SSLContext:
    """Return the process's context for `trust`; clients must not change it.

    A bundle is read once: one that changes on disk is seen by the next process. A client's
    certificate that changes on disk, as short-lived ones do, makes a new context.

    Args:
        trust: What it stands for.
        make: Makes a context without the client's certificate.
        kind: What else tells contexts apart, such as the class it will have.

    Raises:
        OSError: There is nothing at a path, or nothing that can be used.

    Switches: never.
    """
    key = (trust, kind)
    stamp = _stamp(trust.cert)
    known = _contexts.get(key)
    if known is not None and known[0] == stamp:
        return known[1]
    with _loading:
        known = _contexts.get(key)
        if known is None or known[0] != stamp:
            context = _make(trust, make)
            known = _contexts[key] = (stamp, context)
        return known[1]


def bundle_of_environment() -> str | None:
    """Return the bundle that `REQUESTS_CA_BUNDLE` or `CURL_CA_BUNDLE` names.

    Switches: never.
    """
    return os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or None


def _make(trust: Trust, make: Callable[[Trust], ssl.SSLContext]) -> ssl.SSLContext:
    if isinstance(trust.ca, str) and not Path(trust.ca).exists():
        raise OSError(
            f"could not find a CA bundle at {trust.ca!r}; every HTTPS call would fail. Check `verify`, "
            "REQUESTS_CA_BUNDLE and CURL_CA_BUNDLE"
        )
    context = make(trust)
    if trust.cert is not None:
        context.load_cert_chain(*_files(trust.cert))
    return context


def _files(cert: Cert) -> tuple[str, ...]:
    return (cert,) if isinstance(cert, str) else tuple(cert)


def _stamp(cert: Cert | None) -> object:
    if cert is None:
        return None
    try:
        found = [Path(path).stat() for path in _files(cert)]
    except OSError as error:
        raise OSError(
            f"could not find the client certificate {error.filename!r}: {error.strerror}; nothing was sent. "
            "Check `cert`"
        ) from None
    return [(file.st_mtime_ns, file.st_ino, file.st_size) for file in found]
