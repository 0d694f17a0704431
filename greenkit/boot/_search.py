"""Look in the user's source for a call nobody saw: who patches, who restores, who starts a thread.

Imported late, with `_source`. Only modules whose namespace or functions mention the name are read.
"""

from __future__ import annotations

import ast
import sys
from types import FunctionType

from greenkit.boot._graph import namespace_of
from greenkit.boot._record import RECORD, Frame, PatchCall
from greenkit.boot._shown import file_of, shown
from greenkit.boot._source import calls_of, dotted, in_order, parsed, user_modules

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "call_text",
    "function_around",
    "functions_naming",
    "patch_calls",
    "patched_at",
    "thread_started_at",
    "who_restores",
]


def call_text(call: PatchCall, name: str) -> str:
    """Return how the call is written where it stands: `monkey.patch_all`.

    Switches: never.
    """
    if not call.frames:
        return name
    frame = call.frames[0]
    found = calls_of(frame.code.co_filename, name)
    return next((text for line, text, _ in found if line == frame.line), name)


def patch_calls() -> tuple[PatchCall, ...]:
    """Return who patched: the announced calls, else the `patch_all()` in the user's source.

    Switches: never.
    """
    if RECORD.calls:
        return RECORD.calls
    return tuple(
        PatchCall((Frame(module, "", compile("", file_of(module), "exec"), line),), _constants(call))
        for module in user_modules()
        for line, _, call in calls_of(file_of(module), "patch_all")
    )


def _constants(call: ast.Call) -> dict[str, bool]:
    given = [(one.arg, one.value) for one in call.keywords]
    return {name: bool(node.value) for name, node in given if name and isinstance(node, ast.Constant)}


def patched_at() -> str:
    """Return `file:line` that asked for the patch first, "" when nobody is known.

    Switches: never.
    """
    return next((shown(call.place) for call in patch_calls()), "")


def functions_naming(name: str) -> Iterator[tuple[str, FunctionType]]:
    """Yield (module, function) of the user's functions that use `name`.

    Switches: never.
    """
    for module in user_modules():
        for value in list((namespace_of(sys.modules.get(module)) or {}).values()):
            function = getattr(value, "__wrapped__", value) if type(value) is FunctionType else None
            if (
                type(function) is FunctionType
                and function.__module__ == module
                and (name in function.__code__.co_names)
            ):
                yield module, function


def who_restores(module: str, attribute: str) -> tuple[str, str]:
    """Return (`file:line` that puts `module.attribute` back, `file:line` that calls it); "" when unknown.

    Switches: never.
    """
    full = f"{module}.{attribute}"
    for user in user_modules():
        tree = parsed(file_of(user))
        line = _restoring_line(tree, full) if tree is not None else 0
        if tree is not None and line:
            function = function_around(tree, line)
            return f"{file_of(user)}:{line}", _called_at(function, f"{file_of(user)}:{line}")
    return "", ""


def _restoring_line(tree: ast.Module, full: str) -> int:
    home, _, attribute = full.rpartition(".")
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and any(dotted(target) == full for target in node.targets):
            return node.lineno
        if not isinstance(node, ast.Call):
            continue
        words = [one.value for one in node.args if isinstance(one, ast.Constant)]
        names = [dotted(one) for one in node.args]
        last = dotted(node.func).rpartition(".")[2]
        if full in words:  # mock.patch("time.sleep")
            return _stopped_at(tree, node) or node.lineno
        if attribute in words and home in names:  # setattr(time, "sleep", …)
            return node.lineno
        if last == "reload" and home in names:
            return node.lineno
    return 0


def _stopped_at(tree: ast.Module, patcher: ast.Call) -> int:
    """Return the line of `name.stop()` for the name a patcher is bound to."""
    for statement in in_order(tree.body):
        if isinstance(statement, ast.Assign) and statement.value is patcher:
            name = dotted(statement.targets[0])
            stops = [
                n for n in ast.walk(tree) if isinstance(n, ast.Call) and dotted(n.func) == f"{name}.stop"
            ]
            return stops[-1].lineno if stops else 0
    return 0


def function_around(tree: ast.AST, line: int) -> str:
    """Return the name of the innermost function around a line, "" at module level.

    Switches: never.
    """
    inside = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.lineno <= line <= (node.end_lineno or 0)
    ]
    return inside[-1].name if inside else ""


def _called_at(function: str, otherwise: str) -> str:
    if not function:
        return otherwise
    for user in user_modules():
        for line, _, _ in calls_of(file_of(user), function):
            return f"{file_of(user)}:{line}"
    return ""


def thread_started_at(module: str, function: str) -> str:
    """Return `file:line` where a thread that runs `function` is made, or where that is defined.

    Switches: never.
    """
    name = function.rpartition(".")[2]
    for user in [module, *user_modules()]:
        file = file_of(user)
        for line, text, call in calls_of(file, "Thread") + calls_of(file, "Timer") + calls_of(file, name):
            targets = [dotted(one.value) for one in call.keywords if one.arg == "target"] + [
                dotted(one) for one in call.args
            ]
            if text.rpartition(".")[2] == name or any(one.rpartition(".")[2] == name for one in targets):
                return f"{file}:{line}"
    return ""
