"""The pytest side of guarding the hub: options, the marker, the hook around a test's call.

Every pytest run of an environment with greenkit loads this, so it imports only pytest. `_hub_guard.py` does
the watching; the first guarded test imports it.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from greenkit.testing._hub_guard import HubGuard

__all__ = [
    "HubRules",
    "greenkit_hub",
    "pytest_addoption",
    "pytest_configure",
    "pytest_runtest_call",
    "pytest_unconfigure",
]

_MARK = "greenkit_hub"
_GUARD: pytest.StashKey[HubGuard] = pytest.StashKey()


@dataclass(frozen=True, slots=True)
class HubRules:
    """The rules for a guarded test.

    Attributes:
        max_block: Seconds its greenlets may hold the hub; None for no limit.
        max_leaked: Greenlets that may outlive it; None for no limit.
        forbid: Refuse calls that are known to block, when they are made.
        allow: What `forbid` lets through; see `greenkit.watchdog.forbid()`.
    """

    max_block: float | None = 0.1
    max_leaked: int | None = 0
    forbid: bool = True
    allow: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.max_block is not None and not (_is_number(self.max_block) and self.max_block > 0):
            raise ValueError(f"max_block is {self.max_block!r}; it must be seconds above 0, or None")
        if self.max_leaked is not None and not (_is_number(self.max_leaked) and self.max_leaked >= 0):
            raise ValueError(f"max_leaked is {self.max_leaked!r}; it must be a number of greenlets, or None")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the options of the plugin."""
    group = parser.getgroup("greenkit")
    strict = "guard the hub in every test: no block, no leaked greenlet, no blocking call"
    group.addoption("--greenkit-strict", action="store_true", help=strict)
    parser.addini("greenkit_strict", strict, type="bool", default=False)
    parser.addini("greenkit_max_block", "seconds a guarded test may hold the hub, or off", default="0.1")
    parser.addini("greenkit_max_leaked", "greenlets that may outlive a guarded test, or off", default="0")
    parser.addini("greenkit_forbid", "raise at blocking calls of a guarded test", type="bool", default=True)
    parser.addini("greenkit_allow", "what may block: a C function, a file, or file:function", type="linelist")


def pytest_configure(config: pytest.Config) -> None:
    """Declare the marker, and refuse an option that cannot be read before any test runs."""
    config.addinivalue_line(
        "markers",
        f"{_MARK}(max_block=0.1, max_leaked=0, forbid=True, allow=()): fail the test when it held the hub"
        " longer than max_block seconds, when more than max_leaked greenlets outlive it, or when it made a"
        " blocking call",
    )
    try:
        HubRules(**_rules_of_ini(config))
    except ValueError as error:
        raise pytest.UsageError(f"greenkit_{error}") from None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, None, None]:
    """Guard the call of a test that wants it, without its fixtures."""
    rules = _rules(item)
    if rules is None:
        return (yield)
    guard = item.stash.get(_GUARD, None) or _guard(rules)
    with guard:
        result = yield
    if complaint := guard.complaint():
        pytest.fail(complaint, pytrace=False)
    return result


def pytest_unconfigure() -> None:
    """End the native thread and the hooks that guarded tests shared."""
    guard = sys.modules.get("greenkit.testing._hub_guard")
    if guard is not None:
        guard.release()


@pytest.fixture
def greenkit_hub(request: pytest.FixtureRequest) -> Iterator[HubGuard]:
    """Guard this test as the marker of the same name does; `expected()` excuses a known block."""
    rules = _rules(request.node)
    guard = request.node.stash[_GUARD] = _guard(rules or HubRules())
    yield guard
    del request.node.stash[_GUARD]


def _guard(rules: HubRules) -> HubGuard:
    # Late: it loads gevent.
    from greenkit.testing._hub_guard import HubGuard

    return HubGuard(rules)


def _rules(item: pytest.Item) -> HubRules | None:
    marks = list(item.iter_markers(_MARK))
    strict = item.config.getoption("--greenkit-strict") or item.config.getini("greenkit_strict")
    if not (marks or strict or _MARK in getattr(item, "fixturenames", ())):
        return None
    chosen = dict(_rules_of_ini(item.config))
    for mark in reversed(marks):  # the closest one last
        if mark.args or set(mark.kwargs) - set(chosen):
            wrong = ", ".join([*map(repr, mark.args), *(set(mark.kwargs) - set(chosen))])
            pytest.fail(f"@pytest.mark.{_MARK} takes {', '.join(chosen)} by name, not {wrong}", pytrace=False)
        chosen |= mark.kwargs
    chosen["allow"] = tuple(chosen["allow"])
    try:
        return HubRules(**chosen)
    except ValueError as error:
        pytest.fail(f"@pytest.mark.{_MARK}: {error}", pytrace=False)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _rules_of_ini(config: pytest.Config) -> dict[str, Any]:
    return {
        "max_block": _number(config, "greenkit_max_block", float),
        "max_leaked": _number(config, "greenkit_max_leaked", int),
        "forbid": config.getini("greenkit_forbid"),
        "allow": config.getini("greenkit_allow"),
    }


def _number(config: pytest.Config, name: str, kind: type[int | float]) -> Any:
    text = str(config.getini(name)).strip()
    if text.lower() == "off":
        return None
    try:
        return kind(text)
    except ValueError:
        wanted = "seconds" if kind is float else "a whole number"
        raise pytest.UsageError(f"{name}={text!r} is neither {wanted} nor off") from None
