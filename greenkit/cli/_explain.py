"""`greenkit explain`: print the documentation of findings."""

from __future__ import annotations

from greenkit.cli._ready import complain
from greenkit.doctor import explanation

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["explain"]


def explain(ids: Sequence[str]) -> int:
    """Print the section about each id; return 2 when an id is unknown."""
    texts = {finding: explanation(finding.upper()) for finding in ids}
    for finding, text in texts.items():
        if not text:
            return complain(
                f"no finding is called {finding}; an id looks like GK101, and the doctor prints them"
            )
    print("\n\n".join(texts.values()))
    return 0
