from __future__ import annotations

import socket
import tempfile
from pathlib import Path

import pytest

from greenkit.testing import _place


def test_a_closed_ancestor_makes_a_file_unreachable(tmp_path):
    """One directory without its x bit for others is enough."""
    program = tmp_path / "open" / "program"
    program.parent.mkdir()
    program.write_text("")
    program.chmod(0o755)
    tmp_path.chmod(0o700)
    assert not _place.reachable_by(program, 4242)
    assert _place.reachable_by(program, None)
    assert _place.reachable_by(Path("/bin/sh"), 4242)
    assert not _place.reachable_by(Path("/no/such/file"), 4242)


@pytest.mark.parametrize("wanted", ["/tmp/" + "x" * 80, "/root-only"])
def test_a_long_or_closed_temporary_directory_is_not_used(monkeypatch, wanted):
    """A socket's path has to fit 108 bytes, and the server has to get there."""
    monkeypatch.setattr(tempfile, "tempdir", wanted)
    assert _place.base_directory(4242) == "/tmp"


def test_a_short_and_open_temporary_directory_is_used(monkeypatch):
    """What the user set is respected when it can be."""
    with tempfile.TemporaryDirectory(dir="/tmp") as path:
        Path(path).chmod(0o711)
        monkeypatch.setattr(tempfile, "tempdir", path)
        assert _place.base_directory(4242) == path


def test_a_free_port_can_be_bound_and_lies_below_outgoing_ones():
    """No connection of another program can draw it by chance."""
    port = _place.free_port()
    assert port < 32_768
    with socket.socket() as server:
        server.bind(("127.0.0.1", port))
