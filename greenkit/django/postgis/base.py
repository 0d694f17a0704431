"""The `DatabaseWrapper` behind `ENGINE = "greenkit.django.postgis"`. Loaded by Django."""

from __future__ import annotations

from django.contrib.gis.db.backends.postgis import base as django_base

from greenkit.django.postgresql import base

__all__ = ["DatabaseWrapper"]


class DatabaseWrapper(base.DatabaseWrapper, django_base.DatabaseWrapper):  # type: ignore[misc]
    """Speak to PostGIS as GeoDjango does, over connections lent by one pool per alias."""
