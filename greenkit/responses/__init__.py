"""What errors and answers of servers mean: one reader for limits, HTTP clients, pools and Celery tasks.

`register()` teaches it errors of your own; `read()` and `read_answer()` say what it makes of one.
"""

from __future__ import annotations

from greenkit.responses._read import BUSY, Answer, chain, is_disconnect, is_slow, read, read_answer, register
from greenkit.responses._when import number_in, plain_headers, sane

__all__ = [
    "BUSY",
    "Answer",
    "chain",
    "is_disconnect",
    "is_slow",
    "number_in",
    "plain_headers",
    "read",
    "read_answer",
    "register",
    "sane",
]
