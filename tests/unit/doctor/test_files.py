from __future__ import annotations

import os
import stat
import threading

import pytest

from greenkit.doctor import _files


def test_two_threads_may_write_at_once(tmp_path):
    """Whoever reads sees one of the texts, whole; no draft is taken away by the other."""
    path, texts, errors = str(tmp_path / "report"), ("a" * 50_000, "b" * 50_000), []

    def write(text):
        try:
            for _ in range(200):
                _files.write(path, text)
        except OSError as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(text,)) for text in texts]
    for one in threads:
        one.start()
    _files.write(path, "a" * 50_000)
    seen = {_files.read(path) for _ in range(200)}
    for one in threads:
        one.join()
    assert errors == []
    assert seen <= set(texts)
    assert [one.name for one in tmp_path.iterdir()] == ["report"]


def test_what_is_not_there_is_empty(tmp_path):
    """A file nobody wrote reads as no text."""
    assert _files.read(str(tmp_path / "nothing")) == ""


def test_a_report_is_its_owners(tmp_path):
    """Mode 0600 whatever the umask, also in the place of a file that others could read."""
    path = tmp_path / "report"
    path.write_text("old")
    path.chmod(0o644)
    _files.write(str(path), "new")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    _files.write(str(path), "shared", mode=0o640)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_link_is_followed(tmp_path):
    """The link stays a link, and what it points to holds the text; so with one that dangles."""
    target, link = tmp_path / "target", tmp_path / "link"
    link.symlink_to(target)
    for text in ("first", "second"):
        _files.write(str(link), text)
        assert link.is_symlink()
        assert target.read_text() == text


def test_a_fifo_is_written_to(tmp_path):
    """It stays a FIFO; its reader gets the text. Without a reader there is an error, not a wait."""
    path = str(tmp_path / "fifo")
    os.mkfifo(path)
    with pytest.raises(OSError, match="No such device"):
        _files.write(path, "nobody listens")
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    _files.write(path, "text")
    assert os.read(reader, 100) == b"text"
    assert (tmp_path / "fifo").is_fifo()
    os.close(reader)
    assert [one.name for one in tmp_path.iterdir()] == ["fifo"]


def test_a_descriptor_is_written_to(tmp_path):
    """/proc/self/fd/N means what is open there, and replaces no file, as does /dev/stdout."""
    with (tmp_path / "log").open("w+") as log:
        log.write("before\n")
        log.flush()
        inode = os.fstat(log.fileno()).st_ino
        _files.write(f"/proc/self/fd/{log.fileno()}", "text")
        assert (tmp_path / "log").read_text() == "before\ntext"
        assert (tmp_path / "log").stat().st_ino == inode


def test_an_unwritable_report_is_one_line(tmp_path, capsys):
    """Not a traceback, and not again at each change."""
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "none" / "report", tmp_path / "file" / "report", tmp_path):
        _files.write_report(str(path), "text")
        _files.write_report(str(path), "text")
        said = capsys.readouterr().err
        assert said.count("\n") == 1
        assert said.startswith(f"greenkit: the report cannot be written to {path}: ")
