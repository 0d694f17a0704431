"""Take passwords out of what is shown, written down or sent: command lines, messages, evidence."""

from __future__ import annotations

import re

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

__all__ = ["without_secrets"]

_WORDS = (
    r"pass(?:word|wd|phrase)?|pwd|secret|token|api[-_]?key|access[-_]?key|private[-_]?key|credentials?|auth"
)
_NAME = rf"(?:[\w-]*[-_])?(?:{_WORDS})(?:[-_](?:key|id|access[-_]key))?"
_URL = re.compile(
    r"(?P<head>\b[a-z][a-z0-9+.-]*://)(?P<user>[^\s:@/'\"]*):(?!\d{1,5}(?:[/?#]|$))(?P<secret>[^\s'\"]*)@",
    re.IGNORECASE,
)
_BARE = re.compile(r"(?P<head>\b[a-z][a-z0-9+.-]*://)(?P<secret>[^\s:@/?'\"]{12,})@", re.IGNORECASE)
_PAIR = re.compile(
    rf"(?P<head>(?<![\w-])-{{0,2}}[\"']?{_NAME}[\"']?\s*[=:]\s*[\"']?)(?P<secret>[^\s&'\",;}})]+)",
    re.IGNORECASE,
)
_FOLLOWS = re.compile(rf"(?P<head>(?<!\S)--{_NAME}\s+)(?P<secret>(?!-)\S+)", re.IGNORECASE)
_OPTION = re.compile(rf"-{{1,2}}{_NAME}", re.IGNORECASE)
_TOKEN = re.compile(r"\b(?:sk|pk|ghp|gho|xox[abp]|AKIA)[-_]?[A-Za-z0-9_-]{16,}")
_HIDDEN = "***"


def without_secrets(thing: Any) -> Any:
    """Return `thing` with passwords replaced by `***`: a text, or a container of texts, to any depth.

    Passwords of URLs (`redis://:password@host`), values of names that say what they are
    (`--password=…`, `password=…` in a DSN, `"token": …`), the word after such an option, and tokens
    whose form says so. A secret without any such mark cannot be told from other text.

    Switches: never.
    """
    if isinstance(thing, str):
        return _text(thing)
    if isinstance(thing, dict):
        return {without_secrets(key): _value(key, value) for key, value in thing.items()}
    if isinstance(thing, list | tuple):
        fields = getattr(type(thing), "_fields", None)
        words = _words(thing)
        return type(thing)(*words) if fields else type(thing)(words)
    return thing


def _value(key: object, value: Any) -> Any:
    if isinstance(key, str) and isinstance(value, str) and re.fullmatch(_NAME, key, re.IGNORECASE) and value:
        return _HIDDEN
    return without_secrets(value)


def _words(words: Any) -> list[Any]:
    """Return the words of a command line, or other things, without those that follow `--password`."""
    shown, hide = [], False
    for word in words:
        follows = hide and isinstance(word, str) and not word.startswith("-")
        shown.append(_HIDDEN if follows else without_secrets(word))
        hide = isinstance(word, str) and _OPTION.fullmatch(word) is not None
    return shown


def _text(text: str) -> str:
    text = _URL.sub(rf"\g<head>\g<user>:{_HIDDEN}@", text)
    text = _BARE.sub(rf"\g<head>{_HIDDEN}@", text)
    text = _FOLLOWS.sub(rf"\g<head>{_HIDDEN}", text)
    text = _PAIR.sub(rf"\g<head>{_HIDDEN}", text)
    return _TOKEN.sub(_HIDDEN, text)
