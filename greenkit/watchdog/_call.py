"""Name the C function a frame is calling, without running any of its code.

Reads the byte code: the frame's current instruction, the loads of its callee, and what the names refer to
now, looked up in dictionaries (`inspect.getattr_static`), never by `getattr`: a property or a lazy proxy
must not be evaluated in another thread. When in doubt it returns "".
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
    """Return the callee of the instruction at `offset` of `frame` as `module.name`; "" when not sure."""
    try:
        names = _names(frame.f_code, offset)
        return _describe(*_look_up(frame, names), names[-1]) if names else ""
    except (AttributeError, IndexError, LookupError, TypeError, ValueError):
        return ""


def written_arguments(code: CodeType, offset: int) -> tuple[frozenset[str], bool]:
    """Return (the names in the arguments of the call at `offset`, whether a literal 0 is among them)."""
    every, at = _instructions(code, offset)
    begin = _callee_of(every, at) + 1 if at >= 0 else 0
    loads = [
        instruction
        for instruction in every[max(begin, 0) : max(at, 0)]
        if instruction.opname.startswith("LOAD_")
    ]
    names = frozenset(instruction.argval for instruction in loads if type(instruction.argval) is str)
    return names, any(
        type(instruction.argval) in {int, float, bool} and not instruction.argval for instruction in loads
    )


# -- the instruction ----------------------------------------------------------


def _instructions(code: CodeType, offset: int) -> tuple[list[dis.Instruction], int]:
    """Return (the instructions without no-ops, the index of the one at `offset` or -1)."""
    every = [instruction for instruction in dis.get_instructions(code) if instruction.opname not in _SILENT]
    return every, next((index for index, instruction in enumerate(every) if instruction.offset == offset), -1)


@functools.lru_cache(maxsize=64)
def _names(code: CodeType, offset: int) -> tuple[str, ...]:
    """Return the dotted name of the callee, such as ("db", "execute"); () when it is not a plain name."""
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
    """Return the index of the last load of the callee, -1 when unknown."""
    by = _callee_by_position if sys.version_info >= (3, 11) else _callee_by_stack
    return by(every, at)


def _callee_by_position(every: list[dis.Instruction], at: int) -> int:
    # A call and the last load of its callee begin at the same place in the source; no argument does.
    start = _start(every[at])
    for index in range(at - 1, -1, -1):
        instruction = every[index]
        if _start(instruction) == start and (
            _is_call(instruction) or instruction.opname.startswith((*_ATTRIBUTES, *_BASES))
        ):
            break
    else:
        return -1
    # In a chain over several lines each attribute has its own line; only the base shares the call's.
    while every[index + 1].opname in _ATTRIBUTES:
        index += 1
    return index


def _is_call(instruction: dis.Instruction) -> bool:
    return instruction.opname.startswith("CALL") and not instruction.opname.startswith("CALL_INTRINSIC")


def _start(instruction: dis.Instruction) -> tuple[Any, Any] | None:
    where = getattr(instruction, "positions", None)
    return (where.lineno, where.col_offset) if where is not None else None


def _callee_by_stack(every: list[dis.Instruction], at: int) -> int:
    """Walk back over the arguments by what each step leaves on the stack; -1 at a jump (3.10)."""
    call = every[at]
    callee = 2 if call.opname == "CALL_METHOD" else 1  # a method is pushed with its object
    depth = dis.stack_effect(call.opcode, call.arg) - 1  # what the call pops, without its one result
    while depth < -callee:
        at -= 1
        instruction = every[at]
        if (
            at < 0
            or instruction.is_jump_target
            or instruction.opcode in dis.hasjabs
            or instruction.opcode in dis.hasjrel
        ):
            return -1
        depth += dis.stack_effect(instruction.opcode, instruction.arg)
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
    # A metaclass may supply any mapping as a class body's namespace; read the interpreter's own kinds only.
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
        return ""  # a Python function has its own frame, so it is not what this frame is calling
    if issubclass(kind, types.BuiltinFunctionType):
        return _builtin(value)
    if kind in _DESCRIPTORS:
        return f"{_class(value.__objclass__)}.{value.__name__}"
    if issubclass(kind, type):
        return "" if _is_python(value) else _class(value)
    if owner is None:
        return _class(kind)
    if issubclass(type(owner), types.ModuleType):
        return f"{_dict_of(owner)['__name__']}.{name}"
    return f"{_class(owner if issubclass(type(owner), type) else type(owner))}.{name}"


def _is_python(kind: type) -> bool:
    """Tell whether an instance is made by Python code, in a frame of its own."""
    made_by = [inspect.getattr_static(kind, name, None) for name in ("__new__", "__init__")]
    functions = (made.__func__ if type(made) is staticmethod else made for made in made_by)
    return any(type(made) is types.FunctionType for made in functions)


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
