"""Which page explains a finding."""

from __future__ import annotations

__all__ = ["page_of"]

# By the room that makes the finding: GK1xx is boot's, and so on.
_PAGES = {
    "GK1": "findings-boot",
    "GK2": "limits",
    "GK3": "postgres",
    "GK4": "findings-watchdog",
    "GK5": "celery",
    "GK6": "django",
    "GK7": "http",
}


def page_of(finding_id: str) -> str:
    """Return the page and heading about `finding_id`, below the root of the repository.

    Switches: never.
    """
    page = _PAGES.get(finding_id[:3], "findings")
    return f"docs/reference/{page}.md#{finding_id.lower()}"
