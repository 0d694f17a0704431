"""The words for a route: each edge from a holder to what it holds, as a path and a form.

`describe()` is given the objects of a route and says `Wire._wait`, "class attribute (staticmethod)".
Only C descriptors of exactly known types are read; a key is quoted only when it is a plain string or
number, because any other could run code to show itself.
"""

from __future__ import annotations

import functools
from collections import deque
from types import BuiltinMethodType, CellType, FunctionType, MethodType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from typing import Any

__all__ = ["CLASS_BASES", "CLASS_DICT", "CLASS_MRO", "attribute_holding", "class_of", "describe", "is_class"]

CLASS_DICT: Any = type.__dict__["__dict__"].__get__
CLASS_BASES: Any = type.__dict__["__bases__"].__get__
CLASS_MRO: Any = type.__dict__["__mro__"].__get__
_qualname: Any = type.__dict__["__qualname__"].__get__

# What stands under these names describes an object and is never called through them.
_DESCRIBING = frozenset(
    {"__annotations__", "__wrapped__", "__orig_bases__", "__args__", "__mro__", "__base__"}
)

_Step = tuple[str, str, int]  # text, form, how many edges it covers


def is_class(thing: object) -> bool:
    """Tell whether `thing` is a class, without asking it.

    Switches: never.
    """
    return issubclass(type(thing), type)


def class_of(thing: Any) -> str:
    """Return the qualified name of a class or a function.

    Switches: never.
    """
    name: str = _qualname(thing) if is_class(thing) else thing.__qualname__
    return name


def describe(nodes: Sequence[Any], roots: Mapping[int, str]) -> tuple[str, str] | None:
    """Return (path, form) of a route; None when one of its edges does not hold in earnest.

    Args:
        nodes: From a module's namespace, a class or a function down to the thing held.
        roots: id of a namespace → name of its module.

    Switches: never.
    """
    path = "" if id(nodes[0]) in roots else class_of(nodes[0])
    form, at = "", 0
    while at < len(nodes) - 1:
        step = _step(nodes, at, roots)
        if step is None:
            return None
        text, new, covered = step
        if new == "wrapped":  # the object inside a staticmethod
            form += f" ({type(nodes[at]).__name__})"
        elif new:
            form = new
        path += text
        at += covered
    return path.lstrip("."), form


def _step(nodes: Sequence[Any], at: int, roots: Mapping[int, str]) -> _Step | None:
    parent, child = nodes[at], nodes[at + 1]
    kind = type(parent)
    if id(parent) in roots:
        return _named(_key_of(parent, child), "module global")
    if is_class(parent):
        return _in_class(parent, nodes, at)
    if kind is FunctionType:
        return _in_function(parent, nodes, at)
    if kind is functools.partial:  # the function itself, or its arguments in a tuple or dict
        return "", "partial", min(2, len(nodes) - 1 - at) if child is not parent.func else 1
    if kind in _PLAIN:
        plain: _Step | None = _PLAIN[kind](parent, child)
        return plain
    if issubclass(kind, dict) and _is_namespace_of_nobody(nodes, at):
        return _in_dict(parent, child)
    return _in_instance(parent, nodes, at)


def _is_namespace_of_nobody(nodes: Sequence[Any], at: int) -> bool:
    # A dict subclass holds in its items or in its attributes; its items win.
    return any(value is nodes[at + 1] for value in dict.values(nodes[at]))


def _named(name: object, form: str, covered: int = 1) -> _Step | None:
    if type(name) is not str or name in _DESCRIBING:
        return None
    return f".{name}", form, covered


def _key_of(mapping: dict[Any, Any], value: object) -> object:
    return next((key for key, one in dict.items(mapping) if one is value), None)


def _in_class(owner: object, nodes: Sequence[Any], at: int) -> _Step | None:
    inside = nodes[at + 1]
    if at + 2 < len(nodes) and type(inside) is dict:
        name = next((key for key, one in CLASS_DICT(owner).items() if one is nodes[at + 2]), None)
        return _named(name, "class attribute", 2)
    if any(inside is base for base in CLASS_BASES(owner)):
        return "", "base class", 1
    return None  # its bases, its mro, its metaclass


