"""Integrate Django: system checks, settings, and a PostgreSQL engine.

`INSTALLED_APPS += ["greenkit.django"]` registers the system checks; `ENGINE =
"greenkit.django.postgresql"` has the pool. Nothing here runs in the background. This module
imports nothing; Django loads `apps` and the engine by their paths.
"""

from __future__ import annotations
