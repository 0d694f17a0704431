"""`greenkit doctor --fix FILE`: print the change, and make it with `--write`."""

from __future__ import annotations

import difflib
import io
import sys
import tokenize
from pathlib import Path

from greenkit.cli._ready import complain
from greenkit.doctor import fix_text

__all__ = ["fix"]


def fix(path: str, *, write: bool = False) -> int:
    """Print a unified diff that fixes the file at `path`; return 0, or 2 when it cannot be fixed.

    Args:
        path: The file the program starts with.
        write: Change the file, too.
    """
    file = Path(path)
    try:
        raw = file.read_bytes()
        encoding, _ = tokenize.detect_encoding(io.BytesIO(raw).readline)
        text = raw.decode(encoding)
        fixed = fix_text(text)
    except OSError as error:
        return complain(f"cannot read {path}: {error.strerror}; --fix takes the file the program starts with")
    except (SyntaxError, ValueError) as error:
        return complain(f"{path} does not parse, so nothing can be moved in it: {error}")
    sys.stdout.writelines(
        line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"
        for line in difflib.unified_diff(
            text.splitlines(keepends=True), fixed.text.splitlines(keepends=True), f"a/{path}", f"b/{path}"
        )
    )
    for rest in fixed.left:
        print(f"greenkit: {path}: {rest}", file=sys.stderr)
    if fixed.text == text:
        said = f"{path} imports greenkit.auto first already"
    elif write:
        file.write_bytes(fixed.text.encode(encoding))
        said = f"{path} is changed; look again with: greenkit doctor -- python {path}"
    else:
        said = f"nothing is changed; to change it: greenkit doctor --fix --write {path}"
    print(f"greenkit: {said}", file=sys.stderr)
    return 0
