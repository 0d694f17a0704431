"""Do at start-up what clients otherwise do in the first call, while all greenlets wait.

Importing an SDK takes one to three seconds in which no greenlet runs. And each of the first calls
forks a process to ask for the platform, because they all find the answer not worked out yet
(openai 3.57, `platform_headers`): 200 greenlets, 200 forks.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from greenkit._clock import MONOTONIC
from greenkit.http._contexts import Trust, bundle_of_environment

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["import_sdk", "warm", "warmup"]

# What an SDK loads when it is first touched: attributes of its client.
_PARTS = {"openai": ("chat.completions", "responses", "embeddings"), "anthropic": ("messages",)}
_CLIENTS = {"openai": "OpenAI", "anthropic": "Anthropic"}


def warmup(*names: str) -> dict[str, float]:
    """Load client libraries and have them work out what they need, before greenlets call them.

    In a Celery worker call it where the app is made, after the settings; it then runs before the
    first task. It sends no request.

    Args:
        names: Any of "openai", "anthropic" and "requests".

    Returns:
        The seconds each took, by name.

    Raises:
        ImportError: One is not installed.
        ValueError: It is not known here.

    Switches: may: the SDKs ask what platform they run on.
    """
    unknown = sorted(set(names) - set(_WAYS))
    if unknown or not names:
        raise ValueError(f"warmup() knows {', '.join(sorted(_WAYS))}, not {', '.join(unknown) or 'nothing'}")
    spent = {}
    for name in names:
        start = MONOTONIC.now()
        _WAYS[name](name)
        spent[name] = MONOTONIC.now() - start
    return spent


def import_sdk(package: str) -> Any:
    """Import an SDK, or say how to get it.

    Raises:
        ImportError: It is not installed.

    Switches: never.
    """
    try:
        return import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise ImportError(f"{package} is not installed: pip install {package}", name=package) from None


def warm(client: Any, package: str) -> None:
    """Have an SDK's client work out its headers and load what its calls need.

    Switches: may.
    """
    client.platform_headers()
    for path in _PARTS[package]:
        part = client
        for name in path.split("."):
            part = getattr(part, name, None)  # not every version has every part


def _warm_sdk(name: str) -> None:
    sdk = import_sdk(name)
    # Nobody is called, so any key will do; without one the SDK complains.
    with getattr(sdk, _CLIENTS[name])(api_key="warm-up") as client:
        warm(client, name)


def _warm_requests(name: str) -> None:
    try:
        from greenkit.http._tls import context_for  # late: requests is optional
    except ModuleNotFoundError as error:
        raise ImportError('requests is not installed: pip install "greenkit[http]"', name=name) from error

    context_for(Trust(bundle_of_environment()))


_WAYS: dict[str, Callable[[str], None]] = {
    "anthropic": _warm_sdk,
    "openai": _warm_sdk,
    "requests": _warm_requests,
}
