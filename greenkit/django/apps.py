"""The AppConfig. Loaded by Django for `INSTALLED_APPS += ["greenkit.django"]`."""

from __future__ import annotations

from django.apps import AppConfig
from django.core import checks

__all__ = ["GreenkitConfig"]


class GreenkitConfig(AppConfig):  # type: ignore[misc]
    """Register greenkit's system checks."""

    name = "greenkit.django"
    label = "greenkit"
    verbose_name = "greenkit"

    def ready(self) -> None:
        """Register the checks for `manage.py check`."""
        from greenkit.django import _checks  # the app registry must be there first

        checks.register(_checks.check_settings)
        checks.register(_checks.check_databases)
        checks.register(_checks.check_celery)
        checks.register(_checks.check_room, checks.Tags.database)
