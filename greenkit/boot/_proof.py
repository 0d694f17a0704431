"""Whether the patch holds, now: every step done, nothing put back, no private copy beside it.

The facts only, compared with what gevent installs and recorded; `_state` explains them and `_repair`
mends what it can. gevent's own `is_module_patched` looks at its record alone, and says yes after
somebody put an original back.
"""

from __future__ import annotations

import sys
from types import BuiltinFunctionType, FunctionType, ModuleType

from greenkit.boot._graph import CLASS_DICT, is_class, namespace_of
from greenkit.boot._plan import EFFECTS, PATCHABLE, PLAN, Step
from greenkit.boot._record import RECORD
from greenkit.boot._scan import SKIP, is_standard

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from greenkit.boot._record import PatchCall

__all__ = ["Clone", "clones", "holds_up", "lazy_frame", "missing_steps", "options_off", "undone"]

Clone = tuple[str, str, str]
"""(module that holds it, attribute, name of the module it is a copy of)."""


def holds_up() -> bool:
    """Tell whether there is nothing to explain about the patch.

    Switches: never.
    """
    noted = RECORD.early or RECORD.native_threads or RECORD.warnings
    odd = any(not one.main_thread or options_off(one) or lazy_frame(one) for one in RECORD.calls)
    return not (noted or odd or missing_steps() or undone() or clones())


def missing_steps() -> list[Step]:
    """Return the steps that were not done in a process where others were.

    Switches: never.
    """
    return [step for step in PLAN if step.proof not in _saved().get(step.modules[0], ())]


def _saved() -> Mapping[str, Mapping[str, Any]]:
    monkey = namespace_of(sys.modules.get("gevent.monkey"))
    found: Mapping[str, Mapping[str, Any]] = monkey.get("saved", {}) if monkey is not None else {}
    return found


def undone() -> list[tuple[str, str]]:
    """Return (module, attribute) of what was patched and is native again.

    Switches: never.
    """
    return [
        (module, attribute)
        for module, attribute in EFFECTS
        if attribute in _saved().get(module, ())
        and _is_native((namespace_of(sys.modules.get(module)) or {}).get(attribute), module)
    ]


def _is_native(live: Any, home: str) -> bool:
    # A mock started before the patch makes gevent save the mock; what comes back is never what was saved.
    if is_class(live):
        owner = CLASS_DICT(live).get("__module__")
    elif type(live) in {BuiltinFunctionType, FunctionType}:
        owner = live.__module__
    else:
        return False
    return owner in {home, f"_{home}", "posix"}


def clones() -> list[Clone]:
    """Return the private copies of patchable modules that are not patched.

    Switches: never.
    """
    proofs = {step.modules[0]: step.proof for step in PLAN if step.modules[0] in PATCHABLE}
    found = []
    for holder, module in list(sys.modules.items()):
        if holder.partition(".")[0] in SKIP or is_standard(holder):
            continue
        for attribute, value in list((namespace_of(module) or {}).items()):
            if type(value) is not ModuleType:
                continue
            inside = namespace_of(value) or {}
            name = str(inside.get("__name__"))
            private = name in proofs and sys.modules.get(name) is not value
            if private and _is_native(inside.get(proofs[name]), name):
                found.append((holder, attribute, name))
    return found


def options_off(call: PatchCall) -> list[str]:
    """Return the steps a call switched off.

    Switches: never.
    """
    steps = {step.name for step in PLAN}
    return [name for name, on in call.settings.items() if on is False and name in steps]


def lazy_frame(call: PatchCall) -> str:
    """Return which lazy object was being evaluated when the patch was asked for, "" when none was.

    Switches: never.
    """
    for frame in call.frames[1:]:
        # A method, not a module's own `__getattr__` (PEP 562), which guards nothing.
        if frame.code.co_name in {"__getattr__", "__getattribute__", "__get__", "__class__"} and (
            frame.code.co_argcount > 1
        ):
            return f"a lazy object of {frame.module}"
    return ""
