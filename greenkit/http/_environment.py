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


class _Memory:
    """Answers, and the variables they were read from; of a process, which has one environment."""

    __slots__ = ("known",)

    def __init__(self) -> None:
        # One tuple, so that threads see both or neither: (variables, answer by scheme and host).
        self.known: tuple[dict[Any, Any], dict[tuple[str, str], dict[str, str]]] = ({}, {})

    def proxies_for(self, url: str) -> dict[str, str]:
        """Return the proxies for `url` by scheme, of the environment as it is now; not to be changed.

        Switches: never.
        """
        # What `os.environ` keeps them in: to compare it is a hundredth of asking for them all.
        now = getattr(os.environ, "_data", None)
        if not _ONLY_VARIABLES or now is None:
            return get_environ_proxies(url)
        variables, answers = self.known
        if variables != now or len(answers) >= _MOST_HOSTS:
            variables, answers = self.known = dict(now), {}
        where = urlsplit(url)[:2]
        found = answers.get(where)
        if found is None:
            found = get_environ_proxies(url)
            if variables == now:  # else another thread has changed them on the way
                answers[where] = found
        return found


_memory = _Memory()
proxies_for = _memory.proxies_for
