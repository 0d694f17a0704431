"""See to a Django project in a green process: checks, settings, and a PostgreSQL engine.

`INSTALLED_APPS += ["greenkit.django"]` registers the system checks; `ENGINE =
"greenkit.django.postgresql"` brings the pool. Nothing here runs in the background. Django is not
imported until it loads `apps` or the engine by their paths, so this door opens on nothing.
"""

from __future__ import annotations
