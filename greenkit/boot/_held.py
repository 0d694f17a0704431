"""Findings about what is held from before the patch: stale references and native objects.

Severity is decided here, from the effect, the form and the holder: what a library keeps for itself
and holds for microseconds is information; the same in the user's own code is not.
"""

from __future__ import annotations

import ast
import functools

from greenkit.boot._blame import imported_at
from greenkit.boot._graph import CLASS_DICT
from greenkit.boot._places import captured_at
from greenkit.boot._plan import EFFECTS, Effect
from greenkit.boot._remedy import first_line, remedy
from greenkit.boot._scan import (
    Kind,
    StaleReference,
    came_late,
    is_standard,
    keeps_requests_apart,
    kind_of,
    owner_of,
)
from greenkit.boot._search import patched_at
from greenkit.boot._shown import called, file_of, is_library, shown
from greenkit.boot._source import calls_of, dotted, imports_of, of_kinds, parsed
from greenkit.findings import Finding, Severity

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from greenkit.boot._graph import Hold

__all__ = ["native_findings", "stale_findings", "switch_inside"]

_SWITCHES = frozenset({
    "create_connection", "getaddrinfo", "recv", "sendall", "sleep", "urlopen", "wait",
})  # fmt: skip
# `start` and `join` are names of many things: only those of a thread wait.
_OF_THREADS = frozenset({"join", "start"})
_DEEPEST = 2
_QUEUE = ("queue", "SimpleQueue")


@functools.cache  # each look at the process asks again about the same locks
def switch_inside(file: str, lock: str) -> tuple[int, str]:
    """Return (line, call) of the first call that switches while `lock` is held; (0, "") when none is seen.

    `Thread.start()` waits for the thread to have begun, so it switches, too.

    Args:
        file: Source file of the class or module that holds the lock.
        lock: Name of the attribute or global.

    Switches: never.
    """
    blocks, functions = _blocks_of(file)
    for node in blocks:
        if any(_names(one.context_expr, lock) for one in node.items):
            for line, call in _switching(node.body, functions, _DEEPEST):
                return line, call
    return 0, ""


@functools.cache
def _blocks_of(file: str) -> tuple[list[ast.With], dict[str, ast.AST]]:
    """Return the `with` statements of a file, and its functions by name."""
    found = of_kinds(parsed(file), ast.With, ast.FunctionDef)
    functions: dict[str, ast.AST] = {}
    for node in found:
        if isinstance(node, ast.FunctionDef):
            functions.setdefault(node.name, node)
    return [node for node in found if isinstance(node, ast.With)], functions


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


_TAILS = {
    "allocate_lock": ("Lock", "allocate_lock"),
    "_allocate_lock": ("Lock", "_allocate_lock"),
    "_local": ("local",),
    "DefaultSelector": ("DefaultSelector", "EpollSelector"),
    "EpollSelector": ("DefaultSelector", "EpollSelector"),
}
# Owners in the standard library whose waiting is not made anew: they are the finding, not their part.
_EXECUTOR = Effect(
    Severity.WARNING,
    "hangs",
    "hangs in its native queue, or works on native threads no greenlet can wait for",
)
_LOOP = Effect(Severity.WARNING, "blocks-hub", "waits in its native selector, which stops every greenlet")
_OWNERS = {"ThreadPoolExecutor": ("native-executor", _EXECUTOR), "EventLoop": ("native-instance", _LOOP)}


def stale_findings(references: Iterable[StaleReference]) -> Iterator[Finding]:
    """Yield a finding for every reference to an original.

    Switches: never.
    """
    for one in references:
        severity, effect, does = _graded(one)
        original, name = ".".join(one.original), one.original[1]
        brought = "" if severity is Severity.INFO else imported_at(one.module)
        place = captured_at(one.hold, _TAILS.get(name, (name,))) if one.hold else ""
        yield Finding(
            "GK101",
            severity,
            f"{called(one.module)}.{one.attribute} ({one.form}) holds the original {original}: it {does}",
            hint=remedy(
                brought, until=f"Until then write {original}() where it is used, not the imported name."
            ),
            where=place,
            rule="stale-subclass" if one.form == "base class" else "stale-reference",
            effect=effect,
            holder=called(one.module),
            attribute=one.attribute,
            original=original,
            form=one.form,
            captured_at=shown(place),
            imported_at=brought,
            patched_at=patched_at(),
        )


def _graded(one: StaleReference) -> tuple[Severity, str, str]:
    """Return (severity, effect, clause) of a reference: by what it holds, how, and who holds it."""
    effect = EFFECTS[one.original]
    if one.deliberate:
        return Severity.INFO, "", "was asked for after the patch, so it is taken as meant"
    if is_library(one.module) and effect.word not in {"blocks-hub", "crashes"}:
        return Severity.INFO, effect.word, effect.text
    if is_library(one.module) and one.original == _QUEUE and _only_asks(file_of(one.module)):
        return Severity.INFO, "", "never waits: its file reads queues with get_nowait() alone"
    if one.form == "base class":
        return effect.severity, effect.word, f"is a subclass of the unpatched class and {effect.text}"
    return effect.severity, effect.word, effect.text


