"""The line where a reference was taken: for every form of holding, the source that made it.

Imported late, with `_source`: only a process that has something to explain reads files.
"""

from __future__ import annotations

import ast
from types import FunctionType

from greenkit.boot._graph import CLASS_DICT, is_class
from greenkit.boot._shown import file_of, is_library
from greenkit.boot._source import bindings, dotted, function_at, of_kinds, parsed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from greenkit.boot._graph import Hold

__all__ = ["bound_at", "captured_at"]


def captured_at(hold: Hold, tails: Iterable[str]) -> str:
    """Return `file:line` where `hold` took its reference; the file alone when the line is unknown.

    Args:
        hold: The place that holds.
        tails: Last names the thing may be written by: `sleep`, or `Lock` and `RLock` for a lock.

    Switches: never.
    """
    wanted = frozenset(tails)
    if hold.form in {"closure cell", "function default", "keyword default"}:
        function = next((one for one in reversed(hold.nodes) if type(one) is FunctionType), None)
        place = _in_function(function, hold, wanted) if function is not None else ""
        if place:
            return place
    if hold.form == "instance attribute" and (place := _in_its_class(hold, wanted)):
        return place
    return bound_at(hold.module, hold.path, wanted)


def bound_at(module: str, path: str, wanted: frozenset[str] = frozenset()) -> str:
    """Return `file:line` where the first names of `path` are bound in `module`.

    Switches: never.
    """
    file = file_of(module)
    tree = parsed(file) if file else None
    if tree is None:
        return file
    body: list[ast.stmt] = tree.body
    line = 0
    # A field stands in its class's body, whatever dictionary the class keeps it in.
    plain = path.replace(".__dataclass_fields__[", ".").partition("]")[0]
    for name in plain.partition("[")[0].partition(" <")[0].split("."):
        found = list(bindings(body, name))
        if not found:
            break
        # The binding that mentions the thing, or the last one: it is what the name means now.
        statement = next((one for one in found if _mention(one, wanted)), found[-1])
        line = statement.lineno
        if not isinstance(statement, ast.ClassDef):
            line = _mention(statement, wanted) or line
            break
        body = statement.body
    return f"{file}:{line}" if line else file


def _mention(node: ast.AST, wanted: frozenset[str]) -> int:
    """Return the line in which `node` names one of `wanted`, 0 when it does not."""
    for one in ast.walk(node):
        if isinstance(one, ast.Name | ast.Attribute) and dotted(one).rpartition(".")[2] in wanted:
            return one.lineno
        if isinstance(one, ast.alias) and one.name in wanted:
            return node.lineno if isinstance(node, ast.stmt) else one.lineno
    return 0


def _in_function(function: FunctionType, hold: Hold, wanted: frozenset[str]) -> str:
    code = function.__code__
    tree = parsed(code.co_filename)
    definition = function_at(tree, code) if tree is not None else None
    if tree is None or definition is None:
        return ""
    name = hold.path.rpartition(" <")[2].rstrip(">").partition(" ")[2]
    if hold.form == "closure cell":
        for outer in _around(tree, definition):
            for statement in bindings(outer.body, name):
                return f"{code.co_filename}:{_mention(statement, wanted) or statement.lineno}"
        return ""  # an argument of the outer function: the call that gave it is in the user's module
    line = next((one.lineno for at, one in _defaults(definition) if at == name), definition.lineno)
    return f"{code.co_filename}:{line}"


def _around(tree: ast.AST, inner: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yield the functions around `inner`, the nearest first."""
    outer = [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node is not inner
        and any(one is inner for one in ast.walk(node))
    ]
    yield from reversed(outer)


def _defaults(function: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[tuple[str, ast.expr]]:
    arguments = function.args
    positional = [*arguments.posonlyargs, *arguments.args]
    for one, default in zip(reversed(positional), reversed(arguments.defaults), strict=False):
        yield one.arg, default
    for one, given in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        if given is not None:
            yield one.arg, given


def _in_its_class(hold: Hold, wanted: frozenset[str]) -> str:
    """Return the line of `self.x = …` in the class of the user's that owns the attribute."""
    owner: Any = next((one for one in reversed(hold.nodes[:-1]) if type(one) is not dict), None)
    module = CLASS_DICT(type(owner)).get("__module__") if owner is not None else None
    if type(module) is not str or is_class(owner) or is_library(module):
        return ""
    tree = parsed(file_of(module))
    name = hold.path.rpartition(".")[2].partition("[")[0]
    classes = [one for one in of_kinds(tree, ast.ClassDef) if one.name == type(owner).__name__]
    # Other classes of the file have attributes of that name, too; the base class that sets it comes after.
    for place in (*classes, tree):
        for function in of_kinds(place, ast.FunctionDef):
            for statement in bindings(function.body, name):
                if _mention(statement, wanted):
                    return f"{file_of(module)}:{_mention(statement, wanted)}"
    return ""
