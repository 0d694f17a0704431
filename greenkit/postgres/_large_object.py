"""psycopg2's `lobject`, built on the server's SQL functions.

psycopg2 refuses `connection.lobject()` under a wait callback, because libpq's large object calls block. The
server offers the same as functions, at one round trip each, like libpq's own.
"""

from __future__ import annotations

import pathlib
import re
from typing import Any

import psycopg2
from psycopg2 import errors, extensions

__all__ = ["LargeObject"]

_READ, _WRITE = 0x40000, 0x20000  # INV_READ, INV_WRITE of libpq-fs.h
_CHUNK = 1 << 18


class LargeObject(extensions.lobject):
    """Read and write one large object inside a transaction. Made by `connection.lobject()`.

    psycopg2's class only by name: it is never initialised, and no call reaches it.

    Args:
        conn: A guarded connection of psycopg2.
        oid: The object's; 0 makes a new one, for writing.
        mode: "r", "w", "rw", or "n" to not open it; with "t" (default) for text or "b" for bytes.
        new_oid: Oid of a new object, 0 for any.
        new_file: Path of a file the new object is filled with.
    """

    # Over psycopg2's read-only members, so that an instance can have its own.
    oid: int = 0
    mode: str = ""

    def __init__(
        self, conn: Any, oid: int = 0, mode: str | None = None, new_oid: int = 0, new_file: str | None = None
    ) -> None:
        parsed = re.fullmatch(r"(rw|r|w|n|)([tb]?)", mode or "")
        if parsed is None:
            msg = f"bad mode for lobject: {mode!r}"
            raise ValueError(msg)
        self._conn = conn
        self._fd: int | None = None
        self._closed = False
        way = parsed[1] or "r"
        if not oid:
            way = "w"
        self.mode = way if way == "n" else way + (parsed[2] or "t")
        if conn.closed:
            msg = "connection already closed"
            raise psycopg2.InterfaceError(msg)
        self._mark = conn.gk_mark
        self._must_be_in_transaction()
        self.oid = oid or self._ask_libpq("lo_create(%s)", new_oid)
        if not oid and new_file is not None:
            self._fill(new_file)
        if way != "n":
            self._fd = self._open(way)

    @property
    def closed(self) -> bool:
        """Tell whether it is closed, or its connection is."""
        return self._closed or self._fd is None or bool(self._conn.closed)

    def read(self, size: int = -1) -> Any:
        """Return up to `size` bytes, decoded in text mode; to the end when negative."""
        self._must_be_open()
        data = self._read(self._fd, size)
        return data if self.mode.endswith("b") else data.decode(self._codec)

    def write(self, data: str | bytes) -> int:
        """Write at the current position; return the bytes written."""
        self._must_be_open()
        raw = data.encode(self._codec) if isinstance(data, str) else bytes(data)
        for at in range(0, len(raw), _CHUNK):
            self._ask("lowrite(%s, %s)", self._fd, raw[at : at + _CHUNK])
        return len(raw)

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move to a position and return it."""
        self._must_be_open()
        return int(self._ask("lo_lseek64(%s, %s, %s)", self._fd, offset, whence))

    def tell(self) -> int:
        """Return the current position."""
        self._must_be_open()
        return int(self._ask("lo_tell64(%s)", self._fd))

    def truncate(self, len: int = 0) -> None:  # noqa: A002 - psycopg2's name
        """Cut it to `len` bytes."""
        self._must_be_open()
        self._ask("lo_truncate64(%s, %s)", self._fd, len)

    def export(self, path: Any) -> None:
        """Write the whole object to the file `path`."""
        self._must_not_autocommit()
        fd = self._open("r")
        with pathlib.Path(path).open("wb") as file:
            while piece := self._read(fd, _CHUNK):
                file.write(piece)
        self._ask("lo_close(%s)", fd)

    def unlink(self) -> None:
        """Close it and remove it from the database."""
        self._must_not_autocommit()
        self.close()
        self._ask_libpq("lo_unlink(%s)", self.oid)

    def close(self) -> None:
        """Close it; the end of its transaction has done so already."""
        fd, self._fd, self._closed = self._fd, None, True
        if fd is not None and not self._conn.closed and self._conn.gk_mark == self._mark:
            self._ask("lo_close(%s)", fd)

    def __enter__(self) -> LargeObject:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _open(self, way: str) -> int:
        flags = sum({"r": _READ, "w": _WRITE}[letter] for letter in way)
        return int(self._ask_libpq("lo_open(%s, %s)", self.oid, flags))

    def _fill(self, path: Any) -> None:
        fd = self._open("w")
        with pathlib.Path(path).open("rb") as file:
            while piece := file.read(_CHUNK):
                self._ask("lowrite(%s, %s)", fd, piece)
        self._ask("lo_close(%s)", fd)

    def _read(self, fd: int | None, size: int) -> bytes:
        data = b""
        while size < 0 or len(data) < size:
            wanted = _CHUNK if size < 0 else min(size - len(data), _CHUNK)
            piece = bytes(self._ask("loread(%s, %s)", fd, wanted))
            data += piece
            if len(piece) < wanted:
                break
        return data

    def _must_be_open(self) -> None:
        if self.closed:
            msg = "lobject already closed"
            raise psycopg2.InterfaceError(msg)
        self._must_be_in_transaction()

    def _must_not_autocommit(self) -> None:
        if self._conn.autocommit:
            msg = "can't use a lobject outside of transactions"
            raise psycopg2.ProgrammingError(msg)

    def _must_be_in_transaction(self) -> None:
        self._must_not_autocommit()
        # Its descriptor ended with its transaction, and may be another object's by now.
        if self._conn.gk_mark != self._mark:
            msg = "the lobject isn't valid anymore: its transaction has ended"
            raise psycopg2.ProgrammingError(msg)

    def _ask(self, function: str, *arguments: Any) -> Any:
        # A plain cursor: the connection's own factory may give rows of any shape.
        with self._conn.cursor(cursor_factory=extensions.cursor) as cursor:
            cursor.execute(f"SELECT {function}", arguments)
            return cursor.fetchone()[0]

    def _ask_libpq(self, function: str, *arguments: Any) -> Any:
        """Ask, and fail as libpq's own call would."""
        try:
            return self._ask(function, *arguments)
        except (errors.UndefinedObject, errors.UniqueViolation) as error:
            raise psycopg2.OperationalError(str(error)) from None

    @property
    def _codec(self) -> str:
        return extensions.encodings[self._conn.encoding]
