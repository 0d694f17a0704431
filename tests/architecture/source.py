"""Read a tree of Python files: its modules, what they import, and their functions.

Only syntax is looked at, nothing is imported, so that an import inside a function counts too and
a bad tree made for a test can be read like the real one.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True, slots=True)
class Module:
    """One file: where it is (relative, with slashes), its dotted name, its text and its syntax."""

    path: str
    name: str
    text: str
    tree: ast.Module

    @property
    def is_door(self) -> bool:
        return self.path.endswith("__init__.py")


@dataclass(frozen=True, slots=True)
class Import:
    """One imported dotted name, made absolute, and the line it is on.

    `name` is what is imported *from* (`greenkit.wait`), `symbol` the name taken, if any.
    """

    name: str
    symbol: str
    line: int


def modules(root: Path, folder: str = "greenkit") -> list[Module]:
    """Return every module below `root/folder`, in order of path."""
    found = []
    for file in sorted((root / folder).rglob("*.py")):
        path = file.relative_to(root).as_posix()
        parts = path[: -len(".py")].split("/")
        if parts[-1] == "__init__":
            parts.pop()
        text = file.read_text(encoding="utf-8")
        found.append(Module(path, ".".join(parts), text, ast.parse(text, filename=path)))
    return found


def imports(module: Module) -> Iterator[Import]:
    """Yield what `module` imports anywhere, late and typing-only imports included."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, "", node.lineno)
        elif isinstance(node, ast.ImportFrom):
            source = _absolute(module, node)
            for alias in node.names:
                yield Import(source, alias.name, node.lineno)
        elif isinstance(node, ast.Call) and _callee(node) in {"import_module", "__import__"}:
            first = node.args[0] if node.args else None
            if isinstance(first, ast.Constant) and isinstance(first.value, str):
                yield Import(first.value, "", node.lineno)


def _absolute(module: Module, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    base = module.name.split(".")
    drop = node.level - 1 if module.is_door else node.level
    base = base[: len(base) - drop]
    return ".".join([*base, node.module] if node.module else base)


def _callee(node: ast.Call) -> str:
    if isinstance(node.func, ast.Attribute):
        return node.func.attr
    return node.func.id if isinstance(node.func, ast.Name) else ""


def functions(module: Module) -> Iterator[tuple[str, FunctionNode]]:
    """Yield (dotted name inside the module, node) of every function and method."""
    yield from _functions(module.tree, "")


def _functions(node: ast.AST, prefix: str) -> Iterator[tuple[str, FunctionNode]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, FunctionNode):
            yield f"{prefix}{child.name}", child
            yield from _functions(child, f"{prefix}{child.name}.")
        elif isinstance(child, ast.ClassDef):
            yield from _functions(child, f"{prefix}{child.name}.")
        else:
            yield from _functions(child, prefix)


def public_definitions(module: Module) -> Iterator[tuple[str, ast.ClassDef | FunctionNode]]:
    """Yield what a reader meets by name: public classes, their public methods, public functions."""
    for node in module.tree.body:
        if not isinstance(node, (ast.ClassDef, *FunctionNode.__args__)) or node.name.startswith("_"):
            continue
        yield node.name, node
        if isinstance(node, ast.ClassDef):
            for method in node.body:
                if isinstance(method, FunctionNode) and not method.name.startswith("_"):
                    yield f"{node.name}.{method.name}", method


def decorators(node: FunctionNode) -> set[str]:
    """Return the last words of the node's decorators: `overload`, `setter`, `property` ..."""
    names = set()
    for decorator in node.decorator_list:
        target = decorator.func if isinstance(decorator, ast.Call) else decorator
        names.add(target.attr if isinstance(target, ast.Attribute) else getattr(target, "id", ""))
    return names


def declared_all(module: Module) -> list[str] | None:
    """Return the names written in the `__all__` of `module`, or None when it has none."""
    for node in module.tree.body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        if any(isinstance(one, ast.Name) and one.id == "__all__" for one in targets):
            return [one.value for one in ast.walk(node.value) if isinstance(one, ast.Constant)]
    return None
