"""An address of a server as errors may show it: without what only its owner should know."""

from __future__ import annotations

import re

__all__ = ["shown"]

# Up to the last "@": a password that was not escaped may have one, and "/", "?" or "#".
_USER = re.compile(r"//.*@", re.DOTALL)
_SECRET = re.compile(
    r"((?:password|passwd|passfile|sslpassword|user|username)\s*=\s*)('[^']*'|[^\s&]*)", re.IGNORECASE
)


def shown(share: object) -> object:
    """Return `share` without user and password, in whatever form they are given.

    Switches: never.
    """
    if isinstance(share, bytes):
        share = share.decode(errors="replace")
    if not isinstance(share, str):
        return share
    return _SECRET.sub(r"\1***", _USER.sub("//***@", share))
