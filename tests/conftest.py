"""What every test obeys: in CI nothing may be skipped, Hypothesis looks at no clock, long files go first."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, settings

from greenkit.errors import ServerNotFoundError
from greenkit.testing._find import rabbitmq_script

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from xdist.remote import Producer
    from xdist.scheduler import LoadScopeScheduling

IN_CI = os.environ.get("CI", "").lower() in {"1", "true", "yes"}

# A shared machine stalls for seconds; how long one example took says nothing about the code.
settings.register_profile("greenkit", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("greenkit")


def fail_if_skipped(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Turn a skip into a failure in CI: there, what is absent was forgotten."""
    if IN_CI and report.outcome == "skipped" and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"skipped, which CI does not allow: {reason}"


@pytest.fixture(autouse=True)
def _tasks_of_this_test_alone() -> Iterator[None]:
    """Undo what `@app.task` does to other apps: every app finalized later would get the task too."""
    before = set(_shared_tasks())
    yield
    callbacks = _shared_tasks()
    callbacks -= {added for added in callbacks - before if "_create_task_cls" in added.__qualname__}


def _shared_tasks() -> set[Any]:
    state = sys.modules.get("celery._state")
    return set() if state is None else state._on_app_finalizers


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    fail_if_skipped(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    fail_if_skipped(report)
    return report


@pytest.fixture(scope="session")
def needs_rabbitmq() -> None:
    """Skip what starts a broker of its own where none is installed, and start none for the session."""
    try:
        rabbitmq_script()
    except ServerNotFoundError as error:
        pytest.skip(str(error))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> LoadScopeScheduling | None:
    if config.getoption("dist") != "loadfile":
        return None
    # Late: xdist may not be installed, as where the tests of the bounds run.
    from tests.order import LongestFirst

    return LongestFirst(config, log)