def _in_function(function: FunctionType, nodes: Sequence[Any], at: int) -> _Step | None:
    inside = nodes[at + 1]
    held = nodes[at + 2] if at + 2 < len(nodes) else None
    if held is None:
        return None
    if inside is function.__closure__:
        cell = next(i for i, one in enumerate(function.__closure__ or ()) if one is held)
        name = function.__code__.co_freevars[cell]
        if name == "__class__":  # what super() needs
            return None
        return f" <closure {name}>", "closure cell", min(3, len(nodes) - 1 - at)
    if inside is function.__defaults__:
        name = _default_name(function, held)
        return f" <default {name}>", "function default", 2
    if function.__kwdefaults__ is not None and inside is function.__kwdefaults__:
        return f" <default {_key_of(function.__kwdefaults__, held)}>", "keyword default", 2
    if inside is function.__dict__:
        return _named(_key_of(inside, held), "function attribute", 2)
    return None  # globals, annotations


def _default_name(function: FunctionType, held: object) -> str:
    code, defaults = function.__code__, function.__defaults__ or ()
    first = code.co_argcount - len(defaults)
    return code.co_varnames[first + next(i for i, one in enumerate(defaults) if one is held)]


def _in_dict(mapping: dict[Any, Any], child: object) -> _Step | None:
    key = _key_of(mapping, child)
    if type(key) in {str, int}:
        return None if key in _DESCRIBING else (f"[{key}]", "dict value", 1)
    if key is None:  # it is a key, and a key is looked at, not called
        return None
    return f"[<{type(key).__name__}>]", "dict value", 1


def _in_sequence(items: Any, child: object) -> _Step | None:
    if type(items) is tuple and all(is_class(one) for one in items):
        return None  # what isinstance() is given
    index = next((i for i, one in enumerate(items) if one is child), None)
    return None if index is None else (f"[{index}]", f"{type(items).__name__} item", 1)


def _in_set(items: Any, child: object) -> _Step | None:
    return "[…]", f"{type(items).__name__} item", 1


def _in_method(method: Any, child: object) -> _Step | None:
    # Bound to a class (`local.__new__`) it is the class's own affair.
    return None if is_class(child) else ("", "bound method", 1)


def _in_wrapper(wrapper: Any, child: object) -> _Step | None:
    return ("", "wrapped", 1) if child is wrapper.__func__ else None


def _in_property(one: property, child: object) -> _Step | None:
    name = next((n for n in ("fget", "fset", "fdel") if getattr(one, n) is child), "")
    return f".{name}", "property", 1


_PLAIN: dict[type, Any] = {
    dict: _in_dict,
    list: _in_sequence,
    tuple: _in_sequence,
    deque: _in_sequence,
    set: _in_set,
    frozenset: _in_set,
    CellType: lambda _cell, _child: ("", "closure cell", 1),
    MethodType: _in_method,
    BuiltinMethodType: _in_method,
    staticmethod: _in_wrapper,
    classmethod: _in_wrapper,
    property: _in_property,
}


def _in_instance(owner: Any, nodes: Sequence[Any], at: int) -> _Step | None:
    child = nodes[at + 1]
    if child is type(owner) or type(owner).__name__.endswith("descriptor"):
        return None
    last = at + 2 >= len(nodes)
    if not last and type(child) is dict and (name := _key_of(child, nodes[at + 2])) is not None:
        step = _named(name, "instance attribute", 2)
    else:
        step = _named(attribute_holding(owner, child), "instance attribute")
    if step is None or type(owner).__name__ != "Field":
        return step
    # dataclasses.Field: its `type` describes, its factory is called.
    return (step[0], "dataclass default_factory", step[2]) if "factory" in step[0] else None


def attribute_holding(owner: object, child: object) -> str | None:
    """Return the attribute of `owner` that is `child`, read through C descriptors only.

    Switches: never.
    """
    return next((name for name, value in _attributes(owner) if value is child), None)


def _attributes(owner: object) -> Iterator[tuple[str, Any]]:
    for base in CLASS_MRO(type(owner)):
        for name, descriptor in CLASS_DICT(base).items():
            if type(descriptor).__name__ == "member_descriptor":
                try:
                    yield name, descriptor.__get__(owner)
                except (AttributeError, TypeError):
                    continue
            elif name == "__dict__" and type(descriptor).__name__ == "getset_descriptor":
                inside = descriptor.__get__(owner)
                if type(inside) is dict:
                    yield from [(key, one) for key, one in inside.items() if type(key) is str]
