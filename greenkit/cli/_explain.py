"""`greenkit explain`: print what the pages say of findings."""

from __future__ import annotations

from greenkit.cli._ready import complain
from greenkit.doctor import explanation

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["explain"]


def explain(ids: Sequence[str]) -> int:
    """Print the section about each id; return 2 when one is unknown."""
    texts = {one: explanation(one.upper()) for one in ids}
    for one, text in texts.items():
        if not text:
            return complain(f"no finding is called {one}; an id looks like GK101, and the doctor prints them")
    print("\n\n".join(texts.values()))
    return 0
