"""Classify a failed connect: can waiting help?

Neither driver has the SQLSTATE of a failed connect; libpq writes it into the message when it is asked to be
verbose, and `install()` asks. The SQLSTATE holds in any language. Without one (libpq's own messages,
PgBouncer's codes, an unpatched process) the English text decides. What is not recognised is retried.
"""

from __future__ import annotations

import re

__all__ = ["is_full", "is_hopeless", "without_location"]

_SQLSTATE = re.compile(r":  ([0-9A-Z]{5}): ")
# Authentication (28), what is asked for (22, 3D, 3F, 42), and a database closed to connections (55000).
_HOPELESS_STATE = re.compile("22|28|3D|3F|42|55000")
_FULL_STATE = "53300"
# The last line of a verbose message: where in the server's source it was written.
_LOCATION = re.compile(r"\n\S[^\n:]*:  (?:\w+, )?\S+\.[chly]:\d+$", re.MULTILINE)

# The same as text, and TLS that one side refuses.
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
# 53300: the server, the role or the database has as many connections as it may.
_FULL = re.compile(
    r"""
    too\ many\ (clients\ already | connections\ for\ (role|database|user)) | sorry,\ too\ many\ clients
    | remaining\ connection\ slots\ are\ reserved | no\ more\ connections\ allowed
    """,
    re.VERBOSE | re.IGNORECASE,
)
_REASON = re.compile(r"failed: |fatal: |error: |^- |:  [0-9A-Z]{5}: ", re.IGNORECASE)


def is_hopeless(error: Exception) -> bool:
    """Tell whether every host, each in a line of its own, refused for good."""
    lines = str(error).strip().splitlines()
    reasons = [line for line in lines if _REASON.search(line)] or lines
    return bool(reasons) and all(map(_is_hopeless, reasons))


def is_full(error: Exception) -> bool:
    """Tell whether the server refused because it has as many connections as it may."""
    words = str(error)
    return _FULL_STATE in _SQLSTATE.findall(words) or _FULL.search(words) is not None


def without_location(message: str) -> str:
    """Return libpq's verbose `message` without the place in the server's source."""
    return _LOCATION.sub("", message)


def _is_hopeless(line: str) -> bool:
    state = _SQLSTATE.search(line)
    if state is not None and _HOPELESS_STATE.match(state[1]):
        return True
    return _HOPELESS.search(line) is not None
