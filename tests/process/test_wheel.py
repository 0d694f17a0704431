"""The wheel that users install: what is in it, what it says of itself, and that it starts by itself."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from greenkit import __version__
from tests.architecture.floors import ROOT

UV = Path(sys.executable).with_name("uv")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Build the wheel as a release does."""
    uv = str(UV) if UV.exists() else "uv"
    target = tmp_path_factory.mktemp("wheel")
    subprocess.run([uv, "build", "-q", "--wheel", "-o", str(target), str(ROOT)], check=True, timeout=110)
    return next(target.glob("*.whl"))


@pytest.fixture(scope="module")
def metadata(wheel):
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if name.endswith("/METADATA"))
        return Parser().parsestr(archive.read(name).decode())


def test_it_holds_the_pages_and_no_tests(wheel):
    """Types, the start-up hook and the pages of findings travel along; tests and examples do not."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        assert sum(one.file_size for one in archive.infolist()) < 4_000_000
    assert {"greenkit/py.typed", "greenkit/_pages/findings-boot.md", "_greenkit_children.pth"} <= set(names)
    assert {name.partition("/")[0] for name in names} - {f"greenkit-{__version__}.dist-info"} == {
        "greenkit", "_greenkit_children.pth", "_greenkit_children.start",
    }  # fmt: skip


def test_links_work_where_the_page_is_shown(metadata):
    """An index shows the README far from the checkout: links are absolute, the project has addresses."""
    text = metadata.get_payload()
    links = re.findall(r"\]\(([^)]+)\)", text) + re.findall(r"^\[[^\]]+\]:\s+(\S+)", text, re.MULTILINE)
    links += re.findall(r"(?:src|srcset|href)=\"([^\"]+)\"", text)
    assert links
    assert [link for link in links if not link.startswith(("https://", "#"))] == []
    assert {entry.partition(",")[0] for entry in metadata.get_all("Project-URL")} == {
        "Documentation", "Source", "Issues", "Changelog",
    }  # fmt: skip


def test_extras_bring_what_they_are_named_after(metadata):
    """`all` has no servers and no second Postgres driver; Celery's has what a Redis broker needs."""
    needed = {}
    for entry in metadata.get_all("Requires-Dist"):
        requirement, _, marker = entry.partition(";")
        extra = re.search(r"extra == ['\"](\w+)['\"]", marker)
        needed.setdefault(extra[1] if extra else "", []).append(requirement.strip())
    assert [name.partition(">")[0] for name in needed[""]] == ["gevent"]
    assert any(name.startswith("celery[redis]") for name in needed["celery"])
    names = {re.split(r"[\[<>=]", entry)[0] for entry in needed["all"]}
    assert names == {
        "celery", "django", "opentelemetry-api", "packaging", "prometheus-client", "psycogreen",
        "psycopg2-binary", "redis", "requests", "rich",
    }  # fmt: skip


def test_the_package_alone_starts(wheel, tmp_path):
    """In a fresh environment with gevent only the doctor looks and `explain` prints a page of the wheel."""
    uv = str(UV) if UV.exists() else "uv"
    subprocess.run([uv, "venv", "-q", "--python", sys.executable, str(tmp_path / "v")], check=True)
    python = str(tmp_path / "v" / "bin" / "python")
    subprocess.run([uv, "pip", "install", "-q", "--python", python, str(wheel)], check=True, timeout=110)
    greenkit = str(tmp_path / "v" / "bin" / "greenkit")

    def say(*words):
        done = subprocess.run([greenkit, *words], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert say("--version") == f"greenkit {__version__}\n"
    assert "**Fix.**" in say("explain", "GK101")
    assert "Nothing found" in say("doctor")
    assert say("run", "--", "-c", "import socket; print(socket.socket.__module__)") == "gevent._socket3\n"
