"""The example of the right order and the wrong one, run as its README says, with what it shows compared."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from greenkit.testing import run_clean

pytest.importorskip("celery")
pytest.importorskip("django")

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "examples" / "boot" / "README.md").read_text(encoding="utf-8")
SHOWN = re.findall(r"```text\n(.*?)```", README, flags=re.DOTALL)
RIGHT, WRONG, REPORT = SHOWN
AT_ONCE, ONE_BY_ONE = RIGHT.partition(":")[0], WRONG.partition(":")[0]


@pytest.fixture
def example(tmp_path):
    """A copy, so that nothing is written into the tree."""
    return Path(shutil.copytree(ROOT / "examples" / "boot", tmp_path / "boot"))


def run(example, *words, **env):
    return run_clean(words, cwd=str(example), env=env, timeout=60.0)


def report_of(done, example):
    """Return the report a run logged, with paths as the README writes them."""
    lines = [line for line in done.stderr.splitlines() if line.startswith(("GK", "    ->"))]
    return "".join(line.replace(f"{example}/", "") + "\n" for line in lines)


def test_the_right_order_pays_all_at_once(example):
    """Twenty at once, and nothing to report."""
    done = run(example, "worker.py")
    assert done.stdout.startswith(AT_ONCE), done
    assert report_of(done, example) == ""


def test_the_wrong_order_pays_one_by_one_and_says_why(example):
    """One at a time; the report is the README's, word for word."""
    done = run(example, "wrong_order/worker.py")
    assert done.stdout.startswith(ONE_BY_ONE), done
    assert report_of(done, example) == REPORT


@pytest.mark.parametrize(
    ("words", "env"),
    [
        (("-m", "greenkit", "run", "--", "wrong_order/worker.py"), {}),
        (("wrong_order/worker.py",), {"GREENKIT_REPAIR": "1"}),
    ],
    ids=["greenkit run", "repair"],
)
def test_the_wrong_order_is_cured_as_the_readme_says(example, words, env):
    """From outside, or by binding the names again: twenty at once."""
    assert run(example, *words, **env).stdout.startswith(AT_ONCE)


def test_strict_does_not_start(example):
    """The same two findings end the program before a worker is there."""
    done = run(example, "wrong_order/worker.py", GREENKIT="strict")
    assert done.returncode == 1
    assert done.stdout == ""
    assert "PatchError: 2 errors after the patch" in done.stderr


def test_the_two_orders_differ_in_nothing_else():
    """But for the import that comes first, and finding the project from its folder, both are the same."""

    def lines(path):
        text = (ROOT / "examples" / "boot" / path).read_text(encoding="utf-8")
        kept = [line.partition("  #")[0] for line in text.splitlines() if line.strip()]
        return [one for one in kept if "sys" not in one and "pathlib" not in one and "Provider" not in one]

    assert sorted(lines("worker.py")) == sorted(lines("wrong_order/worker.py"))
