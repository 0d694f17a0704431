"""One alias's pool, with the verb Django's wrapper expects beside psycopg_pool's."""

from __future__ import annotations

from typing import Any

from greenkit.postgres import ConnectionPool

__all__ = ["AliasPool"]


class AliasPool(ConnectionPool[Any]):
    """Lend the connections of one database alias.

    Django's wrappers live and die with their greenlet, so a connection that comes back because
    its greenlet ended has no other user: it is lent again instead of closed.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, reuse_taken_back=True, **options)

    def open(self) -> None:
        """Do nothing: Django opens pools, ours opens connections when they are needed.

        Switches: never.
        """
