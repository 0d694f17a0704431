"""Whether code switches greenlets while it holds a lock: read in the source of the `with` statements.

Imported late, with `_source`. Says yes only for calls that are known to switch in a patched process.
"""

from __future__ import annotations

import ast
import functools

from greenkit.boot._source import dotted, parsed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["switch_inside"]

_SWITCHES = frozenset({
    "create_connection", "getaddrinfo", "recv", "sendall", "sleep", "urlopen", "wait",
})  # fmt: skip
# `start` and `join` are names of many things: only those of a thread wait.
_OF_THREADS = frozenset({"join", "start"})
_DEEPEST = 2


@functools.cache  # each look at the process asks again about the same locks
def switch_inside(file: str, lock: str) -> tuple[int, str]:
    """Return (line, call) of the first call that switches while `lock` is held; (0, "") when none is seen.

    `Thread.start()` waits for the thread to have begun, so it switches, too.

    Args:
        file: Source file of the class or module that holds the lock.
        lock: Name of the attribute or global.

    Switches: never.
    """
    tree = parsed(file)
    functions: dict[str, ast.AST] = {}
    for node in ast.walk(tree) if tree is not None else ():
        if isinstance(node, ast.FunctionDef):
            functions.setdefault(node.name, node)
    for node in ast.walk(tree) if tree is not None else ():
        if isinstance(node, ast.With) and any(_names(one.context_expr, lock) for one in node.items):
            for line, call in _switching(node.body, functions, _DEEPEST):
                return line, call
    return 0, ""


def _names(expression: ast.expr, lock: str) -> bool:
    return isinstance(expression, ast.Attribute | ast.Name) and dotted(expression).rpartition(".")[2] == lock


def _switching(body: list[ast.stmt], functions: dict[str, ast.AST], depth: int) -> Iterator[tuple[int, str]]:
    for call in _calls(body):
        text = dotted(call.func)
        receiver, _, name = text.rpartition(".")
        if name in _SWITCHES or (name in _OF_THREADS and "thread" in receiver.lower()):
            yield call.lineno, text
        elif depth and receiver in {"", "self", "cls"} and name in functions:
            inner = getattr(functions[name], "body", [])
            for _, deeper in _switching(inner, functions, depth - 1):
                yield call.lineno, f"{text}, which calls {deeper}"


def _calls(body: list[ast.stmt]) -> Iterator[ast.Call]:
    """Yield the calls that run in `body`; what is only defined there does not."""
    waiting: list[ast.AST] = list(body)
    while waiting:
        node = waiting.pop(0)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef):
            continue
        if isinstance(node, ast.Call):
            yield node
        waiting[:0] = ast.iter_child_nodes(node)
