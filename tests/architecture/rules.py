"""The rules of the house as functions: a tree goes in, complaints come out, none means kept.

Each complaint is `path:line what is wrong`, ready to be read in a failed assertion.
"""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING

from tests.architecture import floors, words
from tests.architecture.source import (
    FunctionNode,
    declared_all,
    decorators,
    functions,
    imports,
    modules,
    public_definitions,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def upward_imports(root: Path) -> list[str]:
    """Find imports that go up, go sideways, or go through the street door."""
    height = {room: level for level, (_, rooms) in enumerate(floors.FLOORS) for room in rooms}
    found = []
    tree = modules(root)
    known = {module.name for module in tree}
    for module in tree:
        room = _room(module.name)
        if room and room not in height:
            found.append(f"{module.path}:1 room {room!r} is on no floor of floors.py")
            continue
        for one in imports(module):
            target = f"{one.name}.{one.symbol}" if f"{one.name}.{one.symbol}" in known else one.name
            other = _room(target)
            if target.split(".")[0] != "greenkit" or other == room:
                continue
            if module.path == "greenkit/__init__.py":
                continue  # the lazy door names every room, and loads none
            if not other and one.symbol == "__version__":
                continue  # a plain string, and nothing else to ask
            if not other:
                found.append(f"{module.path}:{one.line} imports {one.symbol} through the street door")
            elif other not in height:
                found.append(f"{module.path}:{one.line} imports {target}, which is on no floor")
            elif height[other] >= height[room]:
                way = "up" if height[other] > height[room] else "sideways"
                found.append(f"{module.path}:{one.line} imports {way}: {target}")
    return found


def _room(name: str) -> str:
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else ""


def reached_behind_doors(root: Path) -> list[str]:
    """Find imports of another room's private file, or of a private name."""
    found = []
    for module in modules(root):
        for one in imports(module):
            parts = one.name.split(".")
            if parts[0] != "greenkit" or len(parts) < 2 or parts[1] == _room(module.name):
                continue
            if any(part.startswith("_") for part in parts[2:]) or _is_private(one.symbol):
                found.append(
                    f"{module.path}:{one.line} reaches behind a door: {one.name} {one.symbol}".rstrip()
                )
    return found


def _is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def doors_with_logic(root: Path) -> list[str]:
    """Find `__init__.py` files with more than a docstring, imports and `__all__`."""
    found = []
    for module in modules(root):
        if not module.is_door or module.path in floors.DOORS_WITH_LOGIC:
            continue
        found += [
            f"{module.path}:{node.lineno} a door holds no logic"
            for node in module.tree.body
            if not _belongs_in_a_door(node)
        ]
    return found


def _belongs_in_a_door(node: ast.stmt) -> bool:
    if isinstance(node, ast.Import | ast.ImportFrom):
        return True
    if isinstance(node, ast.Expr):
        return isinstance(node.value, ast.Constant)
    if isinstance(node, ast.Assign):
        return [getattr(one, "id", "") for one in node.targets] == ["__all__"]
    is_typing = isinstance(node, ast.If) and getattr(node.test, "id", "") == "TYPE_CHECKING"
    return is_typing and all(_belongs_in_a_door(one) for one in node.body)


def incomplete_all(root: Path) -> list[str]:
    """Find doors whose `__all__` misses a public name they import, or names one they do not.

    `from x import a as a` is for the other packages of greenkit: it is no public name.
    """
    found = []
    for module in modules(root):
        if not module.is_door or module.path in floors.DOORS_WITH_LOGIC:
            continue
        named = set(declared_all(module) or ())
        given = {
            alias.asname or alias.name
            for node in module.tree.body
            if isinstance(node, ast.ImportFrom) and node.module != "__future__"
            for alias in node.names
            if not (alias.asname or alias.name).startswith("_")
            and alias.asname != alias.name != "TYPE_CHECKING"
        }
        found += [f"{module.path}:1 __all__ misses {name}" for name in sorted(given - named)]
        found += [
            f"{module.path}:1 __all__ names {name}, which is not imported" for name in sorted(named - given)
        ]
    return found


def bare_names(root: Path) -> list[str]:
    """Find files behind a door that do not start with an underscore."""
    found = []
    for module in modules(root):
        folders, _, file = module.path.rpartition("/")
        deep = folders.count("/")
        if deep == 0 or (file.startswith("_") and (file != "__init__.py" or deep == 1)):
            continue
        if not any(module.path.startswith(allowed) for allowed in floors.BARE_NAMES):
            found.append(f"{module.path}:1 a file behind a door starts with _")
    return found


def scattered_optionals(root: Path) -> list[str]:
    """Find imports of an optional package outside the files that adapt it."""
    found = []
    for module in modules(root):
        for one in imports(module):
            places = floors.OPTIONAL.get(one.name.split(".")[0])
            if places is not None and not module.path.startswith(places or ("nowhere",)):
                home = ", ".join(places) or "no room"
                found.append(f"{module.path}:{one.line} imports {one.name}, adapted in {home}")
    return found


def long_files(root: Path, folder: str = "greenkit") -> list[str]:
    """Find files longer than the wall."""
    return [
        f"{module.path}:1 has {lines} lines, the wall is {floors.MAX_FILE_LINES}"
        for module in modules(root, folder)
        if (lines := len(module.text.splitlines())) > floors.MAX_FILE_LINES
    ]


def long_functions(root: Path) -> list[str]:
    """Find functions whose body, without its docstring, is too long or too deep."""
    found = []
    for module in modules(root):
        for name, node in functions(module):
            if f"{module.path}:{name}" in floors.LONG_FUNCTIONS:
                continue
            where = f"{module.path}:{node.lineno} {name}()"
            if (lines := _body_lines(node)) > floors.MAX_FUNCTION_LINES:
                found.append(f"{where} has {lines} lines, the wall is {floors.MAX_FUNCTION_LINES}")
            if (depth := _depth(node)) > floors.MAX_INDENT:
                found.append(f"{where} is {depth} levels deep, the wall is {floors.MAX_INDENT}")
    return found


def _body_lines(node: FunctionNode) -> int:
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    return (node.end_lineno or 0) - body[0].lineno + 1 if body else 0


def _depth(node: ast.AST) -> int:
    compound = ast.If | ast.For | ast.While | ast.With | ast.Try
    deepest = 0
    for child in ast.iter_child_nodes(node):
        if isinstance(child, FunctionNode | ast.ClassDef):
            continue
        # `elif` is an If inside an If for the parser, not for the reader.
        is_elif = isinstance(node, ast.If) and isinstance(child, ast.If) and node.orelse == [child]
        deepest = max(deepest, _depth(child) + (isinstance(child, compound) and not is_elif))
    return deepest


def missing_docstrings(root: Path) -> list[str]:
    """Find public modules, classes, functions and methods that say nothing of themselves."""
    found = []
    for module in modules(root):
        if module.tree.body and not ast.get_docstring(module.tree):
            found.append(f"{module.path}:1 the module has no docstring")
        for name, node in public_definitions(module):
            if isinstance(node, FunctionNode) and decorators(node) & {"overload", "setter", "deleter"}:
                continue
            if not ast.get_docstring(node):
                found.append(f"{module.path}:{node.lineno} {name} has no docstring")
    return found


def many_positionals(root: Path) -> list[str]:
    """Find functions given by a door with more positional parameters than a reader can tell apart."""
    found = []
    given = {_room(one.name): set(declared_all(one) or ()) for one in modules(root) if one.is_door}
    for module in modules(root):
        public = given.get(_room(module.name)) or set(declared_all(module) or ())
        for name, node in public_definitions(module):
            allowed = {f"{module.path}:{name}", f"{module.path}:{name.split('.')[0]}"}
            if isinstance(node, ast.ClassDef) or allowed & floors.FOREIGN_SIGNATURES.keys():
                continue
            is_method = "." in name and "staticmethod" not in decorators(node)
            count = len(node.args.posonlyargs) + len(node.args.args) - is_method
            if name.split(".")[0] in public and count > floors.MAX_POSITIONAL:
                found.append(f"{module.path}:{node.lineno} {name}() takes {count} positional arguments")
    return found


def silent_tests(root: Path) -> list[str]:
    """Find tests that do not say in one line what they promise."""
    return [
        f"{module.path}:{node.lineno} {name} has no docstring"
        for module in modules(root, "tests")
        if module.path.rpartition("/")[2].startswith("test_")  # not the programs tests start
        for name, node in functions(module)
        if node.name.startswith("test_") and name.count(".") < 2 and not ast.get_docstring(node)
    ]


def sleeping_tests(root: Path) -> list[str]:
    """Find unit tests that wait for the real clock; `sleep(0)` is a switch, not a wait."""
    return [
        f"{module.path}:{node.lineno} sleeps; time in unit tests comes from FakeClock"
        for module in modules(root, "tests/unit")
        if module.path not in floors.SLEEPERS
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call)
        and getattr(node.func, "attr", getattr(node.func, "id", "")) == "sleep"
        and not _is_zero(node)
    ]


