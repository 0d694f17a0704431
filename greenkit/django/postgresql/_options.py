"""Django's `OPTIONS["pool"]`, read and checked."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import ImproperlyConfigured

__all__ = ["DEFAULT_MAX_SIZE", "pool_options"]

DEFAULT_MAX_SIZE = 10
_NAMES = (
    "min_size", "max_size", "timeout", "max_waiting", "max_lifetime", "max_idle", "reconnect_timeout",
    "configure", "check", "reset", "query_timeout", "pgbouncer", "name",
    "release_between_queries",
)  # fmt: skip
_NEEDLESS = ("num_workers", "open")  # psycopg_pool's, for what ours does by itself


def pool_options(value: Any) -> dict[str, Any] | None:
    """Return the pool's arguments for `value`; None when no pool is wanted.

    Args:
        value: What stands in `OPTIONS["pool"]`: absent or false for no pool, True for the
            defaults, or a dict with the names of Django's own option.

    Raises:
        ImproperlyConfigured: Something else, or a name greenkit's pool does not know.
    """
    if not value:
        return None
    if value is True:
        value = {}
    if not isinstance(value, dict):
        msg = f"OPTIONS['pool'] is {value!r}; it may be True, False or a dict with {', '.join(_NAMES)}"
        raise ImproperlyConfigured(msg)
    unknown = sorted(set(value) - {*_NAMES, *_NEEDLESS})
    if unknown:
        msg = f"OPTIONS['pool'] has {', '.join(unknown)}; greenkit's pool knows {', '.join(_NAMES)}"
        raise ImproperlyConfigured(msg)
    options = {name: setting for name, setting in value.items() if name in _NAMES}
    if "max_size" not in options:
        least = options.get("min_size", 0)  # of another type the pool says what it should be
        options["max_size"] = max(DEFAULT_MAX_SIZE, least) if isinstance(least, int) else DEFAULT_MAX_SIZE
    return options
