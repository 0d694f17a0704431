"""Name the C function a frame is calling, without running a line of anybody's code.

Reads the byte code: the instruction a frame stands at, the loads that brought its callee, and what the names
mean now, looked up in dictionaries (`inspect.getattr_static`), never by `getattr`: a property or a lazy proxy
must not be evaluated in a foreign thread. When there is doubt the answer is "".
"""

from __future__ import annotations

import dis
import functools
import inspect
import sys
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import CodeType, FrameType

__all__ = ["name_call", "written_arguments"]

_BASES = ("LOAD_NAME", "LOAD_GLOBAL", "LOAD_FAST", "LOAD_DEREF", "LOAD_CLASSDEREF")
_ATTRIBUTES = ("LOAD_ATTR", "LOAD_METHOD")
_SILENT = ("CACHE", "EXTENDED_ARG", "PUSH_NULL", "NOP", "COPY_FREE_VARS")
_ENTERS = ("BEFORE_WITH", "SETUP_WITH")
_DESCRIPTORS = (types.MethodDescriptorType, types.WrapperDescriptorType, types.ClassMethodDescriptorType)
_module_of: Any = type.__dict__["__module__"].__get__
_qualname_of: Any = type.__dict__["__qualname__"].__get__
_dict_of: Any = vars(types.ModuleType)["__dict__"].__get__


def name_call(frame: FrameType, offset: int) -> str:
    """Return the callee of the instruction at `offset` of `frame` as `module.name`; "" when not sure.

    Switches: never.
    """
    try:
        names = _names(frame.f_code, offset)
        return _describe(*_look_up(frame, names), names[-1]) if names else ""
    except (AttributeError, IndexError, LookupError, TypeError, ValueError):
        return ""


def written_arguments(code: CodeType, offset: int) -> tuple[frozenset[str], bool]:
    """Return (the names the arguments of the call at `offset` are written with, whether a literal 0 is one).

    Switches: never.
    """
    every, at = _instructions(code, offset)
    begin = _callee_of(every, at) + 1 if at >= 0 else 0
    loads = [one for one in every[max(begin, 0) : max(at, 0)] if one.opname.startswith("LOAD_")]
    names = frozenset(one.argval for one in loads if type(one.argval) is str)
    return names, any(type(one.argval) in {int, float, bool} and not one.argval for one in loads)


# -- the instruction ----------------------------------------------------------


def _instructions(code: CodeType, offset: int) -> tuple[list[dis.Instruction], int]:
    """Return (the instructions that do something, the index of the one at `offset` or -1)."""
    every = [one for one in dis.get_instructions(code) if one.opname not in _SILENT]
    return every, next((index for index, one in enumerate(every) if one.offset == offset), -1)


@functools.lru_cache(maxsize=64)
def _names(code: CodeType, offset: int) -> tuple[str, ...]:
    """Return the dotted name of the callee, such as ("db", "execute"); () when it is no plain name."""
    every, at = _instructions(code, offset)
    if at < 0:
        return ()
    if every[at].opname in _ENTERS:
        names = _dotted(every, at - 1)
        return (*names, "__enter__") if names else ()
    if not _is_call(every[at]):
        return ()
    return _dotted(every, _callee_of(every, at))


def _callee_of(every: list[dis.Instruction], at: int) -> int:
    """Return the index of the last load of the callee, -1 when it cannot be told."""
    by = _callee_by_position if sys.version_info >= (3, 11) else _callee_by_stack
    return by(every, at)


def _callee_by_position(every: list[dis.Instruction], at: int) -> int:
    # A call and the last load of its callee begin at the same place in the source; no argument does.
    start = _start(every[at])
    for index in range(at - 1, -1, -1):
        one = every[index]
        if _start(one) == start and (_is_call(one) or one.opname.startswith((*_ATTRIBUTES, *_BASES))):
            break
    else:
        return -1
    # A chain over several lines: each attribute has a line of its own, only its base the call's.
    while every[index + 1].opname in _ATTRIBUTES:
        index += 1
    return index


