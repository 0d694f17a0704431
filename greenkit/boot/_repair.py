"""Bind again, in place, the names that still hold an original.

Only what is safe: globals of modules, defaults of functions and Thread bases, in Celery's family and in the
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


def repair(
    *, only: frozenset[str] | None = None, references: Iterable[StaleReference] | None = None
) -> tuple[str, ...]:
    """Bind stale names to what the patch installed; return `holder -> module.attribute` of each.

    Args:
        only: Top-level packages to touch; None for Celery's family and the user's own modules.
        references: What to look at; None scans the process.

    Switches: never.
    """
    _let_kombu_look_again()
    return tuple(
        f"{reference.holder} -> {'.'.join(reference.original)}"
        for reference in (stale_references() if references is None else references)
        if not reference.deliberate and _may_touch(reference.module, only) and _rebind(reference)
    )


def _let_kombu_look_again() -> None:
    # kombu 5.7 `utils/compat.py` keeps its answer to "default or gevent?" and picks its poller by it.
    compat = sys.modules.get("kombu.utils.compat")
    if compat is not None and getattr(compat, "_environment", None) == "default":
        compat.__dict__["_environment"] = None


def _may_touch(module: str, only: frozenset[str] | None) -> bool:
    root = module.partition(".")[0]
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
    if reference.form == "base class" and reference.original[1] in {"Thread", "Timer"}:
        return _rebind_base(namespace[reference.attribute], _original(reference), current)
    return False


def _rebind_base(owner: type, stale: object, current: Any) -> bool:
    try:
        owner.__bases__ = tuple(current if base is stale else base for base in owner.__bases__)
    except TypeError:  # its layout differs: the instances could not follow
        return False
    return True


def _original(reference: StaleReference) -> object:
    return sys.modules["gevent.monkey"].saved[reference.original[0]][reference.original[1]]


def _rebind_default(namespace: dict[str, Any], reference: StaleReference, current: object) -> bool:
    name, _, method = reference.attribute.partition(".")
    function: Any = namespace.get(name)
    if method:
        function = type.__dict__["__dict__"].__get__(function).get(method)
    if type(function) is staticmethod or type(function) is classmethod:
        function = function.__func__
    if type(function) is not FunctionType:
        return False
    stale = _original(reference)
    if function.__defaults__:
        function.__defaults__ = tuple(current if value is stale else value for value in function.__defaults__)
    keywords = function.__kwdefaults__ or {}
    for key in [key for key, value in keywords.items() if value is stale]:
        keywords[key] = current
    return True
