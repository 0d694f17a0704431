"""Call the libpq that a driver has loaded, through ctypes.

The driver's extension module links libpq, so its symbols are found through that; nothing is searched or
loaded. Used only for what the drivers cannot do cooperatively.
"""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any

__all__ = ["COPY_IN", "COPY_OUT", "DEFAULT", "FATAL", "VERBOSE", "blocking", "quick"]

COPY_OUT, COPY_IN, FATAL = 3, 4, 7  # ExecStatusType
DEFAULT, VERBOSE = 1, 2  # PGVerbosity

_P, _I, _S = ctypes.c_void_p, ctypes.c_int, ctypes.c_char_p
_COPYING: dict[str, tuple[Any, list[Any]]] = {
    "PQsetnonblocking": (_I, [_P, _I]),
    "PQflush": (_I, [_P]),
    "PQconsumeInput": (_I, [_P]),
    "PQisBusy": (_I, [_P]),
    "PQputCopyData": (_I, [_P, _S, _I]),
    "PQputCopyEnd": (_I, [_P, _S]),
    "PQgetCopyData": (_I, [_P, ctypes.POINTER(_P), _I]),
    "PQgetResult": (_P, [_P]),
    "PQresultStatus": (_I, [_P]),
    "PQcmdTuples": (_S, [_P]),
    "PQresultErrorMessage": (_S, [_P]),
    "PQresultErrorField": (_S, [_P, _I]),
    "PQerrorMessage": (_S, [_P]),
    "PQclear": (None, [_P]),
    "PQfreemem": (None, [_P]),
    "PQsetErrorVerbosity": (_I, [_P, _I]),
}
_CANCELLING: dict[str, tuple[Any, list[Any]]] = {
    "PQcancelCreate": (_P, [_P]),
    "PQcancelStart": (_I, [_P]),
    "PQcancelPoll": (_I, [_P]),
    "PQcancelSocket": (_I, [_P]),
    "PQcancelFinish": (None, [_P]),
    "PQgetCancel": (_P, [_P]),
    "PQfreeCancel": (None, [_P]),
    "PQcancel": (_I, [_P, _S, _I]),
}


@cache
def blocking(library: str) -> Any:
    """Return the functions that cancel; calls let go of the GIL.

    Args:
        library: Path of the extension module that links libpq.
    """
    return _declared(ctypes.CDLL(library), _CANCELLING)


@cache
def quick(library: str) -> Any:
    """Return the functions that never wait, as COPY needs them: calls keep the GIL."""
    return _declared(ctypes.PyDLL(library), _COPYING)


def _declared(libpq: Any, table: dict[str, tuple[Any, list[Any]]]) -> Any:
    for name, (result, arguments) in table.items():
        if hasattr(libpq, name):  # the polled cancel came with libpq 17
            function = getattr(libpq, name)
            function.restype, function.argtypes = result, arguments
    return libpq
