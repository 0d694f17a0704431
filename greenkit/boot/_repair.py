"""Bind again, in place, the names that still hold an original.

Only what is safe: globals of modules, and defaults of functions, in Celery's family and in the
user's own code. Objects already made (locks, locals, sockets) cannot be repaired here.
"""

from __future__ import annotations

import sys
from types import FunctionType

from greenkit.boot._scan import StaleReference, stale_references

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

__all__ = ["CELERY_FAMILY", "repair"]

CELERY_FAMILY = frozenset({"amqp", "billiard", "celery", "kombu", "redis", "vine"})
"""Packages whose globals were tried one by one: binding them again does what an early patch does."""


def repair(*, only: frozenset[str] | None = None, references: Iterable[StaleReference] | None = None) -> tuple[str, ...]:
    """Bind stale names to what the patch installed; return `holder -> module.attribute` of each.

    Args:
        only: Top-level packages to touch; None for Celery's family and the user's own modules.
        references: What to look at; None scans the process.

    Switches: never.
    """
    done = []
    for reference in stale_references() if references is None else references:
        if not reference.deliberate and _may_touch(reference.module, only) and _rebind(reference):
            done.append(f"{reference.holder} -> {'.'.join(reference.original)}")
    return tuple(done)


def _may_touch(module: str, only: frozenset[str] | None) -> bool:
    root = module.split(".")[0]
    if only is not None:
        return root in only
    if root in CELERY_FAMILY:
        return True
    if root in sys.stdlib_module_names and root != "__main__":
        return False
    file = str(getattr(sys.modules.get(module), "__file__", None) or "")
    return bool(file) and "site-packages" not in file and "dist-packages" not in file


def _rebind(reference: StaleReference) -> bool:
    home, attribute = reference.original
    current = getattr(sys.modules[home], attribute, None)
    if current is None:  # gevent removes select.epoll: there is nothing to bind to
        return False
    namespace = object.__getattribute__(sys.modules[reference.module], "__dict__")
    if reference.form == "global":
        namespace[reference.attribute] = current
        return True
    if reference.form == "default":
        return _rebind_default(namespace, reference, current)
    return False


def _rebind_default(namespace: dict[str, Any], reference: StaleReference, current: object) -> bool:
    name, _, method = reference.attribute.partition(".")
    function: Any = namespace.get(name)
    if method:
        function = type.__dict__["__dict__"].__get__(function).get(method)
    if type(function) is staticmethod or type(function) is classmethod:
        function = function.__func__
    if type(function) is not FunctionType:
        return False
    # Late: repair only runs in a patched process.
    from gevent.monkey import saved

    stale = saved[reference.original[0]][reference.original[1]]
    if function.__defaults__:
        function.__defaults__ = tuple(current if value is stale else value for value in function.__defaults__)
    keywords = function.__kwdefaults__ or {}
    for key in [key for key, value in keywords.items() if value is stale]:
        keywords[key] = current
    return True