def _is_zero(call: ast.Call) -> bool:
    return not call.args or (isinstance(call.args[0], ast.Constant) and call.args[0].value == 0)


def private_imports(root: Path, folder: str) -> list[str]:
    """Find imports from greenkit, in `folder`, of a private file or name."""
    found = []
    for module in modules(root, folder):
        for one in imports(module):
            parts = [*one.name.split("."), one.symbol]
            if parts[0] == "greenkit" and any(part.startswith("_") for part in parts):
                found.append(f"{module.path}:{one.line} imports the private {'.'.join(parts).rstrip('.')}")
    return found


def private_words(root: Path) -> dict[str, list[str]]:
    """Find names of greenkit in words the field does not use, by room."""
    found: dict[str, list[str]] = {}
    for room, path, line, name in _bound_names(root):
        parts = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().split("_")
        wrong = [part for part in parts if {part, part.removesuffix("s")} & words.SAY_INSTEAD.keys()]
        if name.strip("_") == words.NO_NAME:
            wrong = ["name the thing"]
        if wrong:
            say = "; ".join(
                words.SAY_INSTEAD.get(part, words.SAY_INSTEAD.get(part[:-1], part)) for part in wrong
            )
            found.setdefault(room, []).append(f"{path}:{line} {name}: {say}")
    return found