def _is_call(one: dis.Instruction) -> bool:
    return one.opname.startswith("CALL") and not one.opname.startswith("CALL_INTRINSIC")


def _start(one: dis.Instruction) -> tuple[Any, Any] | None:
    where = getattr(one, "positions", None)
    return (where.lineno, where.col_offset) if where is not None else None


def _callee_by_stack(every: list[dis.Instruction], at: int) -> int:
    """Walk back over the arguments by what each step leaves on the stack; -1 at a jump (3.10)."""
    call = every[at]
    callee = 2 if call.opname == "CALL_METHOD" else 1  # a method comes with its object
    depth = dis.stack_effect(call.opcode, call.arg) - 1  # what the call takes, its one result aside
    while depth < -callee:
        at -= 1
        one = every[at]
        if at < 0 or one.is_jump_target or one.opcode in dis.hasjabs or one.opcode in dis.hasjrel:
            return -1
        depth += dis.stack_effect(one.opcode, one.arg)
    return at - 1


def _dotted(every: list[dis.Instruction], at: int) -> tuple[str, ...]:
    names: list[str] = []
    while at >= 0 and every[at].opname in _ATTRIBUTES:
        names.append(every[at].argval)
        at -= 1
    if at < 0 or not every[at].opname.startswith(_BASES):
        return ()
    base = every[at].argval  # a pair of names where 3.13 loads two at once
    return (base[-1] if isinstance(base, tuple) else base, *reversed(names))


# -- the names ----------------------------------------------------------------


def _look_up(frame: FrameType, names: tuple[str, ...]) -> tuple[Any, Any]:
    """Return (what the last attribute was found on or None, the callee)."""
    places = [_plain(frame.f_locals), frame.f_globals, _plain(frame.f_builtins)]
    owner, value = None, next(place[names[0]] for place in places if names[0] in place)
    for name in names[1:]:
        owner, value = value, _attribute(value, name)
    return owner, value


def _plain(namespace: Any) -> Any:
    # A class body may run in any mapping of its metaclass; only the interpreter's own kinds are read.
    kind = type(namespace)
    return namespace if kind is dict or kind.__name__ == "FrameLocalsProxy" else {}


def _attribute(value: Any, name: str) -> Any:
    if issubclass(type(value), types.ModuleType):
        return _dict_of(value)[name]
    found = inspect.getattr_static(value, name)
    return found.__get__(value, type(value)) if type(found) is types.MemberDescriptorType else found


def _describe(owner: Any, value: Any, name: str) -> str:
    kind = type(value)
    if kind is functools.partial:
        return _describe(None, value.func, name)
    if kind is staticmethod:
        return _describe(owner, value.__func__, name)
    if not callable(value) or kind in {types.FunctionType, types.MethodType, property, classmethod}:
        return ""  # Python code has a frame of its own: whatever is called, it is not this
    if issubclass(kind, types.BuiltinFunctionType):
        return _builtin(value)
    if kind in _DESCRIPTORS:
        return f"{_class(value.__objclass__)}.{value.__name__}"
    if issubclass(kind, type):
        return _class(value)
    if owner is None:
        return _class(kind)
    if issubclass(type(owner), types.ModuleType):
        return f"{_dict_of(owner)['__name__']}.{name}"
    return f"{_class(owner if issubclass(type(owner), type) else type(owner))}.{name}"


def _builtin(value: Any) -> str:
    bound = value.__self__
    if bound is None or issubclass(type(bound), types.ModuleType):
        module = str(value.__module__)
        return f"{_public(module)}.{value.__name__}"
    return f"{_class(bound if issubclass(type(bound), type) else type(bound))}.{value.__name__}"


def _class(kind: type) -> str:
    module, name = _module_of(kind), _qualname_of(kind)
    return f"{_public(module)}.{name}"


def _public(module: str) -> str:
    """Return the name people import a C module of the standard library by: `os`, not `posix`."""
    known = "os" if module == "posix" else module.removeprefix("_")
    return known if known in sys.stdlib_module_names else module
