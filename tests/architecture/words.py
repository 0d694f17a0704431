"""Words the code does not use for its names, what it says instead, and the rooms that still do."""

from __future__ import annotations

# The word as a part of a name (`_turn`, `HandNews`), and the field's term for what it was used for.
SAY_INSTEAD: dict[str, str] = {
    "again": "retry, redelivery",
    "bell": "wake-up, event",
    "breath": "yield, timer",
    "crew": "workers",
    "door": "entry, public module",
    "farewell": "close",
    "hand": "lease, reservation",
    "loan": "checkout",
    "news": "update, message",
    "patience": "timeout",
    "shelf": "idle connections, by_name",
    "shelves": "idle connections, by_name",
    "somebody": "caller, waiter",
    "turn": "iteration, queue, slot",
    "whoever": "caller, owner",
}

# Words of the pages that name no agent, or are a metaphor for one. Decisions and past changes stay.
SAY_INSTEAD_IN_PAGES: dict[str, str] = {
    "anybody": "a caller, a program",
    "crew": "workers",
    "farewell": "close",
    "shelf": "idle connections",
    "shelves": "idle connections",
    "somebody": "the caller, another program",
    "whoever": "the caller, what",
}

# A name of its own that says nothing: name the thing (connection, waiter, path, finding).
NO_NAME = "one"

# Rooms whose names are not in the field's words yet. The list only shrinks.
NOT_YET: dict[str, str] = dict.fromkeys(
    ("boot", "doctor"),
    "not converted yet",
)
