"""Packages that add a word to the `celery` command, as Flower does: Celery imports them before the project.

Imported late, by whoever has something to explain.
"""

from __future__ import annotations

import sys

from greenkit.boot._shown import file_of, shown

__all__ = ["plugin_at", "plugins"]


def plugins() -> dict[str, str]:
    """Return {module: name of its package} of the plugins this `celery` command has imported.

    Switches: never.
    """
    # celery/bin/celery.py, 5.7: the command imports every entry point of the group when it is defined.
    if "celery.bin.celery" not in sys.modules:
        return {}
    # Late: nothing that stands before the patch may load it; Celery has by now.
    from importlib.metadata import entry_points

    found = {
        one.module: one.dist.name if one.dist else one.name for one in entry_points(group="celery.commands")
    }
    return {
        module: package
        for module, package in found.items()
        if module in sys.modules and module.partition(".")[0] not in {"celery", "greenkit"}
    }


def plugin_at(file: str) -> str:
    """Return the package of the plugin whose module is `file`, as it is shown; "" for any other file.

    Switches: never.
    """
    return next((package for module, package in plugins().items() if shown(file_of(module)) == file), "")
