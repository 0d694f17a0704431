"""Make `import greenkit.auto` the first import of a file, and change nothing else.

Works on the text with the positions `ast` gives; what is not moved stays letter for letter. Pure:
text in, text out.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Fix", "fix_text"]

_LINE = "import greenkit.auto  # noqa: F401"
_END_OF_LINE = re.compile(r"\r\n|\n|\r")
_CODING = re.compile(r"^[ \t\f]*#.*?coding[:=]")  # PEP 263


@dataclass(frozen=True, slots=True)
class Fix:
    """Hold a mended file.

    Attributes:
        text: The whole new text; the old one when nothing is to be done.
        left: What could not be mended, a sentence each.
    """

    text: str
    left: tuple[str, ...] = ()


def fix_text(text: str) -> Fix:
    """Return `text` with `import greenkit.auto` before its first other statement.

    It comes after the shebang, the encoding line, the docstring and `from __future__`, which must
    stay where they are. An import of greenkit.auto further down is taken away, and so is
    `monkey.patch_all()` without arguments, and the import it alone needs, when both are statements
    of their own at the top level.

    Raises:
        SyntaxError: `text` does not parse.
        ValueError: `text` holds a null byte.

    Switches: never.
    """
    tree = ast.parse(text)
    head = _head(tree.body)
    rest = tree.body[head:]
    done = bool(rest) and _is_auto(rest[0])
    dropped, left = _redundant(tree)
    source = _Source(text)
    edits = source.without([one for one in dropped if not (done and one is rest[0])])
    if not done:
        edits.append(source.with_line(tree.body[:head], rest))
    for start, end, instead in sorted(edits, reverse=True):
        text = text[:start] + instead + text[end:]
    return Fix(text, tuple(left))


def _head(body: list[ast.stmt]) -> int:
    """Return how many statements have to stay in front."""
    at = 0
    if body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
        at = isinstance(body[0].value.value, str)
    while at < len(body) and isinstance(one := body[at], ast.ImportFrom) and one.module == "__future__":
        at += 1
    return at


def _is_auto(node: ast.stmt) -> bool:
    return isinstance(node, ast.Import) and [(one.name, one.asname) for one in node.names] == [
        ("greenkit.auto", None)
    ]


def _redundant(tree: ast.Module) -> tuple[list[ast.stmt], list[str]]:
    """Return the statements that greenkit.auto makes needless, and what must be left to the user."""
    dropped = [node for node in tree.body if _is_auto(node)]
    left: list[str] = []
    needless: dict[str, int] = {}
    for root, full, call in _patches(tree):
        where = f"line {call.lineno}: {ast.unparse(call)}"
        statement = next((one for one in tree.body if isinstance(one, ast.Expr) and one.value is call), None)
        if statement is None:
            left.append(f"{where} is no statement of its own at the top level, so it stays")
        elif call.args or call.keywords or full != "gevent.monkey.patch_all":
            left.append(f"{where} patches other than greenkit.auto does, so it stays")
        else:
            dropped.append(statement)
            needless[root] = needless.get(root, 0) + 1
    dropped += [one for root, count in needless.items() for one in _only_import(tree, root, count)]
    return dropped, left


def _patches(tree: ast.Module) -> Iterator[tuple[str, str, ast.Call]]:
    """Yield the calls of `gevent.monkey.patch_…`: the name it starts from, its full name, the call."""
    binds: dict[str, list[str]] = {}
    for node in ast.walk(tree):
        for name, origin in _bound(node):
            binds.setdefault(name, []).append(origin)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        root, _, path = ast.unparse(node.func).partition(".")
        for origin in binds.get(root, ()):
            full = f"{origin}.{path}".rstrip(".")
            if re.fullmatch(r"gevent\.monkey\.patch_\w+", full) and full != "gevent.monkey.patch_module":
                yield root, full, node
                break


def _bound(node: ast.AST) -> Iterator[tuple[str, str]]:
    """Yield the names an import binds, each with what it is bound to."""
    if isinstance(node, ast.Import):
        for one in node.names:
            yield (one.asname, one.name) if one.asname else (one.name.split(".")[0],) * 2
    elif isinstance(node, ast.ImportFrom) and not node.level:
        for one in node.names:
            yield one.asname or one.name, f"{node.module}.{one.name}"


def _only_import(tree: ast.Module, name: str, uses: int) -> list[ast.stmt]:
    """Return the import that binds `name` and nothing else, if nothing but `uses` uses it."""
    imports = [one for one in tree.body if name in dict(_bound(one))]
    used = sum(isinstance(node, ast.Name) and node.id == name for node in ast.walk(tree))
    # `__all__`, `globals()["monkey"]`: a name may be used as a text.
    quoted = any(isinstance(node, ast.Constant) and node.value == name for node in ast.walk(tree))
    alone = len(imports) == 1 and len(list(_bound(imports[0]))) == 1
    return imports if alone and used == uses and not quoted else []


class _Source:
    """A text, and where in it the nodes of its tree are."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._starts = [0, *(found.end() for found in _END_OF_LINE.finditer(text))]
        first = _END_OF_LINE.search(text)
        self._newline = first.group() if first else "\n"

    def without(self, nodes: list[ast.stmt]) -> list[tuple[int, int, str]]:
        """Return the edits that take `nodes` away, and comments and neighbours not."""
        spans: list[tuple[int, int]] = []
        for start, end in sorted(self._span(node) for node in nodes):
            if spans and re.fullmatch(r"[ \t]*;[ \t]*", self._text[spans[-1][1] : start]):
                spans[-1] = spans[-1][0], end  # `from gevent import monkey; monkey.patch_all()`
            else:
                spans.append((start, end))
        return [self._cut(start, end) for start, end in spans]

    def with_line(self, head: list[ast.stmt], rest: list[ast.stmt]) -> tuple[int, int, str]:
        """Return the edit that puts our line after `head`."""
        if not head:
            at = [*self._starts, len(self._text)][self._comments()]
        else:
            end = self._span(head[-1])[1]
            if rest and rest[0].lineno == head[-1].end_lineno:  # `"""Docs."""; import x`
                return end, self._span(rest[0])[0], f"{self._newline}{_LINE}{self._newline}"
            at = self._next_line(end)
        missing = "" if at == 0 or self._text[at - 1] in "\r\n" else self._newline
        return at, at, f"{missing}{_LINE}{self._newline}"

    def _comments(self) -> int:
        """Return how many lines of shebang and encoding the text begins with."""
        lines = [self._text[start : self._next_line(start)] for start in self._starts[:2]]
        if lines[0].startswith("#!"):
            return 2 if len(lines) > 1 and _CODING.match(lines[1]) else 1
        if _CODING.match(lines[0]):
            return 1
        return 2 if lines[0].startswith("#") and len(lines) > 1 and _CODING.match(lines[1]) else 0

    def _cut(self, start: int, end: int) -> tuple[int, int, str]:
        line = max(one for one in self._starts if one <= start)
        after = self._text[end : self._next_line(end)]
        if self._text[line:start].strip():
            return start, end, "pass"
        if not after.strip():
            return line, self._next_line(end), ""
        if after.lstrip().startswith("#"):
            return start, end + len(after) - len(after.lstrip()), ""
        found = re.match(r"[ \t]*;[ \t]*(?=[^\s#])", after)
        return (start, end + found.end(), "") if found else (start, end, "pass")

    def _span(self, node: ast.stmt) -> tuple[int, int]:
        return (
            self._offset(node.lineno, node.col_offset),
            self._offset(node.end_lineno or node.lineno, node.end_col_offset or node.col_offset),
        )

    def _offset(self, line: int, column: int) -> int:
        start = self._starts[line - 1]
        # ast counts bytes of UTF-8.
        return start + len(self._text[start:].encode()[:column].decode())

    def _next_line(self, at: int) -> int:
        return next((start for start in self._starts if start > at), len(self._text))
