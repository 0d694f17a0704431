"""What a source file says, read and never run: its imports, its calls, where a name is bound.

Imported late, by whoever has something to explain: `ast` is only paid for then. A file that cannot be
read or parsed says nothing.
"""

from __future__ import annotations

import ast
import sys
from types import FunctionType

from greenkit.boot._graph import namespace_of
from greenkit.boot._shown import file_of, is_library

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import CodeType
    from typing import Any

    Function = ast.FunctionDef | ast.AsyncFunctionDef

__all__ = [
    "bindings",
    "calls_of",
    "dotted",
    "function_at",
    "imports_of",
    "in_order",
    "of_kinds",
    "parsed",
    "resolve",
    "statements",
    "user_modules",
]

_trees: dict[str, ast.Module | None] = {}
_imports: dict[tuple[str, str], list[tuple[int, str]]] = {}
_users: tuple[list[str], list[str]] = ([], [])


def user_modules() -> list[str]:
    """Return the names of the user's own loaded modules, in the order their imports ended.

    Switches: never.
    """
    global _users  # noqa: PLW0603 - a process has one list of modules
    loaded, (known, found) = list(sys.modules), _users
    if loaded != known:  # each finding asks, and `sys.path` is searched for every module
        found = [name for name in loaded if file_of(name) and not is_library(name)]
        _users = loaded, found
    return list(found)


def parsed(file: str) -> ast.Module | None:
    """Return the tree of a file; None when it cannot be read.

    Switches: never.
    """
    if file not in _trees:
        try:
            with open(file, "rb") as source:  # noqa: PTH123 - see shown
                _trees[file] = ast.parse(source.read())
        except (OSError, SyntaxError, ValueError, RecursionError):
            _trees[file] = None
    return _trees[file]


def imports_of(file: str, *, package: str = "") -> list[tuple[int, str]]:
    """Return (line, module) for every import statement in `file`; [] when it cannot be read.

    Switches: never.
    """
    if (file, package) not in _imports:
        nodes = of_kinds(parsed(file), ast.Import, ast.ImportFrom)
        _imports[file, package] = [(node.lineno, name) for node in nodes for name in _imported(node, package)]
    return _imports[file, package]


def _imported(node: ast.AST, package: str) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        base = _absolute(node.module or "", node.level, package)
        return [base, *(f"{base}.{alias.name}" for alias in node.names)]
    return []


def _absolute(module: str, level: int, package: str) -> str:
    if not level:
        return module
    parts = package.split(".")
    parents = parts[: len(parts) - level + 1]
    return ".".join([*parents, module] if module else parents)


def of_kinds(tree: ast.AST | None, *kinds: type[ast.stmt]) -> list[Any]:
    """Return the statements of these kinds in `tree`, functions included; expressions are not walked through.

    A file has ten times more expressions than statements, and under a debugger each step is traced.

    Switches: never.
    """
    found, waiting = [], [tree] if tree is not None else []
    for node in waiting:  # grows while it is walked
        if isinstance(node, kinds):
            found.append(node)
        for field in ("body", "orelse", "finalbody", "handlers", "cases"):
            inside = getattr(node, field, ())
            if isinstance(inside, list):  # of a lambda or a conditional it is an expression
                waiting += inside
    return found


def statements(
    file: str, *, package: str = "", code: CodeType | None = None
) -> Iterator[tuple[int, list[str], str]]:
    """Yield (line, modules an import may load, dotted name of what is called), in running order.

    Args:
        file: The source file; its functions are left out, they run when they are called.
        package: What relative imports are relative to.
        code: Look into this function of the file instead.

    Switches: never.
    """
    tree = parsed(file)
    if tree is None:
        return
    function = function_at(tree, code) if code is not None and code.co_name != "<module>" else tree
    for statement in in_order(function.body if function is not None else []):
        names = _imported(statement, package)
        value = getattr(statement, "value", None)
        call = dotted(value.func) if isinstance(value, ast.Call) else ""
        if names or call:
            yield statement.lineno, names, call


def in_order(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """Yield statements and the ones inside them, without the bodies of functions.

    Switches: never.
    """
    for statement in body:
        if isinstance(statement, ast.If) and "TYPE_CHECKING" in ast.dump(statement.test):
            continue
        yield statement
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        inner = [getattr(statement, field, ()) for field in ("body", "orelse", "finalbody")]
        inner[1:1] = [one.body for one in getattr(statement, "handlers", ())]
        for part in inner:
            yield from in_order(part)


def dotted(node: object) -> str:
    """Return `a.b.c` of an expression made of names and attributes, "" of any other.

    Switches: never.
    """
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else ""


def function_at(tree: ast.AST, code: CodeType) -> Function | None:
    """Return the definition a code object was compiled from.

    Switches: never.
    """
    for node in of_kinds(tree, ast.FunctionDef, ast.AsyncFunctionDef):
        if node.name == code.co_name:
            first = min([node.lineno, *(one.lineno for one in node.decorator_list)])
            if first == code.co_firstlineno:
                found: Function = node
                return found
    return None


def bindings(body: Iterable[ast.stmt], name: str) -> Iterator[ast.stmt]:
    """Yield the statements that bind `name` (or, as in `self.x`, an attribute of that name).

    Switches: never.
    """
    for statement in in_order(body):
        if isinstance(statement, ast.Import | ast.ImportFrom):
            bound = [(one.asname or one.name).partition(".")[0] for one in statement.names]
        elif isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            bound = [statement.name]
        elif isinstance(statement, ast.With | ast.AsyncWith):
            bound = _targets([one.optional_vars for one in statement.items])
        else:
            targets = getattr(statement, "targets", None) or [getattr(statement, "target", None)]
            bound = _targets(targets)
        if name in bound:
            yield statement


def _targets(targets: Iterable[ast.expr | None]) -> list[str]:
    nodes = [node for target in targets if target is not None for node in ast.walk(target)]
    names = [node.id for node in nodes if isinstance(node, ast.Name)]
    return names + [node.attr for node in nodes if isinstance(node, ast.Attribute)]


def calls_of(file: str, name: str) -> list[tuple[int, str, ast.Call]]:
    """Return (line, dotted name, node) of every call in `file` whose last name is `name`.

    Switches: never.
    """
    tree = parsed(file)
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)] if tree is not None else []
    texts = [(call.lineno, dotted(call.func), call) for call in calls]
    return [one for one in texts if one[1].rpartition(".")[2] == name]


def resolve(module: str, name: str) -> Any:
    """Return what a dotted name means in a module, through namespaces of modules and nothing else.

    Switches: never.
    """
    at: Any = sys.modules.get(module)
    for part in name.split("."):
        namespace = namespace_of(at)
        at = namespace.get(part) if namespace is not None else None
    return at if type(at) is FunctionType else None
