"""What several integration tests start from."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.integration.celery_worker import Worker

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from greenkit.testing import ValkeyServer


@pytest.fixture
def worker(greenkit_valkey: ValkeyServer, tmp_path: Path) -> Iterator[Worker]:
    """Give a worker on empty databases, not started."""
    url = greenkit_valkey.broker_url
    with Worker(url, url, greenkit_valkey.url, tmp_path) as made:
        made.notes.flushdb()
        yield made
