"""Which files the workers of pytest-xdist take first: a long one taken last would be waited for alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from xdist.scheduler import LoadScopeScheduling

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pytest
    from xdist.remote import Producer

# Longest first. A file that is not named comes in the order of its directory, below.
LONGEST = (
    "integration/test_celery_delivery.py",
    "examples/test_llm_batch.py",
    "process/test_boot_celery.py",
    "integration/test_celery_hooks.py",
    "integration/test_celery_worker.py",
    "process/test_boot_agents.py",
    "integration/test_django_engine.py",
    "faults/test_seeds.py",
    "process/test_observing.py",
    "integration/test_servers.py",
    "integration/test_celery_recycle.py",
    "integration/test_celery_remote.py",
    "process/test_pytest_plugin.py",
    "integration/test_postgres_storm.py",
    "examples/test_openai_batch.py",
    "integration/test_celery_supervisors.py",
    "process/test_celery_start.py",
)
# These share a broker that takes ten seconds to start: two workers start one each, and no other does.
TOGETHER = {
    "tests/integration/test_celery_brokers.py": "tests/integration/test_celery_delivery.py",
    "tests/integration/test_celery_shutdown.py": "tests/integration/test_celery_delivery.py",
    "tests/integration/test_celery_publish.py": "tests/integration/test_servers.py",
}
DIRECTORIES = ("examples", "integration", "process", "docs", "faults", "property", "architecture", "unit")


def longest_first(files: Iterable[str]) -> list[str]:
    """Return the files, as node ids name them, in the order to take them in."""

    def place(file: str) -> tuple[int, int]:
        name = file.removeprefix("tests/")
        known = LONGEST.index(name) if name in LONGEST else len(LONGEST)
        directory = name.split("/", 1)[0]
        return known, DIRECTORIES.index(directory) if directory in DIRECTORIES else len(DIRECTORIES)

    return sorted(files, key=place)


class LongestFirst(LoadScopeScheduling):
    """Hand a file to one worker, as `--dist loadfile` does, and the long files first."""

    def __init__(self, config: pytest.Config, log: Producer | None = None) -> None:
        super().__init__(config, log)
        config.option.loadscopereorder = False  # by the number of tests, which says nothing

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::", 1)[0]
        return TOGETHER.get(file, file)

    def _assign_work_unit(self, node: object) -> None:
        order = longest_first(self.workqueue)
        self.workqueue.move_to_end(order[0], last=False)
        super()._assign_work_unit(node)