def missing_entries(root: Path) -> list[str]:
    """Find entries of floors.py that name a room, a file or a function that does not exist."""
    named = {f"greenkit/{room}" for _, rooms in floors.FLOORS for room in rooms}
    named |= {module.replace(".", "/") for module in (*floors.GROUND, *floors.NEEDS_ONLY_GEVENT)}
    missing = {name for name in named if not (root / name).is_dir() and not (root / f"{name}.py").is_file()}
    files = {*floors.DOORS_WITH_LOGIC, *floors.BARE_NAMES, *floors.SLEEPERS}
    files.update(file for places in floors.OPTIONAL.values() for file in places)
    missing |= {file for file in files if not (root / file).exists()}
    for entry in {*floors.LONG_FUNCTIONS, *floors.FOREIGN_SIGNATURES}:
        path, _, name = entry.partition(":")
        pattern = rf"^ *(?:async )?(?:def|class) {name.rpartition('.')[2]}\b"
        file = root / path
        if not file.is_file() or not re.search(pattern, file.read_text(encoding="utf-8"), re.MULTILINE):
            missing.add(entry)
    return sorted(missing)


def _bound_names(root: Path) -> Iterator[tuple[str, str, int, str]]:
    """Yield (room, path, line, name) of the names that greenkit binds, files included."""
    for file in sorted((root / "greenkit").rglob("*.py")):
        path = file.relative_to(root)
        room = path.parts[1].removesuffix(".py")
        yield from ((room, str(path), 1, part.removesuffix(".py")) for part in path.parts[1:])
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            name = _bound(node)
            if name:
                yield room, str(path), node.lineno, name  # type: ignore[attr-defined]


def _bound(node: ast.AST) -> str:
    match node:
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            return name
        case (
            ast.arg(arg=name) | ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store())
        ):
            return name
        case ast.alias(asname=name) | ast.ExceptHandler(name=name) | ast.MatchAs(name=name):
            return name or ""
    return ""
