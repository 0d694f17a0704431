"""Remember which proxies the environment names, until it names others.

requests reads every variable twice for every call (`get_environ_proxies()`, requests 2.34): an eighth
of what a short one costs.
"""

from __future__ import annotations

import os
import urllib.request
from typing import Any
from urllib.parse import urlsplit

from requests.utils import get_environ_proxies

__all__ = ["proxies_for"]

# Elsewhere (macOS, Windows) the system's own settings count too, and change without a word.
_ONLY_VARIABLES = urllib.request.getproxies is getattr(urllib.request, "getproxies_environment", None)
_MOST_HOSTS = 1000

# The variables, and what they meant for a scheme and host; in one tuple, for threads.
_known: tuple[dict[Any, Any], dict[tuple[str, str], dict[str, str]]] = ({}, {})


def proxies_for(url: str) -> dict[str, str]:
    """Return the proxies for `url` by scheme, of the environment as it is now; not to be changed.

    Switches: never.
    """
    global _known
    now = _variables()
    if not _ONLY_VARIABLES or now is None:
        return get_environ_proxies(url)
    seen, answers = _known
    if seen != now or len(answers) >= _MOST_HOSTS:
        seen, answers = _known = dict(now), {}
    where = urlsplit(url)[:2]
    found = answers.get(where)
    if found is None:
        found = get_environ_proxies(url)
        if seen == now:  # else another thread has changed them on the way
            answers[where] = found
    return found


def _variables() -> Any:
    # What `os.environ` keeps them in: to compare it is a hundredth of asking for them all.
    return getattr(os.environ, "_data", None)