def _only_asks(file: str) -> bool:
    """Tell whether a file reads its queues, and never so that it waits."""
    return bool(calls_of(file, "get_nowait")) and not calls_of(file, "get")


def native_findings(holds: Iterable[Hold]) -> Iterator[Finding]:
    """Yield a finding for every native object from before the patch that somebody holds.

    Switches: never.
    """
    quiet: list[str] = []
    for hold in _first_holders(holds):
        kind = kind_of(hold.thing)
        if kind is None:
            continue
        owner = owner_of(hold)
        made_by = str(CLASS_DICT(type(owner)).get("__module__")) if owner is not None else hold.module
        if is_standard(made_by):
            special = next((v for k, v in _OWNERS.items() if type(owner).__name__.endswith(k)), None)
            if special is not None and not is_library(hold.module):
                yield _native(hold, kind, special[1], rule=special[0], owner=owner)
            continue
        # A library's own client that the user made early fails, or blocks, when it is used.
        users = not is_library(hold.module) and kind.id == "GK113"
        if not is_library(made_by) or keeps_requests_apart(owner) or users:
            yield _native(hold, kind, kind.effect)
        elif (inside := _held_across(hold, kind, made_by)) is not None:
            yield _native(hold, kind, inside)._replace(evidence=(f"class of {made_by}",))
        else:
            quiet.append(f"{hold.module}.{hold.path} ({made_by})")
    if quiet:
        things = "native objects" if len(quiet) > 1 else "native object"
        yield Finding(
            "GK111",
            Severity.INFO,
            f"{len(quiet)} {things} of installed packages from before the patch, and no call"
            " that switches greenlets is seen where one is held",
            hint=first_line(),
            evidence=tuple(sorted(quiet)),
        )


def _held_across(hold: Hold, kind: Kind, made_by: str) -> Effect | None:
    """Return what a package's lock does when its holder is seen to switch; None when it is not."""
    if kind.rule != "native-lock":
        return None
    name = hold.path.rpartition(".")[2]
    file = file_of(made_by)
    line, call = switch_inside(file, name) if file else (0, "")
    if not line:
        return None
    said = f"is held at {shown(f'{file}:{line}')} across {call}(), which switches greenlets: the next one"
    return Effect(Severity.WARNING, "deadlocks", f"{said} that wants it stops the process for ever")


def _first_holders(holds: Iterable[Hold]) -> list[Hold]:
    """Return one hold of each thing: whoever made it, not its own parts, nor who imported it from there."""
    first: dict[int, Hold] = {}
    for hold in sorted(holds, key=_nearness):
        if hold.form in {"bound method", "base class"} or came_late(hold.module):
            continue
        before = first.get(id(hold.thing))
        if before is not None:
            names = {name for _, name in imports_of(file_of(before.module))}
            if hold.form != "module global" or f"{hold.module}.{before.path}" not in names:
                continue
        first[id(hold.thing)] = hold
    return list(first.values())


def _nearness(hold: Hold) -> tuple[int, bool, str]:
    """Order the holds of a thing: the shortest route, then whoever defines what the route goes through.

    Among equals the name decides: whom a finding names must not change from run to run.
    """
    homes = {str(CLASS_DICT(type(node)).get("__module__")).partition(".")[0] for node in hold.nodes}
    return len(hold.nodes), hold.module.partition(".")[0] not in homes, hold.module


def _native(hold: Hold, kind: Kind, effect: Effect, *, rule: str = "", owner: object = None) -> Finding:
    name = kind.name if owner is None else _class_name(owner)
    attribute = hold.path if owner is None else hold.path.rpartition(".")[0] or hold.path
    full = f"{called(hold.module)}.{attribute}"
    tails = kind.tails if owner is None else (type(owner).__name__, "new_event_loop")
    place, brought = captured_at(hold, tails), imported_at(hold.module)
    return Finding(
        "GK114" if rule == "native-executor" else kind.id,
        effect.severity,
        f"{full} is a {name} from before the patch: it {effect.text}",
        hint=remedy(
            brought, until=f"Or make {called(hold.module)}.{attribute} anew once the process is patched."
        ),
        where=place,
        rule=rule or kind.rule,
        effect=effect.word,
        holder=called(hold.module),
        attribute=attribute,
        original=name,
        form=hold.form,
        captured_at=shown(place),
        imported_at=brought,
        patched_at=patched_at(),
    )


def _class_name(thing: object) -> str:
    module = CLASS_DICT(type(thing)).get("__module__")
    return f"{module}.{type(thing).__name__}"
