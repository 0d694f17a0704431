"""Tell from a server's refusal whether waiting can heal it.

Neither driver has the SQLSTATE of a failed connect (libpq shows it only when verbose), so the words
decide, in English as libpq and most servers write them. What is not recognised is waited out.
"""

from __future__ import annotations

import re

__all__ = ["is_full", "is_hopeless"]

# SQLSTATE 28xxx (who you are), 3D000 and 42501 (what you want), and TLS that one end does not accept.
_HOPELESS = re.compile(
    r"""
    authentication\ failed | no\ password\ supplied | no\ pg_hba\.conf\ entry | pg_hba\.conf\ rejects
    | (role|user|database)\ "[^"]*"\ does\ not\ exist | is\ not\ permitted\ to\ log\ in
    | no\ such\ (user|database) | permission\ denied\ for\ database
    | is\ not\ currently\ accepting\ connections
    | does\ not\ support\ SSL | SSL\ error:(?!.*unexpected\ eof) | certificate | private\ key\ file
    | authentication\ method\ .*not\ supported | channel\ binding | is\ not\ allowed\ to\ connect
    """,
    re.VERBOSE | re.IGNORECASE,
)
# SQLSTATE 53300: the server, the role or the database has as many connections as it may.
_FULL = re.compile(
    r"""
    too\ many\ (clients\ already | connections\ for\ (role|database|user)) | sorry,\ too\ many\ clients
    | remaining\ connection\ slots\ are\ reserved | no\ more\ connections\ allowed
    """,
    re.VERBOSE | re.IGNORECASE,
)
_REASON = re.compile(r"failed: |fatal: |error: |^- ", re.IGNORECASE)


def is_hopeless(error: Exception) -> bool:
    """Tell whether every host, each in a line of its own, refused for good.

    Switches: never.
    """
    lines = str(error).strip().splitlines()
    reasons = [line for line in lines if _REASON.search(line)] or lines
    return bool(reasons) and all(_HOPELESS.search(line) for line in reasons)


def is_full(error: Exception) -> bool:
    """Tell whether the server refused because it has as many connections as it may.

    Switches: never.
    """
    return _FULL.search(str(error)) is not None
