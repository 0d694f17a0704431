"""Exchange, in place, what a holder holds: one way for each form of holding.

Learnt the hard way: a class's dict is written through `type.__setattr__`, or the old value is served from
the type cache; a dataclass's generated `__init__` holds in a cell of its own what the field holds.
"""

from __future__ import annotations

import functools
from types import CellType, FunctionType

from greenkit.boot._graph import CLASS_BASES, CLASS_DICT, attribute_holding, is_class

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from greenkit.boot._graph import Hold

__all__ = ["bind"]


def bind(hold: Hold, fresh: Any) -> bool:
    """Exchange what `hold` holds for `fresh`; False when this form of holding cannot be changed.

    Switches: never.
    """
    binder = _BINDERS.get(hold.form.partition(" (")[0])
    return binder is not None and binder(hold.nodes, hold.thing, fresh)


def _in_namespace(nodes: tuple[Any, ...], stale: Any, fresh: Any) -> bool:
    namespace = nodes[-2]
    for key in [key for key, value in dict.items(namespace) if value is stale]:
        dict.__setitem__(namespace, key, fresh)
    return True


def _in_list(nodes: tuple[Any, ...], stale: Any, fresh: Any) -> bool:
    for at in [at for at, value in enumerate(nodes[-2]) if value is stale]:
        nodes[-2][at] = fresh
    return True


def _in_class(nodes: tuple[Any, ...], stale: Any, fresh: Any) -> bool:
    owner = next(one for one in reversed(nodes) if is_class(one) and one is not stale)
    for name, value in list(CLASS_DICT(owner).items()):
        if value is stale:
            type.__setattr__(owner, name, fresh)
        elif type(value) in {staticmethod, classmethod} and value.__func__ is stale:
            type.__setattr__(owner, name, type(value)(fresh))
    return True


def _in_bases(nodes: tuple[Any, ...], stale: Any, fresh: Any) -> bool:
    owner = nodes[-2]
    try:
        owner.__bases__ = tuple(fresh if base is stale else base for base in CLASS_BASES(owner))
    except TypeError:  # its layout differs: the instances could not follow
        return False
    return True


def _in_defaults(nodes: tuple[Any, ...], stale: Any, fresh: Any) -> bool:
    function = next((one for one in reversed(nodes) if type(one) is FunctionType and one is not stale), None)
    if function is None:
        return False
    if function.__defaults__:
        function.__defaults__ = tuple(fresh if value is stale else value for value in function.__defaults__)
    keywords = function.__kwdefaults__ or {}
    for key in [key for key, value in keywords.items() if value is stale]:
        keywords[key] = fresh
    return True


def _in_cell(nodes: tuple[Any, ...], stale: Any, fresh: Any) -> bool:
    cell = nodes[-2]
    if type(cell) is not CellType:
        return False
    cell.cell_contents = fresh
    return True


def _in_partial(nodes: tuple[Any, ...], stale: Any, fresh: Any) -> bool:
    partial: Any = next((one for one in reversed(nodes) if type(one) is functools.partial), None)
    if partial is None:
        return False
    arguments = tuple(fresh if value is stale else value for value in partial.args)
    keywords = {key: fresh if value is stale else value for key, value in partial.keywords.items()}
    function = fresh if partial.func is stale else partial.func
    partial.__setstate__((function, arguments, keywords, partial.__dict__ or None))
    return True


def _in_instance(nodes: tuple[Any, ...], stale: Any, fresh: Any) -> bool:
    if type(nodes[-2]) is dict:
        return _in_namespace(nodes, stale, fresh)
    owner = nodes[-2]
    name = attribute_holding(owner, stale)
    if name is None:
        return False
    object.__setattr__(owner, name, fresh)
    return attribute_holding(owner, stale) is None


def _in_field(nodes: tuple[Any, ...], stale: Any, fresh: Any) -> bool:
    # The generated __init__ holds it too, in a cell of its own.
    owner = next((one for one in nodes if is_class(one) and one is not stale), None)
    init = CLASS_DICT(owner).get("__init__") if owner is not None else None
    for cell in (init.__closure__ or ()) if type(init) is FunctionType else ():
        if cell.cell_contents is stale:
            cell.cell_contents = fresh
    return _in_instance(nodes, stale, fresh)


_BINDERS: dict[str, Callable[[tuple[Any, ...], Any, Any], bool]] = {
    "module global": _in_namespace,
    "dict value": _in_namespace,
    "function attribute": _in_namespace,
    "list item": _in_list,
    "deque item": _in_list,
    "class attribute": _in_class,
    "base class": _in_bases,
    "function default": _in_defaults,
    "keyword default": _in_defaults,
    "closure cell": _in_cell,
    "partial": _in_partial,
    "instance attribute": _in_instance,
    "dataclass default_factory": _in_field,
}
