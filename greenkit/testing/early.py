"""Patch the process before pytest loads anything of the project: `pytest -p greenkit.testing.early`.

Importing this module is the act; pytest imports `-p` plugins before conftest files and test modules. In
`pyproject.toml`: `addopts = ["-p", "greenkit.testing.early"]`. pytest itself is older than the patch; what
of that matters is in the report, shown in the header of the run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from greenkit.boot import hook_drivers, patch

if TYPE_CHECKING:
    import pytest

# Not "warn": what pytest itself loaded is no fault of the project, and the header says how much it is.
_REPORT = patch(strict="off")
# As `import greenkit.auto` does: psycopg2's wait callback, and asyncio's running loop for each greenlet.
hook_drivers()


def pytest_report_header() -> str:
    """Tell in pytest's header that this run is patched."""
    errors = sum(finding.severity.name == "ERROR" for finding in _REPORT.findings)
    return f"greenkit: patched before the tests, {errors} error(s) among {len(_REPORT.findings)} finding(s)"


def pytest_configure(config: pytest.Config) -> None:
    """Refuse what cannot work: a worker of pytest-xdist waits for a native thread older than the patch."""
    if config.getoption("numprocesses", None):
        # Late: pytest is loaded, but this module patches before it loads anything.
        import pytest

        raise pytest.UsageError(
            "-n (pytest-xdist) and -p greenkit.testing.early exclude each other: a worker talks to its"
            " controller by native threads from before the patch and would end with LoopExit. Leave one out"
        )
