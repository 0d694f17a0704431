"""Let `python -m greenkit` be the `greenkit` command."""

from __future__ import annotations

import sys

from greenkit.cli import main

if __name__ == "__main__":
    sys.exit(main())
